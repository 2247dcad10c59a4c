// Sums over all pixels, for each channel: what batch normalization and its gradient need.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace jaxcnn {

// An image as a matrix (pixels, channels) of T, float or Half.
template <typename T>
struct Pixels {
  const T* data = nullptr;
  std::int64_t count = 0, channels = 0;
};

// mean[c] = sum over p of x[p, c] / count,  variance[c] = sum over p of (x[p, c] - mean[c])^2 / count.
//
// The image is read once from memory, in pieces that stay in the cache: a piece's mean first, then the squares of the
// differences from it. Pieces are combined in double precision. Source: Chan, Golub and LeVeque, Algorithms for
// computing the sample variance (1983).
template <typename T>
void moments(const Pixels<T>& x, float* mean, float* variance);

// sums[c] = sum over p of y[p, c],  products[c] = sum over p of y[p, c] (x[p, c] - centre[c]).
template <typename T>
void sums(const T* y, const Pixels<T>& x, const float* centre, float* sums, float* products);

}  // namespace jaxcnn
