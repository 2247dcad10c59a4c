#include "vectors.h"

#include <cmath>
#include <stdexcept>

namespace jaxcnn {

std::vector<std::vector<float>> run(const Steps& steps, const std::vector<const float*>& operands, std::int64_t count) {
  std::vector<std::vector<float>> registers;
  for (const float* operand : operands) registers.emplace_back(operand, operand + count);
  const auto at = [](const auto& all, std::int64_t i) -> const auto& {
    if (i < 0 || i >= static_cast<std::int64_t>(all.size())) throw std::invalid_argument("no register of this number");
    return all[i];
  };
  for (std::size_t i = 0; i + 3 <= steps.code.size(); i += 3) {
    const auto operation = static_cast<Steps::Operation>(steps.code[i]);
    if (operation == Steps::Operation::constant) {
      registers.emplace_back(count, at(steps.constants, steps.code[i + 1]));
      continue;
    }
    std::vector<float> out = at(registers, steps.code[i + 1]);
    const std::vector<float>& second = at(registers, steps.code[i + 2]);
    for (std::int64_t k = 0; k < count; ++k) {
      switch (operation) {
        case Steps::Operation::add: out[k] += second[k]; break;
        case Steps::Operation::subtract: out[k] -= second[k]; break;
        case Steps::Operation::multiply: out[k] *= second[k]; break;
        case Steps::Operation::divide: out[k] /= second[k]; break;
        case Steps::Operation::sqrt: out[k] = std::sqrt(out[k]); break;
        case Steps::Operation::negate: out[k] = -out[k]; break;
        case Steps::Operation::rsqrt: out[k] = 1 / std::sqrt(out[k]); break;
        default: throw std::invalid_argument("no operation of this number");
      }
    }
    registers.push_back(std::move(out));
  }
  return registers;
}

}  // namespace jaxcnn
