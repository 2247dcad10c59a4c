#include "product.h"

#include <algorithm>

#include "kernels.h"
#include "pages.h"

namespace jaxcnn {
namespace {

using dnnl::memory;

class Ready {
 public:
  explicit Ready(const Product& p) {
    const auto type = data_type(p.type);
    const memory::desc a({p.rows, p.inner}, type, memory::format_tag::ab);
    const memory::desc b({p.inner, p.columns}, type, p.transposed ? memory::format_tag::ba : memory::format_tag::ab);
    const memory::desc out({p.rows, p.columns}, type, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::primitive_desc desc(engine(), a, b, out, attributes);
    primitive_ = dnnl::matmul(desc);
    const memory::desc pad = desc.scratchpad_desc();
    bytes_ = pad.get_size();
    arguments_ = {{DNNL_ARG_SRC, unset(a)},
                  {DNNL_ARG_WEIGHTS, unset(b)},
                  {DNNL_ARG_DST, unset(out)},
                  {DNNL_ARG_SCRATCHPAD, unset(pad)}};
  }

  void run(void* a, void* b, void* out) {
    arguments_.at(DNNL_ARG_SRC).set_data_handle(a);
    arguments_.at(DNNL_ARG_WEIGHTS).set_data_handle(b);
    arguments_.at(DNNL_ARG_DST).set_data_handle(out);
    arguments_.at(DNNL_ARG_SCRATCHPAD).set_data_handle(bytes_ > 0 ? scratch(bytes_) : nullptr);
    primitive_.execute(stream(), arguments_);
    stream().wait();
  }

 private:
  dnnl::primitive primitive_;
  std::unordered_map<int, memory> arguments_;
  std::size_t bytes_ = 0;
};

}  // namespace

void multiply(const Product& product, void* a, void* b, void* out) {
  const Turn turn;
  const std::string key = Key()
                              .add(product.rows)
                              .add(product.inner)
                              .add(product.columns)
                              .add(static_cast<std::int64_t>(product.type) * 2 + product.transposed)
                              .with("");
  cache<Ready>().of(key, product).run(a, b, out);
}

void outer(const float* x, const float* y, std::int64_t count, std::int64_t rows, std::int64_t columns, float* out) {
  constexpr std::int64_t kPiece = 64;  // rows that a thread computes at a time
  const Turn turn;
  use_huge_pages(out, rows * columns * sizeof(float));
  auto piece = [&](std::int64_t i) {
    const std::int64_t first = i * kPiece;
    kernels().outer_products(x + first, rows, y, columns, count, std::min(kPiece, rows - first), out + first * columns);
  };
  parallel((rows + kPiece - 1) / kPiece, rows * columns < kPiece * kPiece, piece);
}

}  // namespace jaxcnn
