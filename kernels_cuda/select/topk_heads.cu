/* SPDX-License-Identifier: Apache-2.0
 * Scores per query head (api/hattn.h, hattn_topk, "With candidates"): after a top-k that lists candidates, blocks score them by each head's own
 * weights, and a block a row and selection head chooses among them.
 */
#include <algorithm>

#include "kernels_cuda/kernels.cuh"
#include "kernels_cuda/select/floor_sums.cuh"
#include "kernels_cuda/select/head_choice.cuh"
#include "kernels_cuda/select/topk_row.cuh"

namespace hattn {
namespace {

constexpr int kScored = 2 * kThreads; /* candidates of a block, with one largest score */

__device__ inline int num_candidates(const hattn_problem &p, int length)
{
    return max(min(p.num_candidates, length - p.num_sink - p.num_recent), 0);
}

/* The last of blockIdx.y, with a tail, copies the summed scores. */
__global__ void __launch_bounds__(kThreads)
    score_candidates_kernel(const __grid_constant__ hattn_cuda_params params,
                            const __grid_constant__ hattn_topk_args args, hattn_buffer workspace)
{
    __shared__ QueryCode code;
    __shared__ JoinedWarps<kWarps> joined;
    const hattn_problem &p = params.problem;
    const TopkRow<uint16_t> row(p, args, blockIdx.x);
    const int in_group = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.z) * kScored;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row.row));
    const HeadLists lists(params, workspace, static_cast<int64_t>(blockIdx.x));
    const int32_t *positions = lists.positions + p.num_sink;
    const int end = min(first + kScored, num_candidates(p, row.length));
    allow_dependents();
    auto tell_top = [&](uint32_t top) {
        top = block_largest(top, joined);
        if (threadIdx.x == 0)
            lists.tell_top(params, in_group, static_cast<int>(blockIdx.z), static_cast<int>(gridDim.z), top);
    };
    uint32_t top = 0;
    if (first >= end) {
        wait_for_previous();
        return tell_top(top);
    }
    uint16_t *scores = const_cast<uint16_t *>(lists.scores) + static_cast<int64_t>(in_group) * params.most_scored;
    if (in_group == params.group) {
        wait_for_previous();
        for (int i = first + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
            scores[i] = row.keys[load_l2(reinterpret_cast<const uint32_t *>(positions + i))];
            top = max(top, static_cast<uint32_t>(scores[i]));
        }
        return tell_top(top);
    }
    load_weights(p,
                 reinterpret_cast<const int8_t *>(
                     hattn_element(&p.head_weights, args.head_weights, row.row, row.head * params.group + in_group, 0)),
                 code);
    split_planes(code);
    const hattn_pages pages = hattn_sequence_pages(&p, &args.batch, resolved.sequence);
    const int64_t code_head = row.head * p.num_code_heads / p.num_selection_heads;
    const int num_words = (p.code_bits + 31) / 32;
    const uint32_t most = params.choice_shared ? static_cast<uint32_t>(params.choice_levels) - 2 : UINT16_MAX;
    wait_for_previous();
    for (int i = first + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
        int32_t slot;
        const int64_t page =
            hattn_page(&pages, static_cast<int32_t>(load_l2(reinterpret_cast<const uint32_t *>(positions + i))), &slot);
        const void *key = hattn_element(&p.codes, args.codes, page, slot, code_head);
        const uint32_t score =
            min(score_key(code, static_cast<const uint32_t *>(key), num_words), most); /* weights are the caller's */
        scores[i] = static_cast<uint16_t>(score);
        top = max(top, score);
    }
    tell_top(top);
}

/* A row and selection head, by a block. */
template <bool kShared>
struct HeadRow {
    const hattn_cuda_params &params;
    const hattn_topk_args &args;
    const TopkRow<uint16_t> &row;
    const ChoiceMemory &memory;
    const int32_t *positions;
    int count;
    HeadChoice<kShared> &choice;
    JoinedWarps<kChoiceWarps> &joined;

    /* O */
    __device__ uint64_t outside(int32_t step) const
    {
        const int first = params.problem.num_sink, end = row.length - params.problem.num_recent;
        const FloorEstimate e = estimate_of(row.keys, positions, count, first, end, step, joined);
        uint64_t listed = 0;
        for (int i = static_cast<int>(threadIdx.x); i < count; i += kChoiceThreads)
            listed += choice.share(params.group, i);
        listed = block_total(listed, joined);
        return e.sum > listed ? e.sum - listed : 0;
    }

    /* For attend. kept: of the ranks, 0 if nothing has shares; factor: f. totals: of the row's shares by head, or NULL. */
    __device__ void tell_shares(int kept, uint64_t factor, ShareTotals *totals) const
    {
        const hattn_problem &p = params.problem;
        const int thread = static_cast<int>(threadIdx.x);
        uint32_t near = 0, nearest = 0; /* the least p above 0 as a distance from the largest number */
        for (int i = thread; i < kept; i += kChoiceThreads)
            nearest = max(nearest, UINT32_MAX - (choice.key(memory.ranks[i]) - 1));
        uint64_t bound = 4 * (static_cast<uint64_t>(UINT32_MAX - block_largest(nearest, joined)) + 1);
        for (int i = thread; i < kept; i += kChoiceThreads) {
            const uint32_t key = choice.key(memory.ranks[i]);
            near += key > 0 && key < bound;
        }
        if (block_total(near, joined) < HATTN_FEW_ANCHORS)
            bound = UINT64_MAX;
        /* Warps of their own for each head, as far as they go. */
        const int parts = params.group < kChoiceWarps ? kChoiceWarps / params.group : 1;
        for (int unit = warp_id(); unit < params.group * parts; unit += kChoiceWarps) {
            const int g = unit / parts, part = unit % parts;
            const int64_t query_head = row.head * params.group + g;
            uint32_t *shares =
                reinterpret_cast<uint32_t *>(hattn_element(&p.shares, args.shares, row.row, query_head, 0));
            uint64_t sum = 0, of_anchors = 0;
            for (int rank = part * 32 + lane_id(); rank < p.k; rank += parts * 32) {
                const int i = rank - p.num_sink;
                uint32_t share = 0;
                if (i >= 0 && i < kept) {
                    const int candidate = memory.ranks[i];
                    share = choice.share(g, candidate);
                    sum += share;
                    const uint32_t key = choice.key(candidate);
                    if (share > 0 && key > 0 && key < bound) {
                        of_anchors += share;
                        share |= HATTN_SHARE_ANCHOR;
                    }
                }
                shares[rank] = share;
            }
            sum = warp_total_of_large(sum);
            of_anchors = warp_total_of_large(of_anchors);
            if (lane_id() == 0)
                choice.leave_totals(unit, {of_anchors, sum});
        }
        __syncthreads();
        for (int g = thread; g < params.group; g += kChoiceThreads) {
            const int64_t query_head = row.head * params.group + g;
            ShareTotals its = {0, 0};
            for (int part = 0; part < parts; part++) {
                its.near += choice.totals(g * parts + part).near;
                its.all += choice.totals(g * parts + part).all;
            }
            if (totals)
                totals[g] = its;
            *reinterpret_cast<int64_t *>(hattn_element(&p.rests, args.rests, row.row, query_head, 0)) =
                kept ? hattn_head_rest(choice.sum(g) - its.all, factor) : 0;
        }
    }
};

/* listed_first: of what is listed for a row, where its candidates begin; knows_outside: in a decode, that has told O and wants totals of shares; else O is
 * of the row's scores. */
template <bool kShared>
__global__ void __launch_bounds__(kChoiceThreads)
    choose_heads_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_topk_args args,
                        hattn_buffer workspace, int listed_first, int knows_outside)
{
    extern __shared__ __align__(16) float shared[];
    __shared__ ChoiceSpace space;
    const hattn_problem &p = params.problem;
    TopkRow<uint16_t> row(p, args, blockIdx.x);
    const HeadLists lists(params, workspace, blockIdx.x);
    const bool has_tail = p.tail > 0.0f;
    ChoiceMemory memory = {const_cast<uint16_t *>(lists.scores), lists.keys, lists.ranks, nullptr,
                           params.choice_levels};
    if (kShared) {
        memory.keys = reinterpret_cast<uint32_t *>(shared);
        memory.scores = reinterpret_cast<uint16_t *>(memory.keys + params.most_scored);
        memory.tables = reinterpret_cast<uint32_t *>(memory.scores + (params.group + has_tail) * params.most_scored);
        memory.ranks = reinterpret_cast<int32_t *>(memory.tables + params.group * memory.levels);
    }
    const int forced = p.num_sink + p.num_recent, thread = static_cast<int>(threadIdx.x),
              count = num_candidates(p, row.length);
    const int32_t *positions = lists.positions + listed_first;
    const int32_t *steps = reinterpret_cast<const int32_t *>(
        hattn_element(&p.head_steps, args.head_steps, row.row, row.head * params.group, 0));
    const int32_t *summed_step =
        has_tail ? reinterpret_cast<const int32_t *>(hattn_element(&p.steps, args.steps, row.row, row.head, 0))
                 : nullptr;
    HeadChoice<kShared> choice(params, lists, memory, count, steps, p.head_steps.stride[1], summed_step, space);
    choice.prepare();
    allow_dependents();
    wait_for_previous();
    const bool is_ranked = row.kept > forced && (row.kept < row.length || p.min_probability > 0.0f);
    if (is_ranked) {
        const int above = choice.make_keys(hattn_head_floor(params.floor_tau, params.group)) + forced;
        if (p.min_probability > 0.0f)
            row.kept = max(min(above, row.kept), max(min(p.min_k, row.kept), forced));
    } else {
        __syncthreads();
    }
    visit_forced<kChoiceThreads>(row.length, row.kept, p.num_sink, p.num_recent, 0, row.kept,
                                 [&](int rank, int position) { row.indices[rank] = position; });
    const int kept = is_ranked && row.kept < row.length ? row.kept - forced : 0;
    if (kept > 0) {
        if (kept < count)
            choice.find(kept);
        choice.list_ranks();
        choice.each_kept(kept, positions, [&](int rank, int position) { row.indices[p.num_sink + rank] = position; });
    }
    for (int i = row.kept + thread; i < p.k; i += kChoiceThreads)
        row.indices[i] = -1;
    if (thread == 0)
        *reinterpret_cast<int32_t *>(hattn_element(&p.counts, args.counts, row.row, row.head, 0)) = row.kept;
    if (!has_tail)
        return;
    const HeadRow<kShared> heads = {params, args, row, memory, positions, count, choice, space.joined};
    uint64_t factor = 0;
    if (kept > 0) {
        const uint64_t outside = knows_outside ? *lists.outside : heads.outside(*summed_step);
        uint64_t inside = 0;
        for (int i = thread; i < count; i += kChoiceThreads)
            if (!choice.is_kept(choice.key(i), i))
                inside += choice.share(params.group, i);
        factor = hattn_head_factor(outside, block_total(inside, space.joined));
    }
    __syncthreads();
    heads.tell_shares(kept, factor,
                      knows_outside ? share_totals(params, workspace, row.row, row.head * params.group) : nullptr);
}

/* Calls f with the kernel of a plan. */
template <class F>
DeviceError with_choice(const hattn_cuda_params &params, F f)
{
    return params.choice_shared ? f(choose_heads_kernel<true>) : f(choose_heads_kernel<false>);
}

} // namespace

DeviceError load_topk_heads(const hattn_cuda_params &params)
{
    return with_choice(params, [&](auto choose) {
        return first_error(
            {prepare(score_candidates_kernel, 0), prepare(choose, static_cast<size_t>(params.choice_shared))});
    });
}

DeviceError launch_choose_heads(const hattn_cuda_params &params, const hattn_topk_args &args, hattn_buffer workspace,
                                DeviceStream stream, bool is_after_topk)
{
    const dim3 tasks(static_cast<unsigned>(args.batch.num_rows * params.problem.num_selection_heads));
    const int listed_first = is_after_topk ? params.problem.num_sink : 0, knows_outside = !is_after_topk;
    return with_choice(params, [&](auto choose) {
        return launch({tasks, kChoiceThreads, static_cast<size_t>(params.choice_shared), stream,
                       params.has_dependent_launch != 0},
                      choose, params, args, workspace, listed_first, knows_outside);
    });
}

DeviceError launch_topk_heads(const hattn_cuda_params &params, const hattn_topk_args &args, hattn_buffer workspace,
                              DeviceStream stream)
{
    const hattn_problem &p = params.problem;
    const dim3 blocks(static_cast<unsigned>(args.batch.num_rows * p.num_selection_heads),
                      static_cast<unsigned>(params.group + (p.tail > 0.0f)),
                      static_cast<unsigned>((std::min(p.num_candidates, p.max_length) + kScored - 1) / kScored));
    const DeviceError error =
        launch_dependent(params, score_candidates_kernel, blocks, 0, stream, params, args, workspace);
    return error ? error : launch_choose_heads(params, args, workspace, stream, true);
}

} // namespace hattn
