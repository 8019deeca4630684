// CBAM's statistics of positions: maximum and mean over the channels of a map times a gate each.
#include <cmath>
#include <vector>

#include "parallel.h"
#include "sums.h"

namespace attnblocks {
namespace {

vec gate_of(const float* gates, int64_t c, int64_t n) {
  return gates ? load_some(gates + c, n) : all(1.0f);
}

float sum_of(vec x) {
  float lanes[kLanes], sum = 0;
  store(lanes, x);
  for (float lane : lanes) sum += lane;
  return sum;
}

// Eight positions whose sum is no number have no maximum either, if one of the values is none.
template <class T>
float maximum_at(const T* x, const float* gates, int64_t channels, int64_t step, float maximum) {
  for (int64_t c = 0; c < channels; ++c) {
    const float y = load_first(x + c * step, 1)[0] * (gates ? gates[c] : 1.0f);
    if (std::isnan(y)) return y;
  }
  return maximum;
}

template <class T>
void planes(const Geometry& g, const T* x, const float* gates, Range range, float* maxima,
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
void pixels(const Geometry& g, const T* x, const float* gates, Range range, float* maxima,
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

// The gradient at n values y = x * gate of which those that are the maximum share.
vec through(vec y, vec maximum, vec share, vec mean) {
  return mean + (y == maximum ? all(1.0f) : all(0.0f)) * share;
}

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
    vec sum = all(0.0f);
    for (int64_t p = 0; p < count; p += kLanes) {
      const int64_t n = std::min(kLanes, count - p), at = c * count + p;
      const vec value = load_some(x + at, n);
      const vec share = load_some(of.d_maxima + p, n) / load(&ties[static_cast<size_t>(p)]);
      const vec mean = load_some(of.d_means + p, n) / static_cast<float>(g.channels);
      const vec d_y = through(value * gate, load_some(of.maxima + p, n), share, mean);
      sum += first(n) ? d_y * value : all(0.0f);
      if (d_x) store_some(d_x + at, d_y * gate, n);
    }
    if (d_channel) d_channel[c] = sum_of(sum);
  }
}

template <class T>
void pixel_gradients(const Geometry& g, const T* x, const float* gates, const Gradients& of, T* d_x,
                     float* d_channel) {
  std::vector<float> sums(static_cast<size_t>(round_up(g.channels)));
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
      float* sum = &sums[static_cast<size_t>(c)];
      store(sum, load(sum) + d_y * value);
      if (d_x) store_some(d_x + p * g.channels + c, d_y * gate, n);
    }
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
      if constexpr (channels_last()) {
        pixels(g, map, gates, range, maxima, means);
      } else {
        planes(g, map, gates, range, maxima, means);
      }
      for (int64_t p = range.begin; p < range.end; ++p) {
        if (!std::isnan(means[p])) continue;
        const T* position = map + p * (channels_last() ? g.channels : 1);
        maxima[p] = maximum_at(position, gates, g.channels, channels_last() ? 1 : count, maxima[p]);
      }
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
      const float *values = statistics + image * 2 * count, *grads = d_statistics + image * 2 * count;
      const Gradients of{values, grads, grads + count};
      if constexpr (channels_last()) {
        pixel_gradients(g, map, gates, of, to, of_gates);
      } else {
        plane_gradients(g, map, gates, of, to, of_gates);
      }
    });
  });
}
