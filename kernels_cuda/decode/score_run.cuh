/* SPDX-License-Identifier: Apache-2.0
 * What the kernel of score_regions.cuh is given, and its query: weights as planes.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_SCORE_RUN_CUH
#define HATTN_KERNELS_CUDA_DECODE_SCORE_RUN_CUH

#include "kernels_cuda/decode/code_reader.cuh"
#include "kernels_cuda/decode/floor.cuh"
#include "kernels_cuda/encode/encode_query.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {

/* Weights and steps of each query head, for scores per query head. */
struct HeadRun {
    int8_t *weights; /* NULL: not made here */
    int32_t *steps;
    const float *slopes;
    int64_t weights_row, weights_head, steps_row, steps_head, slope_head;
};

template <class Regions>
struct ScoreRun {
    Regions regions;
    QueryRun query;
    HeadRun heads;
    CodeRun codes;
    int32_t
        is_first; /* of the decode or of a later wave: no kernel that appends keys or encodes queries comes right before */
    int32_t encodes; /* 0: weights are given */
};

template <class Regions>
ScoreRun<Regions> score_run(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                            hattn_buffer workspace)
{
    const hattn_problem &p = params.problem;
    ScoreRun<Regions> run = {};
    run.regions = make_run<Regions>(params, args, wave, workspace);
    run.query = query_run(params, args.q, args.query_map);
    if (params.makes_heads)
        run.heads = {static_cast<int8_t *>(hattn_address(args.head_weights)),
                     static_cast<int32_t *>(hattn_address(args.head_steps)),
                     static_cast<const float *>(hattn_address(args.head_slopes)),
                     p.head_weights.stride[0],
                     p.head_weights.stride[1],
                     p.head_steps.stride[0],
                     p.head_steps.stride[1],
                     p.head_slopes.stride[0]};
    run.codes.codes = static_cast<const uint32_t *>(hattn_address(args.codes));
    run.codes.num_words = (p.code_bits + 31) / 32;
    run.codes.stride_page = p.codes.stride[0];
    run.codes.stride_head = p.codes.stride[2];
    run.codes.page_bytes = static_cast<uint32_t>(p.codes.stride[0] * 4);
    run.codes.slot_bytes = static_cast<uint32_t>(p.codes.stride[1] * 4);
    if (p.page_size) {
        run.codes.table = static_cast<const int32_t *>(hattn_address(args.batch.block_table));
        run.codes.table_stride = p.block_table.stride[0];
        run.codes.page_size = params.page_size;
    }
    if (p.key_norms) {
        run.codes.norms = static_cast<const float16 *>(hattn_address(args.norms));
        for (int i = 0; i < 3; i++)
            run.codes.norm_stride[i] = p.norms.stride[i];
    }
    run.encodes = encodes_in_score(params, args);
    run.is_first = !wave.is_first() || (run.encodes && !args.append);
    return run;
}

/* Weights of a thread's bits as planes in shared memory. */
template <int kWords>
struct Planes {
    uint32_t sign[kWords];
    uint32_t plane[7][16];
    float largest[kWarps];
    float extents[2][kWarps]; /* of the sample */
    uint32_t sums[kWords];    /* of |w| */

    __device__ uint32_t max_score() const
    {
        uint32_t sum = 0;
        for (const uint32_t x : sums)
            sum += x;
        return sum;
    }
};

template <int kBlocks>
constexpr int kPlanes = kBlocks < 4 ? 2 * kBlocks : 7;

/* All threads; ends with a barrier. meanwhile() is called while the first loads are on their way, then() when they are done with, and
 * made(largest) where weights are made: of all magnitudes of sums, if weights are of them. */
template <int kWords, int kBlocks, class Run, class W, class Meanwhile, class Then, class Made>
__device__ inline void make_planes(const Run &run, const QueryProduct<W> &product, int32_t row, int32_t head,
                                   bool stores, float *parts, Planes<kWords> &planes, Meanwhile meanwhile, Then then,
                                   Made made)
{
    int8_t *weights = run.regions.weights + row * run.regions.weights_row + head * run.regions.weights_head;
    constexpr int kBits = (32 * kWords + kThreads - 1) / kThreads; /* of a thread */
    const int code_bits = run.query.code_bits;
    int weight[kBits] = {};
    if (!run.encodes) {
        meanwhile();
        then();
        wait_for_previous();
#pragma unroll
        for (int i = 0; i < kBits; i++) {
            const int r = threadIdx.x + i * kThreads;
            weight[i] = r < code_bits ? weights[r] : 0;
        }
    } else {
        float sums[kBits] = {}, largest = 0.0f;
        product.template sum<true, 2>(parts, meanwhile, then, [&](int r, float sum) {
            sums[kBits == 1 ? 0 : r / kThreads] = sum;
            largest = fmaxf(largest, finite_magnitude(sum));
        });
        if (run.query.weight_max) {
            largest = warp_max_magnitude(largest);
            if (lane_id() == 0)
                planes.largest[warp_id()] = largest;
            __syncthreads();
            for (float x : planes.largest)
                largest = fmaxf(largest, x);
        }
#pragma unroll
        for (int i = 0; i < kBits; i++) {
            const int r = threadIdx.x + i * kThreads;
            weight[i] = r < code_bits ? weight_of(run.query.group, run.query.weight_max, sums[i], largest) : 0;
            if (stores && r < code_bits)
                weights[r] = static_cast<int8_t>(weight[i]);
        }
        made(largest);
    }
#pragma unroll
    for (int i = 0; i < kBits; i++) {
        const int word = (threadIdx.x + i * kThreads) / 32;
        if (word < kWords) { /* whole warps */
            const uint32_t negative = ballot(weight[i] < 0);
            const uint32_t sum = warp_total(abs(weight[i]));
            if (lane_id() == 0) {
                planes.sign[word] = negative;
                planes.sums[word] = sum;
            }
#pragma unroll
            for (int p = 0; p < kPlanes<kBlocks>; p++) {
                const uint32_t bits = ballot(abs(weight[i]) >> p & 1);
                if (lane_id() == 0)
                    planes.plane[p][word] = bits;
            }
        }
    }
    __syncthreads();
}

/* What make_planes' products are of each query head by itself, before they are done with: heads first, first + step, ... of a selection's.
 * A barrier for each. */
template <int kWords, class Run>
__device__ inline void make_head_weights(const Run &run, int32_t row, int32_t head, uint32_t first, uint32_t step,
                                         const float *parts, float (&largest_of)[2][kWarps])
{
    constexpr int kBits = (32 * kWords + kThreads - 1) / kThreads; /* of a thread */
    const QueryRun &query = run.query;
    int turn = 0;
#pragma unroll 1
    for (int g = static_cast<int>(first); g < query.group; g += static_cast<int>(step), turn ^= 1) {
        float sums[kBits], largest = 0.0f;
#pragma unroll
        for (int i = 0; i < kBits; i++) {
            const int r = static_cast<int>(threadIdx.x) + i * kThreads;
            sums[i] = r < query.code_bits ? sum_parts(parts, query.group, query.code_bits, g, r) : 0.0f;
            largest = fmaxf(largest, finite_magnitude(sums[i]));
        }
        largest = warp_max_magnitude(largest);
        if (lane_id() == 0)
            largest_of[turn][warp_id()] = largest;
        __syncthreads();
        for (const float x : largest_of[turn])
            largest = fmaxf(largest, x);
        const int64_t query_head = head * query.group + g;
        int8_t *weights = run.heads.weights + row * run.heads.weights_row + query_head * run.heads.weights_head;
#pragma unroll
        for (int i = 0; i < kBits; i++) {
            const int r = static_cast<int>(threadIdx.x) + i * kThreads;
            if (r < query.code_bits)
                weights[r] = static_cast<int8_t>(weight_of(1, query.weight_max, sums[i], largest));
        }
        if (threadIdx.x == 0)
            run.heads.steps[row * run.heads.steps_row + query_head * run.heads.steps_head] = hattn_floor_step(
                run.heads.slopes[query_head * run.heads.slope_head], unit_of(query.weight_max, largest));
    }
}

} // namespace hattn

#endif
