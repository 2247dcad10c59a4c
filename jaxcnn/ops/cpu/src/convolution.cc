#include "convolution.h"

#include <algorithm>

#include "depthwise.h"
#include "direct.h"
#include "layout.h"
#include "pages.h"
#include "winograd.h"

namespace jaxcnn {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;
using Forward = dnnl::convolution_forward;
using BackwardData = dnnl::convolution_backward_data;
using BackwardWeights = dnnl::convolution_backward_weights;

constexpr std::size_t kAlignment = 64;
constexpr std::int64_t kAlone = 1 << 14;  // a smaller kernel is multiplied by one thread

// An image stored as (N, *spatial, C), in oneDNN's order of dimensions.
memory::desc image(const Ints& shape, Type type) {
  memory::dims dims{shape.front(), shape.back()};
  dims.insert(dims.end(), shape.begin() + 1, shape.end() - 1);
  const Tag tag = shape.size() == 3 ? Tag::nwc : shape.size() == 4 ? Tag::nhwc : Tag::ndhwc;
  return memory::desc(dims, data_type(type), tag);
}

memory::desc vector(std::int64_t count) { return memory::desc({count}, memory::data_type::f32, Tag::a); }

// A kernel stored as (*size, C / groups, K), or swapped, in oneDNN's order: (groups, K / groups, C / groups, *size).
struct Kernel {
  memory::desc lies, any;

  explicit Kernel(const Convolution& c) {
    const std::size_t ndim = c.kernel.size() - 2;
    const std::int64_t in = c.kernel[ndim], out = c.kernel[ndim + 1];
    memory::dims dims{out / c.groups, in}, steps{c.swapped ? in : 1, c.swapped ? 1 : out};
    if (c.groups > 1) {
      dims.insert(dims.begin(), c.groups);
      steps.insert(steps.begin(), out / c.groups);
    }
    const std::size_t first = dims.size();
    std::int64_t step = in * out;
    for (std::size_t i = ndim; i-- > 0;) {
      dims.insert(dims.begin() + first, c.kernel[i]);
      steps.insert(steps.begin() + first, step);
      step *= c.kernel[i];
    }
    const Type type = c.wide ? Type::float32 : c.type;
    lies = memory::desc(dims, data_type(type), steps);
    any = memory::desc(dims, data_type(c.kind == Kind::kernel ? type : c.type), Tag::any);
  }
};

void activate(dnnl::post_ops& after, const std::string& name) {
  using dnnl::algorithm;
  if (name == "relu") return after.append_eltwise(algorithm::eltwise_relu, 0, 0);
  if (name == "relu6") return after.append_eltwise(algorithm::eltwise_clip, 0, 6);
  if (name == "silu") return after.append_eltwise(algorithm::eltwise_swish, 1, 0);
  if (name == "hard_swish") return after.append_eltwise(algorithm::eltwise_hardswish, 1.0f / 6, 0.5f);
  if (name == "gelu") return after.append_eltwise(algorithm::eltwise_gelu_erf, 0, 0);
  if (name == "gelu_tanh") return after.append_eltwise(algorithm::eltwise_gelu_tanh, 0, 0);
  if (name == "tanh") return after.append_eltwise(algorithm::eltwise_tanh, 0, 0);
  if (name == "sigmoid") return after.append_eltwise(algorithm::eltwise_logistic, 0, 0);
  throw dnnl::error(dnnl_invalid_arguments, "no activation of this name");
}

// oneDNN's primitive descriptor of a convolution of any kind, and the primitive.
struct Plan {
  dnnl::primitive_desc desc;
  dnnl::primitive primitive;
  memory::desc kernel;  // the kernel's layout that the primitive needs
};

// With `make` false, only the descriptor is made, which is fast; generating the machine code is slow.
Plan plan(const Convolution& c, bool make) {
  memory::dims dilation = c.dilation;
  for (auto& d : dilation) --d;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto direct = dnnl::algorithm::convolution_direct;
  const memory::desc x = image(c.x, c.type), y = image(c.y, c.type), kernel = Kernel(c).any;
  const memory::desc forward_kernel = memory::desc(kernel.get_dims(), data_type(c.type), Tag::any);
  const memory::desc bias = c.bias ? vector(c.y.back()) : memory::desc();

  if (c.kind == Kind::output) {
    dnnl::post_ops after;
    if (c.residual) after.append_binary(dnnl::algorithm::binary_add, y);
    if (!c.activation.empty()) activate(after, c.activation);
    attributes.set_post_ops(after);
    const Forward::primitive_desc desc(engine(), dnnl::prop_kind::forward_training, direct, x, kernel, bias, y,
                                       c.strides, dilation, c.low, c.high, attributes);
    return {desc, make ? dnnl::primitive(desc) : dnnl::primitive(), desc.weights_desc()};
  }
  // The gradients need the descriptor of the forward pass as a hint; its primitive is not made.
  const Forward::primitive_desc hint(engine(), dnnl::prop_kind::forward_training, direct, x, forward_kernel, y,
                                     c.strides, dilation, c.low, c.high);
  if (c.kind == Kind::input) {
    const BackwardData::primitive_desc desc(engine(), direct, x, kernel, y, c.strides, dilation, c.low, c.high, hint,
                                            attributes);
    return {desc, make ? dnnl::primitive(desc) : dnnl::primitive(), desc.weights_desc()};
  }
  const BackwardWeights::primitive_desc desc(engine(), direct, x, kernel, y, c.strides, dilation, c.low, c.high, hint,
                                             attributes);
  return {desc, make ? dnnl::primitive(desc) : dnnl::primitive(), desc.diff_weights_desc()};
}

// A primitive, the reordering of its kernel, and its scratch memory.
class Ready {
 public:
  explicit Ready(const Convolution& c) : kind_(c.kind) {
    const Plan made = plan(c, true);
    const memory::desc lies = Kernel(c).lies;
    primitive_ = made.primitive;
    kernel_ = memory(lies, engine(), nullptr);
    const bool reordered = made.kernel != lies;
    const memory::desc pad = made.desc.scratchpad_desc();
    kernel_bytes_ = reordered ? aligned(made.kernel.get_size()) : 0;
    bytes_ = kernel_bytes_ + pad.get_size();
    if (reordered) {
      wanted_ = memory(made.kernel, engine(), nullptr);
      if (c.groups == 1 && !c.swapped && (c.wide || c.type == Type::float32)) layout_ = Layout::of(made.kernel);
    }
    if (reordered && !layout_) {
      dnnl::primitive_attr attributes;
      attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
      memory &from = kind_ == Kind::kernel ? wanted_ : kernel_, &to = kind_ == Kind::kernel ? kernel_ : wanted_;
      const dnnl::reorder::primitive_desc desc(from, to, attributes);
      reorder_ = dnnl::reorder(desc);
      const memory::desc reorder_pad = desc.scratchpad_desc();
      bytes_ = std::max(bytes_, kernel_bytes_ + reorder_pad.get_size());
      reordering_ = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}, {DNNL_ARG_SCRATCHPAD, unset(reorder_pad)}};
    }
    const bool to_x = kind_ == Kind::input, to_kernel = kind_ == Kind::kernel, to_y = kind_ == Kind::output;
    arguments_ = {
        {to_x ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, unset(image(c.x, c.type))},
        {to_kernel ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, reordered ? wanted_ : kernel_},
        {to_y ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, unset(image(c.y, c.type))},
        {DNNL_ARG_SCRATCHPAD, unset(pad)},
    };
    x_ = arguments_.at(to_x ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC);
    y_ = arguments_.at(to_y ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST);
    if (c.bias) {
      bias_ = unset(vector(c.y.back()));
      arguments_[DNNL_ARG_BIAS] = bias_;
    }
    filters_ = c.y.back();
    numbers_ = lies.get_size() / data_size(lies);
    if (c.residual) {
      residual_ = unset(image(c.y, c.type));
      arguments_[DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1] = residual_;
    }
  }

  void run(const Arrays& arrays) {
    const bool copied = arrays.factor != nullptr && !(layout_ && layout_->takes_factor());
    const std::size_t bytes = aligned(bytes_) + copied * numbers_ * sizeof(float);
    auto* const space = static_cast<char*>(bytes > 0 ? scratch(bytes) : nullptr);
    void* kernel = arrays.kernel;
    if (copied) {
      kernel = space + aligned(bytes_);
      multiply(static_cast<const float*>(arrays.kernel), arrays.factor, static_cast<float*>(kernel));
    }
    x_.set_data_handle(arrays.x);
    y_.set_data_handle(arrays.y);
    kernel_.set_data_handle(kernel);
    const memory& result = kind_ == Kind::output ? y_ : kind_ == Kind::input ? x_ : kernel_;
    use_huge_pages(result.get_data_handle(), result.get_desc().get_size());
    if (bias_) bias_.set_data_handle(const_cast<float*>(arrays.bias));
    if (residual_) residual_.set_data_handle(arrays.residual);
    arguments_.at(DNNL_ARG_SCRATCHPAD).set_data_handle(space + kernel_bytes_);
    if (wanted_) wanted_.set_data_handle(space);
    if (reorder_) reordering_.at(DNNL_ARG_SCRATCHPAD).set_data_handle(space + kernel_bytes_);
    if (wanted_ && kind_ != Kind::kernel) reorder(kernel, space, copied ? nullptr : arrays.factor);
    primitive_.execute(stream(), arguments_);
    if (wanted_ && kind_ == Kind::kernel) reorder(kernel, space, nullptr);
    stream().wait();
  }

 private:
  // Into the layout of the primitive; of a gradient, out of it.
  void reorder(void* kernel, void* blocks, const float* factor) {
    if (!layout_) return reorder_.execute(stream(), reordering_);
    const auto floats = static_cast<float*>(kernel);
    kind_ == Kind::kernel ? layout_->from_blocks(floats, blocks) : layout_->to_blocks(floats, blocks, factor);
  }

  // Of a kernel that this package does not copy itself, a copy.
  void multiply(const float* kernel, const float* factor, float* out) const {
    const std::int64_t rows = static_cast<std::int64_t>(numbers_) / filters_;
    auto row = [&](std::int64_t r) {
      for (std::int64_t k = 0; k < filters_; ++k) out[r * filters_ + k] = kernel[r * filters_ + k] * factor[k];
    };
    parallel(rows, rows * filters_ < kAlone, row);
  }

  static std::size_t data_size(const memory::desc& desc) { return memory::data_type_size(desc.get_data_type()); }

  static std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  Kind kind_;
  dnnl::primitive primitive_;
  dnnl::reorder reorder_;
  std::optional<Layout> layout_;  // if it is one that this package copies itself
  memory x_, kernel_, wanted_, y_, bias_, residual_;
  std::unordered_map<int, memory> arguments_, reordering_;
  std::int64_t filters_ = 0;
  std::size_t numbers_ = 0, kernel_bytes_ = 0, bytes_ = 0;  // the kernel's numbers; bytes of scratch memory
};

// Whether every tap of the kernel lies on a pixel of the image in some window. If not, oneDNN's kernel gradients in
// bfloat16 are wrong: they begin with what was in the memory before.
bool every_tap_is_used(const Convolution& c) {
  for (std::size_t d = 0; d < c.strides.size(); ++d) {
    for (std::int64_t u = 0; u < c.kernel[d]; ++u) {
      bool used = false;
      for (std::int64_t i = 0; i < c.y[d + 1] && !used; ++i) {
        const std::int64_t pixel = i * c.strides[d] + u * c.dilation[d] - c.low[d];
        used = pixel >= 0 && pixel < c.x[d + 1];
      }
      if (!used) return false;
    }
  }
  return true;
}

using OwnCode = void (*)(const Convolution&, const Arrays&);

// In place of a primitive, for code that needs none: at the first call, too, the cache gives memory back.
struct Known {
  explicit Known(const Convolution& c) {
    for (const std::int64_t n : c.kind == Kind::output ? c.y : c.kind == Kind::input ? c.x : c.kernel) bytes *= n;
  }

  void run(OwnCode code, const Convolution& c, const Arrays& arrays) const {
    use_huge_pages(c.kind == Kind::output ? arrays.y : c.kind == Kind::input ? arrays.x : arrays.kernel, bytes);
    code(c, arrays);
  }

  std::size_t bytes = sizeof(float);  // of the result
};

// Whether it is a 2-D convolution in float32, without dilation, and of shapes that fit. Of a description that does not
// fit, oneDNN says so.
bool is_common(const Convolution& c) {
  if (c.type != Type::float32 || c.x.size() != 4 || c.y.size() != 4 || c.kernel.size() != 4) return false;
  if (c.low.size() != 2 || c.high.size() != 2 || c.strides.size() != 2) return false;
  if (c.dilation != Ints{1, 1}) return false;
  if (c.kernel[2] * c.groups != c.x[3] || c.kernel[3] != c.y[3] || c.x[0] != c.y[0]) return false;
  for (int i = 0; i < 2; ++i) {
    if (c.low[i] < 0 || c.high[i] < 0 || c.strides[i] < 1) return false;
    if (c.low[i] >= c.kernel[i] || c.high[i] >= c.kernel[i]) return false;
    const std::int64_t room = c.x[i + 1] + c.low[i] + c.high[i] - c.kernel[i];
    if (room < 0 || c.y[i + 1] != room / c.strides[i] + 1) return false;
  }
  return std::min({c.x[0], c.x[3], c.y[3], c.kernel[0], c.kernel[1]}) > 0;
}

// This package's own code for a convolution, or null.
OwnCode own_code(const Convolution& c) {
  if (!is_common(c)) return nullptr;
  if (c.groups != 1) return c.direct && suits_depthwise(c) ? depthwise : nullptr;
  if (c.direct && suits_direct(c)) return direct;
  if (c.winograd && suits_winograd(c)) return winograd;
  return nullptr;
}

}  // namespace

std::string Convolution::key() const {
  Key key;
  for (const Ints* numbers : {&x, &kernel, &y, &strides, &low, &high, &dilation}) key.add(*numbers);
  key.add(static_cast<std::int64_t>(kind) * 2 + static_cast<std::int64_t>(type));
  key.add(groups * 16 + wide * 8 + swapped * 4 + bias * 2 + residual);
  return key.with(activation);
}

void convolve(const Convolution& convolution, const Arrays& arrays) {
  const Turn turn;
  const auto own = own_code(convolution);
  if (own != nullptr) {
    cache<Known>().of(convolution.key(), convolution).run(own, convolution, arrays);
    return;
  }
  cache<Ready>().of(convolution.key(), convolution).run(arrays);
}

std::string implementation(const Convolution& convolution) {
  const Turn turn;
  if (const auto own = own_code(convolution); own != nullptr) {
    return own == direct ? "direct" : own == depthwise ? "depthwise" : "winograd";
  }
  const bool half_gradient = convolution.type == Type::bfloat16 && convolution.kind == Kind::kernel;
  if (half_gradient && !every_tap_is_used(convolution)) return "";
  try {
    return plan(convolution, false).desc.impl_info_str();
  } catch (const dnnl::error&) {
    return "";
  }
}

}  // namespace jaxcnn
