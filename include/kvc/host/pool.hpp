// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "kvc/core/view.hpp"

namespace kvc::inline v0_1::host {

/// Threads that a caller lends. run(self, call, f) calls call(f, slice{i, size}) once for every i below size, in any
/// order and at the same time if it can, and returns when all have; call does not throw. Two sets of threads on the
/// same cores wake each other up: an engine that has threads lends them to its caches.
struct lent_threads {
  using call_type = void (*)(const void* f, slice part);

  int size = 0;  ///< 0: none is lent
  void* self = nullptr;
  void (*run)(void* self, call_type call, const void* f) = nullptr;
};

/// A few threads for callers who have none of their own, or those that are lent. run(f) calls f(slice) once per slice,
/// the caller's thread taking the first, and returns when all are done. Calls do not nest.
class pool {
 public:
  explicit pool(int threads = 1, const lent_threads& lent = {})
      : count_(lent.size > 0 ? lent.size : (threads < 1 ? 1 : threads)), lent_(lent) {
    if (lent_.size > 0) return;
    for (int i = 1; i < count_; ++i) {
      workers_.emplace_back([this, i] { work(i); });
    }
  }
  pool(const pool&) = delete;
  pool& operator=(const pool&) = delete;
  ~pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    start_.notify_all();
    for (std::thread& t : workers_) t.join();
  }

  int size() const { return count_; }

  template <class Function>
  void run(const Function& f) {
    if (count_ == 1) {
      f(slice{0, 1});
      return;
    }
    const lent_threads::call_type call = [](const void* function, slice part) {
      (*static_cast<const Function*>(function))(part);
    };
    if (lent_.size > 0) {
      lent_.run(lent_.self, call, &f);
      return;
    }
    call_ = call;
    function_ = &f;
    pending_.store(count_ - 1, std::memory_order_relaxed);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      round_.fetch_add(1, std::memory_order_release);
    }
    start_.notify_all();
    f(slice{0, count_});
    const auto is_done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
    if (spin(is_done)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, is_done);
  }

 private:
  /// A decode step calls once per layer and phase: waking a thread takes as long as the work, so that both sides look
  /// for a while (about 50 microseconds) before they sleep.
  template <class Condition>
  static bool spin(const Condition& holds) {
    for (int i = 0; i < 2000; ++i) {
      if (holds()) return true;
#if defined(__x86_64__) && !defined(__CUDA_ARCH__)
      __builtin_ia32_pause();
#endif
    }
    return holds();
  }

  void work(int index) {
    unsigned seen = 0;
    const auto has_work = [&] { return stopping_.load() || round_.load(std::memory_order_acquire) != seen; };
    while (true) {
      if (!spin(has_work)) {
        std::unique_lock<std::mutex> lock(mutex_);
        start_.wait(lock, has_work);
      }
      if (stopping_.load()) return;
      seen = round_.load(std::memory_order_acquire);
      call_(function_, slice{index, count_});
      if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        const std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  int count_;
  lent_threads lent_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  lent_threads::call_type call_ = nullptr;
  const void* function_ = nullptr;
  std::atomic<int> pending_ = 0;
  std::atomic<unsigned> round_ = 0;
  std::atomic<bool> stopping_ = false;
};

}  // namespace kvc::inline v0_1::host
