// Plain loops, to be replaced by the kernels: float32 and bfloat16, both layouts, one thread per image.
#include <cstring>

#include "api.h"

namespace {

struct Map {
  const Geometry& g;
  char* data;
  int64_t stride;
  int64_t at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return n * stride + (g.channels_last ? (h * g.width + w) * g.channels + c
                                         : (c * g.height + h) * g.width + w);
  }
  float get(int64_t i) const {
    if (!g.bfloat16) return reinterpret_cast<const float*>(data)[i];
    uint32_t bits = uint32_t(reinterpret_cast<const uint16_t*>(data)[i]) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  void set(int64_t i, float value) const {
    if (!g.bfloat16) {
      reinterpret_cast<float*>(data)[i] = value;
      return;
    }
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits = value != value ? 0x7fc00000u : bits + 0x7fffu + ((bits >> 16) & 1u);
    reinterpret_cast<uint16_t*>(data)[i] = uint16_t(bits >> 16);
  }
};

Map map_of(const Geometry* g, const void* data) {
  return {*g, static_cast<char*>(const_cast<void*>(data)), g->stride};
}
Map dense(const Geometry* g, const void* data) {
  return {*g, static_cast<char*>(const_cast<void*>(data)), g->channels * g->height * g->width};
}

}  // namespace

ATTNBLOCKS_API void attnblocks_statistics(const Geometry* g, const void* x, float* coords, float* means,
                                          float* maxima) {
  Map map = map_of(g, x);
  int64_t C = g->channels, H = g->height, W = g->width;
#pragma omp parallel for num_threads(g->threads)
  for (int64_t n = 0; n < g->images; n++)
    for (int64_t c = 0; c < C; c++) {
      float* lines = coords ? coords + n * (H + W) * C + c : nullptr;
      if (lines)
        for (int64_t i = 0; i < H + W; i++) lines[i * C] = 0;
      double sum = 0;
      float most = map.get(map.at(n, c, 0, 0));
      for (int64_t h = 0; h < H; h++)
        for (int64_t w = 0; w < W; w++) {
          float value = map.get(map.at(n, c, h, w));
          sum += value;
          if (value > most || value != value) most = value;
          if (lines) {
            lines[h * C] += value / W;
            lines[(H + w) * C] += value / H;
          }
        }
      if (means) means[n * C + c] = float(sum / (H * W));
      if (maxima) maxima[n * C + c] = most;
    }
}

ATTNBLOCKS_API void attnblocks_product(const Geometry* g, const void* x, const float* channel,
                                       const float* coords, const float* positions, void* out) {
  Map map = map_of(g, x), result = dense(g, out);
  int64_t C = g->channels, H = g->height, W = g->width;
#pragma omp parallel for num_threads(g->threads)
  for (int64_t n = 0; n < g->images; n++)
    for (int64_t c = 0; c < C; c++)
      for (int64_t h = 0; h < H; h++)
        for (int64_t w = 0; w < W; w++) {
          float value = map.get(map.at(n, c, h, w));
          if (channel) value *= channel[n * C + c];
          if (coords) value *= coords[(n * (H + W) + h) * C + c] * coords[(n * (H + W) + H + w) * C + c];
          if (positions) value *= positions[(n * H + h) * W + w];
          result.set(result.at(n, c, h, w), value);
        }
}

ATTNBLOCKS_API void attnblocks_position_statistics(const Geometry* g, const void* x, const float* channel,
                                                   float* out) {
  Map map = map_of(g, x);
  int64_t C = g->channels, H = g->height, W = g->width;
  for (int64_t n = 0; n < g->images; n++)
    for (int64_t p = 0; p < H * W; p++) {
      float sum = 0, most = -__builtin_inff();
      for (int64_t c = 0; c < C; c++) {
        float value = map.get(map.at(n, c, p / W, p % W)) * (channel ? channel[n * C + c] : 1);
        sum += value;
        if (value > most || value != value) most = value;
      }
      out[n * 2 * H * W + p] = most;
      out[(n * 2 + 1) * H * W + p] = sum / C;
    }
}

// Not here yet: they do nothing.
ATTNBLOCKS_API void attnblocks_gate_gradients(const Geometry*, const void*, const void*, const float*,
                                              const float*, const float*, float*, float*, float*) {}
ATTNBLOCKS_API void attnblocks_map_gradient(const Geometry*, const void*, const void*, const float*,
                                            const float*, const float*, const float*, const float*,
                                            const float*, const float*, void*) {}
ATTNBLOCKS_API void attnblocks_position_gradient(const Geometry*, const void*, const float*, const float*,
                                                 const float*, void*, float*) {}
ATTNBLOCKS_API void attnblocks_block(const Geometry*, const void*, const Channel*, const Coord*, float*,
                                     void*) {}
