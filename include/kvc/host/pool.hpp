// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

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
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      call_ = call;
      function_ = &f;
      pending_ = count_ - 1;
      ++round_;
    }
    start_.notify_all();
    f(slice{0, count_});
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
  }

 private:
  void work(int index) {
    unsigned seen = 0;
    while (true) {
      std::unique_lock<std::mutex> lock(mutex_);
      start_.wait(lock, [&] { return stopping_ || round_ != seen; });
      if (stopping_) return;
      seen = round_;
      const auto call = call_;
      const void* function = function_;
      lock.unlock();
      call(function, slice{index, count_});
      lock.lock();
      if (--pending_ == 0) done_.notify_one();
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
  int pending_ = 0;
  unsigned round_ = 0;
  bool stopping_ = false;
};

}  // namespace kvc::inline v0_1::host
