// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace engine {

/// A fixed number of threads, the caller's own among them, that do one piece of work together at a time. A model's step
/// is some 500 pieces, many of them shorter than it takes to wake a thread: so threads look out for the next piece for
/// a tenth of a millisecond before they sleep.
class thread_pool {
 public:
  explicit thread_pool(int threads) : looks_out_(static_cast<int>(std::thread::hardware_concurrency()) >= threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(static_cast<std::size_t>(i)); });
  }

  ~thread_pool() {
    work_ = nullptr;
    start_round();
    for (auto& worker : workers_) worker.join();
  }

  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls work(i) once for every i in [0, threads()), each on its own thread, and returns when all have. The first
  /// exception of any of them is thrown here. Not for use by two threads at once.
  void run(const std::function<void(std::size_t)>& work) {
    if (workers_.empty()) return work(0);
    work_ = &work;
    problem_ = nullptr;
    running_.store(workers_.size());
    start_round();
    guarded(work, 0);
    for (std::size_t left = running_.load(); left != 0; left = running_.load()) await_change(running_, left);
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
  void start_round() {
    round_.fetch_add(1);
    round_.notify_all();
  }

  void serve(std::size_t index) {
    for (std::size_t seen = 0;;) {
      await_change(round_, seen);
      seen = round_.load();
      if (work_ == nullptr) return;
      guarded(*work_, index);
      if (running_.fetch_sub(1) == 1) running_.notify_one();
    }
  }

  /// Returns when `value` is no longer `old`.
  void await_change(const std::atomic<std::size_t>& value, std::size_t old) const {
    using clock = std::chrono::steady_clock;
    if (looks_out_) {
      const auto end = clock::now() + std::chrono::microseconds(100);
      do {
        for (int i = 0; i < 32; ++i) {
          if (value.load() != old) return;
          pause();
        }
      } while (clock::now() < end);
    }
    value.wait(old);
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
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
  bool looks_out_;                                          // there is a core for every thread
  const std::function<void(std::size_t)>* work_ = nullptr;  // of the current round; null: the end
  std::atomic<std::size_t> round_{0}, running_{0};
  std::mutex mutex_;
  std::exception_ptr problem_;  // under mutex_ while a round runs
};

}  // namespace engine
