// Means of rows, columns and channels, and maxima of channels, in one pass over the map.
#include "lines.h"
#include "parallel.h"
#include "sums.h"

namespace attnblocks {
namespace {

struct Results {
  float *coords, *means, *maxima;  // Those of one image.
};

template <class T>
void planes(const Geometry& g, const T* x, Range range, Results out) {
  const int64_t count = g.height * g.width;
  Lines lines(g.height, g.width);
  for (int64_t c = range.begin; c < range.end; c += kLanes) {
    const int64_t valid = std::min(kLanes, range.end - c);
    const T* eight = x + c * count;
    Spread spreads[kLanes];
    for (int64_t i = 0; i < valid; ++i) {
      const Values<T> values{eight + i * count, g.width, 1};
      spreads[i] = out.coords ? sum_plane<true>(values, g.height, g.width, lines.rows(i),
                                                lines.columns(i))
                              : sum_positions<true>(values.x, count);
    }
    finish(spreads, eight, count, valid, out.means ? out.means + c : nullptr,
           out.maxima ? out.maxima + c : nullptr);
    if (out.coords) {
      const float rows = 1 / static_cast<float>(g.width);
      const float columns = 1 / static_cast<float>(g.height);
      lines.write(out.coords + c, g.channels, valid, rows, columns);
    }
  }
}

template <int K, class T>
void chunk(const Geometry& g, const T* x, int64_t c, int64_t last, Results out) {
  const int64_t count = g.height * g.width;
  const Values<T> values{x + c, g.width * g.channels, g.channels};
  vec sums[K], best[K];
  if (out.coords) {
    float *rows = out.coords + c, *columns = rows + g.height * g.channels;
    sum_channels<K, true, true>(values, g.height, g.width, g.channels, last, rows, columns, sums,
                                best);
  } else {
    sum_channels<K, false, true>(values, g.height, g.width, 0, last, nullptr, nullptr, sums, best);
  }
  for (int k = 0; k < K; ++k) {
    const int64_t valid = k + 1 < K ? kLanes : last, at = c + k * kLanes;
    if (out.means) store_some(out.means + at, sums[k] / static_cast<float>(count), valid);
    for (int64_t i = 0; out.maxima && i < valid; ++i) {
      const float maximum = best[k][i];
      out.maxima[at + i] = std::isnan(sums[k][i])
                               ? maximum_of(x + at + i, count, g.channels, nullptr, maximum)
                               : maximum;
    }
  }
}

template <class T>
void pixels(const Geometry& g, const T* x, Range range, Results out) {
  int64_t c = range.begin;
  for (; c + 4 * kLanes <= range.end; c += 4 * kLanes) chunk<4>(g, x, c, kLanes, out);
  for (; c < range.end; c += kLanes) chunk<1>(g, x, c, std::min(kLanes, range.end - c), out);
  if (!out.coords) return;
  for (int64_t l = 0; l < g.height + g.width; ++l) {  // Sums, until here.
    float* line = out.coords + l * g.channels;
    const float scale = 1 / static_cast<float>(l < g.height ? g.width : g.height);
    for (int64_t i = range.begin; i < range.end; ++i) line[i] *= scale;
  }
}

}  // namespace
}  // namespace attnblocks

using namespace attnblocks;

void attnblocks_statistics(const Geometry* geometry, const void* x, float* coords, float* means,
                           float* maxima) {
  const Geometry& g = *geometry;
  for_map(g, [&](auto element, auto channels_last) {
    using T = decltype(element);
    for_parts(g, g.channels, kLanes, [&](int64_t image, Range range) {
      const Results out{coords ? coords + image * (g.height + g.width) * g.channels : nullptr,
                        means ? means + image * g.channels : nullptr,
                        maxima ? maxima + image * g.channels : nullptr};
      const T* map = static_cast<const T*>(x) + image * g.stride;
      if constexpr (channels_last()) {
        pixels(g, map, range, out);
      } else {
        planes(g, map, range, out);
      }
    });
  });
}
