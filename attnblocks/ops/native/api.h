// What Python calls: a placeholder until the kernels land.
#pragma once
#include <cstdint>

#define ATTNBLOCKS_ABI 1
#if defined(_WIN32)
#define ATTNBLOCKS_API extern "C" __declspec(dllexport)
#else
#define ATTNBLOCKS_API extern "C" __attribute__((visibility("default")))
#endif

struct Geometry {
  int64_t images, channels, height, width, stride, bfloat16, channels_last, threads;
};
struct Channel;
struct Coord;

ATTNBLOCKS_API int attnblocks_abi();     // compared with the number that Python was written for
ATTNBLOCKS_API int attnblocks_openmp();  // whether the kernels run in more than one thread
