#include "layout.h"

#include <xmmintrin.h>

#include <algorithm>

#include "kernels.h"
#include "threads.h"

namespace jaxcnn {
namespace {

constexpr std::int64_t kFour = 4;          // numbers of a register
constexpr std::int64_t kMost = 64;         // numbers of a block
constexpr std::int64_t kAlone = 1 << 14;   // a smaller kernel is copied by one thread

std::int64_t blocks_of(std::int64_t count, std::int64_t block) { return (count + block - 1) / block; }

// Copies `count` numbers. Rows are short: a call of memcpy would take longer than the copy.
void copy(const float* from, float* to, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + kFour <= count; i += kFour) _mm_storeu_ps(to + i, _mm_loadu_ps(from + i));
  for (; i < count; ++i) to[i] = from[i];
}

void multiply(const float* from, const float* factor, float* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = from[i] * factor[i];
}

}  // namespace

void transpose(const float* from, std::int64_t from_step, float* to, std::int64_t to_step, std::int64_t rows,
               std::int64_t columns) {
  std::int64_t i = 0;
  for (; i + kFour <= rows; i += kFour) {
    std::int64_t j = 0;
    for (; j + kFour <= columns; j += kFour) {
      const float* const source = from + i * from_step + j;
      float* const place = to + j * to_step + i;
      __m128 row[kFour];
      for (std::int64_t k = 0; k < kFour; ++k) row[k] = _mm_loadu_ps(source + k * from_step);
      _MM_TRANSPOSE4_PS(row[0], row[1], row[2], row[3]);
      for (std::int64_t k = 0; k < kFour; ++k) _mm_storeu_ps(place + k * to_step, row[k]);
    }
    for (; j < columns; ++j) {
      for (std::int64_t k = i; k < i + kFour; ++k) to[j * to_step + k] = from[k * from_step + j];
    }
  }
  for (; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) to[j * to_step + i] = from[i * from_step + j];
  }
}

std::optional<Layout> Layout::of(const dnnl::memory::desc& blocks) {
  const bool half = blocks.get_data_type() == dnnl::memory::data_type::bf16;
  if (blocks.get_format_kind() != dnnl::memory::format_kind::blocked || blocks.get_submemory_offset() != 0 ||
      (!half && blocks.get_data_type() != dnnl::memory::data_type::f32)) {
    return std::nullopt;
  }
  const dnnl::memory::dims dims = blocks.get_dims(), steps = blocks.get_strides(), sizes = blocks.get_inner_blks(),
                    axes = blocks.get_inner_idxs();
  Layout made;
  made.filters_ = dims[0];
  made.channels_ = dims[1];
  made.half_ = half;
  if (half && axes.size() == 2 && sizes[1] == 2 && axes[0] + axes[1] == 1) {
    made.kind_ = axes[0] == 0 ? Kind::filters : Kind::channels;
  } else if (half) {
    return std::nullopt;
  } else if (axes == dnnl::memory::dims{0}) {
    made.kind_ = Kind::filters;
  } else if (axes == dnnl::memory::dims{1}) {
    made.kind_ = Kind::channels;
  } else if (axes == dnnl::memory::dims{1, 0} && sizes[0] == sizes[1]) {
    made.kind_ = Kind::both;
  } else {
    return std::nullopt;
  }
  made.block_ = sizes[0];
  if (made.block_ > kMost) return std::nullopt;
  const bool both = made.kind_ == Kind::both, by_channels = made.kind_ == Kind::channels;
  // The step that each dimension should have, from the last in memory to the first. Of a length of 1 it is arbitrary.
  const auto is = [&](std::size_t axis, std::int64_t length, std::int64_t step) {
    return length == 1 || steps[axis] == step;
  };
  std::int64_t step = both ? made.block_ * made.block_ : half ? made.block_ * 2 : made.block_;
  if (!both) {
    const std::size_t inner = by_channels ? 0 : 1;
    const std::int64_t length = half ? blocks_of(dims[inner], 2) : dims[inner];
    if (!is(inner, length, step)) return std::nullopt;
    step *= length;
  }
  for (std::size_t axis = dims.size() - 1; axis >= 2; --axis) {
    if (!is(axis, dims[axis], step)) return std::nullopt;
    step *= dims[axis];
    made.places_ *= dims[axis];
  }
  if (both || by_channels) {
    const std::int64_t count = blocks_of(dims[1], made.block_);
    if (!is(1, count, step)) return std::nullopt;
    step *= count;
  }
  if (!by_channels && !is(0, blocks_of(dims[0], made.block_), step)) return std::nullopt;
  return made;
}

void Layout::to_blocks(const float* kernel, void* blocks, const float* factor) const {
  auto* const to = static_cast<float*>(blocks);
  if (half_) return kind_ == Kind::channels ? transposed_pairs(kernel, to) : pairs_of_rows(kernel, to, factor);
  return kind_ == Kind::channels ? transposed(kernel, to) : rows<true>(const_cast<float*>(kernel), to, factor);
}

void Layout::from_blocks(float* kernel, const void* blocks) const {
  if (half_ || kind_ == Kind::channels) throw dnnl::error(dnnl_unimplemented, "no kernel gradient has these blocks");
  rows<false>(kernel, static_cast<float*>(const_cast<void*>(blocks)), nullptr);
}

template <bool kIn>
void Layout::rows(float* kernel, float* blocks, const float* factor) const {
  const std::int64_t n = block_, filter_blocks = blocks_of(filters_, n);
  const std::int64_t channel_block = kind_ == Kind::both ? n : channels_;
  const std::int64_t channel_blocks = blocks_of(channels_, channel_block);
  // The blocks are (filter_blocks, channel_blocks, places, channel_block, n).
  auto some = [&](std::int64_t piece) {
    const std::int64_t place = piece % places_, first = piece / places_ * channel_block;
    const std::int64_t there = std::min(channel_block, channels_ - first);
    for (std::int64_t f = 0; f < filter_blocks; ++f) {
      float* block = blocks + ((f * channel_blocks * places_) + piece) * channel_block * n;
      float* row = kernel + (place * channels_ + first) * filters_ + f * n;
      const std::int64_t count = std::min(n, filters_ - f * n);
      for (std::int64_t c = 0; c < there; ++c, block += n, row += filters_) {
        if (!kIn) {
          copy(block, row, count);
          continue;
        }
        factor == nullptr ? copy(row, block, count) : multiply(row, factor + f * n, block, count);
        std::fill(block + count, block + n, 0.0f);
      }
      if (kIn) std::fill(block, block + (channel_block - there) * n, 0.0f);
    }
  };
  parallel(channel_blocks * places_, places_ * channels_ * filters_ < kAlone, some);
}

void Layout::transposed(const float* kernel, float* blocks) const {
  const std::int64_t n = block_;
  auto some = [&](std::int64_t piece) {
    const std::int64_t place = piece % places_, first = piece / places_ * n;
    const std::int64_t there = std::min(n, channels_ - first);
    float* const block = blocks + piece * filters_ * n;
    transpose(kernel + (place * channels_ + first) * filters_, filters_, block, n, there, filters_);
    if (there == n) return;
    for (std::int64_t f = 0; f < filters_; ++f) std::fill(block + f * n + there, block + (f + 1) * n, 0.0f);
  };
  parallel(blocks_of(channels_, n) * places_, places_ * channels_ * filters_ < kAlone, some);
}

void Layout::pairs_of_rows(const float* kernel, float* blocks, const float* factor) const {
  const std::int64_t n = block_, filter_blocks = blocks_of(filters_, n), pairs = blocks_of(channels_, 2);
  auto some = [&](std::int64_t piece) {
    const std::int64_t place = piece / pairs, c = piece % pairs * 2;
    const float* const row = kernel + (place * channels_ + c) * filters_;
    const float* const next = c + 1 < channels_ ? row + filters_ : nullptr;
    for (std::int64_t f = 0; f < filter_blocks; ++f) {
      float* const block = blocks + ((f * places_ + place) * pairs + piece % pairs) * n;
      const std::int64_t count = std::min(n, filters_ - f * n);
      const float *first = row + f * n, *second = next != nullptr ? next + f * n : nullptr;
      float products[2 * kMost];
      if (factor != nullptr) {
        multiply(first, factor + f * n, products, count);
        if (second != nullptr) multiply(second, factor + f * n, products + kMost, count);
        first = products;
        if (second != nullptr) second = products + kMost;
      }
      kernels().round.pairs(first, second, count, block);
      std::fill(block + count, block + n, 0.0f);
    }
  };
  parallel(places_ * pairs, places_ * channels_ * filters_ < kAlone, some);
}

void Layout::transposed_pairs(const float* kernel, float* blocks) const {
  constexpr std::int64_t kChunk = 32;  // pairs that are transposed at a time
  const std::int64_t n = block_, pairs = blocks_of(filters_, 2);
  auto some = [&](std::int64_t piece) {
    float rounded[kMost * kChunk];
    const std::int64_t place = piece % places_, first = piece / places_ * n;
    const std::int64_t there = std::min(n, channels_ - first);
    float* const block = blocks + piece * pairs * n;
    for (std::int64_t p = 0; p < pairs; p += kChunk) {
      const std::int64_t count = std::min(kChunk, pairs - p), numbers = std::min(2 * count, filters_ - 2 * p);
      for (std::int64_t c = 0; c < there; ++c) {
        float* const to = rounded + c * kChunk;
        to[count - 1] = 0;  // of an odd number of filters, the second of the last pair
        kernels().round.row(kernel + (place * channels_ + first + c) * filters_ + 2 * p, numbers, to);
      }
      transpose(rounded, kChunk, block + p * n, n, there, count);
    }
    if (there == n) return;
    for (std::int64_t p = 0; p < pairs; ++p) std::fill(block + p * n + there, block + (p + 1) * n, 0.0f);
  };
  parallel(blocks_of(channels_, n) * places_, places_ * channels_ * filters_ < kAlone, some);
}

}  // namespace jaxcnn
