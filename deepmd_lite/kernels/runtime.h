// What the compiled operations share: error messages, kept working memory, threads.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>

#include "dpl.h"
#include "physics.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>

#include <cstring>
#endif

namespace dpl {

// Sets the thread's dpl_last_error() and returns `status`.
dpl_status fail(dpl_status status, const char* format, ...) __attribute__((format(printf, 2, 3)));

// DPL_NOT_FINITE (naming the row) unless all of positions (n, 3) are finite.
dpl_status check_finite(const double* positions, int64_t n);

// Memory that grows and is kept, because mapping big buffers anew at each step costs as much as
// computing. Contents are undefined after get().
class Buffer {
 public:
  template <class T>
  T* get(size_t n) {
    const size_t bytes = n * sizeof(T) + 64;
    if (bytes > size_) {
      data_.reset();
      size_ = 0;
      data_.reset(new char[bytes + bytes / 4]);
      size_ = bytes + bytes / 4;
    }
    watch(data<T>(), n);
    return data<T>();
  }

  // What get() returned.
  template <class T>
  T* data() const {
    const auto address = reinterpret_cast<uintptr_t>(data_.get());
    return reinterpret_cast<T*>((address + 63) / 64 * 64);
  }

 private:
  // For make sanitize: all bits set, which is NaN, and nothing beyond the end may be touched.
  template <class T>
  void watch([[maybe_unused]] T* begin, [[maybe_unused]] size_t n) {
#if defined(__SANITIZE_ADDRESS__)
    char* const end = reinterpret_cast<char*>(begin + n);
    ASAN_UNPOISON_MEMORY_REGION(data_.get(), size_);
    std::memset(static_cast<void*>(begin), 0xff, n * sizeof(T));
    ASAN_POISON_MEMORY_REGION(end, data_.get() + size_ - end);
#endif
  }

  std::unique_ptr<char[]> data_;
  size_t size_ = 0;
};

// The working memory of one thread: first that of a worker, then that of a caller.
struct Workspace {
  Buffer edges, runs, moments, descriptors, layers, atoms;
  Buffer slots, slot_counts, entries, entry_sums, order, bin_counts, partials, accumulator,
      optimizer;
};
Workspace& workspace();

// Runs body(k) for k in [0, n) on `threads` threads, in any order; an exception in one is thrown
// here after all have ended.
template <class Body>
void parallel_for(int64_t n, int threads, Body body) {
  std::exception_ptr problem;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1 && n > 1)
  for (int64_t k = 0; k < n; ++k) {
    try {
      body(k);
    } catch (...) {
#pragma omp critical(dpl_problem)
      if (!problem) problem = std::current_exception();
    }
  }
  if (problem) std::rethrow_exception(problem);
}

}  // namespace dpl
