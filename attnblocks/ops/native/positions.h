// Maximum and mean over the channels of a map, each times a gate.
#pragma once
#include <algorithm>
#include <cmath>

#include "api.h"
#include "parallel.h"
#include "sums.h"

namespace attnblocks {

inline vec gate_of(const float* gates, int64_t c, int64_t n) {
  return gates ? load_some(gates + c, n) : all(1.0f);
}

template <class T>
void position_planes(const Geometry& g, const T* x, const float* gates, Range range, float* maxima,
            float* means) {
  const int64_t count = g.height * g.width;
  constexpr int64_t kAtOnce = 4;
  for (int64_t p = range.begin; p < range.end; p += kAtOnce * kLanes) {
    vec sums[kAtOnce], best[kAtOnce];
    for (int k = 0; k < kAtOnce; ++k) sums[k] = all(0.0f), best[k] = all(-kInfinity);
    const int64_t left = range.end - p;
    for (int64_t c = 0; c < g.channels; ++c) {
      const float gate = gates ? gates[c] : 1.0f;
      for (int k = 0; k < kAtOnce && k * kLanes < left; ++k) {
        const vec y = load_some(x + c * count + p + k * kLanes, left - k * kLanes) * gate;
        sums[k] += y;
        best[k] = greater(y, best[k]);
      }
    }
    for (int k = 0; k < kAtOnce && k * kLanes < left; ++k) {
      const int64_t at = p + k * kLanes, n = std::min(kLanes, left - k * kLanes);
      store_some(means + at, sums[k] / static_cast<float>(g.channels), n);
      store_some(maxima + at, best[k], n);
    }
  }
}

template <class T>
void position_pixels(const Geometry& g, const T* x, const float* gates, Range range, float* maxima,
            float* means) {
  for (int64_t p = range.begin; p < range.end; p += kLanes) {
    const int64_t n = std::min(kLanes, range.end - p);
    vec sums[kLanes], best[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      sums[i] = all(0.0f), best[i] = all(-kInfinity);
      const T* pixel = x + (p + std::min(i, n - 1)) * g.channels;
      int64_t c = 0;
      for (; c + kLanes <= g.channels; c += kLanes) {
        const vec y = load(pixel + c) * gate_of(gates, c, kLanes);
        sums[i] += y;
        best[i] = greater(y, best[i]);
      }
      if (c < g.channels) {
        const int64_t left = g.channels - c;
        const vec y = load_first(pixel + c, left) * gate_of(gates, c, left);
        sums[i] += y;
        best[i] = greater(first(left) ? y : best[i], best[i]);
      }
    }
    store_some(means + p, across(sums, Sum()) / static_cast<float>(g.channels), n);
    store_some(maxima + p, across(best, Greatest()), n);
  }
}

// Those of one image, in a range of its positions.
template <class T, bool kChannelsLast>
void position_statistics(const Geometry& g, const T* x, const float* gates, Range range,
                         float* maxima, float* means) {
  if constexpr (kChannelsLast) {
    position_pixels(g, x, gates, range, maxima, means);
  } else {
    position_planes(g, x, gates, range, maxima, means);
  }
  const int64_t of_position = kChannelsLast ? g.channels : 1;
  const int64_t of_channel = kChannelsLast ? 1 : g.height * g.width;
  for (int64_t p = range.begin; p < range.end; ++p) {
    if (!std::isnan(means[p])) continue;
    maxima[p] = maximum_of(x + p * of_position, g.channels, of_channel, gates, maxima[p]);
  }
}

}  // namespace attnblocks
