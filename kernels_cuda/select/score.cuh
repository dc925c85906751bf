/* SPDX-License-Identifier: Apache-2.0
 * Scores of single keys out of planes, and the histogram that selection starts from.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_SCORE_CUH
#define HATTN_KERNELS_CUDA_SELECT_SCORE_CUH

#include "kernels_cuda/encode/encode_query.cuh"

namespace hattn {

/* Weights from memory into code.weights. Ends with a barrier. */
__device__ inline void load_weights(const hattn_problem &p, const int8_t *weights, QueryCode &code)
{
    for (int r = threadIdx.x; r < 512; r += kThreads)
        code.weights[r] = static_cast<int8_t>(r < p.code_bits ? max(weights[r], -127) : 0);
    __syncthreads();
}

/* sum over planes p of 2^p popcount((code ^ sign) & plane_p), a word at a time. */
__device__ inline uint32_t score_key(const QueryCode &query, const uint32_t *code, int num_words)
{
    uint32_t counts[7] = {};
    for (int w = 0; w < num_words; w++) {
        const uint32_t bits = code[w] ^ query.sign[w];
#pragma unroll
        for (int plane = 0; plane < 7; plane++)
            if (plane < query.num_planes)
                counts[plane] += count_ones(bits & query.plane[plane][w]);
    }
    uint32_t score = 0;
#pragma unroll
    for (int plane = 0; plane < 7; plane++)
        score += counts[plane] << plane;
    return score;
}

/* f32((2 * score - max_score) * norm), one rounding: the left factor is an integer below 2^24. */
__device__ inline float scale_score(uint32_t score, uint32_t max_score, float16 norm)
{
    return rounded_product(static_cast<float>(static_cast<int>(2 * score) - static_cast<int>(max_score)),
                           to_float(norm));
}

/* Unsigned keys in the order of scores: NaN 0, then -inf ... -0 = +0 ... +inf. */
__device__ inline uint32_t ordered_key(uint16_t score) { return score; }

__device__ inline uint32_t ordered_key(float score)
{
    if (score != score)
        return 0;
    const uint32_t bits = bits_of(score + 0.0f); /* -0 + 0 is +0 */
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* A key's digits, most significant first. What several blocks a row count in one pass is one: see topk_pass. */
struct Digit {
    int shift, bits;
};

__device__ inline int num_digits(const hattn_cuda_params &params)
{
    return params.problem.key_norms ? 3 : params.digit_shift ? 2 : 1;
}

__device__ inline Digit digit(const hattn_cuda_params &params, int index)
{
    if (params.problem.key_norms)
        return index == 0 ? Digit{21, 11} : index == 1 ? Digit{10, 11} : Digit{0, 10};
    return index == 0 ? Digit{params.digit_shift, 11} : Digit{0, params.digit_shift};
}

/* For u16 scores that the problem's weights cannot give, too. */
__host__ __device__ inline hattn_cuda_params with_all_digits(hattn_cuda_params params)
{
    params.digit_shift = 5;
    params.num_bins = HATTN_CUDA_BINS;
    return params;
}

} // namespace hattn

#endif
