#include "product.h"

#include "parallel.h"

namespace attnblocks {
namespace {

template <class T>
void multiply_lines(const Geometry& g, const T* x, const Gates& gates, Range range, T* out) {
  const int64_t count = g.height * g.width;
  Lines lines(g.height, g.width);
  for (int64_t c = range.begin; c < range.end; c += kLanes) {
    const int64_t valid = std::min(kLanes, range.end - c);
    lines.read(gates.coords + c, g.channels, valid);
    for (int64_t i = 0; i < valid; ++i) {
      float* rows = lines.rows(i);
      for (int64_t h = 0; gates.channel && h < g.height; ++h) rows[h] *= gates.channel[c + i];
      const int64_t at = (c + i) * count, room = range.end * count - at;
      multiply_plane(x + at, rows, lines.columns(i), g.height, g.width, room, out + at);
    }
  }
}

template <class T>
void planes(const Geometry& g, const T* x, const Gates& gates, Range range, T* out) {
  if (gates.coords) return multiply_lines(g, x, gates, range, out);
  const int64_t count = g.height * g.width;
  for (int64_t c = range.begin; c < range.end; ++c) {
    const float gate = gates.channel ? gates.channel[c] : 1.0f;
    if (!gates.positions) {
      multiply_positions(x + c * count, gate, count, out + c * count);
    } else {  // A plane is a pixel of as many channels as there are positions.
      multiply_pixel(x + c * count, gates.positions, gate, count, out + c * count);
    }
  }
}

template <class T>
void pixels(const Geometry& g, const T* x, const Gates& gates, Range range, T* out) {
  const int64_t n = range.end - range.begin;
  std::vector<float> row(static_cast<size_t>(n), 1.0f);
  if (gates.channel) std::copy_n(gates.channel + range.begin, n, row.begin());
  for (int64_t h = 0; h < g.height; ++h) {
    if (gates.coords) {
      const float* of_row = gates.coords + h * g.channels + range.begin;
      const float* of_channel = gates.channel ? gates.channel + range.begin : nullptr;
      for (int64_t i = 0; i < n; ++i) {
        row[static_cast<size_t>(i)] = of_row[i] * (of_channel ? of_channel[i] : 1.0f);
      }
    }
    for (int64_t w = 0; w < g.width; ++w) {
      const int64_t p = h * g.width + w, at = p * g.channels + range.begin;
      if (gates.coords) {
        const float* column = gates.coords + (g.height + w) * g.channels + range.begin;
        multiply_pixel(x + at, row.data(), column, n, out + at);
      } else {
        const float gate = gates.positions ? gates.positions[p] : 1.0f;
        multiply_pixel(x + at, row.data(), gate, n, out + at);
      }
    }
  }
}

}  // namespace
}  // namespace attnblocks

using namespace attnblocks;

void attnblocks_product(const Geometry* geometry, const void* x, const float* channel,
                        const float* coords, const float* positions, void* out) {
  const Geometry& g = *geometry;
  const int64_t size = g.channels * g.height * g.width;
  for_map(g, [&](auto element, auto channels_last) {
    using T = decltype(element);
    for_parts(g, g.channels, 2 * kLanes, [&](int64_t image, Range range) {
      const T* from = static_cast<const T*>(x) + image * g.stride;
      T* to = static_cast<T*>(out) + image * size;
      const Gates gates(g, image, channel, coords, positions);
      if constexpr (channels_last()) {
        pixels(g, from, gates, range, to);
      } else {
        planes(g, from, gates, range, to);
      }
    });
  });
}
