// The inner loops over an image's numbers, compiled for several kinds of processor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace jaxcnn {

// A pixel or a window that a result depends on: where its channels begin in the operand, and the number of the tap.
struct Source {
  std::int64_t start;
  std::int32_t tap;
};

// The steps of Winograd's convolution; see winograd.h. The 16 numbers of a tile, its places, lie `step` apart. Channels
// and widths are multiples of 16.
struct WinogradKernels {
  // out = B^T d B, the rows from `first` to `last` of it. `pixels` are the 16 of d.
  void (*tile)(const float* const* pixels, std::int64_t channels, int first, int last, float* out, std::int64_t step);

  // A^T places A + bias + residual, then ReLU, written to the 4 pixels. Bias and residual may be null.
  void (*results)(const float* places, std::int64_t step, std::int64_t channels, const float* bias,
                  const float* const* residual, bool relu, float* const* pixels);

  // out = A y A^T, the rows from `first` to `last` of it. `pixels` are the 4 of y.
  void (*spread)(const float* const* pixels, std::int64_t channels, int first, int last, float* out, std::int64_t step);

  // out = factor G g G^T for `rows` times 16 numbers. The rows of the 9 taps are `stride` apart, those of `out` `row`.
  // The 16 factors may be null.
  void (*kernel_places)(const float* const* taps, std::int64_t stride, std::int64_t rows, const float* factor,
                        float* out, std::int64_t row, std::int64_t step);

  // taps = G^T (sum of the parts of places) G for `width` numbers. The parts lie `part` apart. Taps that are null are
  // left out.
  void (*kernel_taps)(const float* places, std::int64_t step, std::int64_t parts, std::int64_t part,
                      std::int64_t width, float* const* taps);

  // out = a b: (rows, inner) (inner, width), with rows of a and out that are `a_row` and `out_row` apart, and at most
  // 64 columns. The number of rows is rounded up to a multiple of 24: there must be room for them.
  void (*product)(const float* a, std::int64_t a_row, std::int64_t rows, const float* b, std::int64_t width,
                  std::int64_t inner, float* out, std::int64_t out_row);

  // The same, added to `out`.
  void (*add_product)(const float* a, std::int64_t a_row, std::int64_t rows, const float* b, std::int64_t width,
                      std::int64_t inner, float* out, std::int64_t out_row);

  // out (rows, width) += a^T b: (count, rows), (count, width), with rows of out that are `out_row` apart.
  void (*outer)(const float* a, std::int64_t a_row, std::int64_t rows, const float* b, std::int64_t b_row,
                std::int64_t width, std::int64_t count, float* out, std::int64_t out_row);
};

// A window of an image: `rows` rows of `inner` numbers side by side. The rows are `row` numbers apart, and the next
// window begins `step` numbers behind this one.
struct Window {
  std::int64_t rows, inner, row, step;
};

// The sums of products of direct.h. The kernel (rows, inner, width) has `width` numbers for each number of a window: 8,
// or 16, 32, 48 or 64.
struct DirectKernels {
  // out[j, :] = bias + sum over u, k of x[j, u, k] kernel[u, k, :], for `count` windows j. It writes `width` numbers at
  // `out + j out_step`, in order, and so may overwrite what is behind the last one.
  void (*row)(const Window& window, std::int64_t width, std::int64_t count, const float* x, const float* kernel,
              const float* bias, float* out, std::int64_t out_step);

  // out[u, k, :] += sum over j of x[j, u, k] y[j, :], for `lines` lines of `count` windows, which are `x_line` apart.
  // It reads `width` numbers at each y.
  void (*taps)(const Window& window, std::int64_t width, std::int64_t lines, std::int64_t count, const float* x,
               std::int64_t x_line, const float* y, std::int64_t y_step, float* out);

  // x[j, u, k] += sum over r of y[j, r] kernel[u, r, k], for `count` windows j and the first `used` of `width` numbers
  // k. Windows that are `apart` windows apart do not overlap. It reads and writes `width` numbers at each x[j, u].
  void (*spread)(const Window& window, std::int64_t width, std::int64_t used, std::int64_t count, std::int64_t apart,
                 const float* y, std::int64_t results, const float* kernel, float* x);

  // to = tanh(max(0, from)), or one of both, or neither.
  void (*finish)(const float* from, std::int64_t count, bool relu, bool tanh, float* to);
};

// Depthwise convolutions; see depthwise.h. Null where there is none for this processor.
struct DepthwiseKernels {
  // y[j, :] = sum over u, v of columns[u, j + v][:] kernel[u, v, :] for 7 results j, a window of `rows` rows and 5 or 7
  // columns, and a multiple of 16 channels. `columns` (rows, 11 or 13) are where the pixels begin.
  using Line = void (*)(const float* const* columns, std::int64_t rows, const float* kernel, std::int64_t channels,
                        float* y);
  Line five, seven;
};

// Rounding to bfloat16, to the nearest, and of two to the even one.
struct RoundKernels {
  // out[i] = a[i] and b[i] side by side, as a number of 32 bits; 0 instead of b[i] if b is null
  void (*pairs)(const float* a, const float* b, std::int64_t count, float* out);

  // `count` numbers side by side; `out` has room for them, and the rest of it is left as it is
  void (*row)(const float* from, std::int64_t count, float* out);
};

// A number in bfloat16: the upper half of a float32.
struct Half {
  std::uint16_t bits;
};

// Sums over a matrix (rows, width) in T, which are added to `out`, `squares` and `products` of `width` numbers.
template <typename T>
struct SumKernels {
  // out[c] += sum over r of x[r, c]
  void (*add)(const T* x, std::int64_t rows, std::int64_t width, float* out);

  // out[c] += sum over r of d[r, c],  squares[c] += sum over r of d[r, c]^2,  d[r, c] = x[r, c] - centre[c]
  void (*add_squares)(const T* x, std::int64_t rows, std::int64_t width, const float* centre, float* out,
                      float* squares);

  // out[c] += sum over r of y[r, c],  products[c] += sum over r of y[r, c] (x[r, c] - centre[c])
  void (*add_products)(const T* y, const T* x, std::int64_t rows, std::int64_t width, const float* centre, float* out,
                       float* products);
};

// Layer normalization of the rows of a matrix (rows, width) in T; see layer_norm.h.
template <typename T>
struct NormKernels {
  void (*forward)(const T* x, std::int64_t rows, std::int64_t width, const float* scale, const float* bias, float eps,
                  T* y);

  // The gradients of scale and bias are added to `dscale` and `dbias`.
  void (*gradient)(const T* dy, const T* x, std::int64_t rows, std::int64_t width, const float* scale, float eps,
                   T* dx, float* dscale, float* dbias);
};

struct Kernels {
  SumKernels<float> full;
  SumKernels<Half> half;

  // out_squares[c] += squares[c] + weight (sum[c] other_share - out_sum[c] share)^2,  out_sum[c] += sum[c]
  void (*join)(const double* sum, const double* squares, double other_share, double share, double weight,
               std::int64_t channels, double* out_sum, double* out_squares);

  // y[c] = the largest x[source + c], and the tap of its source, unless `chosen` is null. See max_pool.
  void (*largest)(const float* x, const Source* sources, std::size_t count, std::int64_t channels, float* y,
                  std::uint8_t* chosen);

  // x[c] = sum of y[source + c] over the sources whose tap is chosen[source + c]
  void (*gather)(const float* y, const std::uint8_t* chosen, const Source* sources, std::size_t count,
                 std::int64_t channels, float* x);

  // out (rows, columns) = a^T b: (count, rows), (count, columns), with rows of a that are `a_row` apart. Numbers are
  // written past the cache if they are aligned.
  void (*outer_products)(const float* a, std::int64_t a_row, const float* b, std::int64_t columns, std::int64_t count,
                         std::int64_t rows, float* out);

  WinogradKernels winograd;
  DirectKernels direct;
  DepthwiseKernels depthwise;
  RoundKernels round;
  NormKernels<float> full_norm;
  NormKernels<Half> half_norm;

  // Those of `random_bits` in threefry.h for `count` counters from `first`, whose high halves are equal.
  void (*random_bits)(const std::uint32_t* key, std::int64_t first, std::int64_t count, std::uint32_t* out);

  // Those of sums of T.
  template <typename T>
  const SumKernels<T>& sums() const {
    if constexpr (std::is_same_v<T, Half>) return half;
    else return full;
  }

  // Those of layer normalization in T.
  template <typename T>
  const NormKernels<T>& norm() const {
    if constexpr (std::is_same_v<T, Half>) return half_norm;
    else return full_norm;
  }
};

// Those for this processor.
const Kernels& kernels();

}  // namespace jaxcnn
