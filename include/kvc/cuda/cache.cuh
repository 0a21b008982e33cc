// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <span>
#include <vector>

#include "kvc/cache/calibration.hpp"
#include "kvc/cache/compose.hpp"
#include "kvc/cache/serialize.hpp"
#include "kvc/cache/steps.hpp"
#include "kvc/cuda/append.cuh"
#include "kvc/cuda/attend.cuh"
#include "kvc/cuda/commit.cuh"
#include "kvc/cuda/device.cuh"
#include "kvc/cuda/gather.cuh"
#include "kvc/cuda/memory.cuh"

namespace kvc::inline v0_1::cuda {

using kvc::cache_options;
using kvc::memory_usage;
using kvc::step_request;

/// The owning cache of a composition on a device: host::cache, with rows, queries and outputs in device memory, on the
/// stream that the caller gives and keeps alive.
///
///   reserve -> per layer: append, attend -> commit
///
/// Lengths and tables are kept on the host and go to the device once per step, so that a step waits for nothing; save
/// and load wait for the stream. Throws kvc::error; what went wrong in a kernel surfaces at the next call that checks,
/// at the latest in synchronize().
template <class Spec>
class cache {
 public:
  using spec = Spec;

  explicit cache(const cache_options& options = {}, cudaStream_t stream = nullptr, const extents<Spec>& e = {},
                 const calibration<Spec>* constants = nullptr)
      : options_(options),
        stream_(stream),
        leaders_(e.leaders == nullptr ? std::vector<int32>()
                                      : std::vector<int32>(e.leaders, e.leaders + max_of(0, e.layers))),
        model_(with_leaders(e)),
        calibration_(constants == nullptr ? calibration<Spec>(model_) : *constants),
        sequences_(options.max_sequences, blocks_of<Spec>(options), model_, stream),
        tails_(tail_pool_bytes<Spec>(model_, options.max_sequences), stream),
        staging_(staging_bytes<Spec>(model_, options.max_step_rows), stream),
        constants_(static_cast<int64>(calibration_.bytes()), stream),
        steps_(step_bytes(), stream),
        accepted_(options.max_sequences * 64 + 64, stream),
        step_(model_) {
    if (calibration_.slots() != model_.slots() || calibration_.stored_heads() != model_.stored_heads()) {
      throw error(status::other_calibration, "cache: the calibration was made for other extents");
    }
    require(current_device(limits_), "cache");
    constants_view_ = calibration_.view();
    if (constants_.size() > 0) {
      require(cudaMemcpyAsync(constants_.data(), constants_view_.data, calibration_.bytes(), cudaMemcpyHostToDevice,
                              stream_),
              "cudaMemcpyAsync");
    }
    constants_view_.data = reinterpret_cast<const float*>(constants_.data());
    synchronize();
  }
  cache(const cache&) = delete;
  cache& operator=(const cache&) = delete;

  const extents<Spec>& model() const { return model_; }
  cudaStream_t stream() const { return stream_; }
  /// Waits for the stream and throws what went wrong on it.
  void synchronize() const { require(cudaStreamSynchronize(stream_), "synchronize"); }

  // ---- sequences

  /// A new, empty sequence.
  int add_sequence() {
    const int id = sequences_.unused();
    if (id < 0) throw error(status::out_of_capacity, "add_sequence: all sequences are in use");
    sequences_[id].in_use = true;
    return id;
  }
  void remove(int sequence) {
    step_.require_none("remove");
    sequences_.clear(at(sequence, "remove"));
  }
  int64 length(int sequence) const { return const_cast<cache*>(this)->at(sequence, "length").length; }

  /// A copy that shares all pages until one side writes to them; exact rows are copied.
  int fork(int sequence) {
    step_.require_none("fork");
    at(sequence, "fork");
    const int id = add_sequence();
    sequences_.share(sequences_[sequence], sequences_[id]);
    if (tails_.size() > 0) {
      const int64 bytes = Spec::tail_bytes(model_);
      require(cudaMemcpyAsync(tails_.data() + id * bytes, tails_.data() + sequence * bytes,
                              static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream_),
              "fork");
    }
    return id;
  }

  /// Forgets the rows from `length` on, as host::cache::truncate does.
  void truncate(int sequence, int64 length) {
    step_.require_none("truncate");
    sequence_state& s = at(sequence, "truncate");
    if (length < 0 || length > s.length) {
      throw error(status::bad_position, "truncate: ", length, " is not within the sequence's ", s.length, " rows");
    }
    open_single(sequence);
    status result = kvc::detail::check_present(view(), step(), 0, oldest_needed<Spec>(length), length);
    if (result == status::ok && Spec::has_ring) {
      accepted_.begin();
      const int64* kept = accepted_.add(&length, 1);
      const held_rows* held = accepted_.add(&s.held, 1);
      accepted_.send();
      result = cuda::truncate<Spec>(view(), device_step_, bounds_, kept, held, stream_);
    }
    step_.close();
    require(result, "truncate");
    s.length = length;
    sequences_.shrink(s);
  }

  // ---- a step

  /// Opens a step. Takes all pages that the rows need, or none.
  status try_reserve(std::span<const step_request> requests) {
    if (step_.is_open()) return status::step_open;
    const status s = sequences_.reserve(requests, options_.max_step_rows);
    if (s == status::ok) open(requests);
    return s;
  }
  void reserve(std::span<const step_request> requests) { require(try_reserve(requests), "reserve"); }
  void reserve(int sequence, int64 rows) {
    const step_request one{sequence, rows};
    reserve(std::span<const step_request>(&one, 1));
  }

  /// k, v: [rows of the step][kv_heads][head_dim] in device memory, contiguous; T: float, bf16 or fp16. params:
  /// append_params, where rows come before their normalisation or rotary embedding.
  template <class T, row_preparation Params = rows_as_given>
  void append(int layer, const T* k, const T* v, const Params& params = {}) {
    step_.require("append");
    const rows_view<const T> keys = contiguous_rows(k, model_.kv_heads, Spec::key_width);
    const rows_view<const T> values = contiguous_rows(v, model_.kv_heads, Spec::shape_type::head_dim);
    require(cuda::append<Spec, T>(view(), device_step_, bounds_, layer, keys, values, stream_, params), "append");
    step_.set_appended(layer);
  }
  /// The same for a latent cache. rows: [rows of the step][rank + rotary].
  template <class T, row_preparation Params = rows_as_given>
  void append(int layer, const T* rows, const Params& params = {}) {
    step_.require("append");
    const rows_view<const T> joint = contiguous_rows(rows, 1, Spec::key_width);
    require(cuda::append<Spec, T>(view(), device_step_, bounds_, layer, joint, stream_, params), "append");
    step_.set_appended(layer);
  }

  /// q: [rows of the step][query_heads][query_width], out: [...][output_width], lse: [rows][query_heads] or null; all
  /// in device memory, as what params points to.
  template <class T>
  void attend(int layer, const T* q, float* out, float* lse, const attend_params& params) {
    step_.require("attend");
    step_.require_appended(layer, "attend");
    const rows_view<const T> queries = contiguous_rows(q, model_.query_heads, Spec::query_width);
    const rows_view<float> outputs = contiguous_rows(out, model_.query_heads, Spec::output_width);
    const int64 bytes = attend_workspace_bytes<Spec>(model_, bounds_, limits_);
    if (bytes > workspace_.size()) workspace_ = device_buffer(bytes, stream_);
    require(cuda::attend<Spec, T>(view(), device_step_, bounds_, layer, queries, outputs, lse, params,
                                  workspace_.data(), bytes, stream_, limits_),
            "attend");
  }

  /// Makes the step's rows visible and closes it.
  void commit() { commit(step_.all_rows()); }
  /// Keeps only the first accepted[i] rows of the step's i-th sequence (speculative decoding).
  void commit(std::span<const int64> accepted) {
    step_.require("commit");
    step_.require_complete(accepted, "commit");
    if (Spec::has_ring && step().total_rows() > 0) {
      accepted_.begin();
      const int64* rows = accepted_.add(accepted.data(), accepted.size());
      accepted_.send();
      require(cuda::commit<Spec>(view(), device_step_, bounds_, rows, stream_), "commit");
    }
    step_.accept(sequences_, accepted);
    close();
  }
  void commit(int64 rows) { commit(std::span<const int64>(&rows, 1)); }
  /// Gives the step up; the sequences are as they were before reserve.
  void abandon() {
    step_.require("abandon");
    close();
  }

  // ---- reading and moving

  /// Decodes committed rows [begin, end): k, v: [rows][stored_heads][head_dim] (latent: [rank], [rotary]) in device
  /// memory.
  template <class T>
  void gather(int sequence, int layer, int64 begin, int64 end, T* k, T* v) {
    step_.require_none("gather");
    const sequence_state& s = at(sequence, "gather");
    if (begin < 0 || begin > end || end > s.length) require(status::bad_position, "gather");
    open_single(sequence);
    const rows_view<T> keys = contiguous_rows(k, model_.stored_heads(), Spec::first_stream::model_width);
    const rows_view<T> values = contiguous_rows(v, model_.stored_heads(), Spec::second_stream::model_width);
    status result = kvc::detail::check_present(view(), step(), 0, begin, end);
    if (result == status::ok) {
      result = cuda::gather<Spec, T>(view(), device_step_, 0, layer, begin, end, keys, values, stream_);
    }
    step_.close();
    require(result, "gather");
  }

  /// One sequence as bytes that describe themselves: host::cache's, byte for byte. Waits for the stream.
  std::vector<byte> save(int sequence) {
    step_.require_none("save");
    host_copy copy(*this, at(sequence, "save"), sequence);
    copy.download();
    return write_cache_file<Spec>(copy.view(), copy.step());
  }

  /// A new sequence from saved bytes of the same composition, model shape and calibration, wherever they were saved.
  int load(std::span<const byte> file) {
    step_.require_none("load");
    cache_file_header h;
    require(read_cache_file(file, h), "load");
    require(match_cache_file<Spec>(h, view()), "load");
    const int64 pages = ceil_div<int64>(h.length, Spec::tokens_per_page);
    const int id = sequences_.load(h.payload.first(static_cast<std::size_t>(pages)), h.length);
    if (id < 0) require(status::out_of_capacity, "load");
    host_copy copy(*this, sequences_[id], id);
    read_payload<Spec>(h, copy.view(), copy.step());
    copy.upload();
    return id;
  }

  memory_usage memory() const {
    return {sequences_.pages().bytes(),
            sequences_.blocks_in_use() * model_.slots() * sequences_.pages().page_bytes(),
            tails_.size(),
            staging_.size(),
            workspace_.size(),
            constants_.size()};
  }

  /// The level below, for callers who mix both: the cache's memory, and the open step on the device.
  cache_view<Spec> view() const {
    return {model_,
            sequences_.pages().data(),
            sequences_.blocks(),
            sequences_.pages().page_bytes(),
            sequences_.blocks() * sequences_.pages().page_bytes(),
            tails_.data(),
            Spec::tail_bytes(model_),
            options_.max_sequences,
            staging_.data(),
            options_.max_step_rows,
            constants_view_};
  }
  const step_view& device_step() const { return device_step_; }
  const step_bounds& bounds() const { return bounds_; }
  /// The open step in host memory.
  const step_view& step() const { return step_.view(); }

 private:
  /// Pages and tail of one sequence in host memory, as a cache of that sequence alone.
  class host_copy {
   public:
    host_copy(const cache& owner, const sequence_state& s, int sequence)
        : owner_(owner), state_(s), sequence_(sequence) {
      for (const int32 block : s.blocks) table_.push_back(block < 0 ? -1 : count_++);
      pages_.resize(static_cast<std::size_t>(count_ * slots() * page_bytes()));
      tail_.resize(static_cast<std::size_t>(Spec::tail_bytes(owner.model_)));
    }
    void download() {
      for_each_block([&](int32 block, byte* host) { owner_.sequences_.pages().download(block, host); });
      copy_tail(tail_.data(), tail_on_device(), cudaMemcpyDeviceToHost);
    }
    void upload() {
      for_each_block([&](int32 block, const byte* host) { owner_.sequences_.pages().upload(block, host); });
      copy_tail(tail_on_device(), tail_.data(), cudaMemcpyHostToDevice);
    }
    /// Pages are [block][slot] here.
    cache_view<Spec> view() {
      cache_view<Spec> v = owner_.view();
      v.pages = pages_.data();
      v.blocks = count_;
      v.block_stride = slots() * page_bytes();
      v.slot_stride = page_bytes();
      v.tails = tail_.data();
      v.sequences = 1;
      v.staging = nullptr;
      v.staging_rows = 0;
      return v;
    }
    step_view step() const {
      return {1, nullptr, &state_.length, indptr_, table_.data(), static_cast<int64>(table_.size())};
    }

   private:
    int64 slots() const { return owner_.model_.slots(); }
    int64 page_bytes() const { return owner_.sequences_.pages().page_bytes(); }
    byte* tail_on_device() const { return owner_.tails_.data() + sequence_ * Spec::tail_bytes(owner_.model_); }
    template <class Function>
    void for_each_block(const Function& f) {
      for (std::size_t p = 0; p < table_.size(); ++p) {
        if (table_[p] >= 0) f(state_.blocks[p], pages_.data() + table_[p] * slots() * page_bytes());
      }
    }
    void copy_tail(byte* to, const byte* from, cudaMemcpyKind kind) {
      if (!tail_.empty()) require(cudaMemcpyAsync(to, from, tail_.size(), kind, owner_.stream_), "cudaMemcpyAsync");
      owner_.synchronize();  // the host's memory is used next, or freed
    }

    const cache& owner_;
    const sequence_state& state_;
    int sequence_;
    int32 count_ = 0;
    int64 indptr_[2] = {0, 0};
    std::vector<int32> table_;
    std::vector<byte> pages_;
    std::vector<byte> tail_;
  };

  extents<Spec> with_leaders(extents<Spec> e) const {
    if (!leaders_.empty()) e.leaders = leaders_.data();
    require(e.validate(), "cache");
    return e;
  }
  /// Most bytes of a step's arrays: ids, lengths and row offsets, and a table as wide as the longest sequence can be.
  int64 step_bytes() const {
    const int64 n = options_.max_sequences;
    return n * (4 + 8 + 8) + 8 + 4 * 16 + 4 * n * sequences_.blocks() + 16;
  }
  sequence_state& at(int sequence, const char* call) {
    if (!sequences_.exists(sequence)) require(status::bad_sequence, call);
    return sequences_[sequence];
  }

  void open(std::span<const step_request> requests) {
    step_.open(sequences_, requests);
    const step_view& s = step_.view();
    const std::size_t n = static_cast<std::size_t>(s.sequences);
    steps_.begin();
    device_step_ = {s.sequences,
                    steps_.add(s.sequence_ids, n),
                    steps_.add(s.seq_lens, n),
                    steps_.add(s.row_indptr, n + 1),
                    steps_.add(s.block_table, n * static_cast<std::size_t>(s.block_table_stride) + 1),
                    s.block_table_stride};
    steps_.send();
    bounds_ = {};
    bounds_.sequences = s.sequences;
    bounds_.total_rows = s.total_rows();
    for (int i = 0; i < s.sequences; ++i) {
      bounds_.max_rows = max_of(bounds_.max_rows, s.rows(i));
      bounds_.max_length = max_of(bounds_.max_length, s.seq_lens[i] + s.rows(i));
    }
  }
  void open_single(int sequence) {
    const step_request one{sequence, 0};
    open(std::span<const step_request>(&one, 1));
  }
  void close() {
    for (const int32 id : step_.ids()) sequences_.shrink(sequences_[id]);
    step_.close();
  }

  cache_options options_;
  device_limits limits_;  ///< of the device that the cache was made on
  cudaStream_t stream_;
  std::vector<int32> leaders_;
  extents<Spec> model_;
  calibration<Spec> calibration_;
  calibration_view<Spec> constants_view_;  // made once, as its id hashes them all
  sequence_table<Spec, page_memory<Spec>> sequences_;
  device_buffer tails_;
  device_buffer staging_;
  device_buffer constants_;
  device_buffer workspace_;
  upload_ring steps_;
  upload_ring accepted_;

  open_step<Spec> step_;
  step_view device_step_;
  step_bounds bounds_;
};

}  // namespace kvc::inline v0_1::cuda
