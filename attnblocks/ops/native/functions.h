// Activations and gate functions of eight values at a time. Values that are no numbers stay so.
#pragma once
#include "api.h"
#include "simd.h"

namespace attnblocks {

// Within 2 units in the last place between -87 and 88, infinite above; exp(0) is exactly 1.
inline vec exp(vec x) {
  const vec least = all(-87.0f), most = all(88.0f), round = all(12582912.0f);  // 1.5 * 2^23
  const vec y = greater(least, x);
  const vec shifted = y * 1.44269504f + round, n = shifted - round;
  const vec r = (y - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2, in two parts
  vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  // n is in the low bits of `shifted`; 2^n has it as its exponent.
  const vec power = reinterpret_cast<vec>((bits(shifted) << 23) + 0x3f800000u);
  return x > most ? all(kInfinity) : p * power;
}

inline vec clamp6(vec x) {
  const vec zero = all(0.0f), six = all(6.0f);
  const vec above = x < zero ? zero : x;
  return above > six ? six : above;
}

// Calls f with the function of this number, so that loops over values choose once.
template <class F>
void with_function(int64_t function, const F& f) {
  switch (function) {
    case kRelu: return f([](vec x) { return x < all(0.0f) ? all(0.0f) : x; });
    case kRelu6: return f([](vec x) { return clamp6(x); });
    case kHardswish: return f([](vec x) { return x * clamp6(x + 3.0f) / 6.0f; });
    case kSilu: return f([](vec x) { return x / (1.0f + exp(-x)); });
    case kSigmoid: return f([](vec x) { return 1.0f / (1.0f + exp(-x)); });
    case kHardsigmoid: return f([](vec x) { return clamp6(x + 3.0f) / 6.0f; });
    default: return f([](vec x) { return x; });
  }
}

}  // namespace attnblocks
