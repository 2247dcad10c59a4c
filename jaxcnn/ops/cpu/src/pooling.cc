#include "pooling.h"

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "pages.h"
#include "threads.h"

namespace jaxcnn {
namespace {

constexpr std::int64_t kAlone = 1 << 14;  // smaller pools are computed by one thread

std::int64_t numbers(const Three& size) { return size[0] * size[1] * size[2]; }

// For each of the `from` places of a dimension, the places of the other side that it depends on, and their taps.
using Links = std::vector<std::vector<Source>>;

// The pixels under each window, or the windows over each pixel.
Links links(const Pool& pool, int dimension, bool of_pixels) {
  const std::int64_t size = pool.size[dimension], places = pool.places[dimension];
  Links found(of_pixels ? size : places);
  for (std::int64_t i = 0; i < places; ++i) {
    for (std::int64_t u = 0; u < pool.window[dimension]; ++u) {
      const std::int64_t p = i * pool.strides[dimension] + u - pool.low[dimension];
      if (p < 0 || p >= size) continue;
      found[of_pixels ? p : i].push_back({of_pixels ? i : p, static_cast<std::int32_t>(u)});
    }
  }
  return found;
}

// Calls function(place, sources, count) for each of the results' places, on all threads; `to` and `from` are the sizes
// of both sides. Use it only during a turn.
template <typename Function>
void each(const Pool& pool, bool of_pixels, const Three& to, const Three& from, Function function) {
  const Links first = links(pool, 0, of_pixels), second = links(pool, 1, of_pixels), third = links(pool, 2, of_pixels);
  const std::int64_t rows = to[0] * to[1];
  auto row = [&](std::int64_t piece) {
    const std::int64_t image = piece / rows, a = piece % rows / to[1], b = piece % to[1];
    std::vector<Source> sources(numbers(pool.window));
    for (std::int64_t c = 0; c < to[2]; ++c) {
      std::size_t count = 0;
      for (const Source& i : first[a]) {
        for (const Source& j : second[b]) {
          const std::int64_t line = ((image * from[0] + i.start) * from[1] + j.start) * from[2];
          const std::int64_t tap = (i.tap * pool.window[1] + j.tap) * pool.window[2];
          for (const Source& k : third[c]) {
            sources[count++] = {(line + k.start) * pool.channels, static_cast<std::int32_t>(tap + k.tap)};
          }
        }
      }
      function((piece * to[2] + c) * pool.channels, sources.data(), count);
    }
  };
  parallel(pool.count * rows, pool.count * numbers(to) * pool.channels < kAlone, row);
}

}  // namespace

void max_pool(const Pool& pool, const float* x, float* y, std::uint8_t* chosen) {
  const Turn turn;
  use_huge_pages(y, pool.count * numbers(pool.places) * pool.channels * sizeof *y);
  each(pool, false, pool.places, pool.size, [&](std::int64_t to, const Source* sources, std::size_t count) {
    kernels().largest(x, sources, count, pool.channels, y + to, chosen != nullptr ? chosen + to : nullptr);
  });
}

void put(const Pool& pool, const float* y, const std::uint8_t* chosen, float* x) {
  const Turn turn;
  use_huge_pages(x, pool.count * numbers(pool.size) * pool.channels * sizeof *x);
  each(pool, true, pool.size, pool.places, [&](std::int64_t to, const Source* sources, std::size_t count) {
    kernels().gather(y, chosen, sources, count, pool.channels, x + to);
  });
}

}  // namespace jaxcnn
