/* SPDX-License-Identifier: Apache-2.0
 * Who does what in a wave of a decode: each task is cut into as many pieces as any other, so that all pieces together are about as many as
 * blocks are resident. A piece is the same part of its task's keys, however many these are. The host cuts for the rows that it launches. Often
 * those at the end are padding, which only the device knows: then it cuts anew, for those that are left.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_SCHEDULE_CUH
#define HATTN_KERNELS_CUDA_DECODE_SCHEDULE_CUH

#include "kernels_cuda/decode/regions.cuh"

namespace hattn {

/* A task, and which of its pieces, or of its shares when attending. */
struct PlacedTask {
    uint32_t index; /* among the wave's */
    hattn_row_place place;
    int32_t row, head;
    uint32_t piece;
    int32_t seq_len;
};

__device__ inline const int32_t *lengths_of(const RegionRun &run)
{
    return static_cast<const int32_t *>(hattn_address(run.batch.seq_len));
}

/* Of a task's sequence and head, if there are budgets. */
__device__ inline int32_t load_budget(const RegionRun &run, const PlacedTask &placed)
{
    return run.budgets ? load_now(run.budgets + placed.place.sequence * run.budget_stride[0] +
                                  placed.head * run.budget_stride[1])
                       : 0;
}

/* Units of keys. */
__device__ inline uint32_t units_of(const RegionRun &run, int32_t length)
{
    const int shift = run.range_shift + 3;
    return static_cast<uint32_t>(length + (1 << shift) - 1) >> shift;
}

/* Piece `piece` of task `index`. Reads q_start, if there is one. */
__device__ inline PlacedTask place_task(const RegionRun &run, uint32_t index, uint32_t piece)
{
    PlacedTask placed;
    placed.index = index;
    placed.piece = piece;
    const uint32_t row = divide(index, run.heads);
    placed.row = run.wave.first_row + static_cast<int32_t>(row);
    placed.head = run.wave.first_head + static_cast<int32_t>(index - row * run.heads.divisor);
    if (run.batch.q_start.data) {
        placed.place = hattn_place_row(&run.batch, placed.row);
    } else {
        placed.place.sequence = static_cast<int32_t>(divide(static_cast<uint32_t>(placed.row), run.q_len));
        placed.place.after = (placed.place.sequence + 1) * run.batch.q_len - 1 - placed.row;
    }
    placed.seq_len = 0;
    return placed;
}

/* The length that it lacks. threadIdx.y is 0, which the compiler does not know: it would have the load waited for at once. */
__device__ inline void load_length(const RegionRun &run, PlacedTask &placed)
{
    if (placed.place.sequence >= 0)
        placed.seq_len = load_now(lengths_of(run) + placed.place.sequence + threadIdx.y);
}

/* How tasks are cut. */
struct TaskCut {
    uint32_t tasks, pieces;
    uint32_t most_units, room; /* of any piece; of a range's list */

    __device__ explicit TaskCut(const RegionRun &run)
        : tasks(run.tasks.divisor), pieces(run.pieces.divisor), most_units(run.even_units), room(run.room)
    {
    }

    /* For so many tasks, at least one, which the host did not know. */
    __device__ TaskCut(const RegionRun &run, uint32_t num_tasks)
        : tasks(num_tasks),
          pieces(min(max(static_cast<uint32_t>(run.num_blocks) / num_tasks, run.least_pieces), run.units)),
          most_units((run.units + pieces - 1) / pieces),
          room(run.is_sampled ? run.list_entries / (kWarps * tasks * pieces) & ~7u : 0)
    {
    }
};

/* Rows of the wave up to the last sequence with keys. Reads lengths, and q_start if there is one. By all threads, with a barrier. */
__device__ inline uint32_t live_rows(const RegionRun &run)
{
    __shared__ int32_t lasts[kWarps];
    int32_t last = 0;
#pragma unroll 1
    for (int32_t s = run.first_sequence + static_cast<int32_t>(threadIdx.x); s < run.end_sequence; s += kThreads)
        if (load_now(lengths_of(run) + s) > 0)
            last = s + 1;
    last = warp_largest(last);
    if (lane_id() == 0)
        lasts[warp_id()] = last;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kWarps; w++)
        last = max(last, lasts[w]);
    const int32_t end = run.batch.q_start.data
                            ? load_now(static_cast<const int32_t *>(hattn_address(run.batch.q_start)) + last)
                            : last * run.batch.q_len;
    return uniform(static_cast<uint32_t>(min(max(end - run.wave.first_row, 0), run.wave.num_rows)));
}

/* A task's keys, when its length is known. */
__device__ inline RegionCut cut_task(const RegionRun &run, const TaskCut &by, const PlacedTask &placed)
{
    const int32_t length = min(max(placed.seq_len, 1), run.max_length);
    const uint32_t all = units_of(run, length) + by.pieces - 1,
                   units = by.pieces == run.pieces.divisor ? divide(all, run.pieces) : all / by.pieces;
    return make_cut(run, units, by.most_units, placed.index * by.pieces, by.room);
}

} // namespace hattn

#endif
