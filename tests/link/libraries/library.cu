// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// One of two libraries in one process, built for different GPUs and from different versions: appends the rows that the
// program gives, attends once, and returns the saved sequence.

#include <kvc/cuda.cuh>

extern "C" __attribute__((visibility("default"))) int run(const float* k, const float* v, int rows, unsigned char* file,
                                                          int capacity, float* out) {
  using spec =
      kvc::compose<kvc::shape<1, 2, 1, 64>, kvc::quant::integer<4, 32, kvc::quant::affine, kvc::quant::per_channel>>;
  try {
    kvc::cuda::cache<spec> cache({.capacity = 256, .max_step_rows = 256});
    const std::size_t bytes = static_cast<std::size_t>(rows) * 64 * sizeof(float);
    kvc::cuda::device_buffer device_k(static_cast<kvc::int64>(bytes), nullptr);
    kvc::cuda::device_buffer device_v(static_cast<kvc::int64>(bytes), nullptr);
    kvc::cuda::device_buffer query(2 * static_cast<kvc::int64>(bytes), nullptr);
    kvc::cuda::device_buffer output(2 * static_cast<kvc::int64>(bytes), nullptr);
    kvc::cuda::require(cudaMemcpy(device_k.data(), k, bytes, cudaMemcpyHostToDevice), "copy");
    kvc::cuda::require(cudaMemcpy(device_v.data(), v, bytes, cudaMemcpyHostToDevice), "copy");
    const auto floats = [](const kvc::cuda::device_buffer& b) { return reinterpret_cast<float*>(b.data()); };
    const int id = cache.add_sequence();
    cache.reserve(id, rows);
    cache.append<float>(0, floats(device_k), floats(device_v));
    cache.attend<float>(0, floats(query), floats(output), nullptr, {.scale = 0.125f});
    cache.commit();
    const std::vector<kvc::byte> saved = cache.save(id);
    kvc::cuda::require(cudaMemcpy(out, output.data(), 2 * bytes, cudaMemcpyDeviceToHost), "copy");
    if (static_cast<int>(saved.size()) > capacity) return -1;
    std::memcpy(file, saved.data(), saved.size());
    return static_cast<int>(saved.size());
  } catch (const std::exception&) {
    return -2;
  }
}
