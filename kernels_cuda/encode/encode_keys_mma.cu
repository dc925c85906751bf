/* SPDX-License-Identifier: Apache-2.0
 * Encoding many keys on tensor cores: the instances and their launch.
 */
#include "kernels_cuda/encode/encode_keys_mma.cuh"

#include "kernels_cuda/encode/key_encoders.h"
#include "kernels_cuda/kernels.cuh"

namespace hattn {
namespace {

template <class Encoder, int kResident>
__global__ void __launch_bounds__(Encoder::Tile::kNumThreads, kResident)
    encode_keys_mma_kernel(const __grid_constant__ hattn_cuda_params params,
                           const __grid_constant__ hattn_encode_keys_args args)
{
    extern __shared__ __align__(128) char shared[];
    const int combination = static_cast<int>(blockIdx.x), heads = params.problem.num_code_heads;
    const int first_bit = combination / heads * Encoder::kBits;
    const KeyShare share = share_of_block<typename Encoder::Tile>(
        args, combination % heads, first_bit, min(Encoder::kBits, params.problem.code_bits - first_bit));
    Encoder(params.problem, args, share, *reinterpret_cast<typename Encoder::Space *>(shared)).run();
}

/* An encoder of which kMost blocks have room beside each other: the map's registers decide, and shared memory. */
template <class Encoder_, int kResident>
struct Instance {
    using Encoder = Encoder_;
    static constexpr int kMost = kResident, kThreads = Encoder::Tile::kNumThreads;
    static constexpr size_t kBytes = sizeof(typename Encoder::Space);
    static constexpr auto kernel = encode_keys_mma_kernel<Encoder, kResident>;
};

/* Calls f with the instance of the plan's row. */
template <class K, class T, class F>
DeviceError with_row(const hattn_cuda_params &params, F f)
{
    int row = 0;
#define KEY_ENCODER(dims, steps, blocks, warps, tokens, f8_tokens, stages, resident)                 \
    if (params.key_encoder == row++) {                                                               \
        constexpr int kTokens = sizeof(K) == 1 ? f8_tokens : tokens;                                 \
        using Encoder = KeyEncoder<K, T, steps, blocks, warps, kTokens, stages>;                     \
        static_assert(sizeof(typename Encoder::Space) ==                                             \
                          HATTN_KEY_ENCODER_BYTES(steps, sizeof(K), blocks, warps, kTokens, stages), \
                      "the plan counts on it");                                                      \
        if constexpr (sizeof(typename Encoder::Space) <= kMostShared)                                \
            return f(Instance<Encoder, resident>());                                                 \
    }
#include "kernels_cuda/encode/key_encoders.inc"
#undef KEY_ENCODER
    return kNoSuchKernel;
}

template <class F>
DeviceError with_instance(const hattn_cuda_params &params, F f)
{
    switch (params.problem.k_new.dtype) {
    case HATTN_F16: return with_row<float16, float16>(params, f);
    case HATTN_BF16: return with_row<bfloat16, bfloat16>(params, f);
    default: return with_row<fp8_e4m3, float16>(params, f);
    }
}

} // namespace

DeviceError load_encode_keys_mma(const hattn_cuda_params &params)
{
    return with_instance(params, [](auto instance) {
        using Chosen = decltype(instance);
        return prepare(Chosen::kernel, Chosen::kBytes);
    });
}

DeviceError launch_encode_keys_mma(const hattn_cuda_params &params, const hattn_encode_keys_args &args,
                                   DeviceStream stream)
{
    return with_instance(params, [&](auto instance) {
        using Chosen = decltype(instance);
        constexpr int kTokens = Chosen::Encoder::kTokens, kBits = Chosen::Encoder::kBits;
        const int groups = (params.problem.code_bits + kBits - 1) / kBits,
                  combinations = groups * params.problem.num_code_heads;
        const dim3 grid =
            key_grid(params, args, kTokens, combinations, blocks_of(params, Chosen::kBytes, Chosen::kMost));
        return launch({grid, Chosen::kThreads, Chosen::kBytes, stream}, Chosen::kernel, params, args);
    });
}

} // namespace hattn
