// The random bits of jax.random: Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as
// easy as 1, 2, 3", 2011), a function of a key and a counter, each of 64 bits.
#pragma once

#include <cstdint>

namespace jaxcnn {

// Replaces the counters (high, low) by their random numbers. Word is a number of 32 bits or a vector of them.
template <typename Word>
inline __attribute__((always_inline)) void threefry(const std::uint32_t* key, Word& high, Word& low) {
  constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const std::uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu};
  high += keys[0];
  low += keys[1];
#pragma GCC unroll 5
  for (std::uint32_t four = 1; four <= 5; ++four) {
#pragma GCC unroll 4
    for (const int by : kRotations[(four - 1) % 2]) {
      high += low;
      low = ((low << by) | (low >> (32 - by))) ^ high;
    }
    high += keys[four % 3];
    low += keys[(four + 1) % 3] + four;
  }
}

// out[i] = high ^ low, for (high, low) = threefry(key, i)
void random_bits(const std::uint32_t* key, std::int64_t count, std::uint32_t* out);

// out[i] = (high, low) = threefry(key, first + i): the keys of a split, or for one, that of `first` folded in
void random_keys(const std::uint32_t* key, std::uint32_t first, std::int64_t count, std::uint32_t* out);

}  // namespace jaxcnn
