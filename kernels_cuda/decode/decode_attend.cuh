/* SPDX-License-Identifier: Apache-2.0
 * The second kernel of a decode: each block finds the positions of its share of a selection and attends to them.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_DECODE_ATTEND_CUH
#define HATTN_KERNELS_CUDA_DECODE_DECODE_ATTEND_CUH

#include "kernels_cuda/attend/attend_share.cuh"
#include "kernels_cuda/decode/select_regions.cuh"

namespace hattn {

template <SelectBy kBy>
struct SelectEarly {
    Slot list[kList];
    SelectSpaceBy<kBy> select;
};

/* What both kernels' arguments are to the second one. */
template <SelectBy kBy>
struct AttendRun {
    const hattn_cuda_params &params;
    const hattn_decode_args &args;
    const RunBy<kBy> &regions;
    hattn_buffer workspace;
};

/* Of a row without keys: all that a decode gives. */
template <class Engine, SelectBy kBy>
__device__ inline void store_empty_row(const AttendRun<kBy> &run, int32_t row)
{
    const hattn_problem &p = run.params.problem;
    const Wave &wave = run.regions.wave;
    Share share = {};
    share.row = row;
    share.first_head = wave.first_head * run.params.group;
    const Inputs in = inputs_of(run.args, run.workspace);
    const NoTail none;
    const Results results(p, in, share, Engine::kOne, none);
    for (uint32_t i = threadIdx.x * 4; i < static_cast<uint32_t>(wave.num_heads * run.params.group * p.head_dim_v);
         i += kThreads * 4) {
        const uint32_t g = divide(i, run.params.v_dim);
        results.store(static_cast<int>(g), static_cast<int>(i - g * run.params.v_dim.divisor), float4{},
                      PartWeight{-INFINITY, 0.0f});
    }
    for (int32_t head = wave.first_head; head < wave.first_head + wave.num_heads; head++) {
        int32_t *indices = run.args.indices.data ? static_cast<int32_t *>(hattn_address(run.args.indices)) +
                                                       row * p.indices.stride[0] + head * p.indices.stride[1]
                                                 : nullptr;
        for (int i = static_cast<int>(threadIdx.x); indices && i < p.k; i += kThreads)
            indices[i] = -1;
        if (threadIdx.x == 0 && run.args.counts.data)
            static_cast<int32_t *>(
                hattn_address(run.args.counts))[row * p.counts.stride[0] + head * p.counts.stride[1]] = 0;
    }
}

/* Rows from `first` of the wave on are padding. Blocks from `index` on, which have no share, store them. */
template <class Engine, SelectBy kBy>
__device__ inline void store_padding(const AttendRun<kBy> &run, uint32_t first, uint32_t index)
{
    const Wave &wave = run.regions.wave;
#pragma unroll 1
    for (uint32_t row = first + blockIdx.x - index; row < static_cast<uint32_t>(wave.num_rows);
         row += gridDim.x - index)
        store_empty_row<Engine>(run, wave.first_row + static_cast<int32_t>(row));
}

/* Of a position, with a tail a marked one. */
template <bool kTail>
__device__ inline Slot find_slot(const SlotFinder &slots, int position)
{
    if constexpr (!kTail)
        return slots.find(position);
    const uint32_t marks = static_cast<uint32_t>(position) & kMarks;
    const Slot slot = slots.find(static_cast<int>(static_cast<uint32_t>(position) & ~kMarks));
    return {slot.page, static_cast<int32_t>(static_cast<uint32_t>(slot.slot) | marks)};
}

/* One block's share of one task. */
template <class Engine, SelectBy kBy>
__device__ inline void attend_task(const AttendRun<kBy> &run, const PlacedTask &placed, const RegionCut &cut,
                                   const RegionTask &task, const Share &share,
                                   ShareSpace<Engine, SelectEarly<kBy>> &space)
{
    const hattn_cuda_params &params = run.params;
    const hattn_problem &p = params.problem;
    constexpr bool kTail = kBy == SelectBy::TAIL;
    RegionSelection<kBy> selection(run.regions, placed.index, cut, task, space.early.select);
    const int32_t sequence = placed.place.sequence, head = placed.head;
    const SlotFinder slots(params, run.args.batch, sequence);

    /* One block of the group shows the selection; each share its own ranks of it. */
    const bool shows = share.first_head == head * params.group;
    int32_t *indices = nullptr;
    if (shows && run.args.indices.data)
        indices = static_cast<int32_t *>(hattn_address(run.args.indices)) + share.row * p.indices.stride[0] +
                  head * p.indices.stride[1];
    bool is_found = true;
    [[maybe_unused]] bool leaves_some = false;
    const auto tail = [&] {
        if constexpr (kTail)
            return RowTail<Engine>({params, run.args, slots, sequence, task.length,
                                    share.first_head / params.dense_group, mean_space<Engine>(space)},
                                   leaves_some);
        else
            return NoTail();
    }();
    if constexpr (kTail)
        if (share.split == 0 && warp_id() == kWarps - 1 && selection.is_ranked())
            tail.prefetch();
    auto ready = [&](auto begin) {
        wait_for_previous();
        begin();
        if (run.regions.overlaps)
            allow_dependents();
        is_found = selection.find(placed);
        if (!is_found) {
            rescore<kBy>(params, run.args, run.regions, selection.rescore_task(placed), space.early.select);
            selection.take_rescored();
        }
        if constexpr (kTail)
            leaves_some = selection.is_ranked();
        if constexpr (kHasFloor<kBy>)
            return selection.num_kept();
    };
    [[maybe_unused]] int window = -kWindow; /* the first rank of which positions are found */
    bool last = attend_share<Engine, SelectEarly<kBy>>(
        params, inputs_of(run.args, run.workspace), share, task.kept, space, ready,
        [&](int first, int end, int until, Slot *list) {
            /* More than one list of them are found at a time, all warps having regions then. */
            constexpr bool kHasWindow = kBy != SelectBy::KEYS;
            const bool is_new = !kHasWindow || first >= window + kWindow,
                       is_direct = !kHasWindow || (is_new && until - first <= kList);
            if (is_new) {
                window = first;
                selection.visit(first, kHasWindow ? min(until, first + kWindow) : end, is_found,
                                [&](int rank, int position) {
                                    if (is_direct)
                                        list[rank - first] = {sequence, position};
                                    else
                                        space.early.select.positions[rank - first] = position;
                                    if (indices)
                                        indices[rank] = kTail ? unmarked({sequence, position}).slot : position;
                                });
            }
            if (run.regions.is_paged || !is_direct) {
#pragma unroll 1
                for (int i = threadIdx.x; i < end - first; i += kThreads)
                    list[i] = find_slot<kTail>(slots, is_direct ? list[i].slot
                                                                : space.early.select.positions[first - window + i]);
                __syncthreads();
            }
        },
        tail);
    if (shows && share.split == 0) {
#pragma unroll 1
        for (int i = selection.num_kept() + static_cast<int>(threadIdx.x); indices && i < p.k; i += kThreads)
            indices[i] = -1;
        if (threadIdx.x == 0 && run.args.counts.data)
            static_cast<int32_t *>(hattn_address(
                run.args.counts))[share.row * p.counts.stride[0] + head * p.counts.stride[1]] = selection.num_kept();
    }
    /* Every block of the task has read the histogram once the last one is here. */
    const uint32_t blocks = static_cast<uint32_t>(group_blocks(params.group, Engine::kHeads));
    if (last && blocks > 1)
        last = arrive_last(selection.joined(), blocks);
    if (last)
        selection.clear();
}

/* Shares of each task, where blocks of all tasks together are so many. */
__host__ __device__ inline uint32_t decode_splits(const hattn_cuda_params &params, uint32_t task_blocks)
{
    const uint32_t blocks = static_cast<uint32_t>(hattn_cuda_blocks(&params)) / task_blocks,
                   parts = static_cast<uint32_t>(params.most_parts) / task_blocks,
                   most = static_cast<uint32_t>(params.most_splits);
    const uint32_t splits = blocks < parts ? blocks : parts;
    return splits < 2 ? 1 : splits < most ? splits : most;
}

/* Of 1 to 64, without 64-bit division. */
__device__ inline hattn_cuda_divisor make_small_divisor(uint32_t divisor)
{
    hattn_cuda_divisor d = {divisor, 0, static_cast<uint32_t>(bit_width(divisor - 1))};
    const uint32_t rest = ((1u << d.shift) - divisor) << 16, high = rest / divisor;
    d.magic = (high << 16) + ((rest - high * divisor) << 16) / divisor + 1;
    return d;
}

template <class Engine, SelectBy kBy>
__global__ void __launch_bounds__(kThreads, 2)
    decode_attend_kernel(const __grid_constant__ hattn_cuda_params params,
                         const __grid_constant__ hattn_decode_args args, const __grid_constant__ RunBy<kBy> regions,
                         hattn_buffer workspace)
{
    __shared__ ShareSpace<Engine, SelectEarly<kBy>> space;
    constexpr size_t kOfTail =
        kBy == SelectBy::TAIL ? sizeof(TailSums) + static_cast<size_t>(Engine::kHeads) * sizeof(float2) : 0;
    static_assert(sizeof(space) + kOfTail + 64 <= Engine::kStaticBytes, "with what functions declare");
    const AttendRun<kBy> run = {params, args, regions, workspace};
    const uint32_t blocks = static_cast<uint32_t>(group_blocks(params.group, Engine::kHeads)), /* of a task's heads */
        item = blocks == 1 ? blockIdx.x : blockIdx.x / blocks, block = blockIdx.x - item * blocks;
    const uint32_t piece = divide(item, regions.tasks);
    PlacedTask placed = place_task(regions, item - piece * regions.tasks.divisor, piece);
    load_length(regions, placed);
    TaskCut by(regions);
    Share share;
    share.splits = regions.splits;
    if (!regions.is_alone) {
        const uint32_t rows = live_rows(regions);
        if (rows < static_cast<uint32_t>(regions.wave.num_rows)) {
            by = TaskCut(regions, max(rows, 1u) * regions.heads.divisor);
            share.splits = make_small_divisor(decode_splits(params, by.tasks * blocks));
            const uint32_t shares = rows ? by.tasks * blocks * share.splits.divisor : 0;
            if (blockIdx.x >= shares) {
                wait_for_previous();
                return store_padding<Engine>(run, rows, shares);
            }
            const uint32_t its = item / by.tasks;
            placed = place_task(regions, item - its * by.tasks, its);
            load_length(regions, placed);
        }
    }
    if (placed.piece >= share.splits.divisor)
        return wait_for_previous(); /* the next kernel takes this one's end for both */
    const RegionTask task = region_task(regions, placed.place, placed.seq_len, load_budget(regions, placed));
    take_heads(share, params.group, Engine::kHeads, placed.head * params.group, static_cast<int>(block));
    share.row = placed.row;
    share.split = static_cast<int32_t>(placed.piece);
    share.num_splits = static_cast<int32_t>(share.splits.divisor);
    share.counter = static_cast<int32_t>(placed.index * blocks + block);
    attend_task<Engine, kBy>(run, placed, cut_task(regions, by, placed), task, share, space);
}

/* One that has sums for a tail, where there is one. */
template <class Engine, SelectBy kBy>
struct EngineBy {
    using type = Engine;
};

template <class Engine>
struct EngineBy<Engine, SelectBy::TAIL> {
    using type = typename Engine::template With<TailOf::ROWS>;
};

template <class Engines, SelectBy kBy, class F>
DeviceError with_decode_kernel(const hattn_cuda_params &params, F f)
{
    return Engines::choose(params.problem, params.block_heads, [&](auto engine) {
        return f(decode_attend_kernel<typename EngineBy<typename decltype(engine)::type, kBy>::type, kBy>);
    });
}

template <class Engines, SelectBy kBy>
DeviceError load_decode_attend(const hattn_cuda_params &params)
{
    return with_decode_kernel<Engines, kBy>(params, [&](auto kernel) { return prepare(kernel, params.attend_shared); });
}

template <class Engines, SelectBy kBy>
DeviceError launch_decode_attend(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                                 hattn_buffer workspace, DeviceStream stream)
{
    RunBy<kBy> run = make_run<RunBy<kBy>>(params, args, wave, workspace);
    const uint32_t blocks = static_cast<uint32_t>(wave.num_rows * wave.num_heads *
                                                  group_blocks(params.group, params.block_heads)),
                   splits = decode_splits(params, blocks);
    run.splits = hattn_cuda_make_divisor(splits);
    /* Enough for fewer tasks, too, and at least a block that has none. */
    const uint32_t even = blocks * splits, fewer = static_cast<uint32_t>(run.num_blocks) + 1;
    const dim3 grid(run.is_alone ? even : std::max(even, fewer));
    return with_decode_kernel<Engines, kBy>(params, [&](auto kernel) {
        return launch_dependent(params, kernel, grid, params.attend_shared, stream,
                                at_launch(params, params.block_heads, args.k_cache, args.v_cache), args, run,
                                workspace);
    });
}

} // namespace hattn

#endif
