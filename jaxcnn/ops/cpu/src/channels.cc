#include "channels.h"

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "threads.h"

namespace jaxcnn {
namespace {

constexpr std::int64_t kRow = 64;                       // the least width of a row
constexpr std::int64_t kWide = 256;                     // wider rows are read one after the other
constexpr std::int64_t kPiece = std::int64_t{1} << 15;  // numbers of a piece, which stays in the cache
constexpr std::int64_t kLeast = 64;                     // pixels of a piece
constexpr std::int64_t kTask = std::int64_t{1} << 16;   // least numbers of a task
constexpr std::int64_t kTasks = 32;                     // the most tasks, so that the result depends on no thread count

// How an image is divided. Images of few channels are read as rows of `group` pixels.
struct Division {
  std::int64_t pixels, channels, group, width, piece, tasks;

  Division(std::int64_t count, std::int64_t of)
      : pixels(count),
        channels(of),
        group((kRow + channels - 1) / channels),
        width(group * channels),
        piece((std::max(kLeast, kPiece / channels) + group - 1) / group * group),
        tasks(std::clamp(pixels * channels / kTask, std::int64_t{1}, kTasks)) {}

  // Calls function(first pixel, number of pixels) for each piece of the task.
  template <typename Function>
  void pieces(std::int64_t task, Function function) const {
    const std::int64_t end = pixels * (task + 1) / tasks;
    for (std::int64_t p = pixels * task / tasks; p < end; p += piece) function(p, std::min(piece, end - p));
  }

  // Calls function(first pixel, rows, their width) for the rows of whole groups, then for the pixels that are left.
  template <typename Function>
  void rows(std::int64_t first, std::int64_t count, Function function) const {
    const std::int64_t whole = count / group;
    if (width > kWide) {
      for (std::int64_t r = 0; r < whole; ++r) function(first + r * group, 1, width);
    } else if (whole > 0) {
      function(first, whole, width);
    }
    if (count > whole * group) function(first + whole * group, 1, (count - whole * group) * channels);
  }

  // The sums of a row's numbers, by channel.
  void fold(const std::vector<float>& row, std::vector<double>& out) const {
    std::copy(row.begin(), row.begin() + channels, out.begin());
    for (std::int64_t i = channels; i < width; ++i) out[i % channels] += row[i];
  }
};

// Of some pixels, for each channel: the sum, and the sum of the squares of the differences from the mean.
struct Moments {
  double count = 0;
  std::vector<double> sum, squares;

  explicit Moments(std::int64_t channels) : sum(channels), squares(channels) {}
};

void join(const Moments& part, Moments& all) {
  const double share = all.count > 0 ? 1 / all.count : 0, weight = all.count * part.count / (all.count + part.count);
  kernels().join(part.sum.data(), part.squares.data(), 1 / part.count, share, weight,
                 static_cast<std::int64_t>(part.sum.size()), all.sum.data(), all.squares.data());
  all.count += part.count;
}

template <typename T>
Moments moments_of(const T* x, const Division& d, std::int64_t task) {
  Moments all(d.channels), part(d.channels);
  std::vector<float> sum(d.width), squares(d.width), centre(d.width);
  d.pieces(task, [&](std::int64_t first, std::int64_t count) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    std::fill(squares.begin(), squares.end(), 0.0f);
    d.rows(first, count, [&](std::int64_t p, std::int64_t rows, std::int64_t width) {
      kernels().sums<T>().add(x + p * d.channels, rows, width, sum.data());
    });
    part.count = static_cast<double>(count);
    d.fold(sum, part.sum);
    for (std::int64_t c = 0; c < d.channels; ++c) centre[c] = static_cast<float>(part.sum[c] / part.count);
    for (std::int64_t i = d.channels; i < d.width; ++i) centre[i] = centre[i - d.channels];
    std::fill(sum.begin(), sum.end(), 0.0f);
    d.rows(first, count, [&](std::int64_t p, std::int64_t rows, std::int64_t width) {
      kernels().sums<T>().add_squares(x + p * d.channels, rows, width, centre.data(), sum.data(), squares.data());
    });
    // The centre is the mean but for rounding, and the sum of the differences says what was lost.
    d.fold(sum, part.sum);
    d.fold(squares, part.squares);
    for (std::int64_t c = 0; c < d.channels; ++c) {
      part.squares[c] -= part.sum[c] * part.sum[c] / part.count;
      part.sum[c] += part.count * centre[c];
    }
    join(part, all);
  });
  return all;
}

template <typename T>
std::vector<double> sums_of(const T* y, const T* x, const float* centre, const Division& d, std::int64_t task) {
  std::vector<double> all(2 * d.channels);
  std::vector<double> part(d.channels);
  std::vector<float> sum(d.width), products(d.width), centres(d.width);
  for (std::int64_t i = 0; i < d.width; ++i) centres[i] = centre[i % d.channels];
  d.pieces(task, [&](std::int64_t first, std::int64_t count) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    std::fill(products.begin(), products.end(), 0.0f);
    d.rows(first, count, [&](std::int64_t p, std::int64_t rows, std::int64_t width) {
      const std::int64_t at = p * d.channels;
      kernels().sums<T>().add_products(y + at, x + at, rows, width, centres.data(), sum.data(), products.data());
    });
    d.fold(sum, part);
    for (std::int64_t c = 0; c < d.channels; ++c) all[c] += part[c];
    d.fold(products, part);
    for (std::int64_t c = 0; c < d.channels; ++c) all[d.channels + c] += part[c];
  });
  return all;
}

}  // namespace

template <typename T>
void moments(const Pixels<T>& x, float* mean, float* variance) {
  const Division d(x.count, x.channels);
  std::vector<Moments> found(d.tasks, Moments(d.channels));
  auto task = [&](std::int64_t i) {
    found[i] = moments_of(x.data, d, i);
  };
  {
    const Turn turn;
    parallel(d.tasks, d.tasks == 1, task);
  }
  Moments all(d.channels);
  for (const Moments& part : found) join(part, all);
  for (std::int64_t c = 0; c < d.channels; ++c) {
    mean[c] = static_cast<float>(all.sum[c] / d.pixels);
    variance[c] = static_cast<float>(all.squares[c] / d.pixels);
  }
}

template <typename T>
void sums(const T* y, const Pixels<T>& x, const float* centre, float* sums, float* products) {
  const Division d(x.count, x.channels);
  std::vector<std::vector<double>> found(d.tasks);
  auto task = [&](std::int64_t i) {
    found[i] = sums_of(y, x.data, centre, d, i);
  };
  {
    const Turn turn;
    parallel(d.tasks, d.tasks == 1, task);
  }
  for (std::int64_t c = 0; c < d.channels; ++c) {
    double sum = 0, product = 0;
    for (const std::vector<double>& part : found) {
      sum += part[c];
      product += part[d.channels + c];
    }
    sums[c] = static_cast<float>(sum);
    products[c] = static_cast<float>(product);
  }
}

template void moments(const Pixels<float>&, float*, float*);
template void moments(const Pixels<Half>&, float*, float*);
template void sums(const float*, const Pixels<float>&, const float*, float*, float*);
template void sums(const Half*, const Pixels<Half>&, const float*, float*, float*);

}  // namespace jaxcnn
