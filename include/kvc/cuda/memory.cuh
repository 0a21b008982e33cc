// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstring>
#include <utility>

#include "kvc/cache/view.hpp"
#include "kvc/cuda/error.cuh"

// Memory of the owning cache on a device. Allocation happens at construction; what happens in a step is ordered by the
// stream and waits for nothing.

namespace kvc::inline v0_1::cuda {

/// Device memory that knows its size, zeroed, freed in the stream's order. Reports count these sizes, not formulas.
class device_buffer {
 public:
  device_buffer() = default;
  device_buffer(int64 bytes, cudaStream_t stream) : bytes_(bytes), stream_(stream) {
    if (bytes_ == 0) return;
    require(cudaMallocAsync(&data_, static_cast<std::size_t>(bytes_), stream_), "cudaMallocAsync");
    require(cudaMemsetAsync(data_, 0, static_cast<std::size_t>(bytes_), stream_), "cudaMemsetAsync");
  }
  device_buffer(device_buffer&& other) noexcept { swap(other); }
  device_buffer& operator=(device_buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~device_buffer() {
    if (data_ != nullptr) static_cast<void>(cudaFreeAsync(data_, stream_));
  }

  byte* data() const { return static_cast<byte*>(data_); }
  int64 size() const { return bytes_; }

 private:
  void swap(device_buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(stream_, other.stream_);
  }

  void* data_ = nullptr;
  int64 bytes_ = 0;
  cudaStream_t stream_ = nullptr;
};

/// Uploads small host arrays without waiting: they are copied to page-locked memory, which is used again when the copy
/// from it is done. Four are under way before an upload waits for the oldest. The device side is one piece of memory:
/// an upload is ordered after the kernels that read the one before.
class upload_ring {
 public:
  upload_ring(int64 bytes, cudaStream_t stream) : target_(bytes, stream), stream_(stream) {
    for (slot& s : slots_) {
      require(cudaMallocHost(&s.memory, static_cast<std::size_t>(bytes)), "cudaMallocHost");
      require(cudaEventCreateWithFlags(&s.done, cudaEventDisableTiming), "cudaEventCreate");
    }
  }
  upload_ring(const upload_ring&) = delete;
  upload_ring& operator=(const upload_ring&) = delete;
  ~upload_ring() {
    for (slot& s : slots_) {
      if (s.done != nullptr) {
        static_cast<void>(cudaEventSynchronize(s.done));
        static_cast<void>(cudaEventDestroy(s.done));
      }
      if (s.memory != nullptr) static_cast<void>(cudaFreeHost(s.memory));
    }
  }

  /// Arrays are added one by one between begin() and send(); each is aligned to 16 bytes.
  void begin() {
    next_ = (next_ + 1) % 4;
    used_ = 0;
    require(cudaEventSynchronize(slots_[next_].done), "cudaEventSynchronize");
  }
  /// Where the array will be on the device after send(); null where it is empty.
  template <class T>
  const T* add(const T* host, std::size_t count) {
    if (count == 0) return nullptr;
    const int64 at = used_;
    used_ = round_up<int64>(at + static_cast<int64>(count * sizeof(T)), 16);
    if (used_ > target_.size()) throw error(status::out_of_capacity, "upload_ring: more than was asked for");
    std::memcpy(static_cast<byte*>(slots_[next_].memory) + at, host, count * sizeof(T));
    return reinterpret_cast<const T*>(target_.data() + at);
  }
  void send() {
    if (used_ > 0) {
      require(cudaMemcpyAsync(target_.data(), slots_[next_].memory, static_cast<std::size_t>(used_),
                              cudaMemcpyHostToDevice, stream_),
              "cudaMemcpyAsync");
    }
    require(cudaEventRecord(slots_[next_].done, stream_), "cudaEventRecord");
  }

 private:
  struct slot {
    void* memory = nullptr;
    cudaEvent_t done = nullptr;
  };
  device_buffer target_;
  cudaStream_t stream_;
  slot slots_[4];
  int next_ = 0;
  int64 used_ = 0;
};

/// The page memory of a cache on a device: [slot][block] pages. Copies are ordered by the stream.
template <class Spec>
class page_memory {
 public:
  page_memory(int64 blocks, const extents<Spec>& e, cudaStream_t stream)
      : slots_(static_cast<std::size_t>(e.slots())),
        page_bytes_(Spec::page_bytes(e.stored_heads())),
        blocks_(blocks),
        memory_(page_pool_bytes<Spec>(e, blocks), stream),
        stream_(stream) {}

  byte* data() const { return memory_.data(); }
  int64 bytes() const { return memory_.size(); }
  int64 page_bytes() const { return page_bytes_; }

  /// Blocks that are used again keep their old bytes: no row is read before it was written, and cache files leave out
  /// what is not a row.
  void reset(int32 /*block*/) {}
  void copy(int32 from, int32 to) const {
    copy_slots(page(to), pitch(), page(from), pitch(), cudaMemcpyDeviceToDevice);
  }
  /// One block to or from host memory [slots][page_bytes].
  void download(int32 block, byte* host) const {
    copy_slots(host, packed(), page(block), pitch(), cudaMemcpyDeviceToHost);
  }
  void upload(int32 block, const byte* host) const {
    copy_slots(page(block), pitch(), host, packed(), cudaMemcpyHostToDevice);
  }

 private:
  byte* page(int32 block) const { return data() + block * page_bytes_; }
  std::size_t packed() const { return static_cast<std::size_t>(page_bytes_); }
  std::size_t pitch() const { return static_cast<std::size_t>(blocks_ * page_bytes_); }
  void copy_slots(byte* to, std::size_t to_pitch, const byte* from, std::size_t from_pitch, cudaMemcpyKind kind) const {
    for (std::size_t s = 0; s < slots_; ++s) {
      require(cudaMemcpyAsync(to + s * to_pitch, from + s * from_pitch, packed(), kind, stream_), "cudaMemcpyAsync");
    }
  }

  std::size_t slots_;
  int64 page_bytes_;
  int64 blocks_;
  device_buffer memory_;
  cudaStream_t stream_;
};

}  // namespace kvc::inline v0_1::cuda
