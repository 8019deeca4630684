// The gradients of the gates of a product: sums of map times gradient times the other gates.
#include "lines.h"
#include "parallel.h"
#include "sums.h"

namespace attnblocks {
namespace {

// What is added up where there are gates of rows and of columns.
template <class T>
struct Products {
  const T *x, *grad;
  int64_t row, column;  // Steps in memory.
  const float *of_rows, *of_columns;
  int64_t step;  // Between the gates of one row or column and of the next.

  vec at(int64_t h, int64_t w, int64_t k, int64_t n) const {
    const int64_t p = h * row + w * column + k * kLanes;
    return load_some(x + p, n) * load_some(grad + p, n);
  }
  vec in_row(vec t, int64_t w, int64_t k, int64_t n) const {
    return t * load_some(of_columns + w * step + k * kLanes, n);
  }
  vec in_column(vec t, int64_t h, int64_t k, int64_t n) const {
    return t * (step == 1 ? all(of_rows[h]) : load_some(of_rows + h * step + k * kLanes, n));
  }
};

struct Results {
  float *channel, *coords, *positions;  // Those of one image.
};

// From the sums of products times the gates of the columns, (H), and times those of the rows, (W),
// of one channel to the gradients of its gates.
void finish_plane(const Geometry& g, float* rows, float* columns, const float* gates,
                  const float* channel, float* d_channel) {
  float sum = 0;
  for (int64_t h = 0; h < g.height; ++h) sum += rows[h] * gates[h];
  if (d_channel) *d_channel = sum;
  const float gate = channel ? *channel : 1.0f;
  for (int64_t h = 0; h < g.height; ++h) rows[h] *= gate;
  for (int64_t w = 0; w < g.width; ++w) columns[w] *= gate;
}

template <class T>
void planes(const Geometry& g, const T* x, const T* grad, const Gates& gates, Range range,
            Results out) {
  const int64_t count = g.height * g.width;
  if (gates.coords) {
    Lines lines(g.height, g.width), sums(g.height, g.width);
    for (int64_t c = range.begin; c < range.end; c += kLanes) {
      const int64_t valid = std::min(kLanes, range.end - c);
      lines.read(gates.coords + c, g.channels, valid);
      for (int64_t i = 0; i < valid; ++i) {
        const int64_t at = (c + i) * count;
        const Products<T> products{x + at,        grad + at,        g.width, 1,
                                   lines.rows(i), lines.columns(i), 1};
        sum_plane<false>(products, g.height, g.width, sums.rows(i), sums.columns(i));
        finish_plane(g, sums.rows(i), sums.columns(i), lines.rows(i),
                     gates.channel ? gates.channel + c + i : nullptr,
                     out.channel ? out.channel + c + i : nullptr);
      }
      if (out.coords) sums.write(out.coords + c, g.channels, valid, 1.0f, 1.0f);
    }
    return;
  }
  if (out.positions) std::fill_n(out.positions, count, 0.0f);
  for (int64_t c = range.begin; c < range.end; ++c) {
    vec sum = all(0.0f);
    const float gate = gates.channel ? gates.channel[c] : 1.0f;
    for (int64_t h = 0; h < g.height; ++h) {  // Sums of rows, whose sum loses less.
      vec of_row = all(0.0f);
      for (int64_t w = 0; w < g.width; w += kLanes) {
        const int64_t n = std::min(kLanes, g.width - w), p = h * g.width + w;
        const vec t = load_some(x + c * count + p, n) * load_some(grad + c * count + p, n);
        of_row += gates.positions ? t * load_some(gates.positions + p, n) : t;
        if (out.positions) {
          float* position = out.positions + p;
          store_some(position, load_some(position, n) + t * gate, n);
        }
      }
      sum += of_row;
    }
    if (out.channel) out.channel[c] = sum_of(sum);
  }
}

template <int K, class T>
void chunk(const Geometry& g, const T* x, const T* grad, const Gates& gates, int64_t c,
           int64_t last, float* coords, float* d_channel) {
  const float *of_rows = gates.coords + c, *of_columns = of_rows + g.height * g.channels;
  float *rows = coords + c, *columns = rows + g.height * g.channels;
  const Products<T> products{x + c,      grad + c, g.width * g.channels, g.channels, of_rows,
                             of_columns, g.channels};
  vec totals[K], best[K];
  sum_channels<K, true, false>(products, g.height, g.width, g.channels, last, rows, columns, totals,
                               best);
  for (int k = 0; k < K; ++k) {
    const int64_t n = k + 1 < K ? kLanes : last, at = k * kLanes;
    const vec gate = gates.channel ? load_some(gates.channel + c + at, n) : all(1.0f);
    vec sum = all(0.0f);
    for (int64_t h = 0; h < g.height; ++h) {
      float* row = rows + h * g.channels + at;
      const vec of_row = load_some(row, n);
      sum += of_row * load_some(of_rows + h * g.channels + at, n);
      store_some(row, of_row * gate, n);
    }
    for (int64_t w = 0; w < g.width; ++w) {
      float* column = columns + w * g.channels + at;
      store_some(column, load_some(column, n) * gate, n);
    }
    if (d_channel) store_some(d_channel + c + at, sum, n);
  }
}

template <class T>
void pixels(const Geometry& g, const T* x, const T* grad, const Gates& gates, Range range,
            Results out) {
  if (gates.coords) {
    std::vector<float> unwanted;
    if (!out.coords) unwanted.resize(static_cast<size_t>((g.height + g.width) * g.channels));
    float* coords = out.coords ? out.coords : unwanted.data();
    int64_t c = range.begin;
    for (; c + 4 * kLanes <= range.end; c += 4 * kLanes) {
      chunk<4>(g, x, grad, gates, c, kLanes, coords, out.channel);
    }
    for (; c < range.end; c += kLanes) {
      chunk<1>(g, x, grad, gates, c, std::min(kLanes, range.end - c), coords, out.channel);
    }
    return;
  }
  const size_t size = static_cast<size_t>(round_up(g.channels));
  std::vector<float> sums(size), of_row(size);
  for (int64_t p = 0; p < g.height * g.width; ++p) {
    const vec position = all(gates.positions ? gates.positions[p] : 1.0f);
    vec of_position = all(0.0f);
    for (int64_t c = range.begin; c < range.end; c += kLanes) {
      const int64_t n = std::min(kLanes, range.end - c), at = p * g.channels + c;
      const vec t = load_some(x + at, n) * load_some(grad + at, n);
      float* row = &of_row[static_cast<size_t>(c)];
      store(row, load(row) + t * position);
      if (out.positions) of_position += gates.channel ? t * load_some(gates.channel + c, n) : t;
    }
    if (out.positions) out.positions[p] = sum_of(of_position);
    if ((p + 1) % g.width == 0) add_row(of_row, sums);
  }
  if (out.channel) {
    std::copy(sums.begin() + range.begin, sums.begin() + range.end, out.channel + range.begin);
  }
}

}  // namespace
}  // namespace attnblocks

using namespace attnblocks;

void attnblocks_gate_gradients(const Geometry* geometry, const void* x, const void* grad,
                               const float* channel, const float* coords, const float* positions,
                               float* d_channel, float* d_coords, float* d_positions) {
  const Geometry& g = *geometry;
  const int64_t size = g.channels * g.height * g.width;
  // The gradient of a position's gate needs all channels.
  const int64_t step = d_positions ? g.channels : 2 * kLanes;
  for_map(g, [&](auto element, auto channels_last) {
    using T = decltype(element);
    for_parts(g, g.channels, step, [&](int64_t image, Range range) {
      const T* map = static_cast<const T*>(x) + image * g.stride;
      const T* of_map = static_cast<const T*>(grad) + image * size;
      const Gates gates(g, image, channel, coords, positions);
      const Results out{
          d_channel ? d_channel + image * g.channels : nullptr,
          d_coords ? d_coords + image * (g.height + g.width) * g.channels : nullptr,
          d_positions ? d_positions + image * g.height * g.width : nullptr};
      if constexpr (channels_last()) {
        pixels(g, map, of_map, gates, range, out);
      } else {
        planes(g, map, of_map, gates, range, out);
      }
    });
  });
}
