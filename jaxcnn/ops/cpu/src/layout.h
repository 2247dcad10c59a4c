// A kernel's layout: JAX's, and the blocks that oneDNN's code needs.
#pragma once

#include <cstdint>
#include <optional>

#include "primitives.h"

namespace jaxcnn {

// to[j * to_step + i] = from[i * from_step + j] for i < rows and j < columns.
void transpose(const float* from, std::int64_t from_step, float* to, std::int64_t to_step, std::int64_t rows,
               std::int64_t columns);

// Copies a float32 kernel (*size, C, K) into blocks, or from blocks into a kernel. oneDNN's own reordering takes two to
// five times as long, since it does not use that K numbers lie side by side. Use it only during a turn.
//
// The blocks have n numbers, 16 to 64, zeros at the end of the last block:
//   filters:  (K / n, *size, C, n of K), the forward pass's
//   channels: (C / n, *size, K, n of C), the input gradient's
//   both:     (K / n, C / n, *size, n of C, n of K), the kernel gradient's
// In bfloat16, to which the numbers are rounded, two of them are side by side:
//   filters:  (K / n, *size, C / 2, n of K, 2 of C)
//   channels: (C / n, *size, K / 2, n of C, 2 of K)
class Layout {
 public:
  // The layout with this descriptor, whose dimensions are (K, C, *size); empty if it is none of these.
  static std::optional<Layout> of(const dnnl::memory::desc& blocks);

  // Whether `to_blocks` takes a factor: a vector (K,) by which the kernel is multiplied, or null.
  bool takes_factor() const { return kind_ != Kind::channels; }

  void to_blocks(const float* kernel, void* blocks, const float* factor) const;
  void from_blocks(float* kernel, const void* blocks) const;

 private:
  enum class Kind { filters, channels, both };

  // Copies rows of n filters: into the blocks, or out of them.
  template <bool kIn>
  void rows(float* kernel, float* blocks, const float* factor) const;
  void transposed(const float* kernel, float* blocks) const;

  // Into blocks of pairs in bfloat16, which are copied as numbers of 32 bits.
  void pairs_of_rows(const float* kernel, float* blocks, const float* factor) const;
  void transposed_pairs(const float* kernel, float* blocks) const;

  Kind kind_ = Kind::filters;
  bool half_ = false;
  std::int64_t places_ = 1, channels_ = 0, filters_ = 0, block_ = 0;  // places: the product of the size
};

}  // namespace jaxcnn
