/* SPDX-License-Identifier: Apache-2.0
 * Who does what in a wave of a decode, from the lengths that are there: every warp computes it by itself, from one load a lane for each 32
 * sequences, and all of both kernels get the same. Blocks then take items: pieces of tasks when scoring, shares of tasks when attending.
 *
 * Pieces are cut so that the keys of all tasks together give about as many as blocks are resident, each of as many keys. A task with few
 * keys has one. Where there is one sequence alone, the host knows all but its length, and nothing here is asked.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_SCHEDULE_CUH
#define HATTN_KERNELS_CUDA_DECODE_SCHEDULE_CUH

#include "kernels_cuda/decode/regions.cuh"

namespace hattn {

/* A task, and which of its pieces, where pieces are asked for. */
struct PlacedTask {
    uint32_t index; /* among those with keys */
    hattn_row_place place;
    int32_t row, head;
    uint32_t piece;
    int32_t seq_len; /* not of place_alone */
    RegionCut cut;   /* nor this one */
};

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

__device__ inline const int32_t *lengths_of(const RegionRun &run)
{
    return static_cast<const int32_t *>(hattn_address(run.batch.seq_len));
}

/* Where all tasks are of one sequence. */
__device__ inline PlacedTask place_alone(const RegionRun &run, uint32_t index, uint32_t piece)
{
    PlacedTask placed;
    const uint32_t row = divide(index, run.heads);
    placed.index = index;
    placed.piece = piece;
    placed.row = run.wave.first_row + static_cast<int32_t>(row);
    placed.head = run.wave.first_head + static_cast<int32_t>(index - row * run.heads.divisor);
    placed.place = {0, run.batch.q_len - 1 - placed.row};
    return placed;
}

/* When its length is there. */
__device__ inline RegionCut cut_alone(const RegionRun &run, uint32_t index, int32_t seq_len)
{
    const int32_t length = min(max(seq_len, 1), run.max_length);
    const uint32_t units = divide(units_of(run, length) + run.pieces.divisor - 1, run.pieces);
    return make_cut(run, units, run.pieces.divisor, run.piece_units, index * run.pieces.divisor, run.room);
}

class Schedule
{
public:
    /* All lanes. Reads lengths, and q_start if there is one. */
    __device__ explicit Schedule(const RegionRun &run) : run_(run), mine_(load(run.first_sequence + lane_id()))
    {
        uint32_t units = 0, scored = 0, live = 0;
#pragma unroll 1
        for (int32_t base = run.first_sequence; base < run.end_sequence; base += 32) {
            const Part part = at(base);
            const uint32_t tasks = tasks_of(part);
            live += tasks;
            if (part.length > run.unscored_length) {
                scored += tasks;
                units += tasks * units_of(run, part.length);
            }
        }
        live_ = __reduce_add_sync(kFullMask, live);
        units = __reduce_add_sync(kFullMask, units);
        scored = __reduce_add_sync(kFullMask, scored);
        /* So that there are no more pieces than blocks, if that cuts well; else about half as many again. */
        const uint32_t blocks = static_cast<uint32_t>(run.num_blocks), pieces = scored < blocks / 2 ? blocks - scored
                                                                                : scored < blocks   ? blocks / 2
                                                                                                    : blocks;
        piece_units_ = min(max((units + pieces - 1) / pieces, 1u), run.piece_units);
        uint32_t all = 0;
#pragma unroll 1
        for (int32_t base = run.first_sequence; base < run.end_sequence; base += 32) {
            const Part part = at(base);
            all += tasks_of(part) * pieces_of(part);
        }
        num_pieces_ = __reduce_add_sync(kFullMask, all);
        room_ = 0;
        if (run.is_sampled && num_pieces_)
            room_ = run.list_entries / (num_pieces_ * kWarps) & ~7u;
    }

    /* Pieces of all tasks; tasks that have keys. */
    __device__ uint32_t num_pieces() const { return num_pieces_; }

    __device__ uint32_t num_tasks() const { return live_; }

    /* The task of piece `index`. All lanes, with the same. */
    __device__ PlacedTask find_piece(uint32_t index) const { return find<false>(index); }

    /* Task `index`. */
    __device__ PlacedTask find_task(uint32_t index) const { return find<true>(index); }

private:
    /* A sequence's rows in the wave. */
    struct Part {
        int32_t first_row, num_rows, end; /* end: of all its rows */
        int32_t seq_len, length;
    };

    __device__ Part load(int32_t sequence) const
    {
        Part part = {};
        if (sequence >= run_.end_sequence)
            return part;
        int32_t first;
        if (run_.batch.q_start.data) {
            const int32_t *q_start = static_cast<const int32_t *>(hattn_address(run_.batch.q_start)) + sequence;
            first = load_now(q_start);
            part.end = load_now(q_start + 1);
        } else {
            first = sequence * run_.batch.q_len;
            part.end = first + run_.batch.q_len;
        }
        part.seq_len = load_now(lengths_of(run_) + sequence);
        part.first_row = max(first, run_.wave.first_row);
        part.num_rows = max(min(part.end, run_.wave.first_row + run_.wave.num_rows) - part.first_row, 0);
        part.length = min(max(part.seq_len, 0), run_.max_length);
        return part;
    }

    __device__ Part at(int32_t base) const { return base == run_.first_sequence ? mine_ : load(base + lane_id()); }

    __device__ uint32_t tasks_of(const Part &part) const
    {
        return part.length > 0 ? static_cast<uint32_t>(part.num_rows * run_.wave.num_heads) : 0;
    }

    __device__ uint32_t pieces_of(const Part &part) const
    {
        return part.length > run_.unscored_length ? (units_of(run_, part.length) + piece_units_ - 1) / piece_units_ : 0;
    }

    template <bool kTask>
    __device__ PlacedTask find(uint32_t index) const
    {
        uint32_t passed = 0; /* tasks << 16 | pieces: each is less than 2^16 */
        Part part = mine_;
        int32_t base = run_.first_sequence;
        int lane = 0;
#pragma unroll 1
        for (;;) {
            const uint32_t tasks = tasks_of(part), mine = tasks << 16 | tasks * pieces_of(part),
                           scan = passed + warp_scan(mine),
                           hits = __ballot_sync(kFullMask, (kTask ? scan >> 16 : scan & 0xffff) > index);
            if (hits || base + 32 >= run_.end_sequence) { /* there is one */
                lane = hits ? __ffs(static_cast<int>(hits)) - 1 : 31;
                passed = __shfl_sync(kFullMask, scan - mine, lane);
                break;
            }
            passed = __shfl_sync(kFullMask, scan, 31);
            base += 32;
            part = at(base);
        }
        PlacedTask placed;
        placed.place.sequence = base + lane;
        placed.seq_len = __shfl_sync(kFullMask, part.seq_len, lane);
        const uint32_t num_pieces = max(__shfl_sync(kFullMask, pieces_of(part), lane), 1u),
                       num_rows = static_cast<uint32_t>(__shfl_sync(kFullMask, part.num_rows, lane));
        const int32_t first_row = __shfl_sync(kFullMask, part.first_row, lane),
                      end = __shfl_sync(kFullMask, part.end, lane);
        uint32_t task = index - (kTask ? passed >> 16 : passed & 0xffff);
        placed.piece = 0;
        if (!kTask) {
            const uint32_t tasks = num_rows * run_.heads.divisor;
            placed.piece = num_rows == 1 ? divide(task, run_.heads) : task / tasks;
            task -= placed.piece * tasks;
        }
        const uint32_t row = num_rows == 1 ? 0 : divide(task, run_.heads);
        placed.row = first_row + static_cast<int32_t>(row);
        placed.head = run_.wave.first_head + static_cast<int32_t>(task - row * run_.heads.divisor);
        placed.place.after = end - 1 - placed.row;
        placed.index = (passed >> 16) + task;
        const int32_t length = min(max(placed.seq_len, 0), run_.max_length);
        placed.cut = make_cut(run_, (units_of(run_, length) + num_pieces - 1) / num_pieces, num_pieces, piece_units_,
                              (passed & 0xffff) + task * num_pieces, room_);
        return placed;
    }

    const RegionRun &run_;
    const Part mine_; /* of the first sequences, a lane one */
    uint32_t piece_units_, num_pieces_, live_, room_;
};

} // namespace hattn

#endif
