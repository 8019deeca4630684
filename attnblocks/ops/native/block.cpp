// A whole block in one call: statistics, small layers and product of an image while it is in cache.
//
// One image belongs to one thread; where there are fewer images than threads, all threads share
// each image, and wait for each other between the steps.
#include <cmath>

#include "layers.h"
#include "lines.h"
#include "parallel.h"
#include "parameters.h"
#include "product.h"
#include "sums.h"

namespace attnblocks {
namespace {

// The threads that work on an image.
struct Team {
  int64_t index, count;

  Range share(int64_t n, int64_t step) const { return part(n, step, index, count); }

  void wait() const {
#if defined(_OPENMP)
    if (count > 1) {
#pragma omp barrier
    }
#endif
  }
};

struct ChannelLayers {
  int64_t kind, width, activation, gate;
  const float *w1, *w2, *b2, *gain;
  Affine hidden;

  ChannelLayers(const Channel& s, int64_t channels, Reader& reader, Arena& arena)
      : kind(s.kind), width(s.width), activation(s.activation), gate(s.gate),
        w1(reader.matrix(s.w1, s.width * (s.kind == kConvolution ? 1 : channels))),
        w2(reader.matrix(s.w2, s.width * channels)),
        b2(reader.vector(s.b2, channels, channels, 0.0f)),
        gain(reader.vector(s.gain, s.gains, channels, 1.0f)),
        hidden(reader, arena, s.width, s.b1, s.norm_weight, s.norm_bias, s.norm_mean, s.norm_var,
               s.eps) {}

  static int64_t floats(const Channel& s, int64_t channels) {
    return 2 * s.width * channels + 2 * round_up(channels) + 8 * round_up(s.width) + 4 * kLanes;
  }
};

struct CoordLayers {
  int64_t width, activation, gate;
  const float *w1, *wh, *bh, *ww, *bw, *gain;
  Affine hidden;

  CoordLayers(const Coord& s, int64_t channels, bool transposed, Reader& reader, Arena& arena)
      : width(s.width), activation(s.activation), gate(s.gate),
        w1(reader.matrix(s.w1, s.width * channels)),
        wh(transposed ? reader.transposed(s.wh, channels, s.width)
                      : reader.matrix(s.wh, channels * s.width)),
        bh(reader.vector(s.bh, channels, channels, 0.0f)),
        ww(transposed ? reader.transposed(s.ww, channels, s.width)
                      : reader.matrix(s.ww, channels * s.width)),
        bw(reader.vector(s.bw, channels, channels, 0.0f)),
        gain(reader.vector(s.gain, s.gains, channels, 1.0f)),
        hidden(reader, arena, s.width, s.b1, s.norm_weight, s.norm_bias, s.norm_mean, s.norm_var,
               s.eps) {}

  static int64_t floats(const Coord& s, int64_t channels) {
    return 5 * s.width * round_up(channels) + 3 * round_up(channels) + 8 * round_up(s.width) +
           8 * kLanes;
  }
};

// What is known of one image between the steps.
struct Memory {
  float *means, *maxima, *hidden, *gate;  // `means` has zeros around it for a convolution.
  float *lines;  // Sums, then means times the channel gate, then gates, of rows and columns.
  float *narrow;  // The hidden layer of the coordinate stage.

  Memory(const Geometry& g, const Channel* channel, const Coord* coord, Arena& arena) {
    const int64_t around = channel ? round_up(channel->width) : 0;
    means = arena.take(g.channels + 2 * around) + around;
    std::fill_n(means - around, round_up(g.channels) + 2 * around, 0.0f);
    maxima = arena.take(g.channels);
    hidden = arena.take(channel ? 2 * round_up(channel->width) : 0);
    gate = arena.take(g.channels);
    lines = arena.take(coord ? of_lines(g) : 0);
    narrow = arena.take(coord ? round_up(coord->width) * of_positions(g) : 0);
  }

  static int64_t floats(const Geometry& g, const Channel* channel, const Coord* coord) {
    return 3 * round_up(g.channels) + (channel ? 4 * round_up(channel->width) : 0) +
           (coord ? of_lines(g) + round_up(coord->width) * of_positions(g) : 0);
  }
  static int64_t of_positions(const Geometry& g) { return round_up(g.height) + round_up(g.width); }
  static int64_t of_lines(const Geometry& g) { return of_positions(g) * round_up(g.channels); }
};

template <class T, bool kChannelsLast>
class Block {
 public:
  Block(const Geometry& g, const ChannelLayers* channel, const CoordLayers* coord)
      : g_(g), channel_(channel), coord_(coord), count_(g.height * g.width),
        h_(kChannelsLast ? g.height : round_up(g.height)),
        w_(kChannelsLast ? g.width : round_up(g.width)), step_(round_up(g.channels)) {}

  void run(const T* x, const Memory& m, const Team& team, float* channel_gates, T* out) const {
    const Range own = team.share(g_.channels, 2 * kLanes);
    measure(x, m, own);
    if (channel_) {
      team.wait();
      if (channel_->kind != kConvolution) {
        const Range width = team.share(channel_->width, kLanes);
        if (width.begin < width.end) squeeze(m, width);
        team.wait();
      }
      expand(m, own);
      if (channel_gates) std::copy(m.gate + own.begin, m.gate + own.end, channel_gates + own.begin);
    }
    if (!out) return team.wait();
    if (coord_) {
      scale_lines(m, own);
      team.wait();
      narrow(m, team);
      team.wait();
      widen(m, own);
    }
    multiply_map(x, m, own, out);
    team.wait();  // Before the next image's statistics.
  }

 private:
  // Sums of lines; means and maxima of channels.
  void measure(const T* x, const Memory& m, Range own) const {
    if constexpr (kChannelsLast) {
      int64_t c = own.begin;
      for (; c + 4 * kLanes <= own.end; c += 4 * kLanes) measure_chunk<4>(x, m, c, kLanes);
      for (; c < own.end; c += kLanes) measure_chunk<1>(x, m, c, std::min(kLanes, own.end - c));
    } else {
      for (int64_t c = own.begin; c < own.end; c += kLanes) {
        const int64_t valid = std::min(kLanes, own.end - c);
        Spread spreads[kLanes];
        for (int64_t i = 0; i < valid; ++i) spreads[i] = measure_plane(x, m, c + i);
        finish(spreads, x + c * count_, count_, valid, m.means + c,
               wants_maxima() ? m.maxima + c : nullptr);
      }
    }
  }

  Spread measure_plane(const T* x, const Memory& m, int64_t c) const {
    const Values<T> values{x + c * count_, g_.width, 1};
    if (!coord_) return sum_positions(values.x, count_);
    float* rows = m.lines + c * (h_ + w_);
    return wants_maxima() ? sum_plane<true>(values, g_.height, g_.width, rows, rows + h_)
                          : sum_plane<false>(values, g_.height, g_.width, rows, rows + h_);
  }

  template <int K>
  void measure_chunk(const T* x, const Memory& m, int64_t c, int64_t last) const {
    const Values<T> values{x + c, g_.width * g_.channels, g_.channels};
    vec sums[K], best[K];
    if (coord_) {
      float* rows = m.lines + c;
      sum_channels<K, true>(values, g_.height, g_.width, step_, last, rows, rows + h_ * step_, sums,
                            best);
    } else {
      sum_channels<K, false>(values, g_.height, g_.width, 0, last, nullptr, nullptr, sums, best);
    }
    for (int k = 0; k < K; ++k) {
      const int64_t at = c + k * kLanes, n = k + 1 < K ? kLanes : last;
      store_some(m.means + at, sums[k] / static_cast<float>(count_), n);
      store_some(m.maxima + at, best[k], n);
      for (int64_t i = 0; wants_maxima() && i < n; ++i) {
        if (!std::isnan(sums[k][i])) continue;
        m.maxima[at + i] = maximum_of(x + at + i, count_, g_.channels, best[k][i]);
      }
    }
  }

  bool wants_maxima() const { return channel_ && channel_->kind == kMeansAndMaxima; }

  // The hidden layer of the channel stage; that of the maxima is added to that of the means, since
  // the layer behind it is linear.
  void squeeze(const Memory& m, Range width) const {
    const int64_t n = width.end - width.begin, step = round_up(channel_->width);
    const int64_t lines = wants_maxima() ? 2 : 1;
    float* hidden = m.hidden + width.begin;
    dots(m.means, m.maxima - m.means, lines, channel_->w1 + width.begin * g_.channels, n,
         g_.channels, hidden, step);
    const Affine& affine = channel_->hidden;
    with_function(channel_->activation, [&](auto activation) {
      for (int64_t i = 0; i < n; i += kLanes) {
        vec sum = all(0.0f);
        for (int64_t l = 0; l < lines; ++l) {
          const vec y = load(hidden + l * step + i) * load(affine.factor + width.begin + i);
          sum += activation(y + load(affine.term + width.begin + i));
        }
        store(hidden + i, sum);
      }
    });
  }

  void expand(const Memory& m, Range own) const {
    const int64_t n = own.end - own.begin;
    float* gate = m.gate + own.begin;
    if (channel_->kind == kConvolution) {
      const float* means = m.means + own.begin - channel_->width / 2;
      for (int64_t i = 0; i < n; i += kLanes) {
        vec sum = all(0.0f);
        for (int64_t k = 0; k < channel_->width; ++k) {
          sum += load_some(means + i + k, kLanes) * channel_->w1[k];
        }
        store_some(gate + i, sum, n - i);
      }
    } else {
      const int64_t inner = channel_->width;
      dots(m.hidden, 0, 1, channel_->w2 + own.begin * inner, n, inner, gate, 0);
    }
    const float biases = wants_maxima() ? 2.0f : 1.0f;
    with_function(channel_->gate, [&](auto function) {
      for (int64_t i = 0; i < n; i += kLanes) {
        const int64_t at = own.begin + i;
        const vec logits = load_some(gate + i, n - i) + load(channel_->b2 + at) * biases;
        store_some(gate + i, function(logits) * load(channel_->gain + at), n - i);
      }
    });
  }

  // From sums of lines to means times the channel gate.
  void scale_lines(const Memory& m, Range own) const {
    const float of_rows = 1 / static_cast<float>(g_.width);
    const float of_columns = 1 / static_cast<float>(g_.height);
    if constexpr (kChannelsLast) {
      for (int64_t l = 0; l < h_ + w_; ++l) {
        scale(m.lines + l * step_ + own.begin, channel_ ? m.gate + own.begin : nullptr,
              l < h_ ? of_rows : of_columns, own.end - own.begin);
      }
    } else {
      for (int64_t c = own.begin; c < own.end; ++c) {
        const float gate = channel_ ? m.gate[c] : 1.0f;
        float* line = m.lines + c * (h_ + w_);
        scale(line, nullptr, gate * of_rows, h_);
        scale(line + h_, nullptr, gate * of_columns, w_);
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

  // The hidden layer of the coordinate stage, of this thread's share of the lines.
  void narrow(const Memory& m, const Team& team) const {
    const Range lines = team.share(h_ + w_, kLanes);
    const int64_t width = coord_->width;
    const Affine& affine = coord_->hidden;
    if constexpr (kChannelsLast) {
      const int64_t step = round_up(width);
      dots(m.lines + lines.begin * step_, step_, lines.end - lines.begin, coord_->w1, width,
           g_.channels, m.narrow + lines.begin * step, step);
      with_function(coord_->activation, [&](auto activation) {
        for (int64_t l = lines.begin; l < lines.end; ++l) {
          for (int64_t j = 0; j < width; j += kLanes) {
            float* y = m.narrow + l * step + j;
            store(y, activation(load(y) * load(affine.factor + j) + load(affine.term + j)));
          }
        }
      });
    } else {
      const int64_t step = h_ + w_;
      multiply(coord_->w1, g_.channels, g_.channels, m.lines, step, 0, width, lines.begin,
               lines.end, [&](int64_t j, int64_t p, vec sum) {
                 store(m.narrow + j * step + p, sum);
               });
      with_function(coord_->activation, [&](auto activation) {
        for (int64_t j = 0; j < width; ++j) {
          for (int64_t p = lines.begin; p < lines.end; p += kLanes) {
            float* y = m.narrow + j * step + p;
            store(y, activation(load(y) * affine.factor[j] + affine.term[j]));
          }
        }
      });
    }
  }

  // The gates of rows, times that of the channel, and of columns.
  void widen(const Memory& m, Range own) const {
    const int64_t width = coord_->width;
    if constexpr (kChannelsLast) {
      const int64_t step = round_up(width), end = own.begin + round_up(own.end - own.begin);
      const auto logits = [&](const float* weights, int64_t first, int64_t last) {
        multiply(m.narrow, step, width, weights, step_, first, last, own.begin, end,
                 [&](int64_t l, int64_t c, vec sum) { store(m.lines + l * step_ + c, sum); });
      };
      logits(coord_->wh, 0, h_);
      logits(coord_->ww, h_, h_ + w_);
      with_function(coord_->gate, [&](auto function) {
        for (int64_t l = 0; l < h_ + w_; ++l) {
          const float* bias = l < h_ ? coord_->bh : coord_->bw;
          for (int64_t c = own.begin; c < end; c += kLanes) {
            float* gate = m.lines + l * step_ + c;
            const vec y = function(load(gate) + load(bias + c)) * load(coord_->gain + c);
            store(gate, channel_ && l < h_ ? y * load(m.gate + c) : y);
          }
        }
      });
    } else {
      const int64_t step = h_ + w_;
      const auto logits = [&](const float* weights, int64_t first, int64_t last) {
        multiply(weights, width, width, m.narrow, step, own.begin, own.end, first, last,
                 [&](int64_t c, int64_t p, vec sum) { store(m.lines + c * step + p, sum); });
      };
      logits(coord_->wh, 0, h_);
      logits(coord_->ww, h_, step);
      with_function(coord_->gate, [&](auto function) {
        const auto gates = [&](float* values, int64_t n, float bias, float factor) {
          for (int64_t p = 0; p < n; p += kLanes) {
            store(values + p, function(load(values + p) + bias) * factor);
          }
        };
        for (int64_t c = own.begin; c < own.end; ++c) {
          float* values = m.lines + c * step;
          const float gain = coord_->gain[c];
          gates(values, h_, coord_->bh[c], channel_ ? gain * m.gate[c] : gain);
          gates(values + h_, w_, coord_->bw[c], gain);
        }
      });
    }
  }

  void multiply_map(const T* x, const Memory& m, Range own, T* out) const {
    const int64_t n = own.end - own.begin;
    if constexpr (kChannelsLast) {
      int64_t at = own.begin;
      for (int64_t h = 0; h < g_.height; ++h) {
        const float* row = m.lines + h * step_ + own.begin;
        for (int64_t w = 0; w < g_.width; ++w, at += g_.channels) {
          const float* column = m.lines + (h_ + w) * step_ + own.begin;
          if (coord_) {
            multiply_pixel(x + at, row, column, n, out + at);
          } else {
            multiply_pixel(x + at, m.gate + own.begin, 1.0f, n, out + at);
          }
        }
      }
    } else {
      for (int64_t c = own.begin; c < own.end; ++c) {
        const int64_t at = c * count_, room = own.end * count_ - at;
        if (coord_) {
          const float* rows = m.lines + c * (h_ + w_);
          multiply_plane(x + at, rows, rows + h_, g_.height, g_.width, room, out + at);
        } else {
          multiply_positions(x + at, m.gate[c], count_, out + at);
        }
      }
    }
  }

  const Geometry& g_;
  const ChannelLayers* channel_;
  const CoordLayers* coord_;
  const int64_t count_, h_, w_, step_;  // Lines of rows and of columns; of channels in memory.
};

template <class T, bool kChannelsLast>
void run(const Geometry& g, const T* x, const Channel* channel, const Coord* coord,
         float* channel_gates, T* out) {
  const int64_t threads = threads_for(g);
  const bool together = g.images < threads;
  const int64_t memories = together ? 1 : threads;
  Arena arena((channel ? ChannelLayers::floats(*channel, g.channels) : 0) +
              (coord ? CoordLayers::floats(*coord, g.channels) : 0) +
              memories * Memory::floats(g, channel, coord));
  Reader reader(arena, g.bfloat16 != 0);
  std::vector<ChannelLayers> of_channel;
  std::vector<CoordLayers> of_coord;
  if (channel) of_channel.emplace_back(*channel, g.channels, reader, arena);
  if (coord) of_coord.emplace_back(*coord, g.channels, kChannelsLast, reader, arena);
  const Block<T, kChannelsLast> block(g, channel ? of_channel.data() : nullptr,
                                      coord ? of_coord.data() : nullptr);
  std::vector<Memory> memory;
  for (int64_t i = 0; i < memories; ++i) memory.emplace_back(g, channel, coord, arena);
  const int64_t size = g.channels * g.height * g.width;
#if defined(_OPENMP)
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
#endif
  {
#if defined(_OPENMP)
    const int64_t index = omp_get_thread_num(), count = omp_get_num_threads();
#else
    const int64_t index = 0, count = 1;
#endif
    const Team team = together ? Team{index, count} : Team{0, 1};
    const Range images = together ? Range{0, g.images} : part(g.images, 1, index, count);
    for (int64_t i = images.begin; i < images.end; ++i) {
      block.run(x + i * g.stride, memory[together ? 0 : static_cast<size_t>(index)], team,
                channel_gates ? channel_gates + i * g.channels : nullptr,
                out ? out + i * size : nullptr);
    }
  }
}

}  // namespace
}  // namespace attnblocks

using namespace attnblocks;

void attnblocks_block(const Geometry* geometry, const void* x, const Channel* channel,
                      const Coord* coord, float* channel_gates, void* out) {
  for_map(*geometry, [&](auto element, auto channels_last) {
    using T = decltype(element);
    run<T, channels_last()>(*geometry, static_cast<const T*>(x), channel, coord, channel_gates,
                            static_cast<T*>(out));
  });
}
