// How the work on a map is shared among threads. What one thread adds up does not depend on how
// many there are, so that their number changes no bit of a result.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "api.h"
#include "simd.h"

namespace attnblocks {

constexpr int64_t kLeastWork = 8192;  // Elements of a map for each of two threads.

struct Range {
  int64_t begin, end;
};

// Part i of n numbers that are shared in multiples of `step`.
inline Range part(int64_t n, int64_t step, int64_t i, int64_t parts) {
  const int64_t steps = (n + step - 1) / step;
  return {std::min(n, steps * i / parts * step), std::min(n, steps * (i + 1) / parts * step)};
}

inline int64_t threads_for([[maybe_unused]] const Geometry& g) {
#if defined(_OPENMP)
  // All or one: with fewer than torch has, the runtime would end the others and start them again.
  const int64_t work = g.images * g.channels * g.height * g.width;
  return work < 2 * kLeastWork ? 1 : g.threads;
#else
  return 1;
#endif
}

// Run `task(thread, image, part of count)` for every image, in parallel. Where there are fewer
// images than threads an image is split into parts of `step`.
template <class Task>
void for_parts(const Geometry& g, int64_t count, int64_t step, const Task& task) {
  const int64_t threads = threads_for(g);
  const int64_t parts = g.images >= threads ? 1 : (threads + g.images - 1) / g.images;
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads)) if (threads > 1)
#endif
  for (int64_t i = 0; i < g.images * parts; ++i) {
    const Range range = part(count, step, i % parts, parts);
    if (range.begin < range.end) task(i / parts, range);
  }
}

// The gates of one image.
struct Gates {
  const float *channel, *coords, *positions;

  Gates(const Geometry& g, int64_t image, const float* channel, const float* coords,
        const float* positions)
      : channel(channel ? channel + image * g.channels : nullptr),
        coords(coords ? coords + image * (g.height + g.width) * g.channels : nullptr),
        positions(positions ? positions + image * g.height * g.width : nullptr) {}
};

// Call `f` with the type of the map's elements and with whether it is channels-last.
template <class F>
void for_map(const Geometry& g, F&& f) {
  if (g.bfloat16 && g.channels_last) {
    f(bfloat16(), std::true_type());
  } else if (g.bfloat16) {
    f(bfloat16(), std::false_type());
  } else if (g.channels_last) {
    f(float(), std::true_type());
  } else {
    f(float(), std::false_type());
  }
}

}  // namespace attnblocks
