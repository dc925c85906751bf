/* SPDX-License-Identifier: Apache-2.0
 * Who does what in a wave of a decode, from the lengths that are there: every block of both kernels computes the same, from a load a thread for
 * each 256 sequences. Blocks then take items: pieces of tasks when scoring, shares of tasks when attending.
 *
 * Pieces are cut so that the keys of all tasks together give about as many as blocks are resident, each of as many keys. A task with few
 * keys has one. Where all sequences have about as many keys, or there is one alone, the host's even cut does as well, and costs a look at the lengths.
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

/* Item `index` of a batch that is cut evenly: pieces, or shares, of all tasks of the wave in turn. */
__device__ inline PlacedTask place_evenly(const RegionRun &run, uint32_t index)
{
    PlacedTask placed;
    placed.piece = divide(index, run.tasks);
    placed.index = index - placed.piece * run.tasks.divisor;
    const uint32_t row = divide(placed.index, run.heads);
    placed.row = run.wave.first_row + static_cast<int32_t>(row);
    placed.head = run.wave.first_head + static_cast<int32_t>(placed.index - row * run.heads.divisor);
    placed.place.sequence = static_cast<int32_t>(divide(static_cast<uint32_t>(placed.row), run.q_len));
    placed.place.after = (placed.place.sequence + 1) * run.batch.q_len - 1 - placed.row;
    return placed;
}

/* When its length is there. */
__device__ inline RegionCut cut_evenly(const RegionRun &run, uint32_t index, int32_t seq_len)
{
    const int32_t length = min(max(seq_len, 1), run.max_length);
    const uint32_t units = divide(units_of(run, length) + run.pieces.divisor - 1, run.pieces);
    return make_cut(run, units, run.even_units, index * run.pieces.divisor, run.room);
}

/* Whether all sequences have at least half as many keys as any other: then each block can know its task without asking for the rest. Reads
 * lengths; by a warp. */
__device__ inline bool is_even_batch(const RegionRun &run)
{
    if (run.is_alone || run.batch.q_start.data)
        return run.is_alone;
    int32_t least = INT32_MAX, largest = 0;
#pragma unroll 1
    for (int32_t s = run.first_sequence + lane_id(); s < run.end_sequence; s += 32) {
        const int32_t length = load_now(lengths_of(run) + s);
        least = min(least, length);
        largest = max(largest, length);
    }
    least = warp_least(least);
    largest = warp_largest(largest);
    return largest > 0 && largest / 2 <= least;
}

struct ScheduleSpace {
    uint32_t units[kWarps], scored[kWarps], live[kWarps], scan[2][kWarps];
};

/* By all threads of a block, each of which has a sequence in 256. */
class Schedule
{
public:
    /* Reads lengths, and q_start if there is one. There is a barrier in it. */
    __device__ Schedule(const RegionRun &run, ScheduleSpace &space) : run_(run), space_(space)
    {
        uint32_t units = 0, scored = 0, live = 0;
#pragma unroll 1
        for (int32_t base = run.first_sequence; base < run.end_sequence; base += kThreads) {
            mine_ = load(base);
            live += mine_.num_tasks;
            if (mine_.length > run.unscored_length) {
                scored += mine_.num_tasks;
                units += mine_.num_tasks * units_of(run, mine_.length);
            }
        }
        units = warp_total(units);
        scored = warp_total(scored);
        live = warp_total(live);
        if (lane_id() == 0) {
            space.units[warp_id()] = units;
            space.scored[warp_id()] = scored;
            space.live[warp_id()] = live;
        }
        __syncthreads();
        units = scored = 0;
#pragma unroll
        for (int w = 0; w < kWarps; w++) {
            units += space.units[w];
            scored += space.scored[w];
            live_ += space.live[w];
        }
        /* So that there are no more pieces than blocks, or half as many again as tasks. */
        const uint32_t blocks = static_cast<uint32_t>(run.num_blocks),
                       pieces = 2 * scored <= blocks ? blocks - scored : blocks / 2;
        piece_units_ = min(max((units + pieces - 1) / pieces, 1u), run.most_units);
    }

    /* Tasks that have keys. */
    __device__ uint32_t num_tasks() const { return live_; }

    /* The task of piece `index`, or task `index`, to shared memory, if there is one; the number of all pieces. Ends with a barrier. */
    template <bool kTask>
    __device__ uint32_t place(uint32_t index, PlacedTask &placed) const
    {
        uint32_t passed = 0, hit_passed = 0, hit_pieces = 0; /* passed: tasks << 16 | pieces, each less than 2^16 */
        int32_t hit_sequence = -1;
        Part hit = {};
        int turn = 0;
#pragma unroll 1
        for (int32_t base = run_.first_sequence; base < run_.end_sequence; base += kThreads, turn ^= 1) {
            const Part part = run_.end_sequence - run_.first_sequence <= kThreads ? mine_ : load(base);
            const uint32_t num_pieces = pieces_of(part), mine = part.num_tasks << 16 | part.num_tasks * num_pieces;
            uint32_t all;
            const uint32_t first = passed + block_scan(mine, space_.scan[turn], &all), end = first + mine;
            if (kTask ? index >= first >> 16 && index < end >> 16
                      : index >= (first & 0xffff) && index < (end & 0xffff)) {
                hit_passed = first;
                hit_pieces = max(num_pieces, 1u);
                hit_sequence = base + static_cast<int32_t>(threadIdx.x);
                hit = part;
            }
            passed += all;
        }
        if (hit_sequence >= 0)
            placed = place_in<kTask>(hit, hit_sequence, index, hit_passed, hit_pieces, passed & 0xffff);
        __syncthreads();
        return passed & 0xffff;
    }

private:
    /* A sequence's rows in the wave. */
    struct Part {
        int32_t first_row, end; /* end: of all its rows */
        uint32_t num_tasks;
        int32_t seq_len, length;
    };

    __device__ uint32_t pieces_of(const Part &part) const
    {
        return part.length > run_.unscored_length ? (units_of(run_, part.length) + piece_units_ - 1) / piece_units_ : 0;
    }

    __device__ Part load(int32_t base) const
    {
        const int32_t sequence = base + static_cast<int32_t>(threadIdx.x);
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
        part.length = min(max(part.seq_len, 0), run_.max_length);
        if (part.length > 0)
            part.num_tasks = static_cast<uint32_t>(
                max(min(part.end, run_.wave.first_row + run_.wave.num_rows) - part.first_row, 0) * run_.wave.num_heads);
        return part;
    }

    /* Behind `passed` tasks and pieces; of all num_pieces pieces. */
    template <bool kTask>
    __device__ PlacedTask place_in(const Part &part, int32_t sequence, uint32_t index, uint32_t passed,
                                   uint32_t num_pieces, uint32_t all_pieces) const
    {
        PlacedTask placed;
        uint32_t task = index - (kTask ? passed >> 16 : passed & 0xffff);
        placed.piece = 0;
        if (!kTask) {
            placed.piece = task / part.num_tasks;
            task -= placed.piece * part.num_tasks;
        }
        const uint32_t row = divide(task, run_.heads);
        placed.index = (passed >> 16) + task;
        placed.row = part.first_row + static_cast<int32_t>(row);
        placed.head = run_.wave.first_head + static_cast<int32_t>(task - row * run_.heads.divisor);
        placed.place = {sequence, part.end - 1 - placed.row};
        placed.seq_len = part.seq_len;
        placed.cut = make_cut(run_, (units_of(run_, part.length) + num_pieces - 1) / num_pieces, piece_units_,
                              (passed & 0xffff) + task * num_pieces,
                              run_.is_sampled ? run_.list_entries / (max(all_pieces, 1u) * kWarps) & ~7u : 0);
        return placed;
    }

    const RegionRun &run_;
    ScheduleSpace &space_;
    Part mine_ = {}; /* of the last 256 */
    uint32_t piece_units_, live_ = 0;
};

} // namespace hattn

#endif
