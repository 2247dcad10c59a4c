// Runs one call of oneDNN at a time, on all threads that the process may use, and holds its scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jaxcnn {

// The number of threads of a call: OMP_NUM_THREADS if set; else NPROC, which JAX reads, if set; else the number of
// processors that the process may run on (taskset), within the limit of its control group (containers). It is 1 after
// a fork.
int thread_count();

// While a Turn exists, no other thread of the process is inside oneDNN, and OpenMP has thread_count() threads.
//
// XLA runs independent operations at the same time on its own threads. Two OpenMP teams on the same processors would
// wait for each other, so calls take turns, each with all processors.
class Turn {
 public:
  Turn();
  ~Turn();
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  int before_;
};

// Memory of at least this size, valid until the next call or the end of the turn. Use it only during a turn.
void* scratch(std::size_t bytes);

// Calls function(data, i) for each i < count, on the threads of the turn. Use it only during a turn.
void parallel(std::int64_t count, void (*function)(void*, std::int64_t), void* data);

// Calls function(i) for each i < count; on this thread if `alone`.
template <typename Function>
void parallel(std::int64_t count, bool alone, Function& function) {
  if (alone) {
    for (std::int64_t i = 0; i < count; ++i) function(i);
  } else {
    parallel(count, [](void* data, std::int64_t i) { (*static_cast<Function*>(data))(i); }, &function);
  }
}

// A number that changes when the process is forked; older primitives would need threads that no longer exist.
int forks();

}  // namespace jaxcnn
