// The stage of a block that makes gates for the rows and the columns of each channel.
//
// A contiguous map has a line of memory for each channel: its rows, then its columns, both padded
// to whole vectors. A channels-last map has one for each row and column: its channels, padded.
#pragma once
#include "layers.h"
#include "memory.h"

namespace attnblocks {

template <bool kChannelsLast>
struct CoordStage {
  int64_t channels, height, width;
  int64_t h, w, step;  // Rows, columns and channels, those that are in one line padded.
  int64_t hidden, act, gate;
  const float *w1, *wh, *bh, *ww, *bw, *gain;
  Affine affine;

  CoordStage(const Coord& s, const Geometry& g, Reader& reader, Arena& arena)
      : channels(g.channels), height(g.height), width(g.width),
        h(kChannelsLast ? height : round_up(height)), w(kChannelsLast ? width : round_up(width)),
        step(kChannelsLast ? round_up(channels) : h + w), hidden(s.width), act(s.activation),
        gate(s.gate), w1(reader.matrix(s.w1, hidden * channels)), wh(last(reader, s.wh)),
        bh(reader.vector(s.bh, channels, channels, 0.0f)), ww(last(reader, s.ww)),
        bw(reader.vector(s.bw, channels, channels, 0.0f)),
        gain(reader.vector(s.gain, s.gains, channels, 1.0f)),
        affine(reader, arena, hidden, s.b1, s.norm_weight, s.norm_bias, s.norm_mean, s.norm_var,
               s.eps) {}

  static int64_t floats(const Coord& s, int64_t channels) {
    return 5 * s.width * round_up(channels) + 3 * round_up(channels) + 8 * round_up(s.width) +
           8 * kLanes;
  }

  const float* last(Reader& reader, const void* weights) const {
    return kChannelsLast ? reader.transposed(weights, channels, hidden)
                         : reader.matrix(weights, channels * hidden);
  }

  // From sums of lines of some channels to means, times the channel gates unless these are null.
  void average(const Memory& m, Range own, const float* gates) const {
    const float of_rows = 1 / static_cast<float>(width);
    const float of_columns = 1 / static_cast<float>(height);
    if constexpr (kChannelsLast) {
      for (int64_t l = 0; l < h + w; ++l) {
        scale(m.lines + l * step + own.begin, gates ? gates + own.begin : nullptr,
              l < h ? of_rows : of_columns, own.end - own.begin);
      }
    } else {
      for (int64_t c = own.begin; c < own.end; ++c) {
        const float of_channel = gates ? gates[c] : 1.0f;
        scale(m.lines + c * step, nullptr, of_channel * of_rows, h);
        scale(m.lines + c * step + h, nullptr, of_channel * of_columns, w);
      }
    }
  }

  // n values, padded to whole vectors, times a factor and, unless they are null, a gate each.
  static void scale(float* values, const float* gates, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const vec x = load(values + i) * factor;
      store(values + i, gates ? x * load(gates + i) : x);
    }
  }

  // The hidden layer of some lines.
  void squeeze(const Memory& m, Range lines) const {
    if constexpr (kChannelsLast) {
      const int64_t wide = round_up(hidden);
      dots(m.lines + lines.begin * step, step, lines.end - lines.begin, w1, hidden, channels,
           m.narrow + lines.begin * wide, wide);
      with_function(act, [&](auto function) {
        for (int64_t l = lines.begin; l < lines.end; ++l) {
          for (int64_t j = 0; j < hidden; j += kLanes) {
            float* y = m.narrow + l * wide + j;
            store(y, function(load(y) * load(affine.factor + j) + load(affine.term + j)));
          }
        }
      });
    } else {
      multiply(w1, channels, channels, m.lines, step, 0, hidden, lines.begin, lines.end,
               [&](int64_t j, int64_t p, vec sum) { store(m.narrow + j * step + p, sum); });
      with_function(act, [&](auto function) {
        for (int64_t j = 0; j < hidden; ++j) {
          for (int64_t p = lines.begin; p < lines.end; p += kLanes) {
            float* y = m.narrow + j * step + p;
            store(y, function(load(y) * affine.factor[j] + affine.term[j]));
          }
        }
      });
    }
  }

  // The gates of rows, times those of the channels unless these are null, and of columns.
  void expand(const Memory& m, Range own, const float* gates) const {
    if constexpr (kChannelsLast) {
      const int64_t wide = round_up(hidden), end = own.begin + round_up(own.end - own.begin);
      const auto logits = [&](const float* weights, int64_t first, int64_t last) {
        multiply(m.narrow, wide, hidden, weights, step, first, last, own.begin, end,
                 [&](int64_t l, int64_t c, vec sum) { store(m.lines + l * step + c, sum); });
      };
      logits(wh, 0, h);
      logits(ww, h, h + w);
      with_function(gate, [&](auto function) {
        for (int64_t l = 0; l < h + w; ++l) {
          const float* bias = l < h ? bh : bw;
          for (int64_t c = own.begin; c < end; c += kLanes) {
            float* value = m.lines + l * step + c;
            const vec y = function(load(value) + load(bias + c)) * load(gain + c);
            store(value, gates && l < h ? y * load(gates + c) : y);
          }
        }
      });
    } else {
      const auto logits = [&](const float* weights, int64_t first, int64_t last) {
        multiply(weights, hidden, hidden, m.narrow, step, own.begin, own.end, first, last,
                 [&](int64_t c, int64_t p, vec sum) { store(m.lines + c * step + p, sum); });
      };
      logits(wh, 0, h);
      logits(ww, h, step);
      with_function(gate, [&](auto function) {
        const auto finish = [&](float* values, int64_t n, float bias, float factor) {
          for (int64_t p = 0; p < n; p += kLanes) {
            store(values + p, function(load(values + p) + bias) * factor);
          }
        };
        for (int64_t c = own.begin; c < own.end; ++c) {
          float* values = m.lines + c * step;
          finish(values, h, bh[c], gates ? gain[c] * gates[c] : gain[c]);
          finish(values + h, w, bw[c], gain[c]);
        }
      });
    }
  }
};

}  // namespace attnblocks
