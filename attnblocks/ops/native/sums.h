// Sums over the rows, the columns and all positions of channels, and their maxima, in one pass.
//
// A source tells what is added up: `at(h, w, k, n)` is a vector of values of which the first n
// count, `in_row` and `in_column` what such a value adds to the sum of its row and of its column.
#pragma once
#include <algorithm>
#include <cmath>

#include "simd.h"

namespace attnblocks {

// The values of a map themselves.
template <class T>
struct Values {
  const T* x;
  int64_t row, column;  // Steps in memory.

  vec at(int64_t h, int64_t w, int64_t k, int64_t n) const {
    return load_some(x + h * row + w * column + k * kLanes, n);
  }
  vec in_row(vec t, int64_t, int64_t, int64_t) const { return t; }
  vec in_column(vec t, int64_t, int64_t, int64_t) const { return t; }
};

// The maximum of values, each times a gate unless these are null, whose sum is no number: not a
// number either, if one of them is none.
template <class T>
float maximum_of(const T* x, int64_t count, int64_t step, const float* gates, float maximum) {
  for (int64_t i = 0; i < count; ++i) {
    const float t = load_first(x + i * step, 1)[0] * (gates ? gates[i] : 1.0f);
    if (std::isnan(t)) return t;
  }
  return maximum;
}

// The sum and the maximum of a plane, each spread over the lanes of a vector.
struct Spread {
  vec sum = all(0.0f), maximum = all(-kInfinity);
};

// A plane, (H, W) in memory: up to K * 8 columns from w on. `rows`, padded to whole vectors, gets
// or adds the sums of these parts of the rows.
template <int K, bool kMax, class Source>
void sum_columns(const Source& source, int64_t height, int64_t w, int64_t last, float* rows,
                 float* columns, Spread& spread) {
  vec sums[K];
  for (int k = 0; k < K; ++k) sums[k] = all(0.0f);
  const ivec valid = first(last);
  const vec least = all(-kInfinity);
  for (int64_t h = 0; h < height; h += kLanes) {
    const int64_t count = height - h;
    vec of_rows[kLanes];
#pragma GCC unroll 8
    for (int64_t i = 0; i < kLanes; ++i) {
      of_rows[i] = all(0.0f);
      if (i >= count) continue;
      for (int k = 0; k < K; ++k) {
        const vec t = source.at(h + i, w + k * kLanes, 0, k + 1 < K ? kLanes : last);
        of_rows[i] += source.in_row(t, w + k * kLanes, 0, kLanes);
        sums[k] += source.in_column(t, h + i, 0, kLanes);
        if (kMax) spread.maximum = greater(k + 1 < K ? t : (valid ? t : least), spread.maximum);
      }
    }
    const vec of_eight = across(of_rows, Sum());
    spread.sum += of_eight;
    store(rows + h, w == 0 ? of_eight : load(rows + h) + of_eight);
  }
  for (int k = 0; k < K; ++k) store(columns + w + k * kLanes, sums[k]);
}

// Sums of the rows and columns of a plane, both padded with zeros.
template <bool kMax, class Source>
Spread sum_plane(const Source& source, int64_t height, int64_t width, float* rows,
                 float* columns) {
  Spread spread;
  for (int64_t w = 0; w < width; w += 4 * kLanes) {
    const int64_t left = std::min(4 * kLanes, width - w);
    const int64_t last = (left - 1) % kLanes + 1;
    switch ((left + kLanes - 1) / kLanes) {
      case 1: sum_columns<1, kMax>(source, height, w, last, rows, columns, spread); break;
      case 2: sum_columns<2, kMax>(source, height, w, last, rows, columns, spread); break;
      case 3: sum_columns<3, kMax>(source, height, w, last, rows, columns, spread); break;
      default: sum_columns<4, kMax>(source, height, w, last, rows, columns, spread);
    }
  }
  return spread;
}

// The sum and the maximum of n positions of a plane.
template <bool kMax, class T>
Spread sum_positions(const T* x, int64_t n) {
  constexpr int64_t kPart = 1024;  // Sums of sums lose less than one long sum.
  vec best[4], total = all(0.0f);
  for (int k = 0; k < 4; ++k) best[k] = all(-kInfinity);
  for (int64_t begin = 0; begin < n; begin += kPart) {
    const int64_t end = std::min(n, begin + kPart);
    vec sums[4];
    for (int k = 0; k < 4; ++k) sums[k] = all(0.0f);
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      for (int k = 0; k < 4; ++k) {
        const vec t = load(x + i + k * kLanes);
        sums[k] += t;
        if (kMax) best[k] = greater(t, best[k]);
      }
    }
    for (; i < end; i += kLanes) {
      const vec t = load_some(x + i, end - i);
      sums[0] += t;
      if (kMax) best[0] = greater(first(end - i) ? t : best[0], best[0]);
    }
    total += (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  return {total, greater(greater(best[0], best[1]), greater(best[2], best[3]))};
}

// Means and maxima of up to eight planes that follow each other in memory. Where a sum is no
// number one of the values may be none, which a comparison does not see: then the maximum is none.
template <class T>
void finish(const Spread spreads[kLanes], const T* planes, int64_t count, int64_t valid,
            float* means, float* maxima) {
  vec sums[kLanes], best[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    sums[i] = spreads[i].sum;
    best[i] = spreads[i].maximum;
  }
  const vec sum = across(sums, Sum());
  if (means) store_some(means, sum / static_cast<float>(count), valid);
  if (!maxima) return;
  store_some(maxima, across(best, Greatest()), valid);
  for (int64_t i = 0; i < valid; ++i) {
    if (!std::isnan(sum[i])) continue;
    maxima[i] = maximum_of(planes + i * count, count, 1, nullptr, maxima[i]);
  }
}

// Channels-last: the channels of K vectors, of the last of which `last` count. `rows` and
// `columns` have steps of `step`; without kLines only the totals are made.
template <int K, bool kLines, bool kMax, class Source>
void sum_channels(const Source& source, int64_t height, int64_t width, int64_t step, int64_t last,
                  float* rows, float* columns, vec totals[K], vec best[K]) {
  // Known to the compiler but for the last vector of all channels.
  const int64_t n = K > 1 ? kLanes : last;
  vec all_rows[K], greatest[K];
  for (int k = 0; k < K; ++k) all_rows[k] = all(0.0f), greatest[k] = all(-kInfinity);
  for (int64_t h = 0; h < height; ++h) {
    vec of_row[K];
    for (int k = 0; k < K; ++k) of_row[k] = all(0.0f);
    for (int64_t w = 0; w < width; ++w) {
      for (int k = 0; k < K; ++k) {
        const vec t = source.at(h, w, k, n);
        of_row[k] += source.in_row(t, w, k, n);
        if (kMax) greatest[k] = greater(t, greatest[k]);
        if (kLines) {
          float* column = columns + w * step + k * kLanes;
          const vec before = h == 0 ? all(0.0f) : load_some(column, n);
          store_some(column, before + source.in_column(t, h, k, n), n);
        }
      }
    }
    for (int k = 0; k < K; ++k) {
      all_rows[k] += of_row[k];
      if (kLines) store_some(rows + h * step + k * kLanes, of_row[k], n);
    }
  }
  for (int k = 0; k < K; ++k) totals[k] = all_rows[k], best[k] = greatest[k];
}

}  // namespace attnblocks
