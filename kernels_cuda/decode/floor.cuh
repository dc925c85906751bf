/* SPDX-License-Identifier: Apache-2.0
 * A floor of probability in a decode: the budget's selection, whose threshold is known, is made smaller (api/hattn.h, hattn_topk). By each
 * block of a task for itself, in a function apart from the rest, which must not pay for it in registers.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_FLOOR_CUH
#define HATTN_KERNELS_CUDA_DECODE_FLOOR_CUH

#include "core/floor.h"
#include "kernels_cuda/decode/region_lists.cuh"
#include "kernels_cuda/select/floor_sums.cuh"

namespace hattn {

/* By value, as RescoreTask. The middle is first..end, of which the budget keeps `wanted`, those of scores above `bound` and some that
 * have it. */
struct FloorTask {
    uint32_t index; /* of the wave */
    int32_t row, head, first, end;
    uint32_t wanted, bound;
    const uint32_t *counts; /* of scores 1, 2, ... */
    int32_t num_counts;
    const uint16_t *
        sampled; /* scores of positions 0, HATTN_FLOOR_STRIDE, ..., each `stride` after the one before; NULL: all are 0 */
    int32_t stride;
};

/* How many of the middle are kept; at most `wanted`. All threads; ends with a barrier. */
static __device__ __noinline__ uint32_t kept_above_floor(const RegionRun &run, FloorTask task, FloorSpace &space)
{
    const int32_t step = load_now(run.steps + task.row * run.steps_row + task.head * run.steps_head),
                  middle = task.end - task.first, forced = run.num_sink + run.num_recent;
    const uint32_t least = static_cast<uint32_t>(max(run.min_k - forced, 0));
    if (task.wanted <= least)
        return task.wanted;
    constexpr int kMost = HATTN_CUDA_LEVELS / kThreads;
    uint32_t counts[kMost], largest = 0;
#pragma unroll
    for (int i = 0; i < kMost; i++) {
        const int level = i * kThreads + static_cast<int>(threadIdx.x);
        counts[i] = level < task.num_counts ? load_l2(task.counts + level) : 0;
        largest = counts[i] ? static_cast<uint32_t>(level) + 1 : largest;
    }
    largest = block_largest(largest, space);

    const bool keeps_all = task.wanted == static_cast<uint32_t>(middle);
    uint64_t exact = 0, sampled = 0;
    uint32_t num = 0; /* of scores above 0 */
#pragma unroll
    for (int i = 0; i < kMost; i++) {
        const uint32_t score = static_cast<uint32_t>(i) * kThreads + threadIdx.x + 1;
        num += counts[i];
        if (counts[i] && (keeps_all || score > task.bound))
            exact += static_cast<uint64_t>(counts[i]) * floor_share(largest - score, step);
    }
    if (!keeps_all)
        for (int32_t i = (task.first + HATTN_FLOOR_STRIDE - 1) / HATTN_FLOOR_STRIDE + static_cast<int32_t>(threadIdx.x);
             i * HATTN_FLOOR_STRIDE < task.end; i += kThreads) {
            const uint32_t score = task.sampled ? load_l2(task.sampled + static_cast<int64_t>(i) * task.stride) : 0;
            if (score <= task.bound)
                sampled += floor_share(largest - score, step);
        }
    uint64_t sum = block_total(exact + HATTN_FLOOR_STRIDE * sampled, space);
    if (keeps_all)
        sum +=
            static_cast<uint64_t>(static_cast<uint32_t>(middle) - block_total(num, space)) * floor_share(largest, step);

    const FloorScore floor(largest, step, hattn_floor_least_share(run.floor_tau, sum));
    if (floor.reaches(keeps_all ? 0 : task.bound))
        return task.wanted;
    uint32_t above = 0;
#pragma unroll
    for (int i = 0; i < kMost; i++)
        above += floor.reaches(static_cast<uint32_t>(i) * kThreads + threadIdx.x + 1) ? counts[i] : 0;
    return max(block_total(above, space), least);
}

} // namespace hattn

#endif
