// CBAM's statistics of positions: maximum and mean over the channels of a map times a gate each.
#include "positions.h"

#include <vector>

namespace attnblocks {
namespace {

// The gradient at n values y = x * gate of which those that are the maximum share.
vec through(vec y, vec maximum, vec share, vec mean) {
  return mean + (y == maximum ? all(1.0f) : all(0.0f)) * share;
}

constexpr int64_t kPart = 512;  // Positions; sums of sums lose less than one long sum.

struct Gradients {
  const float *maxima, *d_maxima, *d_means;  // (H, W) each.
};

template <class T>
void plane_gradients(const Geometry& g, const T* x, const float* gates, const Gradients& of, T* d_x,
                     float* d_channel) {
  const int64_t count = g.height * g.width;
  std::vector<float> ties(static_cast<size_t>(round_up(count)));
  for (int64_t c = 0; c < g.channels; ++c) {
    for (int64_t p = 0; p < count; p += kLanes) {
      const int64_t n = std::min(kLanes, count - p);
      const vec y = load_some(x + c * count + p, n) * (gates ? gates[c] : 1.0f);
      const vec hit = y == load_some(of.maxima + p, n) ? all(1.0f) : all(0.0f);
      store(&ties[static_cast<size_t>(p)], load(&ties[static_cast<size_t>(p)]) + hit);
    }
  }
  for (int64_t c = 0; c < g.channels; ++c) {
    const float gate = gates ? gates[c] : 1.0f;
    vec sum = all(0.0f), of_part = all(0.0f);
    for (int64_t p = 0; p < count; p += kLanes) {
      if (p % kPart == 0) sum += of_part, of_part = all(0.0f);
      const int64_t n = std::min(kLanes, count - p), at = c * count + p;
      const vec value = load_some(x + at, n);
      const vec share = load_some(of.d_maxima + p, n) / load(&ties[static_cast<size_t>(p)]);
      const vec mean = load_some(of.d_means + p, n) / static_cast<float>(g.channels);
      const vec d_y = through(value * gate, load_some(of.maxima + p, n), share, mean);
      of_part += first(n) ? d_y * value : all(0.0f);
      if (d_x) store_some(d_x + at, d_y * gate, n);
    }
    if (d_channel) d_channel[c] = sum_of(sum + of_part);
  }
}

template <class T>
void pixel_gradients(const Geometry& g, const T* x, const float* gates, const Gradients& of, T* d_x,
                     float* d_channel) {
  const size_t size = static_cast<size_t>(round_up(g.channels));
  std::vector<float> sums(size), of_row(size);
  for (int64_t p = 0; p < g.height * g.width; ++p) {
    const T* pixel = x + p * g.channels;
    const vec maximum = all(of.maxima[p]);
    vec ties = all(0.0f);
    for (int64_t c = 0; c < g.channels; c += kLanes) {
      const int64_t n = std::min(kLanes, g.channels - c);
      const vec y = load_some(pixel + c, n) * gate_of(gates, c, n);
      ties += (y == maximum) & first(n) ? all(1.0f) : all(0.0f);
    }
    const vec share = all(of.d_maxima[p] / sum_of(ties));
    const vec mean = all(of.d_means[p] / static_cast<float>(g.channels));
    for (int64_t c = 0; c < g.channels; c += kLanes) {
      const int64_t n = std::min(kLanes, g.channels - c);
      const vec value = load_some(pixel + c, n), gate = gate_of(gates, c, n);
      const vec d_y = through(value * gate, maximum, share, mean);
      float* row = &of_row[static_cast<size_t>(c)];
      store(row, load(row) + d_y * value);
      if (d_x) store_some(d_x + p * g.channels + c, d_y * gate, n);
    }
    if ((p + 1) % g.width == 0) add_row(of_row, sums);
  }
  if (d_channel) std::copy_n(sums.begin(), g.channels, d_channel);
}

}  // namespace
}  // namespace attnblocks

using namespace attnblocks;

void attnblocks_position_statistics(const Geometry* geometry, const void* x, const float* channel,
                                    float* out) {
  const Geometry& g = *geometry;
  const int64_t count = g.height * g.width;
  for_map(g, [&](auto element, auto channels_last) {
    using T = decltype(element);
    for_parts(g, count, 4 * kLanes, [&](int64_t image, Range range) {
      const T* map = static_cast<const T*>(x) + image * g.stride;
      const float* gates = channel ? channel + image * g.channels : nullptr;
      float *maxima = out + image * 2 * count, *means = maxima + count;
      position_statistics<T, channels_last()>(g, map, gates, range, maxima, means);
    });
  });
}

void attnblocks_position_gradient(const Geometry* geometry, const void* x, const float* channel,
                                  const float* statistics, const float* d_statistics, void* d_x,
                                  float* d_channel) {
  const Geometry& g = *geometry;
  const int64_t count = g.height * g.width;
  for_map(g, [&](auto element, auto channels_last) {
    using T = decltype(element);
    for_parts(g, g.channels, g.channels, [&](int64_t image, Range) {
      const T* map = static_cast<const T*>(x) + image * g.stride;
      T* to = d_x ? static_cast<T*>(d_x) + image * g.channels * count : nullptr;
      const float* gates = channel ? channel + image * g.channels : nullptr;
      float* of_gates = d_channel ? d_channel + image * g.channels : nullptr;
      const float* values = statistics + image * 2 * count;
      const float* grads = d_statistics + image * 2 * count;
      const Gradients of{values, grads, grads + count};
      if constexpr (channels_last()) {
        pixel_gradients(g, map, gates, of, to, of_gates);
      } else {
        plane_gradients(g, map, gates, of, to, of_gates);
      }
    });
  });
}
