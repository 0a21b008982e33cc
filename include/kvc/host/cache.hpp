// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <span>
#include <vector>

#include "kvc/cache/calibration.hpp"
#include "kvc/cache/compose.hpp"
#include "kvc/cache/serialize.hpp"
#include "kvc/cache/steps.hpp"
#include "kvc/host/append.hpp"
#include "kvc/host/attend.hpp"
#include "kvc/host/buffer.hpp"
#include "kvc/host/commit.hpp"
#include "kvc/host/gather.hpp"
#include "kvc/host/pages.hpp"
#include "kvc/host/pool.hpp"
#include "kvc/host/route.hpp"

namespace kvc::inline v0_1::host {

using kvc::cache_options;
using kvc::memory_usage;
using kvc::step_request;

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

  /// lent: the caller's threads, which must outlive the cache, instead of options.threads new ones.
  explicit cache(const cache_options& options = {}, const extents<Spec>& model = {},
                 const calibration<Spec>* constants = nullptr, const lent_threads& lent = {})
      : options_(options),
        leaders_(model.leaders == nullptr ? std::vector<int32>()
                                          : std::vector<int32>(model.leaders, model.leaders + max_of(0, model.layers))),
        model_(with_leaders(model)),
        calibration_(constants == nullptr ? calibration<Spec>(model_) : *constants),
        constants_(calibration_.view()),
        sequences_(options.max_sequences, blocks_of<Spec>(options), model_),
        tails_(tail_pool_bytes<Spec>(model_, options.max_sequences)),
        staging_(staging_bytes<Spec>(model_, options.max_step_rows)),
        pool_(options.threads, lent),
        step_(model_) {
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
      std::memcpy(tails_.data() + id * bytes, tails_.data() + sequence * bytes, static_cast<std::size_t>(bytes));
    }
    return id;
  }

  /// Forgets the rows from `length` on. The newest storage::rollback_rows rows, counted from the greatest length that
  /// the sequence had since it was loaded, can be cut exactly; a deeper cut brings the rows that belong to the open
  /// tail again back as they decode. Refused where a row that was evicted would be visible again.
  void truncate(int sequence, int64 length) {
    step_.require_none("truncate");
    sequence_state& s = at(sequence, "truncate");
    if (length < 0 || length > s.length) {
      throw error(status::bad_position, "truncate: ", length, " is not within the sequence's ", s.length, " rows");
    }
    open_single(sequence, 0);
    const status result = host::truncate<Spec>(view(), step(), 0, length, s.held);
    step_.close();
    check(result, "truncate");
    s.length = length;
    sequences_.shrink(s);
  }

  // ---- a step

  /// Opens a step. Takes all pages that the rows need, or none.
  status try_reserve(std::span<const step_request> requests) {
    if (step_.is_open()) return status::step_open;
    const status s = sequences_.reserve(requests, options_.max_step_rows);
    if (s == status::ok) step_.open(sequences_, requests);
    return s;
  }
  void reserve(std::span<const step_request> requests) { check(try_reserve(requests), "reserve"); }
  void reserve(int sequence, int64 rows) {
    const step_request one{sequence, rows};
    reserve(std::span<const step_request>(&one, 1));
  }

  /// k, v: [rows of the step][kv_heads][head_dim], contiguous; T: float, bf16 or fp16. params: append_params, where
  /// rows come before their normalisation or rotary embedding.
  template <class T, row_preparation Params = rows_as_given>
  void append(int layer, const T* k, const T* v, const Params& params = {}) {
    step_.require("append");
    const rows_view<const T> keys = contiguous_rows(k, model_.kv_heads, Spec::key_width);
    const rows_view<const T> values = contiguous_rows(v, model_.kv_heads, Spec::shape_type::head_dim);
    run("append", [&](slice part) { return host::append<Spec, T>(view(), step(), layer, keys, values, part, params); });
    step_.set_appended(layer);
  }
  /// The same for a latent cache. rows: [rows of the step][rank + rotary].
  template <class T, row_preparation Params = rows_as_given>
  void append(int layer, const T* rows, const Params& params = {}) {
    step_.require("append");
    const rows_view<const T> joint = contiguous_rows(rows, 1, Spec::key_width);
    run("append", [&](slice part) { return host::append<Spec, T>(view(), step(), layer, joint, part, params); });
    step_.set_appended(layer);
  }

  /// q: [rows of the step][query_heads][query_width], out: [...][output_width], lse: [rows][query_heads] or null.
  template <class T>
  void attend(int layer, const T* q, float* out, float* lse, const attend_params& params) {
    step_.require("attend");
    step_.require_appended(layer, "attend");
    const rows_view<const T> queries = contiguous_rows(q, model_.query_heads, Spec::query_width);
    const rows_view<float> outputs = contiguous_rows(out, model_.query_heads, Spec::output_width);
    const int64 bytes = attend_workspace_bytes<Spec>(model_, step(), pool_.size());
    if (bytes > workspace_.size()) workspace_ = buffer(bytes);
    run("attend", [&](slice part) {
      return host::attend<Spec, T>(view(), step(), layer, queries, outputs, lse, params, workspace_.data(), bytes,
                                   part);
    });
    if (!detail::may_cut(model_, step(), pool_.size())) return;
    run("attend", [&](slice part) {
      return attend_merge<Spec, T>(view(), step(), layer, queries, outputs, lse, params, workspace_.data(), bytes,
                                   part);
    });
  }

  /// Makes the step's rows visible and closes it.
  void commit() { commit(step_.all_rows()); }
  /// Keeps only the first accepted[i] rows of the step's i-th sequence (speculative decoding).
  void commit(std::span<const int64> accepted) {
    step_.require("commit");
    step_.require_complete(accepted, "commit");
    run("commit", [&](slice part) { return host::commit<Spec>(view(), step(), accepted.data(), part); });
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

  /// Decodes committed rows [begin, end): k, v: [rows][stored_heads][head_dim] (latent: [rank], [rotary]).
  template <class T>
  void gather(int sequence, int layer, int64 begin, int64 end, T* k, T* v) {
    step_.require_none("gather");
    at(sequence, "gather");
    open_single(sequence, 0);
    const rows_view<T> keys = contiguous_rows(k, model_.stored_heads(), Spec::first_stream::model_width);
    const rows_view<T> values = contiguous_rows(v, model_.stored_heads(), Spec::second_stream::model_width);
    const status s = host::gather<Spec, T>(view(), step(), 0, layer, begin, end, keys, values);
    step_.close();
    check(s, "gather");
  }

  /// One sequence as bytes that describe themselves (cache/serialize.hpp).
  std::vector<byte> save(int sequence) {
    step_.require_none("save");
    at(sequence, "save");
    open_single(sequence, 0);
    std::vector<byte> file = write_cache_file<Spec>(view(), step());
    step_.close();
    return file;
  }

  /// A new sequence from saved bytes of the same composition, model shape and calibration.
  int load(std::span<const byte> file) {
    step_.require_none("load");
    cache_file_header h;
    check(read_cache_file(file, h), "load");
    check(match_cache_file<Spec>(h, view()), "load");
    const int64 pages = ceil_div<int64>(h.length, Spec::tokens_per_page);
    const int id = sequences_.load(h.payload.first(static_cast<std::size_t>(pages)), h.length);
    if (id < 0) check(status::out_of_capacity, "load");
    open_single(id, 0);
    read_payload<Spec>(h, view(), step());
    step_.close();
    return id;
  }

  memory_usage memory() const {
    return {sequences_.pages().bytes(),
            sequences_.blocks_in_use() * model_.slots() * sequences_.pages().page_bytes(),
            tails_.size(),
            staging_.size(),
            workspace_.size(),
            static_cast<int64>(calibration_.bytes())};
  }

  /// The level below, for callers who mix both: the cache's memory, and the open step.
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
            constants_};
  }
  const step_view& step() const { return step_.view(); }

 private:
  extents<Spec> with_leaders(extents<Spec> model) const {
    if (!leaders_.empty()) model.leaders = leaders_.data();
    check(model.validate(), "cache");
    return model;
  }
  sequence_state& at(int sequence, const char* call) {
    if (!sequences_.exists(sequence)) check(status::bad_sequence, call);
    return sequences_[sequence];
  }

  void open_single(int sequence, int64 rows) {
    const step_request one{sequence, rows};
    step_.open(sequences_, std::span<const step_request>(&one, 1));
  }
  void close() {
    for (const int32 id : step_.ids()) sequences_.shrink(sequences_[id]);
    step_.close();
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
  sequence_table<Spec, page_memory<Spec>> sequences_;
  buffer tails_;
  buffer staging_;
  buffer workspace_;
  pool pool_;

  open_step<Spec> step_;
  std::vector<status> results_;
};

}  // namespace kvc::inline v0_1::host
