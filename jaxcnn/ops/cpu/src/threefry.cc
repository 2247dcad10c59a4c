#include "threefry.h"

#include <algorithm>

#include "kernels.h"
#include "pages.h"
#include "threads.h"

namespace jaxcnn {
namespace {

constexpr std::int64_t kPiece = std::int64_t{1} << 14;  // numbers at a time; the high halves of its counters are equal

}  // namespace

void random_bits(const std::uint32_t* key, std::int64_t count, std::uint32_t* out) {
  const std::int64_t pieces = (count + kPiece - 1) / kPiece;
  auto piece = [&](std::int64_t i) {
    kernels().random_bits(key, i * kPiece, std::min(kPiece, count - i * kPiece), out + i * kPiece);
  };
  if (pieces <= 1) {
    parallel(pieces, true, piece);
    return;
  }
  const Turn turn;
  use_huge_pages(out, count * sizeof *out);
  parallel(pieces, false, piece);
}

void random_keys(const std::uint32_t* key, std::uint32_t first, std::int64_t count, std::uint32_t* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t counter = std::uint64_t{first} + static_cast<std::uint64_t>(i);
    std::uint32_t high = static_cast<std::uint32_t>(counter >> 32), low = static_cast<std::uint32_t>(counter);
    threefry(key, high, low);
    out[2 * i] = high;
    out[2 * i + 1] = low;
  }
}

}  // namespace jaxcnn
