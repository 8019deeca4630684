// The threads that work on an image, and what they know of it between the steps of a block.
#pragma once
#include <algorithm>

#include "parallel.h"
#include "parameters.h"

namespace attnblocks {

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

// What is known of one image between the steps.
struct Memory {
  float *means, *maxima, *hidden, *gates;  // `means` has zeros around it for a convolution.
  float *lines;  // Sums, then means times the channel gates, then gates, of rows and columns.
  float* narrow;  // The hidden layer of the coordinate stage.
  float *planes, *around, *positions;  // Maxima and means, with zeros around them, and gates.

  Memory(const Geometry& g, const Channel* channel, const Coord* coord, const Spatial* spatial,
         Arena& arena) {
    const int64_t zeros = channel ? round_up(channel->width) : 0;
    means = arena.take(g.channels + 2 * zeros) + zeros;
    std::fill_n(means - zeros, round_up(g.channels) + 2 * zeros, 0.0f);
    maxima = arena.take(g.channels);
    hidden = arena.take(channel ? 2 * round_up(channel->width) : 0);
    gates = arena.take(g.channels);
    lines = arena.take(coord ? of_lines(g) : 0);
    narrow = arena.take(coord ? round_up(coord->width) * of_positions(g) : 0);
    planes = arena.take(spatial ? 2 * g.height * g.width : 0);
    around = arena.take(spatial ? 2 * of_plane(g, spatial->width) : 0);
    if (spatial) std::fill_n(around, 2 * of_plane(g, spatial->width), 0.0f);
    positions = arena.take(spatial ? g.height * g.width : 0);
  }

  static int64_t floats(const Geometry& g, const Channel* channel, const Coord* coord,
                        const Spatial* spatial) {
    return 3 * round_up(g.channels) + (channel ? 4 * round_up(channel->width) : 0) +
           (coord ? of_lines(g) + round_up(coord->width) * of_positions(g) : 0) +
           (spatial ? 3 * g.height * g.width + 2 * of_plane(g, spatial->width) + 3 * kLanes : 0);
  }
  static int64_t of_positions(const Geometry& g) { return round_up(g.height) + round_up(g.width); }
  static int64_t of_lines(const Geometry& g) { return of_positions(g) * round_up(g.channels); }
  // A row of a plane with zeros around it, which whole vectors are read from.
  static int64_t of_row(const Geometry& g, int64_t kernel) {
    return round_up(g.width) + kernel - 1;
  }
  static int64_t of_plane(const Geometry& g, int64_t kernel) {
    return (g.height + kernel - 1) * of_row(g, kernel);
  }
};

}  // namespace attnblocks
