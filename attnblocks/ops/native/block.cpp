// A whole block in one call: statistics, small layers and product of an image while it is in cache.
//
// One image belongs to one thread; where there are fewer images than threads, all threads share
// each image, and wait for each other between the steps.
#include <cmath>
#include <optional>

#include "channel_stage.h"
#include "coord_stage.h"
#include "product.h"
#include "spatial_stage.h"
#include "sums.h"

namespace attnblocks {
namespace {

template <class T, bool kChannelsLast>
class Block {
 public:
  using CoordStage = attnblocks::CoordStage<kChannelsLast>;

  Block(const Geometry& g, const Channel* channel, const Coord* coord, const Spatial* spatial,
        Reader& reader, Arena& arena)
      : g_(g), count_(g.height * g.width) {
    if (channel) channel_.emplace(*channel, g.channels, reader, arena);
    if (coord) coord_.emplace(*coord, g, reader, arena);
    if (spatial) spatial_.emplace(*spatial, g, reader, arena);
  }

  static int64_t floats(const Geometry& g, const Channel* channel, const Coord* coord,
                        const Spatial* spatial) {
    return (channel ? ChannelStage::floats(*channel, g.channels) : 0) +
           (coord ? CoordStage::floats(*coord, g.channels) : 0) +
           (spatial ? SpatialStage::floats(*spatial) : 0);
  }

  void run(const T* x, const Memory& m, const Team& team, float* channel_gates, T* out) const {
    const Range own = team.share(g_.channels, 2 * kLanes);
    const float* gates = channel_ ? m.gates : nullptr;
    measure(x, m, own);
    if (channel_) {
      team.wait();
      if (channel_->kind != kConvolution) {
        const Range units = team.share(channel_->width, kLanes);
        if (units.begin < units.end) channel_->squeeze(g_.channels, m, units);
        team.wait();
      }
      channel_->expand(m, own);
      if (channel_gates) std::copy(gates + own.begin, gates + own.end, channel_gates + own.begin);
    }
    if (!out) return team.wait();
    if (coord_) {
      coord_->average(m, own, gates);
      team.wait();
      coord_->squeeze(m, team.share(coord_->h + coord_->w, kLanes));
      team.wait();
      coord_->expand(m, own, gates);
    }
    if (spatial_) {
      const Range rows = team.share(g_.height, 1);
      team.wait();
      spatial_->template measure<T, kChannelsLast>(x, m, rows);
      team.wait();
      spatial_->convolve(m, rows);
      team.wait();
    }
    multiply(x, m, own, out);
    team.wait();  // Before the next image's statistics.
  }

 private:
  bool uses_maxima() const { return channel_ && channel_->uses_maxima(); }

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
               uses_maxima() ? m.maxima + c : nullptr);
      }
    }
  }

  Spread measure_plane(const T* x, const Memory& m, int64_t c) const {
    const Values<T> values{x + c * count_, g_.width, 1};
    if (!coord_) {
      return uses_maxima() ? sum_positions<true>(values.x, count_)
                           : sum_positions<false>(values.x, count_);
    }
    float *rows = m.lines + c * coord_->step, *columns = rows + coord_->h;
    return uses_maxima() ? sum_plane<true>(values, g_.height, g_.width, rows, columns)
                         : sum_plane<false>(values, g_.height, g_.width, rows, columns);
  }

  template <int K>
  void measure_chunk(const T* x, const Memory& m, int64_t c, int64_t last) const {
    uses_maxima() ? measure_chunk<K, true>(x, m, c, last) : measure_chunk<K, false>(x, m, c, last);
  }

  template <int K, bool kMax>
  void measure_chunk(const T* x, const Memory& m, int64_t c, int64_t last) const {
    const Values<T> values{x + c, g_.width * g_.channels, g_.channels};
    vec sums[K], best[K];
    if (coord_) {
      float *rows = m.lines + c, *columns = rows + coord_->h * coord_->step;
      sum_channels<K, true, kMax>(values, g_.height, g_.width, coord_->step, last, rows, columns,
                                  sums, best);
    } else {
      sum_channels<K, false, kMax>(values, g_.height, g_.width, 0, last, nullptr, nullptr, sums,
                                   best);
    }
    for (int k = 0; k < K; ++k) {
      const int64_t at = c + k * kLanes, n = k + 1 < K ? kLanes : last;
      store_some(m.means + at, sums[k] / static_cast<float>(count_), n);
      if (!kMax) continue;
      store_some(m.maxima + at, best[k], n);
      for (int64_t i = 0; i < n; ++i) {
        if (!std::isnan(sums[k][i])) continue;
        m.maxima[at + i] = maximum_of(x + at + i, count_, g_.channels, nullptr, best[k][i]);
      }
    }
  }

  void multiply(const T* x, const Memory& m, Range own, T* out) const {
    if constexpr (kChannelsLast) {
      multiply_pixels(x, m, own, out);
    } else {
      for (int64_t c = own.begin; c < own.end; ++c) {
        const int64_t at = c * count_, room = own.end * count_ - at;
        if (coord_) {
          const float* rows = m.lines + c * coord_->step;
          multiply_plane(x + at, rows, rows + coord_->h, g_.height, g_.width, room, out + at);
        } else if (spatial_) {  // A plane is a pixel of as many channels as there are positions.
          multiply_pixel(x + at, m.positions, m.gates[c], count_, out + at);
        } else {
          multiply_positions(x + at, m.gates[c], count_, out + at);
        }
      }
    }
  }

  void multiply_pixels(const T* x, const Memory& m, Range own, T* out) const {
    const int64_t n = own.end - own.begin;
    int64_t at = own.begin;
    for (int64_t h = 0; h < g_.height; ++h) {
      for (int64_t w = 0; w < g_.width; ++w, at += g_.channels) {
        if (coord_) {
          const float* row = m.lines + h * coord_->step + own.begin;
          const float* column = m.lines + (coord_->h + w) * coord_->step + own.begin;
          multiply_pixel(x + at, row, column, n, out + at);
        } else {
          const float gate = spatial_ ? m.positions[h * g_.width + w] : 1.0f;
          multiply_pixel(x + at, m.gates + own.begin, gate, n, out + at);
        }
      }
    }
  }

  const Geometry& g_;
  const int64_t count_;
  std::optional<ChannelStage> channel_;
  std::optional<CoordStage> coord_;
  std::optional<SpatialStage> spatial_;
};

template <class T, bool kChannelsLast>
void run(const Geometry& g, const T* x, const Channel* channel, const Coord* coord,
         const Spatial* spatial, float* channel_gates, T* out) {
  using Block = Block<T, kChannelsLast>;
  const int64_t threads = threads_for(g);
  const bool together = g.images < threads;
  const int64_t memories = together ? 1 : threads;
  Arena arena(Block::floats(g, channel, coord, spatial) +
              memories * Memory::floats(g, channel, coord, spatial));
  Reader reader(arena, g.bfloat16 != 0);
  const Block block(g, channel, coord, spatial, reader, arena);
  std::vector<Memory> memory;
  for (int64_t i = 0; i < memories; ++i) memory.emplace_back(g, channel, coord, spatial, arena);
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
                      const Coord* coord, const Spatial* spatial, float* channel_gates,
                      void* out) {
  for_map(*geometry, [&](auto element, auto channels_last) {
    using T = decltype(element);
    run<T, channels_last()>(*geometry, static_cast<const T*>(x), channel, coord, spatial,
                            channel_gates, static_cast<T*>(out));
  });
}
