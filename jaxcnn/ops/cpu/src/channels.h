// Sums over all pixels, for each channel: what batch normalization and its gradient need.
#pragma once

#include <cstdint>

namespace jaxcnn {

// An image as a matrix (pixels, channels).
struct Pixels {
  const float* data = nullptr;
  std::int64_t count = 0, channels = 0;
};

// mean[c] = sum over p of x[p, c] / count,  variance[c] = sum over p of (x[p, c] - mean[c])^2 / count.
//
// The image is read once from memory, in pieces that stay in the cache: a piece's mean first, then the squares of the
// differences from it. Pieces are combined in double precision. Source: Chan, Golub and LeVeque, Algorithms for
// computing the sample variance (1983).
void moments(const Pixels& x, float* mean, float* variance);

// sums[c] = sum over p of y[p, c],  products[c] = sum over p of y[p, c] (x[p, c] - centre[c]).
void sums(const float* y, const Pixels& x, const float* centre, float* sums, float* products);

}  // namespace jaxcnn
