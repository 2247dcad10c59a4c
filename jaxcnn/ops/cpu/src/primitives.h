// Shared by all calls of oneDNN: its engine, its types, and a cache of primitives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "pages.h"
#include "threads.h"

namespace jaxcnn {

using Ints = std::vector<std::int64_t>;

enum class Type : std::int64_t { float32 = 0, bfloat16 = 1 };

dnnl::engine& engine();
dnnl::stream& stream();
dnnl::memory::data_type data_type(Type type);

// The number rounded up to a multiple.
inline std::int64_t up(std::int64_t number, std::int64_t multiple) {
  return (number + multiple - 1) / multiple * multiple;
}

// An array whose data pointer is set later.
inline dnnl::memory unset(const dnnl::memory::desc& desc) { return dnnl::memory(desc, engine(), nullptr); }

// A description as text, the key of a cached primitive.
class Key {
 public:
  Key& add(std::int64_t number) {
    text_.append(reinterpret_cast<const char*>(&number), sizeof number);
    return *this;
  }
  Key& add(const Ints& numbers) {
    add(static_cast<std::int64_t>(numbers.size()));
    for (const std::int64_t number : numbers) add(number);
    return *this;
  }
  std::string with(const std::string& end) const { return text_ + end; }

 private:
  std::string text_;
};

// The cached primitives of one operation, the most recently used first. Use it only during a turn.
template <typename Made>
class Cache {
 public:
  // The cached object of this key, or a new one: Made(description).
  template <typename Description>
  Made& of(const std::string& key, const Description& description) {
    if (forks_ != forks()) {
      forks_ = forks();
      // Leaked on purpose: old primitives, and their destructors, wait for threads that the fork does not have.
      new Cache(std::move(*this));
      order_.clear();
      places_.clear();
    }
    if (const auto found = places_.find(key); found != places_.end()) {
      order_.splice(order_.begin(), order_, found->second);
      return *found->second->second;
    }
    give_back_memory();
    order_.emplace_front(key, std::make_unique<Made>(description));
    places_[key] = order_.begin();
    if (order_.size() > kKept) {
      places_.erase(order_.back().first);
      order_.pop_back();
    }
    return *order_.front().second;
  }

 private:
  static constexpr std::size_t kKept = 1024;  // then the least recently used one is removed
  using Order = std::list<std::pair<std::string, std::unique_ptr<Made>>>;
  Order order_;
  std::unordered_map<std::string, typename Order::iterator> places_;
  int forks_ = 0;
};

// The cache of an operation. It is never destroyed: other threads may still compute when the process ends.
template <typename Made>
Cache<Made>& cache() {
  static auto* const one = new Cache<Made>;
  return *one;
}

}  // namespace jaxcnn
