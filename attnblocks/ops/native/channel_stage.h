// The stage of a block that makes a gate for each channel.
#pragma once
#include "layers.h"
#include "memory.h"

namespace attnblocks {

struct ChannelStage {
  int64_t kind, width, act, gate;  // Act and gate are numbers of functions.
  const float *w1, *w2, *b2, *gain;
  Affine affine;

  ChannelStage(const Channel& s, int64_t channels, Reader& reader, Arena& arena)
      : kind(s.kind), width(s.width), act(s.activation), gate(s.gate),
        w1(reader.matrix(s.w1, s.width * (s.kind == kConvolution ? 1 : channels))),
        w2(reader.matrix(s.w2, s.width * channels)),
        b2(reader.vector(s.b2, channels, channels, 0.0f)),
        gain(reader.vector(s.gain, s.gains, channels, 1.0f)),
        affine(reader, arena, s.width, s.b1, s.norm_weight, s.norm_bias, s.norm_mean, s.norm_var,
               s.eps) {}

  static int64_t floats(const Channel& s, int64_t channels) {
    return 2 * s.width * channels + 2 * round_up(channels) + 8 * round_up(s.width) + 4 * kLanes;
  }

  bool uses_maxima() const { return kind == kMeansAndMaxima; }

  // Some units of the hidden layer; that of the maxima is added to that of the means, since the
  // layer behind it is linear.
  void squeeze(int64_t channels, const Memory& m, Range units) const {
    const int64_t n = units.end - units.begin, step = round_up(width);
    const int64_t lines = uses_maxima() ? 2 : 1;
    float* hidden = m.hidden + units.begin;
    dots(m.means, m.maxima - m.means, lines, w1 + units.begin * channels, n, channels, hidden,
         step);
    with_function(act, [&](auto function) {
      for (int64_t i = 0; i < n; i += kLanes) {
        const vec factor = load(affine.factor + units.begin + i);
        const vec term = load(affine.term + units.begin + i);
        vec sum = function(load(hidden + i) * factor + term);
        if (lines == 2) sum += function(load(hidden + step + i) * factor + term);
        store(hidden + i, sum);
      }
    });
  }

  // The gates of some channels.
  void expand(const Memory& m, Range own) const {
    const int64_t n = own.end - own.begin;
    float* gates = m.gates + own.begin;
    if (kind == kConvolution) {
      const float* means = m.means + own.begin - width / 2;
      for (int64_t i = 0; i < n; i += kLanes) {
        vec sum = all(0.0f);
        for (int64_t k = 0; k < width; ++k) sum += load(means + i + k) * w1[k];
        store_some(gates + i, sum, n - i);
      }
    } else {
      dots(m.hidden, 0, 1, w2 + own.begin * width, n, width, gates, 0);
    }
    const float biases = uses_maxima() ? 2.0f : 1.0f;
    with_function(gate, [&](auto function) {
      for (int64_t i = 0; i < n; i += kLanes) {
        const int64_t at = own.begin + i;
        const vec logits = load_some(gates + i, n - i) + load(b2 + at) * biases;
        store_some(gates + i, function(logits) * load(gain + at), n - i);
      }
    });
  }
};

}  // namespace attnblocks
