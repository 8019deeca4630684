// The small layers between statistics and gates.
#pragma once
#include <algorithm>

#include "functions.h"
#include "simd.h"

namespace attnblocks {

// R rows times V vectors of columns: done(r, column, weights[r] . columns) for each.
template <int R, int V, class Done>
void multiply_block(const float* weights, int64_t row_step, int64_t inner, const float* columns,
                    int64_t step, int64_t r, int64_t column, const Done& done) {
  vec sums[R][V];
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) sums[i][v] = all(0.0f);
  for (int64_t k = 0; k < inner; ++k) {
    vec x[V];
    for (int v = 0; v < V; ++v) x[v] = load(columns + k * step + column + v * kLanes);
    for (int i = 0; i < R; ++i) {
      const vec weight = all(weights[(r + i) * row_step + k]);
      for (int v = 0; v < V; ++v) sums[i][v] += weight * x[v];
    }
  }
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) done(r + i, column + v * kLanes, sums[i][v]);
}

template <int R, class Done>
void multiply_rows(const float* weights, int64_t row_step, int64_t inner, const float* columns,
                   int64_t step, int64_t r, int64_t first, int64_t last, const Done& done) {
  int64_t c = first;
  for (; c + 2 * kLanes <= last; c += 2 * kLanes) {
    multiply_block<R, 2>(weights, row_step, inner, columns, step, r, c, done);
  }
  for (; c < last; c += kLanes) {
    multiply_block<R, 1>(weights, row_step, inner, columns, step, r, c, done);
  }
}

// done(r, c, weights[r] . columns[:, c .. c + 8]) for the rows first_row .. last_row of weights,
// (rows, inner), and whole vectors first .. last of the columns, (inner, columns).
template <class Done>
void multiply(const float* weights, int64_t row_step, int64_t inner, const float* columns,
              int64_t step, int64_t first_row, int64_t last_row, int64_t first, int64_t last,
              const Done& done) {
  int64_t r = first_row;
  for (; r + 4 <= last_row; r += 4) {
    multiply_rows<4>(weights, row_step, inner, columns, step, r, first, last, done);
  }
  if (r + 2 <= last_row) {
    multiply_rows<2>(weights, row_step, inner, columns, step, r, first, last, done);
    r += 2;
  }
  if (r < last_row) multiply_rows<1>(weights, row_step, inner, columns, step, r, first, last, done);
}

// The products of A lines with R rows of weights, A * R = 8: lane a * R + i is line a . row i.
// Lines and rows behind the last are those of the last once more.
template <int A, int R>
vec dot_block(const float* lines, int64_t line_step, int64_t count, const float* weights,
              int64_t row_step, int64_t rows, int64_t inner) {
  const float *x[A], *w[R];
  for (int a = 0; a < A; ++a) x[a] = lines + std::min<int64_t>(a, count - 1) * line_step;
  for (int i = 0; i < R; ++i) w[i] = weights + std::min<int64_t>(i, rows - 1) * row_step;
  vec sums[kLanes];
  for (vec& sum : sums) sum = all(0.0f);
  int64_t k = 0;
  for (; k + kLanes <= inner; k += kLanes) {
    vec t[A];
    for (int a = 0; a < A; ++a) t[a] = load(x[a] + k);
    for (int i = 0; i < R; ++i) {
      const vec weight = load(w[i] + k);
      for (int a = 0; a < A; ++a) sums[a * R + i] += t[a] * weight;
    }
  }
  if (k < inner) {
    for (int i = 0; i < R; ++i) {
      const vec weight = load_first(w[i] + k, inner - k);
      for (int a = 0; a < A; ++a) sums[a * R + i] += load_first(x[a] + k, inner - k) * weight;
    }
  }
  return across(sums, Sum());
}

// out[l][r] = lines[l] . weights[r], both with `inner` as the fastest axis.
inline void dots(const float* lines, int64_t line_step, int64_t count, const float* weights,
                 int64_t rows, int64_t inner, float* out, int64_t out_step) {
  int64_t l = 0;
  for (; l + 1 < count; l += 2) {
    for (int64_t r = 0; r < rows; r += 4) {
      const int64_t n = std::min<int64_t>(4, rows - r);
      float y[kLanes];
      store(y, dot_block<2, 4>(lines + l * line_step, line_step, 2, weights + r * inner, inner, n,
                               inner));
      std::copy_n(y, n, out + l * out_step + r);
      std::copy_n(y + 4, n, out + (l + 1) * out_step + r);
    }
  }
  if (l == count) return;
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t n = std::min(kLanes, rows - r);
    const vec y = dot_block<1, 8>(lines + l * line_step, line_step, 1, weights + r * inner, inner,
                                  n, inner);
    store_some(out + l * out_step + r, y, n);
  }
}

}  // namespace attnblocks
