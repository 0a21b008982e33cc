// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// The transformer of model.cpp on a GPU: products by cuBLAS in fp32, append and attend by kvc, the rest by kernels.cuh.

#include <cublas_v2.h>

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "composition_setup.hpp"
#include "device.hpp"
#include "device_cache.hpp"
#include "kernels.cuh"
#include "kvc/cuda/memory.cuh"

namespace engine {
namespace {

using kvc::cuda::require;

void require(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string(call) + ": " + cublasGetStatusString(status));
}

/// One GPU's stream and its handle for products.
struct device {
  device() {
    device_name();  // throws where there is none
    require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    require(cublasCreate(&products), "cublasCreate");
    require(cublasSetStream(products, stream), "cublasSetStream");
    // A captured product may not ask for memory.
    require(cudaMalloc(&workspace, workspace_bytes), "cudaMalloc");
    require(cublasSetWorkspace(products, workspace, workspace_bytes), "cublasSetWorkspace");
  }
  device(const device&) = delete;
  device& operator=(const device&) = delete;
  ~device() {
    cublasDestroy(products);
    cudaFree(workspace);
    cudaStreamDestroy(stream);
  }

  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;
  cudaStream_t stream = nullptr;
  cublasHandle_t products = nullptr;
  void* workspace = nullptr;
};

/// Values in the GPU's memory.
template <class T>
class device_array {
 public:
  device_array() = default;
  device_array(std::size_t count, cudaStream_t stream)
      : memory_(static_cast<kvc::int64>(count * sizeof(T)), stream), stream_(stream) {}
  device_array(const std::vector<T>& values, cudaStream_t stream) : device_array(values.size(), stream) {
    set(values.data(), values.size());
    require(cudaStreamSynchronize(stream), "cudaMemcpyAsync");  // the values may go
  }
  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  void set(const T* values, std::size_t count) {
    require(cudaMemcpyAsync(data(), values, count * sizeof(T), cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
  }

 private:
  kvc::cuda::device_buffer memory_;
  cudaStream_t stream_ = nullptr;
};

/// y = W x, [outputs][inputs].
struct weight {
  int outputs = 0, inputs = 0;
  device_array<float> values;
};

struct layer {
  device_array<float> attention_norm, feed_forward_norm;  // [width]
  weight qkv;                                             // queries, keys, values: one product
  weight attention_output;
  weight gate_up;
  weight down;
};

/// Times of a step: its beginning and end, and around each layer's append and attend.
class step_marks {
 public:
  step_marks(bool wanted, int layers) {
    if (wanted) marks_.resize(static_cast<std::size_t>(2 + 3 * layers));
    for (cudaEvent_t& mark : marks_) require(cudaEventCreate(&mark), "cudaEventCreate");
  }
  step_marks(const step_marks&) = delete;
  step_marks& operator=(const step_marks&) = delete;
  ~step_marks() {
    for (const cudaEvent_t mark : marks_) cudaEventDestroy(mark);
  }

  static constexpr int begin = 0, end = 1;
  static constexpr int before_append(int layer) { return 2 + 3 * layer; }
  static constexpr int before_attend(int layer) { return 3 + 3 * layer; }
  static constexpr int after_attend(int layer) { return 4 + 3 * layer; }

  void set(int mark, cudaStream_t stream, bool captured) {
    if (marks_.empty()) return;
    require(cudaEventRecordWithFlags(marks_[static_cast<std::size_t>(mark)], stream,
                                     captured ? cudaEventRecordExternal : cudaEventRecordDefault),
            "cudaEventRecord");
  }
  /// After the step was waited for.
  void add_to(phase_seconds& sums, int layers) const {
    if (marks_.empty()) return;
    double append = 0, attend = 0;
    for (int i = 0; i < layers; ++i) {
      append += seconds(before_append(i), before_attend(i));
      attend += seconds(before_attend(i), after_attend(i));
    }
    sums.append += append;
    sums.attend += attend;
    sums.rest += seconds(begin, end) - append - attend;
  }

 private:
  double seconds(int from, int to) const {
    float milliseconds = 0;
    require(cudaEventElapsedTime(&milliseconds, marks_[static_cast<std::size_t>(from)],
                                 marks_[static_cast<std::size_t>(to)]),
            "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds);
  }
  std::vector<cudaEvent_t> marks_;
};

class cuda_model : public device_model {
 public:
  cuda_model(const gguf_file& file, const model& host, const device_options& options)
      : host_(host), marks_(options.timed, host.config().layers) {
    const model_config& c = host.config();
    if (c.head_dim != 64) {
      throw std::runtime_error("cannot run on a GPU: there the engine serves heads of 64 channels, not " +
                               std::to_string(c.head_dim));
    }
    load(file);
    cos_sin_ = {interleave(&host.rotary()), gpu_.stream};
    const auto rows = [](int width) { return static_cast<std::size_t>(most_rows) * static_cast<std::size_t>(width); };
    const int kv_width = c.kv_heads * c.head_dim;
    tokens_ = {most_rows, gpu_.stream};
    for (auto* buffer : {&stream_, &normed_}) *buffer = {rows(c.width), gpu_.stream};
    for (auto* buffer : {&q_, &attended_}) *buffer = {rows(q_width()), gpu_.stream};
    for (auto* buffer : {&k_, &v_}) *buffer = {rows(kv_width), gpu_.stream};
    qkv_ = {rows(q_width() + 2 * kv_width), gpu_.stream};
    gate_up_ = {rows(2 * c.feed_forward), gpu_.stream};
    gated_ = {rows(c.feed_forward), gpu_.stream};
    logits_ = {rows(c.vocabulary), gpu_.stream};
    written_ = {static_cast<std::size_t>(host.context()), gpu_.stream};
    require(cudaMallocHost(&host_logits_, rows(c.vocabulary) * sizeof(float)), "cudaMallocHost");
    // The library prepares itself at its first products, which must not happen under capture.
    for (const weight* w : {&layers_[0].qkv, &layers_[0].attention_output, &layers_[0].gate_up, &layers_[0].down}) {
      product(*w, w->outputs, gate_up_.data(), 1, 0.0f, logits_.data());
    }
    product(output(), c.vocabulary, normed_.data(), 1, 0.0f, logits_.data());
    require(cudaStreamSynchronize(gpu_.stream), "the first products");
  }
  ~cuda_model() override {
    cudaStreamSynchronize(gpu_.stream);
    cudaFreeHost(host_logits_);
  }

  const model_config& config() const override { return host_.config(); }
  int context() const override { return host_.context(); }
  const phase_seconds& seconds() const override { return seconds_; }

  std::unique_ptr<attention_cache> make_cache(std::string_view name, const cache_options& options) override {
    if (name == "exact") throw std::invalid_argument("the cache 'exact' is on the host alone");
    const attention_shape shape = config().attention();
    const device_setting setting{gpu_.stream, {cos_sin_.data(), host_.context(), host_.rotary().pairs()}};
    std::unique_ptr<device_cache> made;
    ((made = make_device_cache<0>(name, shape, options, setting)) ||
     (made = make_device_cache<1>(name, shape, options, setting)) ||
     (made = make_device_cache<2>(name, shape, options, setting)) ||
     (made = make_device_cache<3>(name, shape, options, setting)));
    if (made == nullptr) throw std::invalid_argument("there is no cache '" + std::string(name) + "' on a GPU");
    return made;
  }

  std::span<const float> forward(std::span<const token> tokens, attention_cache& cache, logits_wanted wanted) override {
    host_.check_step(tokens, cache);
    device_cache& rows = on_device(cache);
    const int count = static_cast<int>(tokens.size());
    const int wanted_rows = wanted == logits_wanted::none ? 0 : wanted == logits_wanted::last_row ? 1 : count;
    tokens_.set(tokens.data(), tokens.size());
    rows.reserve(count);
    if (count == 1) {
      replay(rows);
    } else {
      enqueue_step(count, rows, wanted_rows, false);
    }
    rows.advance(count);
    const auto size = static_cast<std::size_t>(wanted_rows) * static_cast<std::size_t>(config().vocabulary);
    require(cudaMemcpyAsync(host_logits_, logits_.data(), size * sizeof(float), cudaMemcpyDeviceToHost, gpu_.stream),
            "cudaMemcpyAsync");
    require(cudaStreamSynchronize(gpu_.stream), "a step");
    marks_.add_to(seconds_, config().layers);
    return {host_logits_, size};
  }

  std::vector<token> continue_greedily(attention_cache& cache, token first, int count) override {
    device_cache& rows = on_device(cache);
    const int begin = rows.length();
    if (count < 0 || begin + count > context()) {
      throw std::runtime_error("position " + std::to_string(begin + count - 1) + " is outside the context of " +
                               std::to_string(context()) + " tokens");
    }
    host_.check_step({&first, 1}, cache);
    tokens_.set(&first, 1);
    for (int i = 0; i < count; ++i) {
      rows.reserve(1);
      replay(rows);
      rows.advance(1);
    }
    std::vector<token> out(static_cast<std::size_t>(count));
    require(cudaMemcpyAsync(out.data(), written_.data() + begin, out.size() * sizeof(token), cudaMemcpyDeviceToHost,
                            gpu_.stream),
            "cudaMemcpyAsync");
    require(cudaStreamSynchronize(gpu_.stream), "a captured step");
    return out;
  }

 private:
  static constexpr int most_rows = 256;

  int q_width() const { return config().query_heads * config().head_dim; }
  const weight& output() const { return output_.outputs > 0 ? output_ : embedding_; }

  static device_cache& on_device(attention_cache& cache) {
    auto* out = dynamic_cast<device_cache*>(&cache);
    if (out == nullptr) {
      throw std::runtime_error("the cache '" + cache.name() + "' is in the host's memory, and the model on the GPU");
    }
    return *out;
  }

  // ---- the step

  /// A captured step of one row, from the token in tokens_[0] to the one that follows it.
  void replay(device_cache& cache) {
    if (cache.step == nullptr) capture(cache);
    cache.step->launch(gpu_.stream);
  }

  void capture(device_cache& cache) {
    cache.begin_capture();
    require(cudaStreamBeginCapture(gpu_.stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      enqueue_step(1, cache, 1, true);
    } catch (...) {
      cudaStreamEndCapture(gpu_.stream, &graph);
      cudaGraphDestroy(graph);
      throw;
    }
    require(cudaStreamEndCapture(gpu_.stream, &graph), "cudaStreamEndCapture");
    cache.step = std::make_unique<captured_graph>(graph);
    require(cudaGraphDestroy(graph), "cudaGraphDestroy");
  }

  void enqueue_step(int rows, device_cache& cache, int logit_rows, bool captured) {
    const model_config& c = config();
    marks_.set(step_marks::begin, gpu_.stream, captured);
    kernels::embed<<<grid(rows), 256, 0, gpu_.stream>>>(embedding_.values.data(), tokens_.data(), c.width,
                                                        stream_.data());
    for (int i = 0; i < c.layers; ++i) {
      attention_block(i, rows, cache, captured);
      feed_forward_block(layers_[static_cast<std::size_t>(i)], rows);
    }
    cache.store();
    if (logit_rows > 0) {
      norm(stream_.data() + static_cast<std::ptrdiff_t>(rows - logit_rows) * c.width, logit_rows, output_norm_);
      product(output(), c.vocabulary, normed_.data(), logit_rows, 0.0f, logits_.data());
    }
    if (captured) {
      kernels::choose_token<<<1, 1024, 0, gpu_.stream>>>(logits_.data(), c.vocabulary, cache.length_on_device(),
                                                         tokens_.data(), written_.data());
    }
    marks_.set(step_marks::end, gpu_.stream, captured);
    require(cudaGetLastError(), "a step");
  }

  void attention_block(int index, int rows, device_cache& cache, bool captured) {
    const model_config& c = config();
    const layer& weights = layers_[static_cast<std::size_t>(index)];
    norm(stream_.data(), rows, weights.attention_norm);
    // A layer that reads another one's rows needs the first part of the weight alone.
    const bool writes = cache.writes(index);
    product(weights.qkv, writes ? weights.qkv.outputs : q_width(), normed_.data(), rows, 0.0f, qkv_.data());
    const kernels::rotary_shape shape{.cos_sin = cos_sin_.data(),
                                      .pairs = host_.rotary().pairs(),
                                      .half_dim = c.head_dim / 2,
                                      .query_pairs = q_width() / 2,
                                      .kv_pairs = writes ? c.kv_heads * c.head_dim / 2 : 0,
                                      .turns_keys = !cache.keys_before_rotary()};
    kernels::split_and_rotate<<<grid(rows), 256, 0, gpu_.stream>>>(pairs_of(qkv_), cache.length_on_device(), shape,
                                                                   pairs_of(q_), pairs_of(k_), pairs_of(v_));
    marks_.set(step_marks::before_append(index), gpu_.stream, captured);
    if (writes) cache.append(index, k_.data(), v_.data());
    marks_.set(step_marks::before_attend(index), gpu_.stream, captured);
    cache.attend(index, q_.data(), 1.0f / std::sqrt(static_cast<float>(c.head_dim)), attended_.data());
    marks_.set(step_marks::after_attend(index), gpu_.stream, captured);
    product(weights.attention_output, c.width, attended_.data(), rows, 1.0f, stream_.data());
  }

  void feed_forward_block(const layer& weights, int rows) {
    const int width = config().feed_forward;
    norm(stream_.data(), rows, weights.feed_forward_norm);
    product(weights.gate_up, 2 * width, normed_.data(), rows, 0.0f, gate_up_.data());
    kernels::
        swiglu<<<dim3(static_cast<unsigned>((width + 255) / 256), static_cast<unsigned>(rows)), 256, 0, gpu_.stream>>>(
            gate_up_.data(), width, gated_.data());
    product(weights.down, config().width, gated_.data(), rows, 1.0f, stream_.data());
  }

  static dim3 grid(int rows) { return dim3(static_cast<unsigned>(rows)); }
  static float2* pairs_of(const device_array<float>& values) { return reinterpret_cast<float2*>(values.data()); }

  void norm(const float* x, int rows, const device_array<float>& weights) {
    kernels::rms_norm<<<grid(rows), 256, 0, gpu_.stream>>>(x, weights.data(), config().width, config().norm_epsilon,
                                                           normed_.data());
  }

  /// y[rows][outputs] = x[rows][inputs] W^T + beta y, with the first `outputs` rows of W. (cuBLAS counts columns: its
  /// matrices are the transposes of ours.)
  void product(const weight& w, int outputs, const float* x, int rows, float beta, float* y) {
    const float one = 1;
    require(cublasGemmEx(gpu_.products, CUBLAS_OP_T, CUBLAS_OP_N, outputs, rows, w.inputs, &one, w.values.data(),
                         CUDA_R_32F, w.inputs, x, CUDA_R_32F, w.inputs, &beta, y, CUDA_R_32F, outputs,
                         CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "cublasGemmEx");
  }

  // ---- loading; `host` has checked that the file holds what the model knows, and nothing else

  void load(const gguf_file& file) {
    const model_config& c = config();
    const int kv_width = c.kv_heads * c.head_dim;
    const auto vector = [&](const std::string& name) {
      const std::size_t shape[] = {static_cast<std::size_t>(c.width)};
      return device_array<float>(dequantize(file.tensor(name, shape)), gpu_.stream);
    };
    /// Weights with the same inputs, one below the other.
    const auto stacked = [&](int inputs, const std::vector<std::pair<std::string, int>>& parts) {
      std::vector<float> values;
      int outputs = 0;
      for (const auto& [name, part_outputs] : parts) {
        const std::size_t shape[] = {static_cast<std::size_t>(part_outputs), static_cast<std::size_t>(inputs)};
        const std::vector<float> part = dequantize(file.tensor(name, shape));
        values.insert(values.end(), part.begin(), part.end());
        outputs += part_outputs;
      }
      return weight{outputs, inputs, {values, gpu_.stream}};
    };
    embedding_ = stacked(c.width, {{"token_embd.weight", c.vocabulary}});
    output_norm_ = vector("output_norm.weight");
    if (file.tensors().contains("output.weight")) output_ = stacked(c.width, {{"output.weight", c.vocabulary}});
    for (int i = 0; i < c.layers; ++i) {
      const std::string block = "blk." + std::to_string(i) + ".";
      layer& l = layers_.emplace_back();
      l.attention_norm = vector(block + "attn_norm.weight");
      l.qkv = stacked(c.width, {{block + "attn_q.weight", q_width()},
                                {block + "attn_k.weight", kv_width},
                                {block + "attn_v.weight", kv_width}});
      l.attention_output = stacked(q_width(), {{block + "attn_output.weight", c.width}});
      l.feed_forward_norm = vector(block + "ffn_norm.weight");
      l.gate_up =
          stacked(c.width, {{block + "ffn_gate.weight", c.feed_forward}, {block + "ffn_up.weight", c.feed_forward}});
      l.down = stacked(c.feed_forward, {{block + "ffn_down.weight", c.width}});
    }
  }

  const model& host_;
  device gpu_;  // first made, last gone
  step_marks marks_;
  weight embedding_;                 // [vocabulary][width]
  weight output_;                    // the same; none where tied to the embedding
  device_array<float> output_norm_;  // [width]
  std::vector<layer> layers_;
  device_array<float> cos_sin_;  // [context][pairs]{cos, sin}

  device_array<token> tokens_;           // of the step
  device_array<float> stream_, normed_;  // [rows][width]
  device_array<float> qkv_;              // [rows][(q | k | v)]
  device_array<float> q_, attended_;     // [rows][query_heads][head_dim]
  device_array<float> k_, v_;            // [rows][kv_heads][head_dim]
  device_array<float> gate_up_, gated_;  // [rows][(gate | up)], [rows][feed_forward]
  device_array<float> logits_;           // [rows wanted][vocabulary]
  device_array<token> written_;          // [context]: what the captured step at a position chose
  float* host_logits_ = nullptr;         // page-locked
  phase_seconds seconds_;
};

}  // namespace

std::string device_name() {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess || count == 0) {
    static_cast<void>(cudaGetLastError());
    throw std::runtime_error(std::string("cannot run on a GPU: none was found") +
                             (found == cudaSuccess ? "" : std::string(" (") + cudaGetErrorString(found) + ")"));
  }
  int current = 0;
  cudaDeviceProp properties{};
  require(cudaGetDevice(&current), "cudaGetDevice");
  require(cudaGetDeviceProperties(&properties, current), "cudaGetDeviceProperties");
  return properties.name;
}

std::unique_ptr<device_model> make_device_model(const gguf_file& file, const model& host,
                                                const device_options& options) {
  return std::make_unique<cuda_model>(file, host, options);
}

}  // namespace engine
