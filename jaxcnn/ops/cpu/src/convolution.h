// Convolution and both its gradients by oneDNN, over arrays as JAX has them: images (N, *spatial, C), kernels
// (*size, C / groups, K).
#pragma once

#include <cstdint>
#include <string>

#include "primitives.h"

namespace jaxcnn {

// Which of the three arrays is computed from the other two. The three are each other's derivatives.
enum class Kind : std::int64_t {
  output = 0,  // y[n, i, k] = sum over u, c of x[n, S i + D u - P, c] kernel[u, c, k]
  input = 1,   // x[n, S i + D u - P, c] += y[n, i, k] kernel[u, c, k]: the input gradient, a transposed convolution
  kernel = 2,  // kernel[u, c, k] = sum over n, i of x[n, S i + D u - P, c] y[n, i, k]: the kernel gradient
};

// A convolution without its numbers. What can be asked of oneDNN, and what primitives are kept by.
struct Convolution {
  Kind kind = Kind::output;
  Type type = Type::float32;
  Ints x, kernel, y;  // shapes
  Ints strides, low, high, dilation;  // for each spatial dimension: steps, padding before and behind, steps of the taps
  std::int64_t groups = 1;
  bool swapped = false;   // the kernel lies in memory as (*size, K, C); one group only
  bool bias = false;      // a vector (K,) is added to y; of Kind::kernel, its gradient is computed, too
  bool residual = false;  // an array of y's shape is added to y
  std::string activation; // what is done to the sum, by the name of the function in jax.nn; nothing where empty

  std::string key() const;
};

// The numbers. Where there is no bias or residual, it is not looked at.
struct Arrays {
  void* x = nullptr;
  void* kernel = nullptr;
  void* y = nullptr;
  void* bias = nullptr;
  void* residual = nullptr;
};

// Computes it. Throws dnnl::error where oneDNN refuses the description, and std::bad_alloc.
void convolve(const Convolution& convolution, const Arrays& arrays);

// The name of oneDNN's code for it on this processor, such as "brgconv:avx512_core"; empty where oneDNN has none.
std::string implementation(const Convolution& convolution);

}  // namespace jaxcnn
