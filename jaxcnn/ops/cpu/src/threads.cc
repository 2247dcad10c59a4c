#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <mutex>
#include <new>
#include <sstream>
#include <string>

// Functions of the GNU OpenMP library that oneDNN is linked with. They are resolved when this library is loaded.
extern "C" int omp_get_max_threads(void);
extern "C" void omp_set_num_threads(int);
extern "C" int omp_get_thread_num(void);
extern "C" int omp_get_num_threads(void);
extern "C" void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);

namespace jaxcnn {
namespace {

constexpr std::size_t kPage = std::size_t{1} << 21;   // a huge page
constexpr std::size_t kKept = std::size_t{64} << 20;  // the most scratch memory that is kept between calls

std::mutex mutex;
int fork_count = 0;

struct Scratch {
  void* start = nullptr;
  std::size_t size = 0;

  void release() {
    if (start != nullptr) munmap(start, size);
    start = nullptr;
    size = 0;
  }
} memory;

int positive(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::max(0, std::atoi(text));
}

int processors() {
  // A mask larger than cpu_set_t is needed on machines of more than 1024 processors.
  for (int bits = 1024; bits <= 1 << 18; bits *= 2) {
    cpu_set_t* set = CPU_ALLOC(bits);
    if (set == nullptr) break;
    const std::size_t size = CPU_ALLOC_SIZE(bits);
    const int count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return 1;
}

// The number of processors that a control group may use, rounded up. Version 2 writes "QUOTA PERIOD" or "max PERIOD".
int allowed(const std::string& folder) {
  double quota = -1, period = 0;
  if (std::ifstream both(folder + "/cpu.max"); both) {
    both >> quota >> period;
    if (!both) return 0;
  } else {
    std::ifstream first(folder + "/cpu.cfs_quota_us"), second(folder + "/cpu.cfs_period_us");
    first >> quota;
    second >> period;
    if (!first || !second) return 0;
  }
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>(std::ceil(quota / period))) : 0;
}

// The smallest limit of the process's control group and those above it; 0 if there is none.
int control_group() {
  std::ifstream groups("/proc/self/cgroup");
  int least = 0;
  for (std::string line; std::getline(groups, line);) {  // HIERARCHY:CONTROLLERS:PATH
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string root = "/sys/fs/cgroup";
    if (!controllers.empty()) {
      if (("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
      root += "/cpu";
    }
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      if (path == "/") path.clear();
      if (const int here = allowed(root + path); here > 0) least = least == 0 ? here : std::min(least, here);
      if (path.empty()) break;
    }
  }
  return least;
}

int count_threads() {
  if (fork_count > 0) return 1;  // GNU OpenMP would wait for threads that the child process does not have
  int count = processors();
  if (const int limit = control_group(); limit > 0) count = std::min(count, limit);
  if (const int set = positive("NPROC"); set > 0) count = std::min(count, set);
  if (const int set = positive("OMP_NUM_THREADS"); set > 0) count = set;
  return count;
}

int threads = 0;

// A fork waits for the end of the turn, so that the child does not inherit a lock that nobody will unlock.
void before_fork() { mutex.lock(); }
void in_parent() { mutex.unlock(); }
void in_child() {
  ++fork_count;
  threads = 1;
  mutex.unlock();
}

const int registered = pthread_atfork(before_fork, in_parent, in_child);

}  // namespace

int thread_count() { return threads > 0 ? threads : threads = count_threads(); }

int forks() { return fork_count; }

Turn::Turn() {
  mutex.lock();
  before_ = omp_get_max_threads();
  if (before_ != thread_count()) omp_set_num_threads(thread_count());
}

Turn::~Turn() {
  if (memory.size > kKept) memory.release();
  if (before_ != thread_count()) omp_set_num_threads(before_);
  mutex.unlock();
}

void parallel(std::int64_t count, void (*function)(void*, std::int64_t), void* data) {
  struct Work {
    std::int64_t count;
    void (*function)(void*, std::int64_t);
    void* data;
  } work{count, function, data};
  const auto share = [](void* given) {
    const Work& work = *static_cast<Work*>(given);
    const std::int64_t own = omp_get_thread_num(), all = omp_get_num_threads();
    for (std::int64_t i = work.count * own / all; i < work.count * (own + 1) / all; ++i) work.function(work.data, i);
  };
  if (thread_count() == 1) {
    for (std::int64_t i = 0; i < count; ++i) function(data, i);
  } else {
    GOMP_parallel(share, &work, static_cast<unsigned>(thread_count()), 0);
  }
}

void* scratch(std::size_t bytes) {
  if (bytes <= memory.size) return memory.start;
  memory.release();
  const std::size_t size = (bytes + kPage - 1) / kPage * kPage;
  void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  madvise(start, size, MADV_HUGEPAGE);
  memory.start = start;
  memory.size = size;
  return start;
}

}  // namespace jaxcnn
