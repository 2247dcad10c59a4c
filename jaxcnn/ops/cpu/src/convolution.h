// Convolution and both its gradients by oneDNN, on arrays in JAX's layout: images (N, *spatial, C), kernels
// (*size, C / groups, K).
#pragma once

#include <cstdint>
#include <string>

#include "primitives.h"

namespace jaxcnn {

// Which of the three arrays is computed from the other two. Each kind's derivatives are the other two kinds.
enum class Kind : std::int64_t {
  output = 0,  // y[n, i, k] = sum over u, c of x[n, S i + D u - P, c] kernel[u, c, k]
  input = 1,   // x[n, S i + D u - P, c] += y[n, i, k] kernel[u, c, k]: the input gradient, a transposed convolution
  kernel = 2,  // kernel[u, c, k] = sum over n, i of x[n, S i + D u - P, c] y[n, i, k]: the kernel gradient
};

// The description of a convolution, without its data. It determines oneDNN's code, and is the key of a primitive.
struct Convolution {
  Kind kind = Kind::output;
  Type type = Type::float32;
  Ints x, kernel, y;  // shapes
  Ints strides, low, high, dilation;  // per spatial dimension; low and high are the padding before and after
  std::int64_t groups = 1;
  bool swapped = false;   // the kernel is stored as (*size, K, C); with one group only
  bool bias = false;      // a vector (K,) is added to y
  bool residual = false;  // an array of y's shape is added to y
  bool wide = false;      // the kernel is in float32, and the images in bfloat16
  bool direct = false;    // this package's code for few channels, and for depthwise ones, may be used
  bool winograd = false;  // Winograd's algorithm may be used
  std::string activation; // the name of a function of jax.nn that is applied to the sum; empty for none

  std::string key() const;
};

// The data. Bias and residual are not used if the description has none. They are for Kind::output only, as the factor
// is, a vector (K,) by which the float32 kernel is multiplied; it may be null.
struct Arrays {
  void* x = nullptr;
  void* kernel = nullptr;
  void* y = nullptr;
  void* residual = nullptr;
  const float* bias = nullptr;
  const float* factor = nullptr;
};

// Computes the convolution. Throws dnnl::error if oneDNN refuses the description, and std::bad_alloc.
void convolve(const Convolution& convolution, const Arrays& arrays);

// The name of oneDNN's code for it on this processor, such as "brgconv:avx512_core"; empty if oneDNN has none.
std::string implementation(const Convolution& convolution);

}  // namespace jaxcnn
