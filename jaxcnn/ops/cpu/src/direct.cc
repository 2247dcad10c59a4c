#include "direct.h"

#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "threads.h"

namespace jaxcnn {
namespace {

constexpr std::int64_t kRoom = 64;         // numbers that are written, or read, behind an array
constexpr std::int64_t kAlone = 1 << 16;   // fewer products are left to one thread
constexpr std::int64_t kMost = 256;        // channels
constexpr std::int64_t kCopied = 1 << 17;  // numbers that are copied with the zeros around them: they stay in the cache
constexpr std::int64_t kRows = 8;          // but at least so many rows

// The numbers that a product takes at a time, for K results, 64 at most.
std::int64_t width_of(std::int64_t results) { return results <= 8 ? 8 : up(results, 16); }

// Images (N, height, width, channels), and the zeros around them.
struct Images {
  float* data;
  std::int64_t count, height, width, channels;
  std::int64_t top = 0, bottom = 0, left = 0, right = 0;

  std::int64_t image() const { return height * width * channels; }
  std::int64_t line() const { return (left + width + right) * channels; }  // numbers of a row with its zeros
  bool bare() const { return top == 0 && bottom == 0 && left == 0 && right == 0; }

  // Copies `count` rows with their zeros, from the row that is `first` with the zeros above it counted.
  void rows(std::int64_t n, std::int64_t first, std::int64_t some, float* to) const {
    const std::int64_t full = line(), before = left * channels, own = width * channels;
    for (std::int64_t r = first; r < first + some; ++r, to += full) {
      const std::int64_t i = r - top;
      if (i < 0 || i >= height) {
        std::fill(to, to + full, 0.0f);
        continue;
      }
      const float* const from = data + n * image() + i * own;
      std::fill(to, to + before, 0.0f);
      std::memcpy(to + before, from, own * sizeof(float));
      std::fill(to + before + own, to + full, 0.0f);
    }
  }
};

// A kernel (F, G, C, K), or swapped (F, G, K, C).
struct Kernel {
  float* data;
  std::int64_t rows, columns, channels, results;
  bool swapped;

  std::int64_t taps() const { return rows * columns; }

  float* at(std::int64_t tap, std::int64_t channel, std::int64_t result) const {
    return data + tap * channels * results + (swapped ? result * channels + channel : channel * results + result);
  }

  // out (taps, channels, width): the results, times the factor (results,) unless it is null, and zeros.
  void pack(std::int64_t width, const float* factor, float* out) const {
    for (std::int64_t t = 0; t < taps(); ++t) {
      for (std::int64_t c = 0; c < channels; ++c, out += width) {
        for (std::int64_t k = 0; k < results; ++k) out[k] = *at(t, c, k) * (factor != nullptr ? factor[k] : 1);
        std::fill(out + results, out + width, 0.0f);
      }
    }
  }

  // out (rows, results, width): `used` of the numbers of a row of a window, from `first` on, and zeros.
  void pack_rows(std::int64_t first, std::int64_t used, std::int64_t width, float* out) const {
    for (std::int64_t u = 0; u < rows; ++u) {
      for (std::int64_t k = 0; k < results; ++k, out += width) {
        for (std::int64_t i = 0; i < used; ++i) {
          out[i] = *at(u * columns + (first + i) / channels, (first + i) % channels, k);
        }
        std::fill(out + used, out + width, 0.0f);
      }
    }
  }
};

// The work of the threads on a convolution of x with y's results: bands of rows of y.
struct Work {
  const Images &x, &y;
  Window window;
  std::int64_t stride, line;  // the distance in x of two rows of y, in rows and in numbers
  bool alone;
  std::int64_t threads, each, copied;  // rows of a band, and the most numbers of x that are copied for one

  Work(const Images& x, const Images& y, const Kernel& kernel, std::int64_t stride, std::int64_t step)
      : x(x), y(y), window{kernel.rows, kernel.columns * x.channels, x.line(), step * x.channels}, stride(stride),
        line(stride * x.line()), alone(y.count * y.image() * window.rows * window.inner < kAlone),
        threads(alone ? 1 : thread_count()), each(y.count >= threads ? y.height : (y.height + threads - 1) / threads) {
    if (!x.bare()) each = std::min(each, std::max(kRows, kCopied / line));
    copied = x.bare() ? 0 : up(((each - 1) * stride + window.rows) * x.line(), 16);
  }

  // Calls function(image, first row, last row, x at the first row) for each band of a thread; `copy` has room for
  // `copied` numbers.
  template <typename Function>
  void bands(std::int64_t thread, float* copy, Function function) const {
    const std::int64_t of_image = (y.height + each - 1) / each, count = y.count * of_image;
    for (std::int64_t b = count * thread / threads; b < count * (thread + 1) / threads; ++b) {
      const std::int64_t n = b / of_image, first = b % of_image * each, last = std::min(y.height, first + each);
      if (copied > 0) x.rows(n, first * stride, (last - first - 1) * stride + window.rows, copy);
      function(n, first, last, copied > 0 ? copy : x.data + n * x.image() + first * line);
    }
  }
};

struct Added {
  const float *bias = nullptr, *factor = nullptr;
  bool relu = false, tanh = false;
};

// y[n, i, j, :] = sum over u, v of x[n, S i + u, S' j + v, :] kernel[u, v], and what is added.
void correlate(const Images& x, const Kernel& kernel, std::int64_t stride, std::int64_t step, const Added& added,
               const Images& y) {
  const std::int64_t results = y.channels, width = width_of(results);
  const Work work(x, y, kernel, stride, step);
  const std::int64_t line = y.width * results, taps = kernel.taps() * kernel.channels * width;
  // A row of results is written in place if nothing behind it is overwritten, and nothing is left to do with it.
  const bool straight = results % width == 0 && !added.relu && !added.tanh;
  const std::int64_t own = work.copied + up(line + kRoom, 16);
  auto* const packed = static_cast<float*>(scratch((taps + width + work.threads * own) * sizeof(float)));
  float* const bias = packed + taps;
  kernel.pack(width, added.factor, packed);
  if (added.bias != nullptr) {
    std::memcpy(bias, added.bias, results * sizeof(float));
    std::fill(bias + results, bias + width, 0.0f);
  }
  auto part = [&](std::int64_t thread) {
    float* const copy = bias + width + thread * own;
    float* const made = copy + work.copied;
    work.bands(thread, copy, [&](std::int64_t n, std::int64_t first, std::int64_t last, const float* from) {
      for (std::int64_t i = first; i < last; ++i, from += work.line) {
        float* const to = y.data + (n * y.height + i) * line;
        kernels().direct.row(work.window, width, y.width, from, packed, added.bias != nullptr ? bias : nullptr,
                             straight ? to : made, results);
        if (!straight) kernels().direct.finish(made, line, added.relu, added.tanh, to);
      }
    });
  };
  parallel(work.threads, work.alone, part);
}

// kernel[u, v] = sum over n, i, j of x[n, S i + u, S' j + v, :] y[n, i, j, :].
void gradient(const Images& x, const Images& y, std::int64_t stride, std::int64_t step, const Kernel& kernel) {
  const std::int64_t results = y.channels, width = width_of(results);
  const Work work(x, y, kernel, stride, step);
  const std::int64_t line = y.width * results, taps = kernel.taps() * kernel.channels * width;
  const std::int64_t own = work.copied + taps;
  auto* const all = static_cast<float*>(scratch((work.threads * own + up(line, 16) + kRoom) * sizeof(float)));
  // The last row: what is read behind its numbers must be there.
  float* const last_row = all + work.threads * own;
  std::memcpy(last_row, y.data + y.count * y.image() - line, line * sizeof(float));
  std::fill(last_row + line, last_row + line + kRoom, 0.0f);
  auto part = [&](std::int64_t thread) {
    float* const sums = all + thread * own;
    float* const copy = sums + taps;
    std::memset(sums, 0, taps * sizeof(float));
    work.bands(thread, copy, [&](std::int64_t n, std::int64_t first, std::int64_t last, const float* from) {
      const bool end = n + 1 == y.count && last == y.height && results % width != 0;
      const float* const given = y.data + (n * y.height + first) * line;
      const std::int64_t lines = last - first - end;
      kernels().direct.taps(work.window, width, lines, y.width, from, work.line, given, results, sums);
      if (!end) return;
      kernels().direct.taps(work.window, width, 1, y.width, from + lines * work.line, 0, last_row, results, sums);
    });
  };
  parallel(work.threads, work.alone, part);
  for (std::int64_t t = 0; t < kernel.taps(); ++t) {
    for (std::int64_t c = 0; c < kernel.channels; ++c) {
      for (std::int64_t k = 0; k < results; ++k) {
        const float* const sum = all + (t * kernel.channels + c) * width + k;
        float total = 0;
        for (std::int64_t thread = 0; thread < work.threads; ++thread) total += sum[thread * own];
        *kernel.at(t, c, k) = total;
      }
    }
  }
}

// x[n, S i + u, S' j + v, :] += kernel[u, v] y[n, i, j, :].
void scatter(const Images& y, const Kernel& kernel, std::int64_t stride, std::int64_t step, const Images& x) {
  const std::int64_t inner = kernel.columns * x.channels, results = kernel.results, line = x.line();
  const Window window{kernel.rows, inner, line, step * x.channels};
  const std::int64_t apart = (kernel.columns + step - 1) / step;
  const std::int64_t parts = (inner + 63) / 64, widest = parts > 1 ? 64 : width_of(inner);
  const std::int64_t taps = kernel.rows * results * widest;
  const bool alone = y.count * y.image() * kernel.rows * inner < kAlone;
  const std::int64_t threads = alone ? 1 : std::min(y.count, std::int64_t{thread_count()});
  const std::int64_t own = up((x.top + x.height + x.bottom) * line + kRoom, 16);
  auto* const packed = static_cast<float*>(scratch((taps * parts + threads * own) * sizeof(float)));
  for (std::int64_t p = 0; p < parts; ++p) {
    const std::int64_t used = std::min(inner - p * 64, std::int64_t{64});
    kernel.pack_rows(p * 64, used, width_of(used), packed + p * taps);
  }
  auto work = [&](std::int64_t thread) {
    float* const sums = packed + taps * parts + thread * own;
    for (std::int64_t n = y.count * thread / threads; n < y.count * (thread + 1) / threads; ++n) {
      std::fill(sums, sums + own, 0.0f);
      for (std::int64_t i = 0; i < y.height; ++i) {
        const float* const from = y.data + n * y.image() + i * y.width * results;
        for (std::int64_t p = 0; p < parts; ++p) {
          const std::int64_t used = std::min(inner - p * 64, std::int64_t{64});
          kernels().direct.spread(window, width_of(used), used, y.width, apart, from, results, packed + p * taps,
                                  sums + i * stride * line + p * 64);
        }
      }
      const float* const inside = sums + x.top * line + x.left * x.channels;
      for (std::int64_t r = 0; r < x.height; ++r) {
        std::memcpy(x.data + n * x.image() + r * x.width * x.channels, inside + r * line,
                    x.width * x.channels * sizeof(float));
      }
    }
  };
  parallel(threads, alone, work);
}

Images images(const Ints& shape, void* data) {
  return {static_cast<float*>(data), shape[0], shape[1], shape[2], shape[3]};
}

}  // namespace

bool suits_direct(const Convolution& c) {
  if (c.residual || !(c.activation.empty() || c.activation == "relu" || c.activation == "tanh")) return false;
  // Measured beside oneDNN, which is as fast or faster with whole registers of 16 channels.
  const std::int64_t channels = c.x[3], results = c.y[3], inner = c.kernel[1] * channels;
  if (std::max(channels, results) > kMost) return false;
  const bool odd = channels > 4 && channels < 8;
  switch (c.kind) {
    case Kind::output:
      return results <= 8 || (odd && results <= 64);
    case Kind::kernel:
      // Numbers behind the last row but one are read.
      return (results <= 8 || (odd && results <= 16 && c.kernel[1] > 3)) && c.y[2] * results >= width_of(results);
    case Kind::input:
      // Images are divided among the threads. A part of a register that is not used costs as much as the rest.
      return c.x[0] >= thread_count() && c.kernel[0] * c.kernel[1] > 1 && results >= 6 &&
             (channels <= 4 || (odd && 4 * inner >= 3 * up(inner, 16)));
  }
  return false;
}

void direct(const Convolution& c, const Arrays& arrays) {
  Images x = images(c.x, arrays.x);
  const Images y = images(c.y, arrays.y);
  x.top = c.low[0], x.bottom = c.high[0], x.left = c.low[1], x.right = c.high[1];
  const Kernel kernel{static_cast<float*>(arrays.kernel), c.kernel[0], c.kernel[1], c.x[3], c.y[3], c.swapped};
  if (c.kind == Kind::kernel) return gradient(x, y, c.strides[0], c.strides[1], kernel);
  if (c.kind == Kind::input) return scatter(y, kernel, c.strides[0], c.strides[1], x);
  const Added added{arrays.bias, arrays.factor, c.activation == "relu", c.activation == "tanh"};
  correlate(x, kernel, c.strides[0], c.strides[1], added, y);
}

}  // namespace jaxcnn
