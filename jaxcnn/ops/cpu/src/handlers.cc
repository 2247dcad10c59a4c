// The library's interface to XLA (handlers of its foreign function interface) and to Python (plain C functions).
#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "channels.h"
#include "convolution.h"
#include "layer_norm.h"
#include "pages.h"
#include "pooling.h"
#include "product.h"
#include "threefry.h"
#include "threads.h"
#include "vectors.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using jaxcnn::Arrays;
using jaxcnn::Convolution;
using jaxcnn::Ints;
using jaxcnn::Kind;
using jaxcnn::Type;
using Span = ffi::Span<const std::int64_t>;

Ints ints(Span span) { return Ints(span.begin(), span.end()); }

void take(const ffi::AnyBuffer& buffer, Ints& shape, void*& data) {
  shape = ints(buffer.dimensions());
  data = buffer.untyped_data();
}

// The buffer at this index; empty if there are fewer.
std::optional<ffi::AnyBuffer> at(const ffi::RemainingArgs& operands, std::size_t index) {
  auto found = operands.get<ffi::AnyBuffer>(index);
  return found.has_value() ? std::optional(*found) : std::nullopt;
}

// Its type; empty if it is not supported.
std::optional<Type> type_of(const ffi::AnyBuffer& a) {
  if (a.element_type() == ffi::DataType::F32) return Type::float32;
  if (a.element_type() == ffi::DataType::BF16) return Type::bfloat16;
  return std::nullopt;
}

// The type of all; empty if they differ.
template <typename... Others>
std::optional<Type> type_of(const ffi::AnyBuffer& a, const Others&... others) {
  return ((a.element_type() == others.element_type()) && ...) ? type_of(a) : std::nullopt;
}

// Turns an exception into an error of the XLA program.
template <typename Function>
ffi::Error run(Function function) {
  try {
    function();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "jaxcnn: no memory for intermediate results");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("jaxcnn: oneDNN refused an operation: ") + error.what());
  }
  return ffi::Error::Success();
}

// A convolution of any kind: y(x, kernel), x(y, kernel) or kernel(x, y). `c` has its window and the code to use, to
// which shapes and types are added.
ffi::Error convolve(Convolution c, Arrays arrays, ffi::AnyBuffer first, ffi::AnyBuffer second, ffi::AnyBuffer result) {
  const bool to_kernel = c.kind == Kind::kernel;
  // The images are of one type; the kernel is of this type, or in float32.
  const ffi::AnyBuffer &image = to_kernel ? second : result, &kernel = to_kernel ? result : second;
  const std::optional<Type> type = type_of(first, image), kernel_type = type_of(kernel);
  if (!type || !kernel_type || (*kernel_type != *type && *kernel_type != Type::float32)) {
    return ffi::Error::InvalidArgument("jaxcnn: a convolution of other types than float32 and bfloat16");
  }
  c.type = *type;
  c.wide = *kernel_type != *type;
  switch (c.kind) {
    case Kind::output:
      take(first, c.x, arrays.x);
      take(second, c.kernel, arrays.kernel);
      take(result, c.y, arrays.y);
      break;
    case Kind::input:
      take(first, c.y, arrays.y);
      take(second, c.kernel, arrays.kernel);
      take(result, c.x, arrays.x);
      break;
    case Kind::kernel:
      take(first, c.x, arrays.x);
      take(second, c.y, arrays.y);
      take(result, c.kernel, arrays.kernel);
      break;
    default:
      return ffi::Error::InvalidArgument("jaxcnn: an unknown kind of convolution");
  }
  if (c.swapped) std::swap(c.kernel[c.kernel.size() - 2], c.kernel.back());
  if (arrays.factor != nullptr && *kernel_type != Type::float32) {
    return ffi::Error::InvalidArgument("jaxcnn: a factor for a kernel of another type than float32");
  }
  return run([&] { jaxcnn::convolve(c, arrays); });
}

ffi::Error call(ffi::AnyBuffer first, ffi::AnyBuffer second, ffi::Result<ffi::AnyBuffer> result, std::int64_t kind,
                Span strides, Span low, Span high, Span dilation, std::int64_t groups, bool swapped, bool direct,
                bool winograd) {
  Convolution c{static_cast<Kind>(kind), Type::float32, {}, {}, {}, ints(strides), ints(low), ints(high),
                ints(dilation), groups, swapped};
  c.direct = direct;
  c.winograd = winograd;
  return convolve(c, {}, first, second, *result);
}

// y = activation(conv(x, kernel factor) + shift + residual). Factor and shift are the registers of these numbers of a
// program on vectors (K,); there is none where the number is negative.
ffi::Error call_fused(ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::RemainingArgs others, ffi::Result<ffi::AnyBuffer> y,
                      Span strides, Span low, Span high, Span dilation, std::int64_t groups, bool residual, Span code,
                      ffi::Span<const float> constants, std::int64_t factor, std::int64_t shift, bool direct,
                      bool winograd, std::string_view activation) {
  Convolution c{Kind::output, Type::float32, {}, {}, {}, ints(strides), ints(low), ints(high), ints(dilation), groups};
  c.residual = residual;
  c.bias = shift >= 0;
  c.direct = direct;
  c.winograd = winograd;
  c.activation = std::string(activation);
  if (others.size() < residual || y->dimensions().size() == 0) {
    return ffi::Error::InvalidArgument("jaxcnn: a convolution with too few arrays");
  }
  const std::int64_t filters = y->dimensions().back();
  Arrays arrays;
  std::vector<const float*> vectors;
  for (std::size_t i = 0; i < others.size(); ++i) {
    const auto other = at(others, i);
    const bool vector = i >= residual;
    if (!other || (vector ? other->element_type() != ffi::DataType::F32 : other->element_type() != y->element_type()) ||
        static_cast<std::int64_t>(other->element_count()) !=
            (vector ? filters : static_cast<std::int64_t>(y->element_count()))) {
      return ffi::Error::InvalidArgument("jaxcnn: a convolution with a residual or vector that does not fit");
    }
    if (vector) vectors.push_back(static_cast<const float*>(other->untyped_data()));
    else arrays.residual = other->untyped_data();
  }
  std::vector<std::vector<float>> registers;
  const ffi::Error computed = run([&] {
    registers = jaxcnn::run({ints(code), {constants.begin(), constants.end()}}, vectors, filters);
  });
  if (computed.failure()) return computed;
  const auto count = static_cast<std::int64_t>(registers.size());
  if (factor >= count || shift >= count) return ffi::Error::InvalidArgument("jaxcnn: no register of this number");
  if (factor >= 0) arrays.factor = registers[factor].data();
  if (shift >= 0) arrays.bias = registers[shift].data();
  return convolve(c, arrays, x, kernel, *y);
}

// (rows, inner), (inner, columns) or, transposed, (columns, inner).
ffi::Error multiply(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> out, bool transposed) {
  const std::optional<Type> type = type_of(a, b, *out);
  if (!type || a.dimensions().size() != 2 || b.dimensions().size() != 2 || out->dimensions().size() != 2) {
    return ffi::Error::InvalidArgument("jaxcnn: a product of other than float32 or bfloat16 matrices");
  }
  const jaxcnn::Product product{*type, a.dimensions()[0], a.dimensions()[1], out->dimensions()[1], transposed};
  return run([&] { jaxcnn::multiply(product, a.untyped_data(), b.untyped_data(), out->untyped_data()); });
}

using Matrix = ffi::BufferR2<ffi::DataType::F32>;

// (count, rows), (count, columns) -> (rows, columns)
ffi::Error outer(Matrix x, Matrix y, ffi::Result<Matrix> out) {
  const std::int64_t count = x.dimensions()[0], rows = x.dimensions()[1], columns = y.dimensions()[1];
  if (y.dimensions()[0] != count || out->dimensions()[0] != rows || out->dimensions()[1] != columns) {
    return ffi::Error::InvalidArgument("jaxcnn: outer products of matrices that do not fit");
  }
  return run([&] { jaxcnn::outer(x.typed_data(), y.typed_data(), count, rows, columns, out->typed_data()); });
}

using Vector = ffi::BufferR1<ffi::DataType::F32>;
using Images = ffi::Buffer<ffi::DataType::F32>;
using Chosen = ffi::Buffer<ffi::DataType::U8>;
using Key = ffi::BufferR1<ffi::DataType::U32>;
using Words = ffi::Buffer<ffi::DataType::U32>;

// An image (..., channels) as a matrix; empty if it has no numbers.
template <typename T>
std::optional<jaxcnn::Pixels<T>> pixels(const ffi::AnyBuffer& image) {
  const auto dims = image.dimensions();
  if (dims.size() == 0 || image.element_count() == 0) return std::nullopt;
  const std::int64_t channels = dims[dims.size() - 1];
  return jaxcnn::Pixels<T>{static_cast<const T*>(image.untyped_data()),
                           static_cast<std::int64_t>(image.element_count()) / channels, channels};
}

bool has(const Vector& vector, std::int64_t count) {
  return static_cast<std::int64_t>(vector.element_count()) == count;
}

// (..., C) -> mean (C,), variance (C,)
template <typename T>
ffi::Error moments_of(const ffi::AnyBuffer& x, Vector& mean, Vector& variance) {
  const auto image = pixels<T>(x);
  if (!image || !has(mean, image->channels) || !has(variance, image->channels)) {
    return ffi::Error::InvalidArgument("jaxcnn: moments of an array that is empty or does not fit");
  }
  return run([&] { jaxcnn::moments(*image, mean.typed_data(), variance.typed_data()); });
}

ffi::Error moments(ffi::AnyBuffer x, ffi::Result<Vector> mean, ffi::Result<Vector> variance) {
  const std::optional<Type> type = type_of(x);
  if (!type) return ffi::Error::InvalidArgument("jaxcnn: moments of an array of another type");
  if (*type == Type::float32) return moments_of<float>(x, *mean, *variance);
  return moments_of<jaxcnn::Half>(x, *mean, *variance);
}

// y (..., C), x (..., C), centre (C,) -> sums (C,), products (C,)
template <typename T>
ffi::Error sums_of(const ffi::AnyBuffer& y, const ffi::AnyBuffer& x, Vector& centre, Vector& total, Vector& products) {
  const auto image = pixels<T>(x);
  if (!image || y.element_count() != x.element_count() || !has(centre, image->channels) ||
      !has(total, image->channels) || !has(products, image->channels)) {
    return ffi::Error::InvalidArgument("jaxcnn: sums of arrays that are empty or do not fit");
  }
  return run([&] {
    jaxcnn::sums(static_cast<const T*>(y.untyped_data()), *image, centre.typed_data(), total.typed_data(),
                 products.typed_data());
  });
}

ffi::Error sums(ffi::AnyBuffer y, ffi::AnyBuffer x, Vector centre, ffi::Result<Vector> total,
                ffi::Result<Vector> products) {
  const std::optional<Type> type = type_of(x, y);
  if (!type) return ffi::Error::InvalidArgument("jaxcnn: sums of arrays of two types, or of another one");
  return *type == Type::float32 ? sums_of<float>(y, x, centre, *total, *products)
                                : sums_of<jaxcnn::Half>(y, x, centre, *total, *products);
}

// x (..., C), scale (C,), bias (C,) -> y (..., C)
template <typename T>
ffi::Error layer_norm_of(const ffi::AnyBuffer& x, Vector& scale, Vector& bias, float eps, ffi::AnyBuffer& y) {
  const auto image = pixels<T>(x);
  if (!image || y.element_count() != x.element_count() || !has(scale, image->channels) || !has(bias, image->channels)) {
    return ffi::Error::InvalidArgument("jaxcnn: layer normalization of arrays that are empty or do not fit");
  }
  return run([&] {
    jaxcnn::layer_norm(*image, scale.typed_data(), bias.typed_data(), eps, static_cast<T*>(y.untyped_data()));
  });
}

ffi::Error layer_norm(ffi::AnyBuffer x, Vector scale, Vector bias, ffi::Result<ffi::AnyBuffer> y, float eps) {
  const std::optional<Type> type = type_of(x, *y);
  if (!type) return ffi::Error::InvalidArgument("jaxcnn: layer normalization of an array of another type");
  return *type == Type::float32 ? layer_norm_of<float>(x, scale, bias, eps, *y)
                                : layer_norm_of<jaxcnn::Half>(x, scale, bias, eps, *y);
}

// dy (..., C), x (..., C), scale (C,) -> dx (..., C), dscale (C,), dbias (C,)
template <typename T>
ffi::Error layer_norm_gradient_of(const ffi::AnyBuffer& dy, const ffi::AnyBuffer& x, Vector& scale, float eps,
                                  ffi::AnyBuffer& dx, Vector& dscale, Vector& dbias) {
  const auto image = pixels<T>(x);
  if (!image || dy.element_count() != x.element_count() || dx.element_count() != x.element_count() ||
      !has(scale, image->channels) || !has(dscale, image->channels) || !has(dbias, image->channels)) {
    return ffi::Error::InvalidArgument("jaxcnn: layer normalization of arrays that are empty or do not fit");
  }
  return run([&] {
    jaxcnn::layer_norm_gradient(static_cast<const T*>(dy.untyped_data()), *image, scale.typed_data(), eps,
                                static_cast<T*>(dx.untyped_data()), dscale.typed_data(), dbias.typed_data());
  });
}

ffi::Error layer_norm_gradient(ffi::AnyBuffer dy, ffi::AnyBuffer x, Vector scale, ffi::Result<ffi::AnyBuffer> dx,
                               ffi::Result<Vector> dscale, ffi::Result<Vector> dbias, float eps) {
  const std::optional<Type> type = type_of(x, dy, *dx);
  if (!type) return ffi::Error::InvalidArgument("jaxcnn: layer normalization of arrays of two types");
  return *type == Type::float32 ? layer_norm_gradient_of<float>(dy, x, scale, eps, *dx, *dscale, *dbias)
                                : layer_norm_gradient_of<jaxcnn::Half>(dy, x, scale, eps, *dx, *dscale, *dbias);
}

// A pool of images and their pools of 1 to 3 dimensions; empty if they do not fit.
std::optional<jaxcnn::Pool> pool(Span x, Span y, Span window, Span strides, Span low) {
  const std::size_t spatial = window.size();
  if (spatial < 1 || spatial > 3 || strides.size() != spatial || low.size() != spatial || x.size() != spatial + 2 ||
      y.size() != spatial + 2 || x[0] != y[0] || x[spatial + 1] != y[spatial + 1]) {
    return std::nullopt;
  }
  jaxcnn::Pool found{x[0], x[spatial + 1], {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}};
  for (std::size_t i = 0; i < spatial; ++i) {
    const std::size_t place = 3 - spatial + i;
    found.size[place] = x[i + 1];
    found.places[place] = y[i + 1];
    found.window[place] = window[i];
    found.strides[place] = strides[i];
    found.low[place] = low[i];
  }
  return found;
}

ffi::Error max_pool(Images x, ffi::Result<Images> y, ffi::Result<Chosen> chosen, Span window, Span strides, Span low) {
  const auto found = pool(x.dimensions(), y->dimensions(), window, strides, low);
  if (!found || chosen->element_count() != y->element_count()) {
    return ffi::Error::InvalidArgument("jaxcnn: max pooling of arrays that do not fit");
  }
  return run([&] { jaxcnn::max_pool(*found, x.typed_data(), y->typed_data(), chosen->typed_data()); });
}

ffi::Error maximum(Images x, ffi::Result<Images> y, Span window, Span strides, Span low) {
  const auto found = pool(x.dimensions(), y->dimensions(), window, strides, low);
  if (!found) return ffi::Error::InvalidArgument("jaxcnn: max pooling of arrays that do not fit");
  return run([&] { jaxcnn::max_pool(*found, x.typed_data(), y->typed_data(), nullptr); });
}

ffi::Error put(Images y, Chosen chosen, ffi::Result<Images> x, Span window, Span strides, Span low) {
  const auto found = pool(x->dimensions(), y.dimensions(), window, strides, low);
  if (!found || chosen.element_count() != y.element_count()) {
    return ffi::Error::InvalidArgument("jaxcnn: max pooling of arrays that do not fit");
  }
  return run([&] { jaxcnn::put(*found, y.typed_data(), chosen.typed_data(), x->typed_data()); });
}

// key (2,) -> (...)
ffi::Error random_bits(Key key, ffi::Result<Words> bits) {
  if (key.element_count() != 2) return ffi::Error::InvalidArgument("jaxcnn: random bits of a key of another size");
  return run([&] { jaxcnn::random_bits(key.typed_data(), bits->element_count(), bits->typed_data()); });
}

// key (2,), first () -> (..., 2)
ffi::Error random_keys(Key key, ffi::BufferR0<ffi::DataType::U32> first, ffi::Result<Words> keys) {
  if (key.element_count() != 2 || keys->element_count() % 2 != 0) {
    return ffi::Error::InvalidArgument("jaxcnn: random keys of another size");
  }
  jaxcnn::random_keys(key.typed_data(), *first.typed_data(), keys->element_count() / 2, keys->typed_data());
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_convolution, call,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<std::int64_t>("kind")
                                  .Attr<Span>("strides")
                                  .Attr<Span>("low")
                                  .Attr<Span>("high")
                                  .Attr<Span>("dilation")
                                  .Attr<std::int64_t>("groups")
                                  .Attr<bool>("swapped")
                                  .Attr<bool>("direct")
                                  .Attr<bool>("winograd"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_convolution_fused, call_fused,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<Span>("strides")
                                  .Attr<Span>("low")
                                  .Attr<Span>("high")
                                  .Attr<Span>("dilation")
                                  .Attr<std::int64_t>("groups")
                                  .Attr<bool>("residual")
                                  .Attr<Span>("code")
                                  .Attr<ffi::Span<const float>>("constants")
                                  .Attr<std::int64_t>("factor")
                                  .Attr<std::int64_t>("shift")
                                  .Attr<bool>("direct")
                                  .Attr<bool>("winograd")
                                  .Attr<std::string_view>("activation"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_product, multiply,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<bool>("transposed"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_outer, outer, ffi::Ffi::Bind().Arg<Matrix>().Arg<Matrix>().Ret<Matrix>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_moments, moments,
                              ffi::Ffi::Bind().Arg<ffi::AnyBuffer>().Ret<Vector>().Ret<Vector>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_sums, sums,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Vector>()
                                  .Ret<Vector>()
                                  .Ret<Vector>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_layer_norm, layer_norm,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Vector>()
                                  .Arg<Vector>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<float>("eps"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_layer_norm_gradient, layer_norm_gradient,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Vector>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<Vector>()
                                  .Ret<Vector>()
                                  .Attr<float>("eps"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_max_pool, max_pool,
                              ffi::Ffi::Bind()
                                  .Arg<Images>()
                                  .Ret<Images>()
                                  .Ret<Chosen>()
                                  .Attr<Span>("window")
                                  .Attr<Span>("strides")
                                  .Attr<Span>("low"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_maximum, maximum,
                              ffi::Ffi::Bind()
                                  .Arg<Images>()
                                  .Ret<Images>()
                                  .Attr<Span>("window")
                                  .Attr<Span>("strides")
                                  .Attr<Span>("low"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_max_pool_gradient, put,
                              ffi::Ffi::Bind()
                                  .Arg<Images>()
                                  .Arg<Chosen>()
                                  .Ret<Images>()
                                  .Attr<Span>("window")
                                  .Attr<Span>("strides")
                                  .Attr<Span>("low"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_random_bits, random_bits, ffi::Ffi::Bind().Arg<Key>().Ret<Words>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcnn_random_keys, random_keys,
                              ffi::Ffi::Bind().Arg<Key>().Arg<ffi::BufferR0<ffi::DataType::U32>>().Ret<Words>());

extern "C" {

// The fingerprint of the sources of this library. Python does not use a library that was built from other sources.
const char* jaxcnn_sources() { return JAXCNN_SOURCES; }

void jaxcnn_set_huge_pages(int wanted) { jaxcnn::set_huge_pages(wanted != 0); }

int jaxcnn_threads() { return jaxcnn::thread_count(); }

// Writes the name of oneDNN's code for a convolution of `spatial` dimensions; empty if there is none. `numbers` are the
// shapes of image, kernel (not swapped) and result, then strides, padding before, padding after and dilation, each with
// its dimensions in order.
void jaxcnn_implementation(
    std::int64_t kind, std::int64_t type, std::int64_t spatial, const std::int64_t* numbers, std::int64_t groups,
    int swapped, int bias, int residual, int wide, int direct, int winograd, const char* activation, char* name,
    std::int64_t length) {
  const auto next = [&numbers](std::int64_t count) {
    Ints some(numbers, numbers + count);
    numbers += count;
    return some;
  };
  Convolution c;
  c.kind = static_cast<Kind>(kind);
  c.type = static_cast<Type>(type);
  c.x = next(spatial + 2);
  c.kernel = next(spatial + 2);
  c.y = next(spatial + 2);
  c.strides = next(spatial);
  c.low = next(spatial);
  c.high = next(spatial);
  c.dilation = next(spatial);
  c.groups = groups;
  c.swapped = swapped != 0;
  c.bias = bias != 0;
  c.residual = residual != 0;
  c.wide = wide != 0;
  c.direct = direct != 0;
  c.winograd = winograd != 0;
  c.activation = activation;
  std::string found;
  try {
    found = jaxcnn::implementation(c);
  } catch (const std::exception&) {  // out of memory
  }
  const std::size_t kept = std::min(found.size(), static_cast<std::size_t>(length - 1));
  std::memcpy(name, found.data(), kept);
  name[kept] = 0;
}

}  // extern "C"
