/* SPDX-License-Identifier: Apache-2.0
 * The second kernel of a decode whose attention does not read all values (attend/skip.cu): the regions' selection (regions.cuh) as a list, with what
 * a tail needs of it. Shares say no more than attention asks: anchor, share or none. Blocks wait for none other.
 */
#include <algorithm>

#include "kernels_cuda/decode/decode_attend.cuh"

namespace hattn {
namespace {

constexpr SelectBy kBy = SelectBy::TAIL;

struct KeptRun {
    uint32_t *shares;          /* compact, and so are */
    int64_t *rests;            /* these */
    hattn_cuda_divisor splits; /* blocks of a task */
};

struct KeptSpace {
    SelectSpaceBy<kBy> select;
    uint32_t arrived;
};

/* Where a task's list goes. */
struct KeptList {
    int32_t *indices, *count;
    uint32_t *shares;

    __device__ KeptList(const hattn_problem &p, const hattn_decode_args &args, const KeptRun &run, int32_t row,
                        int32_t head)
        : indices(static_cast<int32_t *>(hattn_address(args.indices)) + row * p.indices.stride[0] +
                  head * p.indices.stride[1]),
          count(static_cast<int32_t *>(hattn_address(args.counts)) + row * p.counts.stride[0] +
                head * p.counts.stride[1]),
          shares(run.shares + (static_cast<int64_t>(row) * p.num_selection_heads + head) * p.k)
    {
    }

    /* By all blocks of the task. */
    __device__ void end(int32_t kept, int32_t most, uint32_t split, uint32_t splits) const
    {
        for (int32_t i = kept + static_cast<int32_t>(split * kThreads + threadIdx.x); i < most;
             i += static_cast<int32_t>(splits * kThreads))
            indices[i] = -1;
        if (split == 0 && threadIdx.x == 0)
            *count = kept;
    }
};

/* Totals of shares, and what they leave of the estimate: by one thread, when the selection is known. */
__device__ inline void store_totals(bool leaves_some, ShareTotals *totals, int64_t *rest)
{
    const TailSums &tail = tail_sums();
    ShareTotals sums = {0, 0};
    if (leaves_some) {
        sums = {tail.of_ties, tail.of_ties};
#pragma unroll 1
        for (int w = 0; w < kWarps; w++) {
            sums.near += tail.near[w];
            sums.all += tail.kept[w];
        }
    }
    *totals = sums;
    *rest = leaves_some && tail.sum > sums.all ? static_cast<int64_t>(tail.sum - sums.all) : 0;
}

__global__ void __launch_bounds__(kThreads, 2)
    list_kept_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_decode_args args,
                     const __grid_constant__ RunBy<kBy> regions, const __grid_constant__ KeptRun run,
                     hattn_buffer workspace)
{
    __shared__ KeptSpace space;
    const hattn_problem &p = params.problem;
    const uint32_t split = divide(blockIdx.x, regions.tasks), splits = run.splits.divisor;
    PlacedTask placed = place_task(regions, blockIdx.x - split * regions.tasks.divisor, split);
    load_length(regions, placed);
    const KeptList list(p, args, run, placed.row, placed.head);
    TaskCut by(regions);
    if (!regions.is_alone) { /* as the kernel before has cut */
        const uint32_t rows = live_rows(regions);
        if (rows < static_cast<uint32_t>(regions.wave.num_rows)) {
            if (static_cast<uint32_t>(placed.row - regions.wave.first_row) >= rows) {
                wait_for_previous(); /* the next kernel takes this one's end for both */
                return list.end(0, p.k, split, splits);
            }
            by = TaskCut(regions, rows * regions.heads.divisor);
        }
    }
    const RegionTask task = region_task(regions, placed.place, placed.seq_len, load_budget(regions, placed));
    const RegionCut cut = cut_task(regions, by, placed);
    RegionSelection<kBy> selection(regions, placed.index, cut, task, space.select);
    wait_for_previous();
    if (regions.overlaps)
        allow_dependents();
    const bool is_found = selection.find(placed);
    if (!is_found) {
        rescore<kBy>(params, args, regions, selection.rescore_task(placed), space.select);
        selection.take_rescored();
    }
    __syncthreads();
    /* Every block of the task has read the histogram once the last one is here. */
    if (threadIdx.x == 0)
        space.arrived = task.is_ranked ? count_up(selection.joined(), 1) : 0;
    if (threadIdx.x == 0 && split == 0)
        store_totals(selection.is_ranked(), share_totals(params, workspace, placed.row, placed.head),
                     run.rests + static_cast<int64_t>(placed.row) * p.num_selection_heads + placed.head);
    const int32_t kept = selection.num_kept();
    const int even = static_cast<int>(divide(static_cast<uint32_t>(kept) + splits - 1, run.splits)),
              first = min(static_cast<int>(split) * even, kept), end = min(first + even, kept);
    selection.visit(first, end, is_found, [&](int rank, int position) {
        const uint32_t marked = static_cast<uint32_t>(position);
        list.indices[rank] = static_cast<int32_t>(marked & ~kMarks);
        list.shares[rank] = marked & kMarks ? (marked & kIsAnchor) | 1u : 0u;
    });
    list.end(kept, p.k, split, splits);
    if (task.is_ranked && space.arrived == splits - 1)
        selection.clear();
}

} // namespace

static_assert(kIsAnchor == HATTN_SHARE_ANCHOR, "marks of positions are marks of shares");

DeviceError load_list_kept(const hattn_cuda_params &) { return prepare(list_kept_kernel, 0); }

DeviceError launch_list_kept(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                             hattn_buffer workspace, DeviceStream stream)
{
    const auto regions = make_run<RunBy<kBy>>(params, args, wave, workspace);
    const int32_t tasks = wave.num_rows * wave.num_heads,
                  splits = std::max(
                      1, std::min(hattn_cuda_blocks(&params) / tasks, (params.skip.kept + kThreads - 1) / kThreads));
    char *own = static_cast<char *>(hattn_address(workspace));
    KeptRun run = {};
    run.shares = reinterpret_cast<uint32_t *>(own + params.own_shares);
    run.rests = reinterpret_cast<int64_t *>(own + params.own_rests);
    run.splits = hattn_cuda_make_divisor(static_cast<uint32_t>(splits));
    return launch_dependent(params, list_kept_kernel, dim3(static_cast<unsigned>(tasks * splits)), 0, stream, params,
                            args, regions, run, workspace);
}

} // namespace hattn
