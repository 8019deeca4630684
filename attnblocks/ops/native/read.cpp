// Reads a block, and runs it if nothing stands against it.
#include "stage_reader.h"

namespace attnblocks {
namespace {

// The structs of the kernels: four numbers, after the kind of a channel stage, then addresses.
Channel channel_of(const Found& f, int64_t kind, int64_t gains, const void* const* a, double eps) {
  return {kind, f.width, f.activation, f.gate, gains,
          a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], eps};
}

Coord coord_of(const Found& f, int64_t gains, const void* const* a, double eps) {
  return {f.width, f.activation, f.gate, gains, a[0], a[1], a[2], a[3],
          a[4], a[5], a[6], a[7], a[8], a[9], a[10], eps};
}

Spatial spatial_of(const Found& f, int64_t gains, const void* const* a, double eps) {
  return {f.width, f.gate, gains, a[0], a[2], a[3], a[4], a[5], a[6], eps};
}

}  // namespace
}  // namespace attnblocks

using namespace attnblocks;

Object* attnblocks_run(const Host* host, const Plan* plans, int64_t count, Object* members,
                       const Geometry* geometry, const void* x, float* channel_gates, void* out) {
  const StageReader reader(*host, *geometry);
  Found found[2];
  Channel channel;
  Coord coord;
  Spatial spatial;
  const Channel* of_channels = nullptr;
  const Coord* of_coordinates = nullptr;
  const Spatial* of_positions = nullptr;
  bool ready = channel_gates || out;
  for (int64_t i = 0; i < count; ++i) {
    const void* addresses[11];
    int64_t gains = 0;
    double eps;
    if (!reader.read(plans[i], members, found[i])) return reader.kept(host->none);
    if (!host->view) {
      ready = false;
      continue;
    }
    if (!reader.check(plans[i], found[i], addresses, gains)) return reader.kept(host->none);
    if (!ready || !(ready = reader.at_rest(found[i], eps))) continue;
    if (plans[i].kind == kCoordinates) {
      coord = coord_of(found[i], gains, addresses, eps);
      of_coordinates = &coord;
    } else if (plans[i].kind == kPositions) {
      spatial = spatial_of(found[i], gains, addresses, eps);
      of_positions = &spatial;
    } else {
      channel = channel_of(found[i], plans[i].kind, gains, addresses, eps);
      of_channels = &channel;
    }
  }
  if (ready) {
    // Other threads may put other tensors into the modules from here on.
    for (int64_t i = 0; i < count; ++i) reader.keep(found[i]);
    void* thread = host->release();
    attnblocks_block(geometry, x, of_channels, of_coordinates, of_positions, channel_gates, out);
    host->acquire(thread);
    for (int64_t i = 0; i < count; ++i) reader.drop(found[i]);
    return reader.kept(host->yes);
  }
  Object* all = host->new_tuple(count);
  for (int64_t i = 0; all && i < count; ++i) host->put(all, i, reader.tuple(found[i]));
  return all;
}
