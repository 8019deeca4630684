// The stage of a block that makes a gate for each position.
#pragma once
#include "functions.h"
#include "memory.h"
#include "positions.h"

namespace attnblocks {

struct SpatialStage {
  const Geometry& g;
  int64_t kernel, gate;
  const float *weights, *gain;
  Affine affine;
  int64_t row, plane;  // Of the planes with zeros around them.

  SpatialStage(const Spatial& s, const Geometry& g, Reader& reader, Arena& arena)
      : g(g), kernel(s.width), gate(s.gate), weights(reader.matrix(s.w, 2 * kernel * kernel)),
        gain(reader.vector(s.gain, s.gains, 1, 1.0f)),
        affine(reader, arena, 1, nullptr, s.norm_weight, s.norm_bias, s.norm_mean, s.norm_var,
               s.eps),
        row(Memory::of_row(g, kernel)), plane(Memory::of_plane(g, kernel)) {}

  static int64_t floats(const Spatial& s) { return round_up(2 * s.width * s.width) + 9 * kLanes; }

  // Maximum and mean over the channels, each times its gate, at the positions of some rows.
  template <class T, bool kChannelsLast>
  void measure(const T* x, const Memory& m, Range rows) const {
    const Range range{rows.begin * g.width, rows.end * g.width};
    float *maxima = m.planes, *means = m.planes + g.height * g.width;
    position_statistics<T, kChannelsLast>(g, x, m.gates, range, maxima, means);
    const int64_t half = kernel / 2;
    for (int64_t h = rows.begin; h < rows.end; ++h) {
      float* to = m.around + (h + half) * row + half;
      std::copy_n(maxima + h * g.width, g.width, to);
      std::copy_n(means + h * g.width, g.width, to + plane);
    }
  }

  // The gates of the positions of some rows.
  void convolve(const Memory& m, Range rows) const {
    with_function(gate, [&](auto function) {
      for (int64_t h = rows.begin; h < rows.end; ++h) {
        for (int64_t w = 0; w < g.width; w += kLanes) {
          vec sum = all(0.0f);
          const float* weight = weights;
          for (int64_t of = 0; of < 2; ++of) {
            for (int64_t k = 0; k < kernel; ++k) {
              const float* values = m.around + of * plane + (h + k) * row + w;
              for (int64_t l = 0; l < kernel; ++l) sum += load(values + l) * *weight++;
            }
          }
          const vec y = function(sum * affine.factor[0] + affine.term[0]) * gain[0];
          store_some(m.positions + h * g.width + w, y, g.width - w);
        }
      }
    });
  }
};

}  // namespace attnblocks
