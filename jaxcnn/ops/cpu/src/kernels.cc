#include "kernels.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "threefry.h"

namespace jaxcnn {
namespace {

// Vectors of 16 numbers, which the compiler divides into what the processor has.
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kTogether = 4 * kLanes;  // numbers that are summed in registers
constexpr float kLowest = -std::numeric_limits<float>::infinity();

using Floats = float __attribute__((vector_size(4 * kLanes)));
using Integers = std::int32_t __attribute__((vector_size(4 * kLanes)));
using Words = std::uint32_t __attribute__((vector_size(4 * kLanes)));
using Shorts = std::uint16_t __attribute__((vector_size(2 * kLanes)));
using Bytes = std::uint8_t __attribute__((vector_size(kLanes)));

#define JAXCNN_UNROLL _Pragma("GCC unroll 32")

// Each namespace has the number of the processor's vector registers, the numbers in one, and what compilers do not find
// by themselves: `widened`, 16 integers of 8 or 16 bits as 32-bit integers, and `write_past`, which writes a register
// past the cache.

namespace basic {

constexpr int kRegisters = 16, kRegister = 4;

template <typename T>
inline Integers widened(const T* from) {
  Integers out{};
  for (std::int64_t i = 0; i < kLanes; ++i) out[i] = from[i];
  return out;
}

inline void write_past(__m128 v, float* to) { _mm_stream_ps(to, v); }

#include "kernels.inc"
}

// Not `target_clones`: GCC divides vectors for the first kind of processor before it makes the clones.
#if defined(__clang__)
#define JAXCNN_BEGIN(features) _Pragma(features)
#define JAXCNN_END _Pragma("clang attribute pop")
#define JAXCNN_AVX2 "clang attribute push(__attribute__((target(\"avx2,fma\"))), apply_to = function)"
#define JAXCNN_AVX512 "clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512vl\"))), apply_to = function)"
#else
#define JAXCNN_BEGIN(features) _Pragma("GCC push_options") _Pragma(features)
#define JAXCNN_END _Pragma("GCC pop_options")
#define JAXCNN_AVX2 "GCC target(\"avx2,fma\")"
#define JAXCNN_AVX512 "GCC target(\"avx512f,avx512bw,avx512vl\")"
#endif

JAXCNN_BEGIN(JAXCNN_AVX2)
namespace avx2 {

constexpr int kRegisters = 16, kRegister = 8;

inline Integers widened(const std::uint8_t* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  const __m256i halves[2] = {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
  Integers out;
  std::memcpy(&out, halves, sizeof out);
  return out;
}

inline Integers widened(const std::uint16_t* from) {
  const auto* const some = reinterpret_cast<const __m128i*>(from);
  const __m256i halves[2] = {_mm256_cvtepu16_epi32(_mm_loadu_si128(some)),
                             _mm256_cvtepu16_epi32(_mm_loadu_si128(some + 1))};
  Integers out;
  std::memcpy(&out, halves, sizeof out);
  return out;
}

inline void write_past(__m256 v, float* to) { _mm256_stream_ps(to, v); }

#include "kernels.inc"
}
JAXCNN_END

JAXCNN_BEGIN(JAXCNN_AVX512)
namespace avx512 {

constexpr int kRegisters = 32, kRegister = 16;

inline Integers widened(const std::uint8_t* from) {
  return reinterpret_cast<Integers>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

inline Integers widened(const std::uint16_t* from) {
  return reinterpret_cast<Integers>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
}

inline void write_past(__m512 v, float* to) { _mm512_stream_ps(to, v); }

#include "kernels.inc"
}
JAXCNN_END

const Kernels& choose() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return avx512::all;
  }
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2::all : basic::all;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& best = choose();
  return best;
}

}  // namespace jaxcnn
