// The C interface of the kernels. library.py loads it with ctypes and packs the structs as bytes.
//
// No size is 0. Where there is no memory for a few lines of a map, the process ends.
//
// A map is (N, C, H, W), float32 or bfloat16, in memory as (N, C, H, W) or, channels-last,
// as (N, H, W, C). All other arrays are dense float32:
//
//   channel    (N, C)          one value per channel
//   coords     (N, H + W, C)   one value per row, then one per column, of every channel
//   positions  (N, H, W)       one value per position
#pragma once
#include <cstdint>

#if defined(_WIN32)
#define ATTNBLOCKS_EXPORT extern "C" __declspec(dllexport)
#else
#define ATTNBLOCKS_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Changes with any struct or signature here and in host.h and stage_reader.h, which host.py and
// plain.py pack; library.py has the same number.
#define ATTNBLOCKS_ABI 3

namespace attnblocks {

struct Geometry {
  int64_t images, channels, height, width;
  int64_t stride;  // Elements between images of x; all other maps are dense.
  int64_t bfloat16, channels_last, threads;
};

// The channel stage of a block. Parameters are of the dtype of the map, and null where absent.
struct Channel {
  int64_t kind;  // One of Kind.
  int64_t width;  // Of the hidden layer; of the kernel of a convolution.
  int64_t activation, gate;  // Of Function.
  int64_t gains;  // How many gains there are: 0, 1 or one per channel.
  const void *w1, *b1, *norm_weight, *norm_bias, *norm_mean, *norm_var, *w2, *b2, *gain;
  double eps;
};

// The coordinate stage of a block.
struct Coord {
  int64_t width, activation, gate, gains;
  const void *w1, *b1, *norm_weight, *norm_bias, *norm_mean, *norm_var, *wh, *bh, *ww, *bw, *gain;
  double eps;
};

// The stage of positions: a convolution of maximum and mean over the channels, behind the channel
// stage, and without a coordinate stage.
struct Spatial {
  int64_t width;  // Of the kernel.
  int64_t gate, gains;
  const void *w, *norm_weight, *norm_bias, *norm_mean, *norm_var, *gain;
  double eps;
};

// Kinds of stages; a channel stage is one of the three in the middle.
enum Kind : int64_t { kCoordinates, kMeans, kMeansAndMaxima, kConvolution, kPositions };

enum Function : int64_t { kIdentity, kRelu, kRelu6, kHardswish, kSilu, kSigmoid, kHardsigmoid };

}  // namespace attnblocks

ATTNBLOCKS_EXPORT int attnblocks_abi();

// Whether the library was built with OpenMP.
ATTNBLOCKS_EXPORT int attnblocks_openmp();

// Row and column means, channel means and channel maxima; a null result is not made.
ATTNBLOCKS_EXPORT void attnblocks_statistics(const attnblocks::Geometry* geometry, const void* x,
                                             float* coords, float* means, float* maxima);

// out = x * gates; null gates are 1. Gates of positions exclude those of rows and columns.
ATTNBLOCKS_EXPORT void attnblocks_product(const attnblocks::Geometry* geometry, const void* x,
                                          const float* channel, const float* coords,
                                          const float* positions, void* out);

// The gradients of the gates of a product, given that of its result; a null one is not made.
ATTNBLOCKS_EXPORT void attnblocks_gate_gradients(const attnblocks::Geometry* geometry,
                                                 const void* x, const void* grad,
                                                 const float* channel, const float* coords,
                                                 const float* positions, float* d_channel,
                                                 float* d_coords, float* d_positions);

// out = grad * gates + the gradients that come through row, column and channel means and through
// channel maxima, which positions that tie share. Null terms are 0; gates of positions go without
// gradients of statistics.
ATTNBLOCKS_EXPORT void attnblocks_map_gradient(const attnblocks::Geometry* geometry, const void* x,
                                               const void* grad, const float* channel,
                                               const float* coords, const float* positions,
                                               const float* d_coords, const float* d_means,
                                               const float* maxima, const float* d_maxima,
                                               void* out);

// Maximum, then mean, over the channels of x * channel; (N, 2, H, W).
ATTNBLOCKS_EXPORT void attnblocks_position_statistics(const attnblocks::Geometry* geometry,
                                                      const void* x, const float* channel,
                                                      float* out);

// Its gradients with respect to x and channel; channels that tie for a maximum share.
ATTNBLOCKS_EXPORT void attnblocks_position_gradient(const attnblocks::Geometry* geometry,
                                                    const void* x, const float* channel,
                                                    const float* statistics,
                                                    const float* d_statistics, void* d_x,
                                                    float* d_channel);

// A whole block in eval mode. Null stages are left out; channel_gates and out may be null.
ATTNBLOCKS_EXPORT void attnblocks_block(const attnblocks::Geometry* geometry, const void* x,
                                        const attnblocks::Channel* channel,
                                        const attnblocks::Coord* coord,
                                        const attnblocks::Spatial* spatial, float* channel_gates,
                                        void* out);

// Reads a block by its members (``__dict__``), and runs it as above if its layers are those of the
// plans. Called with the lock of the interpreter, which it releases meanwhile.
//
// Returns None where the layers have to be called; True where it has run; and what it has read, one
// tuple for each stage, where a norm takes the statistics of the batch, where both results are null
// or where torch describes no tensors to C (then the tensors are not checked).
namespace attnblocks {
struct Host;
struct Object;
struct Plan;
}  // namespace attnblocks
ATTNBLOCKS_EXPORT attnblocks::Object* attnblocks_run(
    const attnblocks::Host* host, const attnblocks::Plan* plans, int64_t count,
    attnblocks::Object* members, const attnblocks::Geometry* geometry, const void* x,
    float* channel_gates, void* out);
