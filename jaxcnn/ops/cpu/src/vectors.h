// Small programs on vectors (K,): what inference does to each channel of a convolution's result.
//
// For batch normalization these are scale / sqrt(variance + eps) and bias - mean factor. A vector is soon computed, but
// XLA compiles a program for each: 129 of the 176 that GoogLeNet has.
#pragma once

#include <cstdint>
#include <vector>

namespace jaxcnn {

// A program has numbered registers, each a vector: first its operands, then the results of its steps.
struct Steps {
  enum class Operation : std::int64_t {
    constant = 0,
    add = 1,
    subtract = 2,
    multiply = 3,
    divide = 4,
    negate = 5,
    sqrt = 6,
    rsqrt = 7,
  };

  // For each step: the operation, and the numbers of two registers. A constant has its place among the constants
  // instead; the second number of an operation on one register is not used.
  std::vector<std::int64_t> code;
  std::vector<float> constants;
};

// All registers, for operands of `count` numbers. Throws std::invalid_argument for a step that uses what is not there.
std::vector<std::vector<float>> run(const Steps& steps, const std::vector<const float*>& operands, std::int64_t count);

}  // namespace jaxcnn
