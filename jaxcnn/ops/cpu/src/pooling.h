// Max pooling, which notes the largest number of each window, and its gradient.
#pragma once

#include <array>
#include <cstdint>

namespace jaxcnn {

using Three = std::array<std::int64_t, 3>;

// Images (count, *size, channels) and their pools (count, *places, channels) in three dimensions; with fewer, the first
// ones are 1. Pixel i S + u - P is under tap u of window i. The taps are numbered in row-major order.
struct Pool {
  std::int64_t count = 0, channels = 0;
  Three size, places, window, strides, low;  // low: the padding before the image
};

// y[i] = the largest x under the taps of window i that are on the image; chosen[i] = the number of the first such tap.
// The last NaN, if there is one, counts as the largest. Without a number above -infinity, the tap is 0. `chosen` may be
// null.
void max_pool(const Pool& pool, const float* x, float* y, std::uint8_t* chosen);

// x[p] = sum of y[i] over the windows i whose chosen tap is on pixel p.
void put(const Pool& pool, const float* y, const std::uint8_t* chosen, float* x);

}  // namespace jaxcnn
