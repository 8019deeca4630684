// Values of rows and columns of eight channels, between (H + W, C) and a line for every channel.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "simd.h"

namespace attnblocks {

// Eight channels: their rows, then their columns, padded to whole vectors.
class Lines {
 public:
  Lines(int64_t height, int64_t width)
      : height_(height), width_(width), h_(round_up(height)), w_(round_up(width)),
        values_(static_cast<size_t>(kLanes * (h_ + w_))) {}

  float* rows(int64_t i) { return values_.data() + i * h_; }
  float* columns(int64_t i) { return values_.data() + kLanes * h_ + i * w_; }

  // From the values of up to eight channels in (H + W, channels), zeros behind them.
  void read(const float* coords, int64_t channels, int64_t valid) {
    read(coords, channels, valid, height_, h_, rows(0));
    read(coords + height_ * channels, channels, valid, width_, w_, columns(0));
  }

  // To the same place, rows and columns each times a factor.
  void write(float* coords, int64_t channels, int64_t valid, float of_rows, float of_columns) {
    write(rows(0), h_, height_, channels, valid, of_rows, coords);
    write(columns(0), w_, width_, channels, valid, of_columns, coords + height_ * channels);
  }

  void fill_with_ones() { std::fill(values_.begin(), values_.end(), 1.0f); }

 private:
  static void read(const float* in, int64_t channels, int64_t valid, int64_t count,
                   int64_t padded, float* lines) {
    for (int64_t l = 0; l < padded; l += kLanes) {
      vec v[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        v[i] = l + i < count ? load_some(in + (l + i) * channels, valid) : all(0.0f);
      }
      transpose(v);
      for (int64_t i = 0; i < kLanes; ++i) store(lines + i * padded + l, v[i]);
    }
  }

  static void write(const float* lines, int64_t padded, int64_t count, int64_t channels,
                    int64_t valid, float scale, float* out) {
    for (int64_t l = 0; l < count; l += kLanes) {
      vec v[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) v[i] = load(lines + i * padded + l) * scale;
      transpose(v);
      for (int64_t i = 0; i < std::min(kLanes, count - l); ++i) {
        store_some(out + (l + i) * channels, v[i], valid);
      }
    }
  }

  int64_t height_, width_, h_, w_;
  std::vector<float> values_;
};

// Calls f(position, h, w, n) for vectors of n of the positions of a plane. They may overlap, and
// where rows are shorter than a vector, reach into the next row, which comes after; `room` is how
// far the positions behind the plane's first may be written to.
template <class F>
void for_positions(int64_t height, int64_t width, int64_t room, const F& f) {
  constexpr std::integral_constant<int64_t, kLanes> whole{};
  for (int64_t h = 0; h < height; ++h) {
    if (width >= kLanes) {
      for (int64_t w = 0; w < width; w += kLanes) {
        const int64_t at = std::min(w, width - kLanes);
        f(h * width + at, h, at, whole);
      }
    } else if (h * width + kLanes <= room) {
      f(h * width, h, int64_t{0}, whole);
    } else {
      f(h * width, h, int64_t{0}, width);
    }
  }
}

}  // namespace attnblocks
