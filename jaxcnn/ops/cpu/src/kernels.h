// The inner loops over an image's numbers, compiled for several kinds of processor.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jaxcnn {

// A pixel or a window that a result depends on: where its channels begin in the operand, and the number of the tap.
struct Source {
  std::int64_t start;
  std::int32_t tap;
};

// Matrices are (rows, width). The functions of sums add to `out`, which has `width` numbers.
struct Kernels {
  // out[c] += sum over r of x[r, c]
  void (*add)(const float* x, std::int64_t rows, std::int64_t width, float* out);

  // out[c] += sum over r of d[r, c],  squares[c] += sum over r of d[r, c]^2,  d[r, c] = x[r, c] - centre[c]
  void (*add_squares)(const float* x, std::int64_t rows, std::int64_t width, const float* centre, float* out,
                      float* squares);

  // out[c] += sum over r of y[r, c],  products[c] += sum over r of y[r, c] (x[r, c] - centre[c])
  void (*add_products)(const float* y, const float* x, std::int64_t rows, std::int64_t width, const float* centre,
                       float* out, float* products);

  // out_squares[c] += squares[c] + weight (sum[c] other_share - out_sum[c] share)^2,  out_sum[c] += sum[c]
  void (*join)(const double* sum, const double* squares, double other_share, double share, double weight,
               std::int64_t channels, double* out_sum, double* out_squares);

  // y[c] = the largest x[source + c], and the tap of its source. See max_pool.
  void (*largest)(const float* x, const Source* sources, std::size_t count, std::int64_t channels, float* y,
                  std::uint8_t* chosen);

  // x[c] = sum of y[source + c] over the sources whose tap is chosen[source + c]
  void (*gather)(const float* y, const std::uint8_t* chosen, const Source* sources, std::size_t count,
                 std::int64_t channels, float* x);
};

// Those for this processor.
const Kernels& kernels();

}  // namespace jaxcnn
