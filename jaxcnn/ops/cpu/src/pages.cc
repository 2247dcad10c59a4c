#include "pages.h"

#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <optional>

namespace jaxcnn {
namespace {

constexpr std::size_t kArray = std::size_t{1} << 18;    // smaller arrays are left alone,
constexpr std::size_t kMapping = std::size_t{1} << 22;  // and so are those in smaller mappings

// Addresses of a mapping: low <= address < high.
struct Mapping {
  std::uintptr_t low = 0, high = 0;

  bool holds(std::uintptr_t first, std::uintptr_t last) const { return low <= first && last <= high; }
};

bool on = true;
Mapping known[4];  // those found last
std::size_t oldest = 0;

// The mapping with this address, if it is private memory without a name: not a file, a stack or the heap.
Mapping find(std::uintptr_t address) {
  std::FILE* const maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) return {};
  Mapping found;
  char line[512];
  while (std::fgets(line, sizeof line, maps) != nullptr) {  // LOW-HIGH rw-p OFFSET DEVICE INODE NAME
    std::uintptr_t low = 0, high = 0;
    char access[5] = "", name[2] = "";
    const int count = std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*s %*s %*s %1s", &low, &high, access, name);
    if (count < 3 || address < low || address >= high) continue;
    if (count == 3 && std::equal(access, access + 4, "rw-p")) found = {low, high};
    break;
  }
  std::fclose(maps);
  return found;
}

bool advise(const Mapping& mapping) {
  return madvise(reinterpret_cast<void*>(mapping.low), mapping.high - mapping.low, MADV_HUGEPAGE) == 0;
}

}  // namespace

void set_huge_pages(bool wanted) { on = wanted; }

void use_huge_pages(const void* array, std::size_t bytes) {
  if (!on || bytes < kArray) return;
  const auto first = reinterpret_cast<std::uintptr_t>(array), last = first + bytes;
  const auto place = std::find_if(std::begin(known), std::end(known), [=](auto& m) { return m.holds(first, last); });
  if (place != std::end(known)) {
    if (advise(*place)) return;
    *place = {};  // a part of it is gone
  }
  const Mapping found = find(first);
  if (found.high - found.low < kMapping || !advise(found)) return;
  known[oldest] = found;
  oldest = (oldest + 1) % std::size(known);
}

void give_back_memory() {
  using Clock = std::chrono::steady_clock;
  static std::optional<Clock::time_point> last;
  const auto now = Clock::now();
  if (!last || now - *last > std::chrono::seconds(1)) malloc_trim(0);
  last = now;
}

}  // namespace jaxcnn
