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

// A plane, (H, W) in memory: up to K * 8 columns from w on. `rows`, padded to whole vectors, gets
// or adds the sums of these parts of the rows.
template <int K, bool kMax, class Source>
void sum_columns(const Source& source, int64_t height, int64_t w, int64_t last, float* rows,
                 float* columns, vec& best) {
  vec sums[K];
  for (int k = 0; k < K; ++k) sums[k] = all(0.0f);
  const ivec valid = first(last);
  const vec least = all(-kInfinity);
  for (int64_t h = 0; h < height; h += kLanes) {
    const int64_t count = std::min(kLanes, height - h);
    vec of_rows[kLanes];
    for (int64_t i = 0; i < count; ++i) {
      vec of_row = all(0.0f);
      for (int k = 0; k < K; ++k) {
        const vec t = source.at(h + i, w + k * kLanes, 0, k + 1 < K ? kLanes : last);
        of_row += source.in_row(t, w + k * kLanes, 0, kLanes);
        sums[k] += source.in_column(t, h + i, 0, kLanes);
        if (kMax) best = greater(k + 1 < K || last == kLanes ? t : (valid ? t : least), best);
      }
      of_rows[i] = of_row;
    }
    for (int64_t i = count; i < kLanes; ++i) of_rows[i] = all(0.0f);
    const vec of_eight = across(of_rows, Sum());
    store(rows + h, w == 0 ? of_eight : load(rows + h) + of_eight);
  }
  for (int k = 0; k < K; ++k) store(columns + w + k * kLanes, sums[k]);
}

// Sums of the rows and columns of a plane, both padded with zeros; returns its maximum.
template <bool kMax, class Source>
float sum_plane(const Source& source, int64_t height, int64_t width, float* rows, float* columns) {
  vec best = all(-kInfinity);
  for (int64_t w = 0; w < width; w += 4 * kLanes) {
    const int64_t left = std::min(4 * kLanes, width - w);
    const int64_t last = (left - 1) % kLanes + 1;
    switch ((left + kLanes - 1) / kLanes) {
      case 1: sum_columns<1, kMax>(source, height, w, last, rows, columns, best); break;
      case 2: sum_columns<2, kMax>(source, height, w, last, rows, columns, best); break;
      case 3: sum_columns<3, kMax>(source, height, w, last, rows, columns, best); break;
      default: sum_columns<4, kMax>(source, height, w, last, rows, columns, best);
    }
  }
  return kMax ? max_of(best) : 0.0f;
}

// Sum and maximum of a plane of n positions.
template <class T>
float sum_positions(const T* x, int64_t n, float* maximum) {
  vec sums[4] = {all(0.0f), all(0.0f), all(0.0f), all(0.0f)};
  vec best[2] = {all(-kInfinity), all(-kInfinity)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) {
      const vec t = load(x + i + k * kLanes);
      sums[k] += t;
      best[k % 2] = greater(t, best[k % 2]);
    }
  }
  for (; i < n; i += kLanes) {
    const vec t = load_some(x + i, n - i);
    sums[0] += t;
    best[0] = greater(first(n - i) ? t : best[0], best[0]);
  }
  *maximum = max_of(greater(best[0], best[1]));
  float lanes[kLanes], sum = 0;
  store(lanes, (sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (float lane : lanes) sum += lane;
  return sum;
}

// Channels-last: the channels of K vectors, of the last of which `last` count. `rows` and
// `columns` have steps of `step`; where they are null only the totals are made.
template <int K, bool kLines, class Source>
void sum_channels(const Source& source, int64_t height, int64_t width, int64_t step, int64_t last,
                  float* rows, float* columns, vec totals[K], vec best[K]) {
  for (int k = 0; k < K; ++k) totals[k] = all(0.0f), best[k] = all(-kInfinity);
  for (int64_t h = 0; h < height; ++h) {
    vec of_row[K];
    for (int k = 0; k < K; ++k) of_row[k] = all(0.0f);
    for (int64_t w = 0; w < width; ++w) {
      for (int k = 0; k < K; ++k) {
        const int64_t n = k + 1 < K ? kLanes : last;
        const vec t = source.at(h, w, k, n);
        of_row[k] += source.in_row(t, w, k, n);
        best[k] = greater(t, best[k]);
        if (kLines) {
          float* column = columns + w * step + k * kLanes;
          const vec added = source.in_column(t, h, k, n);
          store_some(column, h == 0 ? added : load_some(column, n) + added, n);
        }
      }
    }
    for (int k = 0; k < K; ++k) {
      totals[k] += of_row[k];
      if (kLines) store_some(rows + h * step + k * kLanes, of_row[k], k + 1 < K ? kLanes : last);
    }
  }
}

// The maximum of values whose sum is no number: not a number either, if one of them is none.
template <class T>
float maximum_of(const T* x, int64_t count, int64_t step, float maximum) {
  for (int64_t i = 0; i < count; ++i) {
    const vec t = load_first(x + i * step, 1);
    if (std::isnan(t[0])) return t[0];
  }
  return maximum;
}

}  // namespace attnblocks
