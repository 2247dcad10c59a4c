#include "winograd.h"

#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "layout.h"
#include "threads.h"

namespace jaxcnn {
namespace {

constexpr std::int64_t kLanes = 16;   // channels come in multiples of this
constexpr std::int64_t kPlaces = 16;  // numbers of a tile
constexpr std::int64_t kRows = 24;    // tiles come in multiples of this: of the rows that a product takes at a time
constexpr std::int64_t kWide = 64;    // columns of a product
constexpr std::int64_t kCache = std::int64_t{640} << 10;  // bytes of the tiles at hand, which stay in a core's cache
constexpr std::int64_t kBlock = 96;   // the most of these tiles
constexpr std::int64_t kLeast = 72;   // the least of them between two readings of a kernel gradient's sums
constexpr std::int64_t kSums = std::int64_t{1} << 14;  // a gradient with more numbers is divided by places, too

constexpr std::int64_t kMost = std::int64_t{1} << 26;  // the most numbers of all threads' sums

// The pieces of 3x3 taps of a kernel of `size` x `size` taps: one, or four of a 5x5 kernel, whose taps outside it are
// 0. Those of an image's channels lie side by side in a row: all channels of a piece, then all of the next.
struct Pieces {
  std::int64_t size;

  std::int64_t side() const { return size > 3 ? 2 : 1; }
  std::int64_t count() const { return side() * side(); }

  // The first tap of a piece.
  std::int64_t row(std::int64_t piece) const { return piece / side() * 3; }
  std::int64_t column(std::int64_t piece) const { return piece % side() * 3; }

  // How many of the pieces, the first ones, include all that have a part in a place.
  std::int64_t used(std::int64_t place) const {
    std::int64_t piece = count();
    while (!in(piece - 1, place)) --piece;
    return piece;
  }

  // Whether a piece has a part in a place. Without a third row of taps, it has none in the last row of places.
  bool in(std::int64_t piece, std::int64_t place) const {
    return (row(piece) + 3 <= size || place < 12) && (column(piece) + 3 <= size || place % 4 < 3);
  }
};

// Images (N, height, width, channels). A tile begins 2 pixels behind the one before it, the first one (top, left)
// before the image.
struct Images {
  const float* data;
  std::int64_t count, height, width, channels, top, left;

  // With tiles for this piece of the kernel.
  Images of(const Pieces& pieces, std::int64_t piece) const {
    Images moved = *this;
    moved.top -= pieces.row(piece);
    moved.left -= pieces.column(piece);
    return moved;
  }

  // The pixels of a tile, and `outside` for those outside the image.
  template <int kSize>
  void pixels(std::int64_t n, std::int64_t i, std::int64_t j, const float* outside, const float** out) const {
    for (int u = 0; u < kSize; ++u) {
      const std::int64_t y = 2 * i + u - top;
      const float* const line = data + (n * height + y) * width * channels;
      for (int v = 0; v < kSize; ++v) {
        const std::int64_t x = 2 * j + v - left;
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        out[kSize * u + v] = inside ? line + x * channels : outside;
      }
    }
  }
};

// The tiles of a batch, in order.
struct Tiles {
  std::int64_t high, wide, count;

  Tiles(std::int64_t images, std::int64_t height, std::int64_t width)
      : high((height + 1) / 2), wide((width + 1) / 2), count(images * high * wide) {}

  // Calls function(number from 0, image, row, column) for some tiles.
  template <typename Function>
  void each(std::int64_t first, std::int64_t last, Function function) const {
    std::int64_t n = first / (high * wide), i = first / wide % high, j = first % wide;
    for (std::int64_t t = first; t < last; ++t) {
      function(t - first, n, i, j);
      if (++j < wide) continue;
      j = 0;
      if (++i < high) continue;
      i = 0;
      ++n;
    }
  }
};

// How many tiles of `channels` numbers for each place are at hand at a time.
std::int64_t block(std::int64_t channels, std::int64_t least) {
  const std::int64_t fit = kCache / (kPlaces * channels * static_cast<std::int64_t>(sizeof(float))) / kRows * kRows;
  return std::clamp(fit, least, kBlock);
}

// For each place of a tile a matrix (rows, width). Rows of a power of two would share few sets of the cache.
struct Matrices {
  std::int64_t row, step, size;  // from row to row, from place to place, and in all

  Matrices(std::int64_t rows, std::int64_t width)
      : row(width % 64 == 0 ? width + kLanes : width), step(rows * row + kLanes), size(kPlaces * step) {}
};

// A kernel (size, size, rows, columns): from `rows` channels to `columns`.
struct Kernel {
  const float* data;
  std::int64_t rows, columns;
  bool transposed;  // it is stored as (size, size, columns, rows)
  bool turned;      // it is turned by half a circle
  Pieces pieces;
  const float* factor = nullptr;  // (columns,), by which it is multiplied, or null

  // The columns that a product takes at a time, from this one on.
  std::int64_t width(std::int64_t column) const { return std::min(kWide, columns - column); }

  // G g G^T of a piece for 16 rows and `width(column)` columns; `out` is at this row of (kPlaces, total, width).
  void places(std::int64_t piece, std::int64_t row, std::int64_t column, float* out) const {
    float copy[9 * kLanes * kLanes];
    const std::int64_t wide = width(column), total = pieces.count() * rows, last = pieces.size - 1;
    const std::int64_t top = pieces.row(piece), left = pieces.column(piece);
    const bool copied = transposed || pieces.count() > 1;
    for (std::int64_t c = 0; c < wide; c += kLanes) {
      const float* taps[9];
      for (std::int64_t k = 0; k < 9; ++k) {
        const std::int64_t u = top + k / 3, v = left + k % 3;
        float* const square = copy + k * kLanes * kLanes;
        if (copied) taps[k] = square;
        if (u > last || v > last) {
          std::memset(square, 0, kLanes * kLanes * sizeof(float));
          continue;
        }
        const float* const tap =
            data + (turned ? (last - u) * pieces.size + last - v : u * pieces.size + v) * rows * columns;
        if (transposed) {
          transpose(tap + (column + c) * rows + row, rows, square, kLanes, kLanes, kLanes);
        } else if (copied) {
          for (std::int64_t r = 0; r < kLanes; ++r) {
            std::copy_n(tap + (row + r) * columns + column + c, kLanes, square + r * kLanes);
          }
        } else {
          taps[k] = tap + row * columns + column + c;
        }
      }
      const float* const some = factor != nullptr ? factor + column + c : nullptr;
      kernels().winograd.kernel_places(taps, copied ? kLanes : columns, kLanes, some, out + c, wide, total * wide);
    }
  }
};

// What is done to a sum of products; bias and residual may be null.
struct Added {
  const float* bias = nullptr;
  const float* residual = nullptr;
  bool relu = false;
};

// result[...] = sum over the kernel's pixels and channels of from[...] kernel[...], and what is added. `to` describes
// the result.
void correlate(const Images& from, const Kernel& kernel, const Images& to, const Added& added, float* result) {
  const Tiles tiles(to.count, to.height, to.width);
  const Pieces& pieces = kernel.pieces;
  const std::int64_t in = pieces.count() * from.channels, out = to.channels;
  // Each thread has some of the tiles, and all use G g G^T. If there are fewer tiles than channels, this would be
  // larger than the images: then each thread has some of the channels of all tiles, and their part of it for one
  // product.
  const std::int64_t threads = thread_count(), wides = (out + kWide - 1) / kWide, width = std::min(kWide, out);
  const std::int64_t splits = tiles.count < out ? std::min(threads, wides) : 1;
  const std::int64_t shares = threads / splits, each = up((tiles.count + shares - 1) / shares, kRows);
  const std::int64_t parts = (tiles.count + each - 1) / each, tasks = parts * splits;
  const bool shared = splits == 1;
  // The sums of several pieces are held for all columns, so that the tiles of only one piece are at hand.
  const std::int64_t held = pieces.count() > 1 ? (wides + splits - 1) / splits : 1;
  const std::int64_t some = std::min(each, shared ? block(from.channels + held * width, kRows) : kBlock);
  const Matrices a(some, from.channels), sums(some, width);
  const std::int64_t taps = kPlaces * in * (shared ? out : width), edge = std::max(in, width);
  const std::int64_t own = a.size + held * sums.size + width + (shared ? 0 : taps);
  auto* const zeros = static_cast<float*>(scratch((edge + tasks * own + (shared ? taps : 0)) * sizeof(float)));
  float* const common = zeros + edge + tasks * own;
  std::memset(zeros, 0, edge * sizeof(float));
  // 16 rows, which are of one piece, of the panel for these columns
  auto fill = [&](std::int64_t row, std::int64_t column, float* panel) {
    kernel.places(row / from.channels, row % from.channels, column, panel + row * kernel.width(column));
  };
  if (shared) {
    auto place = [&](std::int64_t i) {
      const std::int64_t column = i % wides * kWide;
      fill(i / wides * kLanes, column, common + kPlaces * in * column);
    };
    parallel(wides * in / kLanes, false, place);
  }

  auto work = [&](std::int64_t task) {
    float* const matrices = zeros + edge + task * own;
    float* const products = matrices + a.size;
    float* const nowhere = products + held * sums.size;  // for results outside the image
    float* const panel = nowhere + width;
    const std::int64_t part = task / splits, split = task % splits, end = std::min(tiles.count, (part + 1) * each);
    const std::int64_t first_wide = wides * split / splits, last_wide = wides * (split + 1) / splits;
    // The results of some tiles and columns, from the sums of products
    auto finish = [&](std::int64_t first, std::int64_t last, std::int64_t column, const float* sum) {
      const float* const bias = added.bias != nullptr ? added.bias + column : nullptr;
      tiles.each(first, last, [&](std::int64_t t, std::int64_t n, std::int64_t i, std::int64_t j) {
        const float *pixels[4], *residual[4];
        float* results[4];
        to.pixels<2>(n, i, j, nullptr, pixels);
        for (int k = 0; k < 4; ++k) {
          const bool inside = pixels[k] != nullptr;
          const std::int64_t place = inside ? pixels[k] - to.data + column : 0;
          results[k] = inside ? result + place : nowhere;
          residual[k] = inside && added.residual != nullptr ? added.residual + place : zeros;
        }
        kernels().winograd.results(sum + t * sums.row, sums.step, kernel.width(column), bias,
                                   added.residual != nullptr ? residual : nullptr, added.relu, results);
      });
    };
    for (std::int64_t first = part * each; first < end; first += some) {
      const std::int64_t last = std::min(end, first + some);
      for (std::int64_t piece = 0; piece < pieces.count(); ++piece) {
        const Images moved = from.of(pieces, piece);
        tiles.each(first, last, [&](std::int64_t t, std::int64_t n, std::int64_t i, std::int64_t j) {
          const float* pixels[16];
          moved.pixels<4>(n, i, j, zeros, pixels);
          kernels().winograd.tile(pixels, from.channels, 0, 4, matrices + t * a.row, a.step);
        });
        for (std::int64_t w = 0; w < last_wide - first_wide; ++w) {
          const std::int64_t column = (first_wide + w) * kWide, columns = kernel.width(column);
          const std::int64_t row = piece * from.channels;
          float* const places = shared ? common + kPlaces * in * column : panel;
          float* const sum = products + (held > 1 ? w * sums.size : 0);
          if (!shared) {
            for (std::int64_t r = 0; r < from.channels; r += kLanes) fill(row + r, column, panel);
          }
          for (std::int64_t p = 0; p < kPlaces; ++p) {
            if (!pieces.in(piece, p)) continue;
            const auto product = piece == 0 ? kernels().winograd.product : kernels().winograd.add_product;
            product(matrices + p * a.step, a.row, last - first, places + (p * in + row) * columns, columns,
                    from.channels, sum + p * sums.step, sums.row);
          }
          if (piece + 1 == pieces.count()) finish(first, last, column, sum);
        }
      }
    }
  };
  parallel(tasks, false, work);
}

// kernel[u, v, ...] = sum of x[...] y[...]; rows and columns of the kernel are the channels of x and y, or swapped.
void gradient(const Images& x, const Images& y, const Pieces& pieces, bool swapped, float* kernel) {
  const Tiles tiles(y.count, y.height, y.width);
  const std::int64_t in = pieces.count() * x.channels;
  const std::int64_t rows = swapped ? y.channels : in, columns = swapped ? in : y.channels, size = rows * columns;
  // A thread computes some places of some tiles. With many channels, it computes few places, to hold fewer sums.
  const std::int64_t threads = thread_count();
  const std::int64_t splits = size < kSums ? 1 : threads % 4 == 0 ? 4 : threads % 2 == 0 ? 2 : 1;
  const std::int64_t fit = std::max(std::int64_t{1}, kMost / (kPlaces * size));
  const std::int64_t parts = std::min({(tiles.count + kRows - 1) / kRows, threads / splits, fit});
  const std::int64_t each = (tiles.count + parts - 1) / parts, held = kPlaces / splits;
  const std::int64_t some = std::min(up(each, kRows), block((in + y.channels) / splits, kLeast));
  const Matrices a(some, in), b(some, y.channels);
  const std::int64_t edge = up(std::max(x.channels, y.channels), kLanes), own = (a.size + b.size) / splits;
  auto* const sums =
      static_cast<float*>(scratch((kPlaces * size * parts + edge + parts * splits * own) * sizeof(float)));
  float* const zeros = sums + kPlaces * size * parts;
  std::memset(zeros, 0, edge * sizeof(float));

  auto work = [&](std::int64_t task) {
    const std::int64_t part = task / splits, split = task % splits;
    const int top = static_cast<int>(4 / splits * split), under = static_cast<int>(4 / splits * (split + 1));
    float* const own_sums = sums + part * kPlaces * size + split * held * size;
    float* const first_matrices = zeros + edge + task * own;
    float* const second_matrices = first_matrices + a.size / splits;
    std::memset(own_sums, 0, held * size * sizeof(float));
    const std::int64_t end = std::min(tiles.count, (part + 1) * each);
    for (std::int64_t first = part * each; first < end; first += some) {
      const std::int64_t last = std::min(end, first + some);
      tiles.each(first, last, [&](std::int64_t t, std::int64_t n, std::int64_t i, std::int64_t j) {
        const float* pixels[16];
        for (std::int64_t piece = 0; piece < pieces.count(); ++piece) {
          x.of(pieces, piece).pixels<4>(n, i, j, zeros, pixels);
          float* const row = first_matrices + t * a.row + piece * x.channels;
          kernels().winograd.tile(pixels, x.channels, top, under, row, a.step);
        }
        y.pixels<2>(n, i, j, zeros, pixels);
        kernels().winograd.spread(pixels, y.channels, top, under, second_matrices + t * b.row, b.step);
      });
      for (std::int64_t p = 0; p < held; ++p) {
        const float *left = first_matrices + p * a.step, *right = second_matrices + p * b.step;
        float* const sum = own_sums + p * size;
        const std::int64_t used = pieces.used(split * held + p) * x.channels;
        if (swapped) {
          kernels().winograd.outer(right, b.row, rows, left, a.row, used, last - first, sum, columns);
        } else {
          kernels().winograd.outer(left, a.row, used, right, b.row, columns, last - first, sum, columns);
        }
      }
    }
  };
  parallel(parts * splits, false, work);

  // A row of a piece
  const std::int64_t own_rows = swapped ? rows : x.channels, width = swapped ? x.channels : columns;
  auto finish = [&](std::int64_t i) {
    const std::int64_t piece = i / own_rows, r = i % own_rows;
    float* taps[9];
    for (std::int64_t k = 0; k < 9; ++k) {
      const std::int64_t u = pieces.row(piece) + k / 3, v = pieces.column(piece) + k % 3;
      const bool inside = std::max(u, v) < pieces.size;
      taps[k] = inside ? kernel + ((u * pieces.size + v) * own_rows + r) * width : nullptr;
    }
    const float* const from = sums + (swapped ? r * columns + piece * width : i * columns);
    kernels().winograd.kernel_taps(from, size, parts, kPlaces * size, width, taps);
  };
  parallel(pieces.count() * own_rows, false, finish);
}

// Images (N, height, width, channels) of this shape.
Images images(const Ints& shape, void* data, std::int64_t top = 0, std::int64_t left = 0) {
  return {static_cast<const float*>(data), shape[0], shape[1], shape[2], shape[3], top, left};
}

}  // namespace

bool suits_winograd(const Convolution& c) {
  const std::int64_t size = c.kernel[0];
  if ((size != 3 && size != 5) || c.kernel[1] != size || c.strides != Ints{1, 1}) return false;
  if (!(c.activation.empty() || c.activation == "relu")) return false;
  if (c.x[3] % kLanes != 0 || c.y[3] % kLanes != 0) return false;
  // Measured beside oneDNN. With few channels, few tiles, or tiles that are half outside, it has more to do besides.
  const Ints& made = c.kind == Kind::input ? c.x : c.y;
  const Tiles tiles(made[0], made[1], made[2]);
  if (3 * 16 * tiles.count > 2 * 9 * made[0] * made[1] * made[2]) return false;
  const bool gradient = c.kind == Kind::kernel;
  const std::int64_t pairs = c.x[3] * c.y[3];
  if (size == 5) return tiles.count >= 384 && tiles.count * pairs >= std::int64_t{1} << 20;
  return pairs >= (gradient ? 1024 : 512) && tiles.count >= (c.kind == Kind::output ? 16 : 32);
}

void winograd(const Convolution& c, const Arrays& arrays) {
  auto* const kernel = static_cast<float*>(arrays.kernel);
  const Pieces pieces{c.kernel[0]};
  const std::int64_t edge = pieces.size - 1;
  const Images x = images(c.x, arrays.x, c.low[0], c.low[1]), y = images(c.y, arrays.y);
  if (c.kind == Kind::output) {
    const Added added{arrays.bias, static_cast<const float*>(arrays.residual), !c.activation.empty()};
    const Kernel multiplied{kernel, c.x[3], c.y[3], c.swapped, false, pieces, arrays.factor};
    correlate(x, multiplied, y, added, static_cast<float*>(arrays.y));
  } else if (c.kind == Kind::input) {
    const Images padded = images(c.y, arrays.y, edge - c.low[0], edge - c.low[1]);
    correlate(padded, {kernel, c.y[3], c.x[3], !c.swapped, true, pieces}, images(c.x, arrays.x), {},
              static_cast<float*>(arrays.x));
  } else {
    gradient(x, y, pieces, c.swapped, kernel);
  }
}

}  // namespace jaxcnn
