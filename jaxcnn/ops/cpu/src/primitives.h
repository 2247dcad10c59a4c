// What all calls of oneDNN share: its engine, its types, and the primitives made so far.
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
#include "threads.h"

namespace jaxcnn {

using Ints = std::vector<std::int64_t>;

enum class Type : std::int64_t { float32 = 0, bfloat16 = 1 };

dnnl::engine& engine();
dnnl::stream& stream();
dnnl::memory::data_type data_type(Type type);

// An array whose numbers are told later.
inline dnnl::memory unset(const dnnl::memory::desc& desc) { return dnnl::memory(desc, engine(), nullptr); }

// A description as a text, by which primitives are kept.
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

// The primitives of one operation, the one used last in front. Used only during a turn.
template <typename Made>
class Cache {
 public:
  // The one kept by this key, or a new one: Made(description).
  template <typename Description>
  Made& of(const std::string& key, const Description& description) {
    if (forks_ != forks()) {
      forks_ = forks();
      // They wait for threads that this process does not have, and so would their destructors.
      new Cache(std::move(*this));
      order_.clear();
      places_.clear();
    }
    if (const auto found = places_.find(key); found != places_.end()) {
      order_.splice(order_.begin(), order_, found->second);
      return *found->second->second;
    }
    order_.emplace_front(key, std::make_unique<Made>(description));
    places_[key] = order_.begin();
    if (order_.size() > kKept) {
      places_.erase(order_.back().first);
      order_.pop_back();
    }
    return *order_.front().second;
  }

 private:
  static constexpr std::size_t kKept = 1024;  // then the one not used for the longest time goes
  using Order = std::list<std::pair<std::string, std::unique_ptr<Made>>>;
  Order order_;
  std::unordered_map<std::string, typename Order::iterator> places_;
  int forks_ = 0;
};

// The cache of an operation. It is never destroyed: at the end of the process other threads may still compute.
template <typename Made>
Cache<Made>& cache() {
  static auto* const one = new Cache<Made>;
  return *one;
}

}  // namespace jaxcnn
