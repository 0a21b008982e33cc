// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace engine {

/// A fixed number of threads, the caller's own among them, that do one piece of work together at a time.
class thread_pool {
 public:
  explicit thread_pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(static_cast<std::size_t>(i)); });
  }

  ~thread_pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    started_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls work(i) once for every i in [0, threads()), each on its own thread, and returns when all have. The first
  /// exception of any of them is thrown here. Not for use by two threads at once.
  void run(const std::function<void(std::size_t)>& work) {
    if (workers_.empty()) return work(0);
    {
      const std::lock_guard lock(mutex_);
      work_ = &work;
      running_ = workers_.size();
      problem_ = nullptr;
      ++round_;
    }
    started_.notify_all();
    guarded(work, 0);
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [this] { return running_ == 0; });
    if (problem_) std::rethrow_exception(problem_);
  }

  /// Cuts [0, count) into one range per thread, at multiples of `grain`, and calls work(begin, end) for those not
  /// empty.
  template <class Work>
  void split(std::size_t count, std::size_t grain, Work&& work) {
    const std::size_t parts = workers_.size() + 1;
    const std::size_t grains = (count + grain - 1) / grain;
    run([&](std::size_t part) {
      const std::size_t begin = std::min(count, grains * part / parts * grain);
      const std::size_t end = std::min(count, grains * (part + 1) / parts * grain);
      if (begin < end) work(begin, end);
    });
  }

 private:
  void serve(std::size_t index) {
    std::size_t seen = 0;
    for (;;) {
      const std::function<void(std::size_t)>* work = nullptr;
      {
        std::unique_lock lock(mutex_);
        started_.wait(lock, [&] { return stopping_ || round_ != seen; });
        if (stopping_) return;
        seen = round_;
        work = work_;
      }
      guarded(*work, index);
      const std::lock_guard lock(mutex_);
      if (--running_ == 0) finished_.notify_one();
    }
  }

  void guarded(const std::function<void(std::size_t)>& work, std::size_t index) {
    try {
      work(index);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!problem_) problem_ = std::current_exception();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable started_, finished_;
  const std::function<void(std::size_t)>* work_ = nullptr;  // of the current round
  std::size_t round_ = 0, running_ = 0;
  bool stopping_ = false;
  std::exception_ptr problem_;
};

}  // namespace engine
