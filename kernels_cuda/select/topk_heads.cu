/* SPDX-License-Identifier: Apache-2.0
 * Scores per query head (api/hattn.h, hattn_topk, "With candidates"): after a top-k that lists candidates, blocks score them by each head's own
 * weights, and a block a row and selection head makes p of the scores and selects by it.
 */
#include <algorithm>

#include "core/tail.h"
#include "kernels_cuda/kernels.cuh"
#include "kernels_cuda/select/floor_sums.cuh"
#include "kernels_cuda/select/topk_row.cuh"

namespace hattn {
namespace {

constexpr int kScored = 4 * kThreads; /* candidates of a block */

/* Of a row and selection head. */
struct Candidates {
    const int32_t *positions; /* rising */
    int count;
    uint16_t *scores; /* [group, most_listed] */
    uint32_t *keys;   /* p, in 2^-24: floats of these bits are in the same order */
    int32_t *ranks;   /* of those that are kept, among the candidates */

    __device__ Candidates(const hattn_cuda_params &params, hattn_buffer workspace, int64_t task, int length)
    {
        const hattn_problem &p = params.problem;
        char *base = static_cast<char *>(hattn_address(workspace));
        const int64_t first = task * params.most_listed;
        positions = reinterpret_cast<const int32_t *>(base + params.listed) + first + p.num_sink;
        count = max(min(p.num_candidates, length - p.num_sink - p.num_recent), 0);
        scores = reinterpret_cast<uint16_t *>(base + params.head_scores) + first * params.group;
        keys = reinterpret_cast<uint32_t *>(base + params.head_keys) + first;
        ranks = reinterpret_cast<int32_t *>(base + params.head_ranks) + task * p.k;
    }
};

__global__ void __launch_bounds__(kThreads)
    score_candidates_kernel(const __grid_constant__ hattn_cuda_params params,
                            const __grid_constant__ hattn_topk_args args, hattn_buffer workspace)
{
    __shared__ QueryCode code;
    const hattn_problem &p = params.problem;
    const int64_t task = blockIdx.x, row = task / p.num_selection_heads, head = task % p.num_selection_heads;
    const int in_group = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.z) * kScored;
    const hattn_row resolved = hattn_resolve_row(&p, &args.batch, static_cast<int32_t>(row));
    const Candidates c(params, workspace, task, resolved.length);
    if (first >= c.count)
        return;
    load_weights(p,
                 reinterpret_cast<const int8_t *>(
                     hattn_element(&p.head_weights, args.head_weights, row, head * params.group + in_group, 0)),
                 code);
    split_planes(code);
    const hattn_pages pages = hattn_sequence_pages(&p, &args.batch, resolved.sequence);
    const int64_t code_head = head * p.num_code_heads / p.num_selection_heads;
    const int num_words = (p.code_bits + 31) / 32;
    uint16_t *scores = c.scores + static_cast<int64_t>(in_group) * params.most_listed;
    wait_for_previous();
    for (int i = first + static_cast<int>(threadIdx.x); i < min(first + kScored, c.count); i += kThreads) {
        int32_t slot;
        const int64_t page = hattn_page(&pages, c.positions[i], &slot);
        const void *key = hattn_element(&p.codes, args.codes, page, slot, code_head);
        scores[i] = static_cast<uint16_t>(score_key(code, static_cast<const uint32_t *>(key), num_words));
    }
}

struct HeadSpace {
    union {
        FloorSpace floor;
        SelectSpace select;
    };
    uint32_t factors[HATTN_FLOOR_FACTORS];
    uint64_t sums[HATTN_MOST_HEADS]; /* Z */
    uint32_t largest[HATTN_MOST_HEADS];
};

/* A row and selection head with its heads' shares, by a block. */
struct HeadRow {
    const hattn_cuda_params &params;
    const hattn_topk_args &args;
    const Candidates &c;
    int64_t row, head;
    HeadSpace &space;

    __device__ uint32_t share(int in_group, int candidate) const
    {
        const int32_t step = *reinterpret_cast<const int32_t *>(
            hattn_element(&params.problem.head_steps, args.head_steps, row, head * params.group + in_group, 0));
        const uint32_t score = c.scores[static_cast<int64_t>(in_group) * params.most_listed + candidate];
        return hattn_floor_share(space.largest[in_group] - score, step, space.factors);
    }

    /* Sums of shares, and p of each candidate, by the thread that looks at it first. */
    __device__ void make_keys()
    {
        const int thread = static_cast<int>(threadIdx.x);
        for (int g = 0; g < params.group; g++) {
            const uint16_t *scores = c.scores + static_cast<int64_t>(g) * params.most_listed;
            uint32_t largest = 0;
            for (int i = thread; i < c.count; i += kThreads)
                largest = max(largest, static_cast<uint32_t>(scores[i]));
            largest = block_largest(largest, space.floor);
            if (thread == 0)
                space.largest[g] = largest;
            __syncthreads();
            uint64_t sum = 0;
            for (int i = thread; i < c.count; i += kThreads)
                sum += share(g, i);
            sum = block_total(sum, space.floor);
            if (thread == 0)
                space.sums[g] = sum;
            const uint64_t inverse = hattn_head_inverse(sum);
            for (int i = thread; i < c.count; i += kThreads)
                c.keys[i] = (g ? c.keys[i] : 0) + hattn_head_probability(share(g, i), inverse);
        }
        __syncthreads();
    }

    __device__ int num_at_least(uint64_t bound)
    {
        uint32_t count = 0;
        for (int i = static_cast<int>(threadIdx.x); i < c.count; i += kThreads)
            count += c.keys[i] >= bound;
        return static_cast<int>(block_total(count, space.floor));
    }

    /* f, from the summed scores; kept: of the ranks. */
    __device__ uint64_t factor_outside(const uint16_t *scores, int length, int kept)
    {
        const hattn_problem &p = params.problem;
        const int32_t step = *reinterpret_cast<const int32_t *>(hattn_element(&p.steps, args.steps, row, head, 0));
        const FloorEstimate e =
            estimate_of(scores, c.positions, c.count, p.num_sink, length - p.num_recent, step, space.floor);
        uint64_t listed = 0, inside = 0;
        for (int i = static_cast<int>(threadIdx.x); i < c.count; i += kThreads)
            listed += hattn_floor_share(e.largest - scores[c.positions[i]], step, space.factors);
        for (int i = static_cast<int>(threadIdx.x); i < kept; i += kThreads)
            inside += hattn_floor_share(e.largest - scores[c.positions[c.ranks[i]]], step, space.factors);
        listed = block_total(listed, space.floor);
        inside = listed - block_total(inside, space.floor);
        return hattn_head_factor(e.sum > listed ? e.sum - listed : 0, inside);
    }

    /* Shares below which a p above 0 is an anchor's. */
    __device__ uint64_t anchor_bound(int kept)
    {
        const int thread = static_cast<int>(threadIdx.x);
        uint32_t nearest = 0, near = 0; /* the least p above 0 as a distance from the largest number */
        for (int i = thread; i < kept; i += kThreads)
            nearest = max(nearest, UINT32_MAX - (c.keys[c.ranks[i]] - 1));
        const uint64_t bound = 4 * (static_cast<uint64_t>(UINT32_MAX - block_largest(nearest, space.floor)) + 1);
        for (int i = thread; i < kept; i += kThreads)
            near += c.keys[c.ranks[i]] > 0 && c.keys[c.ranks[i]] < bound;
        return block_total(near, space.floor) < HATTN_FEW_ANCHORS ? UINT64_MAX : bound;
    }

    /* For attend. kept: of the ranks, 0 if nothing has shares. */
    __device__ void tell_shares(int kept, uint64_t factor)
    {
        const hattn_problem &p = params.problem;
        const uint64_t bound = anchor_bound(kept);
        for (int g = 0; g < params.group; g++) {
            const int64_t query_head = head * params.group + g;
            uint32_t *shares = reinterpret_cast<uint32_t *>(hattn_element(&p.shares, args.shares, row, query_head, 0));
            uint64_t sum = 0;
            for (int rank = static_cast<int>(threadIdx.x); rank < p.k; rank += kThreads) {
                const int i = rank - p.num_sink;
                const bool has_share = i >= 0 && i < kept;
                const uint32_t found = has_share ? share(g, c.ranks[i]) : 0, key = has_share ? c.keys[c.ranks[i]] : 0;
                sum += found;
                shares[rank] = found | (found > 0 && key > 0 && key < bound ? HATTN_SHARE_ANCHOR : 0);
            }
            sum = block_total(sum, space.floor);
            if (threadIdx.x == 0)
                *reinterpret_cast<int64_t *>(hattn_element(&p.rests, args.rests, row, query_head, 0)) =
                    kept ? hattn_head_rest(space.sums[g] - sum, factor) : 0;
        }
    }
};

__global__ void __launch_bounds__(kThreads)
    select_heads_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_topk_args args,
                        hattn_buffer workspace)
{
    __shared__ HeadSpace space;
    const hattn_problem &p = params.problem;
    const int64_t task = blockIdx.x;
    TopkRow<uint16_t> row(p, args, task);
    const Candidates c(params, workspace, task, row.length);
    static constexpr uint32_t kFactors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;
    const int forced = p.num_sink + p.num_recent, thread = static_cast<int>(threadIdx.x);
    if (thread < HATTN_FLOOR_FACTORS)
        space.factors[thread] = kFactors[thread];
    wait_for_previous();
    const bool is_ranked = row.kept > forced && (row.kept < row.length || p.min_probability > 0.0f);
    HeadRow heads = {params, args, c, row.row, row.head, space};
    if (is_ranked) {
        heads.make_keys();
        const int above = p.min_probability > 0.0f
                              ? heads.num_at_least(hattn_head_floor(params.floor_tau, params.group)) + forced
                              : row.kept;
        row.kept = max(min(above, row.kept), max(min(p.min_k, row.kept), forced));
    }
    visit_forced(row.length, row.kept, p.num_sink, p.num_recent, 0, row.kept,
                 [&](int rank, int position) { row.indices[rank] = position; });
    const int kept = is_ranked && row.kept < row.length ? row.kept - forced : 0;
    if (kept > 0) {
        hattn_cuda_params own = params;
        own.problem.key_norms = 1; /* digits of floats */
        Selection<float> selection = {reinterpret_cast<const float *>(c.keys), c.count, kept, 0, 0, {}};
        selection.find(own, space.select);
        selection.visit(0, kept, space.select, [&](int rank, int i) {
            row.indices[p.num_sink + rank] = c.positions[i];
            c.ranks[rank] = i;
        });
    }
    for (int i = row.kept + thread; i < p.k; i += kThreads)
        row.indices[i] = -1;
    if (thread == 0)
        *reinterpret_cast<int32_t *>(hattn_element(&p.counts, args.counts, row.row, row.head, 0)) = row.kept;
    if (p.tail > 0.0f) {
        __syncthreads();
        heads.tell_shares(kept, kept ? heads.factor_outside(row.keys, row.length, kept) : 0);
    }
}

} // namespace

DeviceError load_topk_heads()
{
    return first_error({prepare(score_candidates_kernel, 0), prepare(select_heads_kernel, 0)});
}

DeviceError launch_topk_heads(const hattn_cuda_params &params, const hattn_topk_args &args, hattn_buffer workspace,
                              DeviceStream stream)
{
    const hattn_problem &p = params.problem;
    const dim3 tasks(static_cast<unsigned>(args.batch.num_rows * p.num_selection_heads)),
        scored(tasks.x, static_cast<unsigned>(params.group),
               static_cast<unsigned>((std::min(p.num_candidates, p.max_length) + kScored - 1) / kScored));
    const DeviceError error =
        launch_dependent(params, score_candidates_kernel, scored, 0, stream, params, args, workspace);
    return error ? error : launch_dependent(params, select_heads_kernel, tasks, 0, stream, params, args, workspace);
}

} // namespace hattn
