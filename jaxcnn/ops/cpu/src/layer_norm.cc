#include "layer_norm.h"

#include <algorithm>
#include <vector>

#include "pages.h"
#include "threads.h"

namespace jaxcnn {
namespace {

constexpr std::int64_t kPiece = std::int64_t{1} << 14;  // numbers that are normalized at a time
constexpr std::int64_t kRows = 256;                     // the most, for the sums of gradients are of float32
constexpr std::int64_t kTasks = 32;                     // the most tasks, so that the result depends on no thread count

std::int64_t rows_of(std::int64_t channels) { return std::clamp(kPiece / channels, std::int64_t{1}, kRows); }

}  // namespace

template <typename T>
void layer_norm(const Pixels<T>& x, const float* scale, const float* bias, float eps, T* y) {
  const std::int64_t rows = rows_of(x.channels), pieces = (x.count + rows - 1) / rows;
  auto piece = [&](std::int64_t i) {
    const std::int64_t at = i * rows * x.channels;
    kernels().norm<T>().forward(x.data + at, std::min(rows, x.count - i * rows), x.channels, scale, bias, eps, y + at);
  };
  const Turn turn;
  use_huge_pages(y, x.count * x.channels * sizeof(T));
  parallel(pieces, pieces == 1, piece);
}

template <typename T>
void layer_norm_gradient(const T* dy, const Pixels<T>& x, const float* scale, float eps, T* dx, float* dscale,
                         float* dbias) {
  const std::int64_t rows = rows_of(x.channels), pieces = (x.count + rows - 1) / rows;
  const std::int64_t tasks = std::min(pieces, kTasks), width = x.channels;
  std::vector<std::vector<double>> found(tasks, std::vector<double>(2 * width));
  auto task = [&](std::int64_t t) {
    std::vector<float> sums(2 * width);
    for (std::int64_t i = pieces * t / tasks; i < pieces * (t + 1) / tasks; ++i) {
      const std::int64_t at = i * rows * width;
      std::fill(sums.begin(), sums.end(), 0.0f);
      kernels().norm<T>().gradient(dy + at, x.data + at, std::min(rows, x.count - i * rows), width, scale, eps, dx + at,
                                   sums.data(), sums.data() + width);
      for (std::int64_t c = 0; c < 2 * width; ++c) found[t][c] += sums[c];
    }
  };
  {
    const Turn turn;
    use_huge_pages(dx, x.count * width * sizeof(T));
    parallel(tasks, tasks == 1, task);
  }
  for (std::int64_t c = 0; c < 2 * width; ++c) {
    double sum = 0;
    for (const std::vector<double>& part : found) sum += part[c];
    (c < width ? dscale[c] : dbias[c - width]) = static_cast<float>(sum);
  }
}

template void layer_norm(const Pixels<float>&, const float*, const float*, float, float*);
template void layer_norm(const Pixels<Half>&, const float*, const float*, float, Half*);
template void layer_norm_gradient(const float*, const Pixels<float>&, const float*, float, float*, float*, float*);
template void layer_norm_gradient(const Half*, const Pixels<Half>&, const float*, float, Half*, float*, float*);

}  // namespace jaxcnn
