// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "device_cache.cuh"
#include "device_twin.cuh"
#include "oracle.hpp"

// cuda::cache does what host::cache does: random sequences of operations on both, the same statuses, the same bytes.
// What the device attends now and then is the oracle's on the rows that the host decodes.

namespace {

using namespace kvc_test;
using kvc::status;

template <class Function>
status status_of(const Function& f) {
  try {
    f();
  } catch (const kvc::error& e) {
    return e.code();
  }
  return status::ok;
}

constexpr kvc::cache_options with_room = {.capacity = 1500, .max_sequences = 6, .max_step_rows = 90};

template <class Spec>
class pair_of_caches {
 public:
  explicit pair_of_caches(std::uint64_t seed, const kvc::cache_options& options = with_room)
      : seed_(seed),
        options_(options),
        random_(seed),
        host_(options, extents_of<Spec>()),
        device_(options, stream_.get(), extents_of<Spec>()),
        facts_(facts_of<Spec>(host_.model(), kvc::calibration<Spec>(host_.model()))) {}

  void run(int operations) {
    CAPTURE(seed_);
    const kvc::extents<Spec> e = host_.model();
    for (int n = 0; n < operations; ++n) {
      CAPTURE(n);
      const int64 what = random_.below(10);
      if (live_.empty() || (what == 0 && live_.size() < 5)) {
        both([](auto& c) { return c.add_sequence(); }, [this](int id) { live_.push_back(id); });
      } else if (what == 1 && live_.size() < 5) {
        const int from = pick();
        both([&](auto& c) { return c.fork(from); }, [this](int id) { live_.push_back(id); });
      } else if (what == 2) {
        const int id = pick();
        const int64 length = random_.between(0, host_.length(id));
        both([&](auto& c) { return c.truncate(id, length), 0; }, [](int) {});
      } else if (what == 3 && live_.size() > 2) {
        const std::size_t at = static_cast<std::size_t>(random_.below(static_cast<int64>(live_.size())));
        const int id = live_[at];
        both([&](auto& c) { return c.remove(id), 0; }, [](int) {});
        live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(at));
      } else if (what == 4 && live_.size() < 5) {
        // Saved on one side, loaded on the other.
        const std::vector<byte> file = random_.below(2) == 0 ? host_.save(pick()) : device_.save(pick());
        both([&](auto& c) { return c.load(file); }, [this](int id) { live_.push_back(id); });
      } else {
        step(e);
      }
      if (live_.empty()) continue;
      const int id = pick();
      CHECK(host_.length(id) == device_.length(id));
      CHECK(host_.save(id) == device_.save(id));
      CHECK(host_.memory().pages_in_use == device_.memory().pages_in_use);
    }
    for (const int id : live_) CHECK(host_.save(id) == device_.save(id));
    CHECK(steps_ > 0);
    CHECK(worst_ > 0);  // something was attended
    MESSAGE("largest error of attention over its tolerance ", worst_);

    // What is refused is refused alike.
    const auto alike = [&](const auto& f) {
      const status a = status_of([&] { f(host_); });
      CHECK(a == status_of([&] { f(device_); }));
      CHECK(a != status::ok);
    };
    alike([](auto& c) { c.truncate(77, 0); });
    alike([&](auto& c) { c.truncate(live_[0], c.length(live_[0]) + 1); });
    alike([](auto& c) { c.commit(); });
    alike([&](auto& c) { c.reserve(live_[0], options_.max_step_rows + 1); });
    alike([&](auto& c) { c.load(std::vector<byte>(40, byte{1})); });
    alike([&](auto& c) {
      c.reserve(live_[0], 0);
      c.reserve(live_[0], 0);
    });
    host_.abandon();
    device_.abandon();
  }
  /// Calls that both sides refused for want of pages.
  int times_full() const { return times_full_; }

 private:
  class owned_stream {
   public:
    owned_stream() { require_cuda(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
    ~owned_stream() { cudaStreamDestroy(stream_); }
    cudaStream_t get() const { return stream_; }

   private:
    cudaStream_t stream_ = nullptr;
  };

  int pick() { return live_[static_cast<std::size_t>(random_.below(static_cast<int64>(live_.size())))]; }

  /// The same call on both sides: the same answer, or the same refusal.
  template <class Call, class Then>
  void both(const Call& call, const Then& then) {
    int on_host = -1, on_device = -2;
    const status a = status_of([&] { on_host = call(host_); });
    const status b = status_of([&] { on_device = call(device_); });
    CHECK(a == b);
    times_full_ += a == status::out_of_capacity ? 1 : 0;
    if (a != status::ok || b != status::ok) return;
    REQUIRE(on_host == on_device);
    then(on_host);
  }

  void step(const kvc::extents<Spec>& e) {
    std::vector<step_request> requests;
    int64 rows = 0;
    for (const int id : live_) {
      const int64 n = random_.below(3) == 0 ? random_.between(2, 30) : random_.below(2);
      if (random_.below(4) == 0 || rows + n > options_.max_step_rows || host_.length(id) > 300) continue;
      requests.push_back({id, n});
      rows += n;
    }
    const status a = host_.try_reserve(requests);
    CHECK(a == device_.try_reserve(requests));
    times_full_ += a == status::out_of_capacity ? 1 : 0;
    if (a != status::ok) return;
    const bool attends = ++steps_ % 3 == 1 && rows > 0;
    std::vector<std::uint64_t> seeds;
    for (int64 i = 0; i < rows; ++i) seeds.push_back(random_.next());
    std::vector<attended> results;
    for (int layer = 0; layer < e.layers; ++layer) {
      const step_rows in = make_rows(facts_, layer, seeds);
      if (e.writes(layer)) append(layer, {elements<kvc::bf16>(in.k), elements<kvc::bf16>(in.v)});
      if (attends) results.push_back(attend(layer, in.q, rows));
    }
    if (!attends && random_.below(8) == 0) {
      host_.abandon();
      device_.abandon();
      return;
    }
    std::vector<int64> accepted;
    for (const step_request& r : requests)
      accepted.push_back(!attends && random_.below(3) == 0 ? random_.between(0, r.rows) : r.rows);
    host_.commit(accepted);
    device_.commit(accepted);
    int64 end = 0;
    for (const step_request& r : requests) {
      end += r.rows;
      if (r.rows == 0) continue;
      for (const attended& x : results) check_attended(x, r.sequence, end - 1);
    }
  }

  void append(int layer, const layer_rows<Spec, kvc::bf16>& in) {
    in.append(host_, layer);
    if constexpr (Spec::is_latent) {
      device_.append(layer, in.device_k.data());
    } else {
      device_.append(layer, in.device_k.data(), in.device_v.data());
    }
    device_.synchronize();  // the rows are freed
  }

  /// What the device attended in a step, all rows of it.
  struct attended {
    int layer;
    std::vector<float> q, out, lse;
  };
  attended attend(int layer, const std::vector<float>& q, int64 rows) {
    const std::size_t lanes = size_of(rows * facts_.query_heads);
    const std::vector<float> poison(lanes * size_of(facts_.output_width), -77.0f);
    const device_array<float> queries(q), out(poison), lse(poison.data(), lanes);
    device_.attend(layer, queries.data(), out.data(), lse.data(), params_of(facts_));
    device_.synchronize();
    return {layer, q, out.back(), lse.back()};
  }
  /// The sequence ends with row `row` of that step: its query saw the rows as they decode now.
  void check_attended(const attended& x, int id, int64 row) {
    // The next query does not see the oldest row of this one's window, whose page may be gone.
    if (facts_.keep > 0 && (host_.length(id) - facts_.keep + 1) % facts_.tokens_per_page == 0) return;
    const std::vector<head_rows> decoded = gather_rows(host_, facts_, id, x.layer);
    const auto check = [&](const float* out, const float* lse) {
      return check_query(facts_, decoded, x.q.data() + row * facts_.query_heads * facts_.query_width,
                         host_.length(id) - 1, params_of(facts_), out, lse, device_rounding_of_step<Spec>());
    };
    const auto part = [&](const std::vector<float>& all, int width) {
      const auto begin = all.begin() + row * facts_.query_heads * width;
      return std::vector<float>(begin, begin + facts_.query_heads * width);
    };
    std::vector<float> out = part(x.out, facts_.output_width), lse = part(x.lse, 1);
    const verdict v = check(out.data(), lse.data());
    CHECK_MESSAGE(v.holds, "layer ", x.layer, ", sequence ", id, ": ", v.what);
    if (worst_ == 0) {  // the check can fail
      lse.back() += 1;
      CHECK_FALSE(check(out.data(), lse.data()).holds);
      lse.back() -= 1;
      for (float& o : out) o *= 1.5f;
      CHECK_FALSE(check(out.data(), lse.data()).holds);
    }
    worst_ = std::max(worst_, v.worst);
  }

  std::uint64_t seed_;
  kvc::cache_options options_;
  owned_stream stream_;
  generator random_;
  kvc::host::cache<Spec> host_;
  kvc::cuda::cache<Spec> device_;
  cache_facts facts_;
  std::vector<int> live_;
  int steps_ = 0;
  int times_full_ = 0;
  double worst_ = 0;
};

constexpr kvc::cache_options for_two = {.capacity = 400, .max_sequences = 2, .max_step_rows = 150};

/// Gathered rows: what the host decodes, within the rounding of fp32 sums; where a row is multiplied by a basis, there
/// are more.
template <class Spec>
void same_rows(const kvc::calibration<Spec>* constants = nullptr, float more = 1) {
  kvc::host::cache<Spec> host(for_two, extents_of<Spec>(), constants);
  kvc::cuda::cache<Spec> device(for_two, nullptr, extents_of<Spec>(), constants);
  const kvc::extents<Spec> e = host.model();
  const int id = host.add_sequence();
  REQUIRE(device.add_sequence() == id);
  host.reserve(id, 141);
  for (int layer = 0; layer < e.layers; ++layer) {
    if (e.writes(layer)) layer_rows<Spec, float>(e, 141, 8, false).append(host, layer);
  }
  host.commit();
  REQUIRE(device.load(host.save(id)) == id + 1);
  device.remove(id);
  const int64 begin = Spec::tokens_policy::window > 0 ? 96 : 0;  // older rows were evicted
  const std::size_t k_size =
      static_cast<std::size_t>((141 - begin) * e.stored_heads() * Spec::first_stream::model_width);
  const std::size_t v_size =
      static_cast<std::size_t>((141 - begin) * e.stored_heads() * Spec::second_stream::model_width);
  std::vector<float> k(k_size), v(v_size);
  host.gather(id, e.layers - 1, begin, 141, k.data(), v.data());
  const device_array<float> device_k(nullptr, k_size), device_v(nullptr, v_size);
  device.gather(id + 1, e.layers - 1, begin, 141, device_k.data(), device_v.data());
  device.synchronize();
  const std::vector<float> gathered_k = device_k.back(), gathered_v = device_v.back();
  const auto worst = [](const std::vector<float>& a, const std::vector<float>& b) {
    float most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]) / (1 + std::abs(b[i])));
    return most;
  };
  CHECK(worst(gathered_k, k) <= Spec::first_stream::model_width * 6e-8f * more);
  CHECK(worst(gathered_v, v) <= Spec::second_stream::model_width * 6e-8f * more);
  std::vector<float> altered = gathered_k;
  altered[altered.size() / 2] += 0.01f;
  CHECK(worst(altered, k) > Spec::first_stream::model_width * 6e-8f * more);
  CHECK(status_of([&] { device.gather(id + 1, 0, 0, 142, device_k.data(), device_v.data()); }) == status::bad_position);
  if (begin > 0) {
    CHECK(status_of([&] { device.gather(id + 1, 0, 16, 20, device_k.data(), device_v.data()); }) == status::evicted);
  }
  CHECK(status_of([&] { device.gather(id + 1, 99, 0, 1, device_k.data(), device_v.data()); }) == status::bad_layer);
}

using model = shape<2, 4, 2, 64>;
using grouped_tokens =
    compose<model, shared<2>, kv<integer<4, 32, affine, per_channel>, exact_ends<3, 5, integer<4, 32>>>>;
using evicting = compose<model, rotated<integer<4, 64>>, sinks_and_window<2, 70>, storage<16>>;
using flagship = kvc::clla_cache<shape<2, 4, 4, 32>, 64, 16>;
using calibrated = compose<model, kv_dims<low_rank<32>, pruned<48>>,
                           kv<rotated<centred<integer<4, 32>>>, centred<integer<4, 48>>>, storage<16>>;

}  // namespace

TEST_CASE("operations: groups of tokens and exact ends") {
  pair_of_caches<grouped_tokens>(1).run(60);
  pair_of_caches<grouped_tokens>(2).run(60);
}

TEST_CASE("operations: sinks and window") {
  pair_of_caches<evicting>(3).run(80);
}

TEST_CASE("operations: five pages") {
  pair_of_caches<evicting> pair(5, {.capacity = 80, .max_sequences = 6, .max_step_rows = 90});
  pair.run(80);
  CHECK(pair.times_full() > 3);
}

TEST_CASE("operations: the flagship") {
  pair_of_caches<flagship>(4).run(60);
}

TEST_CASE("gather decodes what the host decodes") {
  same_rows<grouped_tokens>();
  same_rows<evicting>();
  same_rows<flagship>();
  const kvc::calibration<calibrated> constants = random_calibration<calibrated>(6);
  same_rows<calibrated>(&constants, 8);
}

TEST_CASE("files of a device name its composition and its calibration") {
  const kvc::extents<calibrated> e = extents_of<calibrated>();
  const kvc::calibration<calibrated> constants = random_calibration<calibrated>(6);
  const kvc::calibration<calibrated> others = random_calibration<calibrated>(7);
  kvc::host::cache<calibrated> host(for_two, e, &constants);
  host.reserve(host.add_sequence(), 100);
  for (int layer = 0; layer < e.layers; ++layer) layer_rows<calibrated, float>(e, 100, 8, false).append(host, layer);
  host.commit();
  const std::vector<byte> file = host.save(0);
  kvc::cuda::cache<calibrated> device(for_two, nullptr, e, &constants);
  CHECK(device.load(file) == 0);
  CHECK(device.save(0) == file);
  CHECK(host.load(device.save(0)) == 1);
  CHECK(host.save(1) == file);

  // Refused, and nothing is taken.
  const int64 pages = device.memory().pages_in_use;
  kvc::host::cache<evicting> of_others(for_two);
  const std::vector<byte> other_file = of_others.save(of_others.add_sequence());
  CHECK(status_of([&] { device.load(other_file); }) == status::other_cache);
  kvc::cuda::cache<calibrated> stranger(for_two, nullptr, e, &others), none(for_two, nullptr, e);
  CHECK(status_of([&] { stranger.load(file); }) == status::other_calibration);
  CHECK(status_of([&] { none.load(file); }) == status::other_calibration);
  CHECK(status_of([&] { device.load(stranger.save(stranger.add_sequence())); }) == status::other_calibration);
  CHECK(stranger.memory().pages_in_use == 0);
  CHECK(device.memory().pages_in_use == pages);
  CHECK(device.add_sequence() == 1);
}
