// The parameters of a block as the kernels want them: float32, with a value for whatever is absent.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "api.h"
#include "simd.h"

namespace attnblocks {

// Memory of a call, given out from one buffer that its thread keeps: pages that are fetched from
// the system in every call would cost more than the work.
class Arena {
 public:
  explicit Arena(int64_t floats) {
    thread_local std::vector<float> kept;
    constexpr size_t kLine = 64;  // Bytes of a cache line; vectors that cross one are slower.
    const size_t wanted = static_cast<size_t>(floats) + kLine / sizeof(float);
    if (kept.size() < wanted) kept.resize(wanted);
    const auto address = reinterpret_cast<uintptr_t>(kept.data());
    next_ = reinterpret_cast<float*>((address + kLine - 1) / kLine * kLine);
  }
  float* take(int64_t floats) {
    float* taken = next_;
    next_ += round_up(floats);
    return taken;
  }

 private:
  float* next_;
};

class Reader {
 public:
  Reader(Arena& arena, bool bfloat16) : arena_(arena), bfloat16_(bfloat16) {}

  // A matrix as it is, or converted; null stays null.
  const float* matrix(const void* p, int64_t n) {
    if (!p || !bfloat16_) return static_cast<const float*>(p);
    float* out = arena_.take(n);
    read(p, n, out);
    return out;
  }

  // n values, padded to whole vectors with `absent`, which also stands for a null vector; one
  // value is that of all.
  const float* vector(const void* p, int64_t given, int64_t n, float absent) {
    float* out = arena_.take(n);
    std::fill_n(out, round_up(n), absent);
    if (p) read(p, given, out);
    if (p && given == 1) std::fill_n(out, n, out[0]);
    return out;
  }

  // (rows, inner) as (inner, rows), the rows padded to whole vectors.
  const float* transposed(const void* p, int64_t rows, int64_t inner) {
    const float* in = matrix(p, rows * inner);
    const int64_t step = round_up(rows);
    float* out = arena_.take(inner * step);
    for (int64_t r = 0; r < rows; r += kLanes) {
      for (int64_t k = 0; k < inner; k += kLanes) {
        vec v[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) {
          v[i] = r + i < rows ? load_some(in + (r + i) * inner + k, inner - k) : all(0.0f);
        }
        transpose(v);
        for (int64_t i = 0; i < std::min(kLanes, inner - k); ++i) {
          store(out + (k + i) * step + r, v[i]);
        }
      }
    }
    return out;
  }

 private:
  void read(const void* p, int64_t n, float* out) const {
    if (bfloat16_) {
      const auto* in = static_cast<const attnblocks::bfloat16*>(p);
      for (int64_t i = 0; i < n; i += kLanes) store_some(out + i, load_some(in + i, n - i), n - i);
    } else {
      std::memcpy(out, p, static_cast<size_t>(n) * sizeof(float));
    }
  }

  Arena& arena_;
  bool bfloat16_;
};

// A bias and a norm with running statistics as one factor and one term for each of n values.
struct Affine {
  const float *factor, *term;

  Affine(Reader& reader, Arena& arena, int64_t n, const void* bias, const void* weight,
         const void* norm_bias, const void* mean, const void* variance, double eps)
      : factor(reader.vector(weight, n, n, 1.0f)), term(reader.vector(bias, n, n, 0.0f)) {
    if (!mean) return;
    const float *m = reader.vector(mean, n, n, 0.0f), *v = reader.vector(variance, n, n, 1.0f);
    const float* b = reader.vector(norm_bias, n, n, 0.0f);
    float *f = arena.take(n), *t = arena.take(n);
    for (int64_t i = 0; i < round_up(n); ++i) {
      f[i] = factor[i] / std::sqrt(v[i] + static_cast<float>(eps));
      t[i] = (term[i] - m[i]) * f[i] + b[i];
    }
    factor = f, term = t;
  }
};

}  // namespace attnblocks
