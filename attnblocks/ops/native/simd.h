// Vectors of eight floats, by the vector extensions of GCC and Clang: AVX2 and NEON alike.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__FAST_MATH__)
#error "NaN and infinities come out as torch's own: build without -ffast-math"
#endif

namespace attnblocks {

constexpr int64_t kLanes = 8;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

typedef float vec __attribute__((vector_size(32)));
typedef int32_t ivec __attribute__((vector_size(32)));
typedef uint32_t uvec __attribute__((vector_size(32)));
typedef uint16_t halves __attribute__((vector_size(16)));

struct bfloat16 {
  uint16_t bits;
};

// The same in memory, where they start at any element. Not by memcpy: what it writes may be
// anything for a compiler, which would load all pointers anew after each store.
typedef float vec_in_memory __attribute__((vector_size(32), aligned(4)));
typedef uint16_t halves_in_memory __attribute__((vector_size(16), aligned(2), may_alias));

inline int64_t round_up(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

inline vec all(float x) { return vec{x, x, x, x, x, x, x, x}; }

inline uvec bits(vec x) { return reinterpret_cast<uvec>(x); }

inline vec load(const float* p) { return *reinterpret_cast<const vec_in_memory*>(p); }

inline void store(float* p, vec x) { *reinterpret_cast<vec_in_memory*>(p) = x; }

inline vec load(const bfloat16* p) {
  const halves x = *reinterpret_cast<const halves_in_memory*>(p);
  return reinterpret_cast<vec>(__builtin_convertvector(x, uvec) << 16);
}

inline void store(bfloat16* p, vec x) {
  const uvec u = bits(x);
  const uvec nearest = (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // Ties go to even.
  const uvec quiet = (u >> 16) | 0x40;
  *reinterpret_cast<halves_in_memory*>(p) =
      __builtin_convertvector(x == x ? nearest : quiet, halves);
}

// Which of the eight lanes are among the first n.
inline ivec first(int64_t n) {
  return ivec{0, 1, 2, 3, 4, 5, 6, 7} < static_cast<int32_t>(n);
}

// The first n lanes, and zeros; nothing behind them is read.
template <class T>
inline vec load_first(const T* p, int64_t n) {
  T x[kLanes] = {};
  std::memcpy(x, p, static_cast<size_t>(n) * sizeof(T));
  return load(x);
}

#if defined(__AVX2__)
template <>
inline vec load_first(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, reinterpret_cast<__m256i>(first(n)));
}
#endif

template <class T>
inline void store_first(T* p, vec x, int64_t n) {
  T y[kLanes];
  store(y, x);
  std::memcpy(p, y, static_cast<size_t>(n) * sizeof(T));
}

// Whole vectors where there are eight lanes left, else the rest.
template <class T>
inline vec load_some(const T* p, int64_t n) {
  return n >= kLanes ? load(p) : load_first(p, n);
}

template <class T>
inline void store_some(T* p, vec x, int64_t n) {
  if (n >= kLanes) {
    store(p, x);
  } else {
    store_first(p, x, n);
  }
}

// The greater; the second where one of them is not a number.
inline vec greater(vec a, vec b) {
#if defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

inline float sum_of(vec x) {
  float lanes[kLanes], sum = 0;
  store(lanes, x);
  for (float lane : lanes) sum += lane;
  return sum;
}

struct Sum {
  vec operator()(vec a, vec b) const { return a + b; }
};

struct Greatest {
  vec operator()(vec a, vec b) const { return greater(a, b); }
};

// Lane i of the result combines all lanes of v[i].
template <class Combine>
inline vec across(const vec v[8], Combine combine) {
  vec pairs[4], fours[2];
  for (int i = 0; i < 4; ++i) {
    const vec a = v[2 * i], b = v[2 * i + 1];
    pairs[i] = combine(__builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14),
                       __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15));
  }
  for (int i = 0; i < 2; ++i) {
    const vec a = pairs[2 * i], b = pairs[2 * i + 1];
    fours[i] = combine(__builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14),
                       __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15));
  }
  return combine(__builtin_shufflevector(fours[0], fours[1], 0, 1, 2, 3, 8, 9, 10, 11),
                 __builtin_shufflevector(fours[0], fours[1], 4, 5, 6, 7, 12, 13, 14, 15));
}

// Adds the sums of a row to those of all rows, and begins the next: sums of sums lose less than one
// long sum.
inline void add_row(std::vector<float>& of_row, std::vector<float>& sums) {
  for (size_t i = 0; i < sums.size(); ++i) {
    sums[i] += of_row[i];
    of_row[i] = 0;
  }
}

// v[i][j] becomes v[j][i].
inline void transpose(vec v[8]) {
  vec a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    a[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int k = 0; k < 2; ++k) {
      b[i + 2 * k] = __builtin_shufflevector(a[i + k], a[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      b[i + 2 * k + 1] =
          __builtin_shufflevector(a[i + k], a[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

}  // namespace attnblocks
