#include "depthwise.h"

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "threads.h"

namespace jaxcnn {
namespace {

constexpr std::int64_t kResults = 7;      // of a row, that are computed at a time
constexpr std::int64_t kAlone = 1 << 14;  // smaller convolutions are computed by one thread

// The kernels of a window of this size; null if there are none for it, or for this processor.
auto line_of(std::int64_t size) {
  const DepthwiseKernels& all = kernels().depthwise;
  return size == 5 ? all.five : size == 7 ? all.seven : nullptr;
}

}  // namespace

bool suits_depthwise(const Convolution& c) {
  if (c.kind == Kind::kernel || c.bias || c.residual || !c.activation.empty()) return false;
  const std::int64_t size = c.kernel[0], channels = c.x[3];
  if (c.kernel != Ints{size, size, 1, channels} || c.strides != Ints{1, 1} || channels % 16 != 0) return false;
  if (line_of(size) == nullptr) return false;
  return (c.kind == Kind::output ? c.y : c.x)[2] >= kResults;
}

void depthwise(const Convolution& c, const Arrays& arrays) {
  // The input gradient is the convolution of y with the kernel turned by half a circle.
  const bool turned = c.kind == Kind::input;
  const Ints &from = turned ? c.y : c.x, &to = turned ? c.x : c.y;
  const std::int64_t size = c.kernel[0], channels = c.x[3], across = kResults + size - 1;
  const std::int64_t top = turned ? size - 1 - c.low[0] : c.low[0], left = turned ? size - 1 - c.low[1] : c.low[1];
  const float* const image = static_cast<const float*>(turned ? arrays.y : arrays.x);
  auto* const result = static_cast<float*>(turned ? arrays.x : arrays.y);
  const float* taps = static_cast<const float*>(arrays.kernel);
  auto* const zeros = static_cast<float*>(scratch((channels + size * size * channels) * sizeof(float)));
  std::fill(zeros, zeros + channels, 0.0f);
  if (turned || arrays.factor != nullptr) {
    float* const copy = zeros + channels;
    for (std::int64_t t = 0; t < size * size; ++t) {
      const float* const tap = taps + (turned ? size * size - 1 - t : t) * channels;
      for (std::int64_t k = 0; k < channels; ++k) {
        copy[t * channels + k] = tap[k] * (arrays.factor != nullptr ? arrays.factor[k] : 1);
      }
    }
    taps = copy;
  }
  const auto line = line_of(size);
  auto row = [&](std::int64_t piece) {
    const std::int64_t n = piece / to[1], i = piece % to[1];
    const std::int64_t first = std::max(std::int64_t{0}, top - i), last = std::min(size, from[1] + top - i);
    std::vector<const float*> columns(size * across);
    for (std::int64_t j = 0; j < to[2]; j += kResults) {
      const std::int64_t at = std::min(j, to[2] - kResults);  // the last results overlap those before them
      for (std::int64_t u = first; u < last; ++u) {
        const float* const pixels = image + (n * from[1] + i + u - top) * from[2] * channels;
        for (std::int64_t q = 0; q < across; ++q) {
          const std::int64_t column = at + q - left;
          columns[(u - first) * across + q] = column >= 0 && column < from[2] ? pixels + column * channels : zeros;
        }
      }
      line(columns.data(), std::max(std::int64_t{0}, last - first), taps + first * size * channels, channels,
           result + ((n * to[1] + i) * to[2] + at) * channels);
    }
  };
  parallel(to[0] * to[1], to[0] * to[1] * to[2] * channels < kAlone, row);
}

}  // namespace jaxcnn
