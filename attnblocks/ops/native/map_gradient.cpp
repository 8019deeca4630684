// The gradient of a map: through its product with gates, its means and its maxima.
#include "lines.h"
#include "parallel.h"

namespace attnblocks {
namespace {

// The gradients of the statistics of one image, and its maxima.
struct Statistics {
  const float *d_coords, *d_means, *maxima, *d_maxima;
};

template <class T>
vec hits(const T* x, vec maxima, int64_t n) {
  return load_some(x, n) == maxima ? all(1.0f) : all(0.0f);
}

template <class T>
float ties(const T* plane, float maximum, int64_t count) {
  vec sum = all(0.0f);
  for (int64_t p = 0; p < count; p += kLanes) {
    const int64_t n = std::min(kLanes, count - p);
    const vec hit = hits(plane + p, all(maximum), n);
    sum += first(n) ? hit : all(0.0f);
  }
  return sum_of(sum);
}

template <class T>
void planes(const Geometry& g, const T* x, const T* grad, const Gates& gates, const Statistics& s,
            Range range, T* out) {
  const int64_t count = g.height * g.width;
  Lines factors(g.height, g.width), terms(g.height, g.width);
  factors.fill_with_ones();
  for (int64_t c = range.begin; c < range.end; c += kLanes) {
    const int64_t valid = std::min(kLanes, range.end - c);
    if (gates.coords) factors.read(gates.coords + c, g.channels, valid);
    if (s.d_coords) terms.read(s.d_coords + c, g.channels, valid);
    for (int64_t i = 0; i < valid; ++i) {
      float *row_factors = factors.rows(i), *row_terms = terms.rows(i);
      float *columns = factors.columns(i), *column_terms = terms.columns(i);
      const float gate = gates.channel ? gates.channel[c + i] : 1.0f;
      const float mean = s.d_means ? s.d_means[c + i] / static_cast<float>(count) : 0.0f;
      for (int64_t h = 0; h < g.height; ++h) {
        row_factors[h] = (gates.coords ? row_factors[h] : 1.0f) * gate;
        row_terms[h] = (s.d_coords ? row_terms[h] / static_cast<float>(g.width) : 0.0f) + mean;
      }
      for (int64_t w = 0; s.d_coords && w < g.width; ++w) {
        column_terms[w] /= static_cast<float>(g.height);
      }
      const int64_t at = (c + i) * count, room = range.end * count - at;
      const T *values = x + at, *gradients = grad + at;
      const vec maximum = all(s.maxima ? s.maxima[c + i] : 0.0f);
      const vec share = all(s.maxima ? s.d_maxima[c + i] / ties(values, maximum[0], count) : 0.0f);
      for_positions(g.height, g.width, room, [&](int64_t p, int64_t h, int64_t w, auto n) {
        vec y = load(column_terms + w) + row_terms[h];
        if (grad) y += load_some(gradients + p, n) * (load(columns + w) * row_factors[h]);
        if (s.maxima) y += hits(values + p, maximum, n) * share;
        store_some(out + at + p, y, n);
      });
    }
  }
}

// Channels-last: up to eight channels of all pixels, which may be those of a few vectors.
template <class T>
void pixels(const Geometry& g, const T* x, const T* grad, const Gates& gates, const Statistics& s,
            Range range, T* out) {
  const int64_t count = g.height * g.width, channels = g.channels;
  const size_t n = static_cast<size_t>(round_up(range.end - range.begin));
  std::vector<float> factors(n, 1.0f), terms(n), means(n), shares(n);
  for (int64_t c = range.begin; c < range.end; c += kLanes) {
    const int64_t valid = std::min(kLanes, range.end - c);
    const size_t i = static_cast<size_t>(c - range.begin);
    if (gates.channel) store(&factors[i], load_some(gates.channel + c, valid));
    if (s.d_means) store(&means[i], load_some(s.d_means + c, valid) / static_cast<float>(count));
    if (s.maxima) {
      vec number = all(0.0f);
      const vec maxima = load_some(s.maxima + c, valid);
      for (int64_t p = 0; p < count; ++p) number += hits(x + p * channels + c, maxima, valid);
      store(&shares[i], load_some(s.d_maxima + c, valid) / number);
    }
  }
  std::vector<float> row_factors(factors), row_terms(means);
  for (int64_t h = 0; h < g.height; ++h) {
    for (int64_t c = range.begin; c < range.end; c += kLanes) {
      const int64_t valid = std::min(kLanes, range.end - c);
      const size_t i = static_cast<size_t>(c - range.begin);
      const int64_t line = h * channels + c;
      if (gates.coords) {
        store(&row_factors[i], load(&factors[i]) * load_some(gates.coords + line, valid));
      }
      if (s.d_coords) {
        const vec term = load_some(s.d_coords + line, valid) / static_cast<float>(g.width);
        store(&row_terms[i], load(&means[i]) + term);
      }
    }
    for (int64_t w = 0; w < g.width; ++w) {
      const int64_t line = (g.height + w) * channels;
      const int64_t p = (h * g.width + w) * channels;
      const float in_columns = 1 / static_cast<float>(g.height);
      for (int64_t c = range.begin; c < range.end; c += kLanes) {
        const int64_t valid = std::min(kLanes, range.end - c);
        const size_t i = static_cast<size_t>(c - range.begin);
        vec y = load(&row_terms[i]);
        if (s.d_coords) y += load_some(s.d_coords + line + c, valid) * in_columns;
        if (grad) {
          vec factor = load(&row_factors[i]);
          if (gates.coords) factor *= load_some(gates.coords + line + c, valid);
          y += load_some(grad + p + c, valid) * factor;
        }
        if (s.maxima) {
          const vec maxima = load_some(s.maxima + c, valid);
          y += hits(x + p + c, maxima, valid) * load(&shares[i]);
        }
        store_some(out + p + c, y, valid);
      }
    }
  }
}

}  // namespace
}  // namespace attnblocks

using namespace attnblocks;

void attnblocks_map_gradient(const Geometry* geometry, const void* x, const void* grad,
                             const float* channel, const float* coords, const float* positions,
                             const float* d_coords, const float* d_means, const float* maxima,
                             const float* d_maxima, void* out) {
  const Geometry& g = *geometry;
  // Where the gates alone are passed through, the gradient is multiplied as the map was.
  if (grad && !d_coords && !d_means && !maxima) {
    Geometry dense = g;
    dense.stride = g.channels * g.height * g.width;
    return attnblocks_product(&dense, grad, channel, coords, positions, out);
  }
  const int64_t size = g.channels * g.height * g.width;
  for_map(g, [&](auto element, auto channels_last) {
    using T = decltype(element);
    for_parts(g, g.channels, 2 * kLanes, [&](int64_t image, Range range) {
      const int64_t vectors = image * g.channels, lines = (g.height + g.width) * vectors;
      const T* map = x ? static_cast<const T*>(x) + image * g.stride : nullptr;
      const T* of_map = grad ? static_cast<const T*>(grad) + image * size : nullptr;
      T* to = static_cast<T*>(out) + image * size;
      const Gates gates(g, image, channel, coords, positions);
      const Statistics statistics{d_coords ? d_coords + lines : nullptr,
                                  d_means ? d_means + vectors : nullptr,
                                  maxima ? maxima + vectors : nullptr,
                                  d_maxima ? d_maxima + vectors : nullptr};
      if constexpr (channels_last()) {
        pixels(g, map, of_map, gates, statistics, range, to);
      } else {
        planes(g, map, of_map, gates, statistics, range, to);
      }
    });
  });
}
