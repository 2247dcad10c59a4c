// One call of oneDNN at a time, on as many threads as the process may use; and memory for its intermediate results.
#pragma once

#include <cstddef>

namespace jaxcnn {

// How many threads a call uses: OMP_NUM_THREADS or else NPROC, which JAX reads, where one is set; otherwise the processors
// that the process may run on (taskset), within the limit of its control group (containers). One thread after a fork.
int thread_count();

// While it lives, no other thread of the process is inside oneDNN, and OpenMP has thread_count() threads.
//
// XLA runs independent operations at once on its own threads. Two OpenMP teams on the same processors would each wait
// for the other, so calls take turns, each with all processors.
class Turn {
 public:
  Turn();
  ~Turn();
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  int before_;
};

// Memory of at least this size, which stays valid until the next call or the end of the turn. Only during a turn.
void* scratch(std::size_t bytes);

// A number that changes when the process is forked: primitives made before that are for threads that no longer exist.
int forks();

}  // namespace jaxcnn
