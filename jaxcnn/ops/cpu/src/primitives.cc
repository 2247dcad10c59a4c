#include "primitives.h"

namespace jaxcnn {

// Never destroyed, like the caches.
dnnl::engine& engine() {
  static auto* const one = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *one;
}

dnnl::stream& stream() {
  static auto* const one = new dnnl::stream(engine());
  return *one;
}

dnnl::memory::data_type data_type(Type type) {
  return type == Type::float32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

}  // namespace jaxcnn
