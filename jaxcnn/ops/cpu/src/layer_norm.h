// Layer normalization of the pixels of an image, and its gradient, each in one pass over the memory.
#pragma once

#include <cstdint>

#include "channels.h"

namespace jaxcnn {

// y[p, c] = h[p, c] scale[c] + bias[c],  h[p, c] = (x[p, c] - mean of x[p, :]) / sqrt(variance of x[p, :] + eps)
template <typename T>
void layer_norm(const Pixels<T>& x, const float* scale, const float* bias, float eps, T* y);

// For the gradient dy of the result, with g = dy scale and means over the channels:
//
// dx = (g - mean of g - h mean of (g h)) / sqrt(variance + eps)
// dscale[c] = sum over p of dy[p, c] h[p, c],  dbias[c] = sum over p of dy[p, c]
//
// Mean and variance are computed again: a row is in the cache, and nothing but x need be kept.
template <typename T>
void layer_norm_gradient(const T* dy, const Pixels<T>& x, const float* scale, float eps, T* dx, float* dscale,
                         float* dbias);

}  // namespace jaxcnn
