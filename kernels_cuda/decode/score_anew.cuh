/* SPDX-License-Identifier: Apache-2.0
 * A selection where the sampled bound was too high, or too many keys share the threshold's level: scores of the whole row in the memory of
 * its lists, and a selection from these. All blocks of the task do and write the same. Functions apart from the rest, which must not pay for
 * them in registers.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_SCORE_ANEW_CUH
#define HATTN_KERNELS_CUDA_DECODE_SCORE_ANEW_CUH

#include "kernels_cuda/decode/region_lists.cuh"

namespace hattn {

/* The row's scores by position, and what is selected of them. */
template <class Key>
__device__ inline Selection<Key> anew_selection(const RegionRun &run, const RegionTask &task, Threshold threshold)
{
    const void *list = sizeof(Key) == sizeof(float)
                           ? reinterpret_cast<const void *>(run.keys + task.task * run.score_stride)
                           : reinterpret_cast<const uint32_t *>(run.scores) + task.task * run.score_stride;
    return {static_cast<const Key *>(list) + run.num_sink,
            task.row.length,
            task.kept,
            run.num_sink,
            run.num_recent,
            threshold};
}

template <class Key>
__device__ inline void score_anew_as(const hattn_cuda_params &params, const hattn_decode_args &args,
                                     const RegionRun &run, int32_t row, int32_t head, RegionSpace &space)
{
    const RegionTask task = resolve_task(run, row, head);
    QueryCode &query = space.anew.query;
    const hattn_problem &p = params.problem;
    const int8_t *weights = run.weights + row * run.weights_row + head * run.weights_head;
    for (int r = threadIdx.x; r < 512; r += kThreads)
        query.weights[r] = r < p.code_bits ? weights[r] : static_cast<int8_t>(0);
    __syncthreads();
    split_planes(query);
    const hattn_pages pages = hattn_sequence_pages(&p, &args.batch, task.row.sequence);
    const int64_t code_head = static_cast<int64_t>(head) * p.num_code_heads / p.num_selection_heads;
    Selection<Key> selection = anew_selection<Key>(run, task, {});
    Key *scores = const_cast<Key *>(selection.keys) - run.num_sink;
    for (int32_t j = threadIdx.x; j < task.end; j += kThreads) {
        int32_t slot;
        const int64_t page = hattn_page(&pages, j, &slot);
        const uint32_t score = score_key(
            query, reinterpret_cast<const uint32_t *>(hattn_element(&p.codes, args.codes, page, slot, code_head)),
            (p.code_bits + 31) / 32);
        if constexpr (sizeof(Key) == sizeof(float))
            scores[j] = scale_score(
                score, query.max_score,
                *reinterpret_cast<const float16 *>(hattn_element(&p.norms, args.norms, page, slot, code_head)));
        else
            scores[j] = static_cast<Key>(score);
    }
    __syncthreads();
    selection.find(params, space.anew.select);
    if (threadIdx.x == 0)
        space.anew.threshold = selection.threshold;
    __syncthreads();
}

/* f(a score of the problem's type) */
template <bool kKeyed, class F>
__device__ inline void by_score_type(const hattn_problem &p, F f)
{
    if (kKeyed && p.key_norms)
        f(0.0f);
    else
        f(uint16_t());
}

template <bool kKeyed>
static __device__ __noinline__ void score_anew(const hattn_cuda_params &params, const hattn_decode_args &args,
                                               const RegionRun &run, int32_t row, int32_t head, RegionSpace &space)
{
    by_score_type<kKeyed>(params.problem,
                          [&](auto score) { score_anew_as<decltype(score)>(params, args, run, row, head, space); });
}

/* keep(rank, position), which is passed by value and refers to nothing, so that what it has stays in registers. */
template <bool kKeyed, class Keep>
static __device__ __noinline__ void visit_anew(const hattn_cuda_params &params, const RegionRun &run, int32_t row,
                                               int32_t head, int first, int end, Keep keep, RegionSpace &space)
{
    by_score_type<kKeyed>(params.problem, [&](auto score) {
        anew_selection<decltype(score)>(run, resolve_task(run, row, head), space.anew.threshold)
            .visit(first, end, space.anew.select, keep);
    });
}

} // namespace hattn

#endif
