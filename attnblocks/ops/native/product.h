// The product of a map with its gates.
#pragma once
#include "lines.h"

namespace attnblocks {

// A plane times a gate per row and per column, the latter padded to whole vectors.
template <class T>
void multiply_plane(const T* x, const float* rows, const float* columns, int64_t height,
                    int64_t width, int64_t room, T* out) {
  for_positions(height, width, room, [&](int64_t p, int64_t h, int64_t w, auto n) {
    store_some(out + p, load_some(x + p, n) * rows[h] * load(columns + w), n);
  });
}

// n positions of a plane times one gate.
template <class T>
void multiply_positions(const T* x, float gate, int64_t n, T* out) {
  int64_t p = 0;
  for (; p + kLanes <= n; p += kLanes) store(out + p, load(x + p) * gate);
  if (p < n) store_first(out + p, load_first(x + p, n - p) * gate, n - p);
}

// Channels-last: n channels of a pixel times two gates each.
template <class T>
void multiply_pixel(const T* x, const float* a, const float* b, int64_t n, T* out) {
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) store(out + c, load(x + c) * load(a + c) * load(b + c));
  if (c < n) {
    const vec y = load_first(x + c, n - c) * load_first(a + c, n - c) * load_first(b + c, n - c);
    store_first(out + c, y, n - c);
  }
}

// Channels-last: n channels of a pixel times a gate each, and one for all of them.
template <class T>
void multiply_pixel(const T* x, const float* gates, float gate, int64_t n, T* out) {
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) store(out + c, load(x + c) * load(gates + c) * gate);
  if (c < n) {
    store_first(out + c, load_first(x + c, n - c) * load_first(gates + c, n - c) * gate, n - c);
  }
}

}  // namespace attnblocks
