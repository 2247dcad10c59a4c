// The product of two matrices by oneDNN, and the gradient of the second one.
#pragma once

#include <cstdint>

#include "primitives.h"

namespace jaxcnn {

struct Product {
  Type type = Type::float32;
  std::int64_t rows = 0, inner = 0, columns = 0;
  bool transposed = false;  // the second matrix is stored as (columns, inner)
};

// out = a b: (rows, inner), (inner, columns) -> (rows, columns). Throws as `convolve`.
void multiply(const Product& product, void* a, void* b, void* out);

// out = x^T y: (count, rows), (count, columns) -> (rows, columns), for a small count.
void outer(const float* x, const float* y, std::int64_t count, std::int64_t rows, std::int64_t columns, float* out);

}  // namespace jaxcnn
