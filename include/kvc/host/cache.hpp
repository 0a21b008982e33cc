// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "kvc/cache/calibration.hpp"
#include "kvc/cache/compose.hpp"
#include "kvc/cache/serialize.hpp"
#include "kvc/host/append.hpp"
#include "kvc/host/attend.hpp"
#include "kvc/host/buffer.hpp"
#include "kvc/host/commit.hpp"
#include "kvc/host/gather.hpp"
#include "kvc/host/pool.hpp"
#include "kvc/host/route.hpp"
#include "kvc/host/sequences.hpp"

namespace kvc::inline v0_1::host {

/// How much memory a cache takes and how its work is shared.
struct cache_options {
  int64 capacity = 4096;  ///< rows of all sequences together, rounded up to whole pages
  int max_sequences = 1;
  int64 max_step_rows = 256;  ///< rows of one step, all sequences together
  int threads = 1;
};

/// Bytes as allocated. `pages_in_use` is what the sequences hold now, the rest is what was taken at construction.
struct memory_usage {
  int64 pages = 0;
  int64 pages_in_use = 0;
  int64 tails = 0;
  int64 staging = 0;
  int64 workspace = 0;
  int64 calibration = 0;
};

/// `rows` new rows of one sequence in a step.
struct step_request {
  int sequence = 0;
  int64 rows = 0;
};

/// The owning host cache of a composition: pages, tails, block tables and the step protocol.
///
///   reserve -> per layer: append, attend -> commit
///
/// A step is a transaction: reserve takes pages in all slots or fails whole, nothing is visible to later steps before
/// commit, and abandon() or an error leaves the sequences as they were. Throws kvc::error.
template <class Spec>
class cache {
 public:
  using spec = Spec;

  explicit cache(const cache_options& options = {}, const extents<Spec>& model = {},
                 const calibration<Spec>* constants = nullptr)
      : options_(options),
        leaders_(model.leaders == nullptr ? std::vector<int32>()
                                          : std::vector<int32>(model.leaders, model.leaders + max_of(0, model.layers))),
        model_(with_leaders(model)),
        calibration_(constants == nullptr ? calibration<Spec>(model_) : *constants),
        constants_(calibration_.view()),
        sequences_(model_, options.max_sequences, checked_blocks(options)),
        tails_(tail_pool_bytes<Spec>(model_, options.max_sequences)),
        staging_(staging_bytes<Spec>(model_, options.max_step_rows)),
        pool_(options.threads),
        appended_(static_cast<std::size_t>(model_.slots()), false) {
    if (calibration_.slots() != model_.slots() || calibration_.stored_heads() != model_.stored_heads()) {
      throw error(status::other_calibration, "cache: the calibration was made for other extents");
    }
  }
  cache(const cache&) = delete;
  cache& operator=(const cache&) = delete;

  const extents<Spec>& model() const { return model_; }

  // ---- sequences

  /// A new, empty sequence.
  int add_sequence() {
    const int id = sequences_.unused();
    if (id < 0) throw error(status::out_of_capacity, "add_sequence: all sequences are in use");
    sequences_[id].in_use = true;
    return id;
  }
  void remove(int sequence) {
    require_no_step("remove");
    sequences_.clear(at(sequence, "remove"));
  }
  int64 length(int sequence) const { return const_cast<cache*>(this)->at(sequence, "length").length; }

  /// A copy that shares all pages until one side writes to them; exact rows are copied.
  int fork(int sequence) {
    require_no_step("fork");
    at(sequence, "fork");
    const int id = add_sequence();
    sequences_.share(sequences_[sequence], sequences_[id]);
    if (tails_.size() > 0) {
      const int64 bytes = Spec::tail_bytes(model_);
      std::memcpy(tails_.data() + id * bytes, tails_.data() + sequence * bytes, static_cast<std::size_t>(bytes));
    }
    return id;
  }

  /// Forgets the rows from `length` on. The newest storage::rollback_rows rows, counted from the greatest length that
  /// the sequence had since it was loaded, can be cut exactly; a deeper cut brings the rows that belong to the open
  /// tail again back as they decode. Refused where a row that was evicted would be visible again.
  void truncate(int sequence, int64 length) {
    require_no_step("truncate");
    sequence_state& s = at(sequence, "truncate");
    if (length < 0 || length > s.length) {
      throw error(status::bad_position, "truncate: " + std::to_string(length) + " is not within the sequence's " +
                                            std::to_string(s.length) + " rows");
    }
    open_single(sequence, 0);
    const status result = host::truncate<Spec>(view(), step_, 0, length, s.held);
    step_ = {};
    check(result, "truncate");
    s.length = length;
    sequences_.shrink(s);
  }

  // ---- a step

  /// Opens a step. Takes all pages that the rows need, or none.
  status try_reserve(std::span<const step_request> requests) {
    if (is_open()) return status::step_open;
    int64 rows = 0;
    int64 needed = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const step_request& r = requests[i];
      if (!sequences_.exists(r.sequence)) return status::bad_sequence;
      for (std::size_t j = 0; j < i; ++j) {
        if (requests[j].sequence == r.sequence) return status::invalid_argument;
      }
      if (r.rows < 0) return status::invalid_argument;
      rows += r.rows;
      if (rows > options_.max_step_rows) return status::out_of_capacity;
      needed += sequences_.blocks_needed(sequences_[r.sequence], r.rows);
    }
    if (needed > sequences_.available()) return status::out_of_capacity;
    for (const step_request& r : requests) sequences_.grow(sequences_[r.sequence], r.rows);
    open(requests);
    return status::ok;
  }
  void reserve(std::span<const step_request> requests) { check(try_reserve(requests), "reserve"); }
  void reserve(int sequence, int64 rows) {
    const step_request one{sequence, rows};
    reserve(std::span<const step_request>(&one, 1));
  }

  /// k, v: [rows of the step][kv_heads][head_dim], contiguous; T: float, bf16 or fp16.
  template <class T>
  void append(int layer, const T* k, const T* v) {
    require_step("append");
    const rows_view<const T> keys = contiguous_rows(k, model_.kv_heads, Spec::key_width);
    const rows_view<const T> values = contiguous_rows(v, model_.kv_heads, Spec::shape_type::head_dim);
    run("append", [&](slice part) { return host::append<Spec, T>(view(), step_, layer, keys, values, part); });
    appended_[static_cast<std::size_t>(model_.slot(layer))] = true;
  }
  /// The same for a latent cache. rows: [rows of the step][rank + rotary].
  template <class T>
  void append(int layer, const T* rows) {
    require_step("append");
    const rows_view<const T> joint = contiguous_rows(rows, 1, Spec::key_width);
    run("append", [&](slice part) { return host::append<Spec, T>(view(), step_, layer, joint, part); });
    appended_[static_cast<std::size_t>(model_.slot(layer))] = true;
  }

  /// q: [rows of the step][query_heads][query_width], out: [...][output_width], lse: [rows][query_heads] or null.
  template <class T>
  void attend(int layer, const T* q, float* out, float* lse, const attend_params& params) {
    require_step("attend");
    if (layer < 0 || layer >= model_.layers) check(status::bad_layer, "attend");
    if (step_.total_rows() > 0 && !appended_[static_cast<std::size_t>(model_.slot(layer))]) {
      check(status::not_appended, "attend");
    }
    const rows_view<const T> queries = contiguous_rows(q, model_.query_heads, Spec::query_width);
    const rows_view<float> outputs = contiguous_rows(out, model_.query_heads, Spec::output_width);
    const int64 bytes = attend_workspace_bytes<Spec>(model_, step_, pool_.size());
    if (bytes > workspace_.size()) workspace_ = buffer(bytes);
    run("attend", [&](slice part) {
      return host::attend<Spec, T>(view(), step_, layer, queries, outputs, lse, params, workspace_.data(), bytes, part);
    });
    run("attend", [&](slice part) {
      return attend_merge<Spec, T>(view(), step_, layer, queries, outputs, lse, params, workspace_.data(), bytes, part);
    });
  }

  /// Makes the step's rows visible and closes it.
  void commit() {
    std::vector<int64> all;
    for (int i = 0; i < step_.sequences; ++i) all.push_back(step_.rows(i));
    commit(all);
  }
  /// Keeps only the first accepted[i] rows of the step's i-th sequence (speculative decoding).
  void commit(std::span<const int64> accepted) {
    require_step("commit");
    if (accepted.size() != static_cast<std::size_t>(step_.sequences)) check(status::invalid_argument, "commit");
    for (int i = 0; i < step_.sequences; ++i) {
      const int64 rows = accepted[static_cast<std::size_t>(i)];
      if (rows < 0 || rows > step_.rows(i)) check(status::invalid_argument, "commit");
    }
    for (std::size_t slot = 0; slot < appended_.size(); ++slot) {
      if (step_.total_rows() > 0 && !appended_[slot]) check(status::not_appended, "commit");
    }
    run("commit", [&](slice part) { return host::commit<Spec>(view(), step_, accepted.data(), part); });
    for (int i = 0; i < step_.sequences; ++i) {
      sequence_state& s = sequences_[ids_[static_cast<std::size_t>(i)]];
      s.length += accepted[static_cast<std::size_t>(i)];
      s.held.committed<Spec>(s.length);
    }
    close();
  }
  void commit(int64 rows) { commit(std::span<const int64>(&rows, 1)); }
  /// Gives the step up; the sequences are as they were before reserve.
  void abandon() {
    require_step("abandon");
    close();
  }

  // ---- reading and moving

  /// Decodes committed rows [begin, end): k, v: [rows][stored_heads][head_dim] (latent: [rank], [rotary]).
  template <class T>
  void gather(int sequence, int layer, int64 begin, int64 end, T* k, T* v) {
    require_no_step("gather");
    at(sequence, "gather");
    open_single(sequence, 0);
    const rows_view<T> keys = contiguous_rows(k, model_.stored_heads(), Spec::first_stream::model_width);
    const rows_view<T> values = contiguous_rows(v, model_.stored_heads(), Spec::second_stream::model_width);
    const status s = host::gather<Spec, T>(view(), step_, 0, layer, begin, end, keys, values);
    step_ = {};
    check(s, "gather");
  }

  /// One sequence as bytes that describe themselves (cache/serialize.hpp).
  std::vector<byte> save(int sequence) {
    require_no_step("save");
    at(sequence, "save");
    open_single(sequence, 0);
    std::vector<byte> file = write_cache_file<Spec>(view(), step_);
    step_ = {};
    return file;
  }

  /// A new sequence from saved bytes of the same composition, model shape and calibration.
  int load(std::span<const byte> file) {
    require_no_step("load");
    cache_file_header h;
    check(read_cache_file(file, h), "load");
    check(match_cache_file<Spec>(h, view()), "load");
    const int64 pages = ceil_div<int64>(h.length, Spec::tokens_per_page);
    int64 present = 0;
    for (int64 p = 0; p < pages; ++p) present += h.payload[static_cast<std::size_t>(p)];
    if (present > sequences_.available() || sequences_.unused() < 0) check(status::out_of_capacity, "load");
    const int id = add_sequence();
    sequence_state& s = at(id, "load");
    for (int64 p = 0; p < pages; ++p)
      s.blocks.push_back(h.payload[static_cast<std::size_t>(p)] != 0 ? sequences_.take_block() : -1);
    s.length = h.length;
    s.held.loaded<Spec>(h.length);
    open_single(id, 0);
    read_payload<Spec>(h, view(), step_);
    step_ = {};
    return id;
  }

  memory_usage memory() const {
    return {sequences_.memory().size(),
            sequences_.bytes_in_use(),
            tails_.size(),
            staging_.size(),
            workspace_.size(),
            static_cast<int64>(calibration_.bytes())};
  }

  /// The level below, for callers who mix both: the cache's memory, and the open step.
  cache_view<Spec> view() const {
    return {model_,
            sequences_.memory().data(),
            sequences_.blocks(),
            sequences_.page_bytes(),
            sequences_.blocks() * sequences_.page_bytes(),
            tails_.data(),
            Spec::tail_bytes(model_),
            options_.max_sequences,
            staging_.data(),
            options_.max_step_rows,
            constants_};
  }
  const step_view& step() const { return step_; }

 private:
  extents<Spec> with_leaders(extents<Spec> model) const {
    if (!leaders_.empty()) model.leaders = leaders_.data();
    check(model.validate(), "cache");
    return model;
  }
  static int64 checked_blocks(const cache_options& o) {
    if (o.capacity < 1 || o.max_sequences < 1 || o.max_step_rows < 1 || o.threads < 1) {
      throw error(status::invalid_argument, "cache: capacity, sequences, step rows and threads must be positive");
    }
    return ceil_div<int64>(o.capacity, Spec::tokens_per_page) + o.max_sequences - 1;
  }

  sequence_state& at(int sequence, const char* call) {
    if (!sequences_.exists(sequence)) check(status::bad_sequence, call);
    return sequences_[sequence];
  }
  bool is_open() const { return step_.row_indptr != nullptr; }
  void require_step(const char* call) const {
    if (!is_open()) check(status::no_step, call);
  }
  void require_no_step(const char* call) const {
    if (is_open()) check(status::step_open, call);
  }

  void open(std::span<const step_request> requests) {
    const std::size_t n = requests.size();
    ids_.assign(n, 0);
    lengths_.assign(n, 0);
    indptr_.assign(n + 1, 0);
    std::size_t stride = 0;
    for (const step_request& r : requests) {
      stride = max_of(stride, sequences_[r.sequence].blocks.size());
    }
    table_.assign(n * stride + 1, -1);
    for (std::size_t i = 0; i < n; ++i) {
      const sequence_state& s = sequences_[requests[i].sequence];
      ids_[i] = requests[i].sequence;
      lengths_[i] = s.length;
      indptr_[i + 1] = indptr_[i] + requests[i].rows;
      std::copy(s.blocks.begin(), s.blocks.end(), table_.begin() + static_cast<std::ptrdiff_t>(i * stride));
    }
    appended_.assign(appended_.size(), false);
    step_ = {static_cast<int>(n), ids_.data(),   lengths_.data(),
             indptr_.data(),      table_.data(), static_cast<int64>(stride)};
  }
  void open_single(int sequence, int64 rows) {
    const step_request one{sequence, rows};
    open(std::span<const step_request>(&one, 1));
  }
  void close() {
    for (const int32 id : ids_) sequences_.shrink(sequences_[id]);
    step_ = {};
  }

  template <class Function>
  void run(const char* call, const Function& f) {
    results_.assign(static_cast<std::size_t>(pool_.size()), status::ok);
    pool_.run([&](slice part) { results_[static_cast<std::size_t>(part.index)] = f(part); });
    for (const status s : results_) check(s, call);
  }

  cache_options options_;
  std::vector<int32> leaders_;
  extents<Spec> model_;
  calibration<Spec> calibration_;
  calibration_view<Spec> constants_;  // made once, as its id hashes them all
  sequence_table<Spec> sequences_;
  buffer tails_;
  buffer staging_;
  buffer workspace_;
  pool pool_;

  // The open step.
  step_view step_;
  std::vector<int32> ids_;
  std::vector<int64> lengths_;
  std::vector<int64> indptr_;
  std::vector<int32> table_;
  std::vector<bool> appended_;
  std::vector<status> results_;
};

}  // namespace kvc::inline v0_1::host
