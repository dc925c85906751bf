/* SPDX-License-Identifier: Apache-2.0
 * The choice among a row's candidates by all heads of a selection (api/hattn.h, hattn_topk, "With candidates"), by one block: shares of scores, their
 * sums, p, and an exact top-k of p. A thread has 4 neighbours of each 4096 candidates, throughout.
 * Bound: latencies of barriers and of code, which runs once out of a cold cache, for few candidates; a share's dozen of instructions for many. So loops
 * are rolled; all loads of scores are in flight together; factors have a copy for each lane, so that no two lanes meet in a bank; and p is counted
 * by its leading bits, as a float has them, so that one pass over a histogram leaves a handful to rank against each other.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_HEAD_CHOICE_CUH
#define HATTN_KERNELS_CUDA_SELECT_HEAD_CHOICE_CUH

#include "kernels_cuda/attend/tail.cuh"
#include "kernels_cuda/select/head_lists.cuh"
#include "kernels_cuda/select/select.cuh"

namespace hattn {

class HeadChoice
{
public:
    /* steps: of the task's first head, those of the others `step_stride` after it. */
    __device__ HeadChoice(const hattn_cuda_params &params, const HeadLists &lists, const ChoiceMemory &memory,
                          int count, const int32_t *steps, int64_t step_stride, ChoiceSpace &space)
        : lists_(lists), memory_(memory), count_(count), row_(params.most_scored), group_(params.group),
          num_scores_(params.group + (params.problem.tail > 0.0f)), steps_(steps), step_stride_(step_stride),
          space_(space)
    {
    }

    /* Before what is listed is there; needs a barrier. */
    __device__ static void prepare(ChoiceSpace &space)
    {
        static constexpr uint32_t kFactors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;
        for (int i = static_cast<int>(threadIdx.x); i < HATTN_FLOOR_FACTORS * 32; i += kChoiceThreads)
            space.factors[i / 32][i % 32] = kFactors[i / 32];
        for (int i = static_cast<int>(threadIdx.x); i < HATTN_CUDA_BINS; i += kChoiceThreads)
            space.histogram[i] = 0;
        if (threadIdx.x == 0)
            space.num_contest = 0;
        for (int i = static_cast<int>(threadIdx.x); i < 3 * (HATTN_MOST_HEADS + 1); i += kChoiceThreads)
            space.sums[i / 3][i % 3] = 0;
    }

    /* p of all candidates; how many have at least `bound`. Ends with a barrier. */
    __device__ int make_keys(uint64_t bound)
    {
        load();
        find_largest();
        __syncthreads();
        sum_shares();
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < group_)
            space_.inverses[threadIdx.x] = hattn_head_inverse(sum(static_cast<int>(threadIdx.x)));
        __syncthreads();
        return static_cast<int>(block_total(add_probabilities(bound), space_.joined));
    }

    /* Finds the `kept` best, 0 < kept < count, equal ones by smallest position. */
    __device__ void find(int kept)
    {
        const uint32_t wanted = static_cast<uint32_t>(kept);
        find_bin(wanted);
        const uint32_t bin = space_.bin, ties = wanted - space_.above,
                       members = bin ? space_.histogram[bin] : static_cast<uint32_t>(count_) - space_.above;
        if (ties == members)
            least_ = static_cast<uint64_t>(least_of(bin)) << 32;
        else if (members <= kContest)
            rank_members(bin, ties);
        else
            search(bin, wanted);
    }

    /* sink(rank, candidate, position) of what is kept. */
    template <class Sink>
    __device__ void visit(const int32_t *positions, Sink sink)
    {
        uint32_t done = 0;
        int turn = 0;
        for (int first = 0; first < count_; first += kChoiceTile, turn ^= 1) {
            const int mine = first + kAtOnce * static_cast<int>(threadIdx.x);
            uint32_t kept = 0, all;
            int32_t position[kAtOnce]; /* of all, so that their loads are in flight together */
            if (mine < count_) {
                uint32_t keys[kAtOnce];
#pragma unroll
                for (int i = 0; i < kAtOnce; i++)
                    position[i] = static_cast<int32_t>(
                        load_l2(reinterpret_cast<const uint32_t *>(positions + min(mine + i, count_ - 1))));
                load_words(keys, memory_.keys + mine);
#pragma unroll
                for (int i = 0; i < kAtOnce; i++)
                    kept |= (mine + i < count_ && is_kept(keys[i], mine + i) ? 1u : 0u) << i;
            }
            uint32_t rank = done + block_scan<kChoiceWarps>(count_ones(kept), space_.scans[turn], &all);
#pragma unroll
            for (int i = 0; i < kAtOnce; i++)
                if (kept >> i & 1)
                    sink(static_cast<int>(rank++), mine + i, position[i]);
            done += all;
        }
    }

    __device__ bool is_kept(uint32_t key, int candidate) const { return order_of(key, candidate) >= least_; }

    __device__ uint32_t key(int candidate) const { return memory_.keys[candidate]; }

    /* Head `group_` has the summed scores. */
    __device__ uint32_t share(int head, int candidate, uint32_t step) const
    {
        return lane_share(space_.tops[head] - memory_.scores[head * row_ + candidate], step, space_);
    }

    /* Z */
    __device__ uint64_t sum(int head) const
    {
        const uint32_t(&pieces)[3] = space_.sums[head];
        return pieces[0] + (static_cast<uint64_t>(pieces[1]) << 24) + (static_cast<uint64_t>(pieces[2]) << 48);
    }

    /* Of shares of what is kept, once it is known; up to HATTN_MOST_HEADS of them. */
    __device__ void leave_totals(int i, const ShareTotals &totals) { totals_of()[i] = totals; }

    __device__ const ShareTotals &totals(int i) const { return totals_of()[i]; }

private:
    /* Where the contest was. */
    __device__ ShareTotals *totals_of() const { return reinterpret_cast<ShareTotals *>(space_.contest); }

    __device__ static uint64_t order_of(uint32_t key, int candidate)
    {
        return static_cast<uint64_t>(key) << 32 | static_cast<uint32_t>(~candidate);
    }

    __device__ FourScores scores_of(int head, int candidate) const
    {
        const uint2 *from = reinterpret_cast<const uint2 *>(memory_.scores + head * row_ + candidate);
        return {memory_.is_shared ? *from : load_l2(from)};
    }

    template <int kNum>
    __device__ static void load_words(uint32_t (&words)[kNum], const uint32_t *from)
    {
#pragma unroll
        for (int i = 0; i < kNum; i += 4) {
            const uint4 four = *reinterpret_cast<const uint4 *>(from + i);
            memcpy(words + i, &four, sizeof(four));
        }
    }

    /* Scores into shared memory, steps too, all of them in flight. */
    __device__ void load()
    {
        constexpr int kCopied = 16 / sizeof(uint16_t);
        const int thread = static_cast<int>(threadIdx.x);
        if (memory_.is_shared) {
#pragma unroll 1
            for (int head = 0; head < num_scores_; head++)
#pragma unroll 1
                for (int first = kCopied * thread; first < count_; first += kCopied * kChoiceThreads)
                    copy_async16(memory_.scores + head * row_ + first, lists_.scores + head * row_ + first, true);
            copy_commit();
        }
        if (thread < group_)
            space_.steps[thread] = load_l2(reinterpret_cast<const uint32_t *>(steps_ + thread * step_stride_));
        if (memory_.is_shared)
            copy_wait(0);
        __syncthreads();
    }

    /* Of each warp. */
    __device__ void find_largest()
    {
#pragma unroll 1
        for (int head = 0; head < num_scores_; head++) {
            uint32_t largest = 0;
#pragma unroll 1
            for (int mine = kAtOnce * static_cast<int>(threadIdx.x); mine < count_; mine += kChoiceTile) {
                const FourScores scores = scores_of(head, mine);
#pragma unroll
                for (int i = 0; i < kAtOnce; i++)
                    largest = max(largest, mine + i < count_ ? scores.at(i) : 0);
            }
            largest = static_cast<uint32_t>(warp_largest(static_cast<int32_t>(largest)));
            if (lane_id() == 0)
                space_.largest[head][warp_id()] = largest;
        }
    }

    /* And what is the largest of all, told by the first warp. */
    __device__ void sum_shares()
    {
#pragma unroll 1
        for (int head = 0; head < num_scores_; head++) {
            const uint32_t top =
                static_cast<uint32_t>(warp_largest(static_cast<int32_t>(space_.largest[head][lane_id()])));
            if (threadIdx.x == 0)
                space_.tops[head] = top;
            if (head == group_)
                break;
            const uint32_t step = space_.steps[head];
            uint64_t sum = 0;
#pragma unroll 1
            for (int mine = kAtOnce * static_cast<int>(threadIdx.x); mine < count_; mine += kChoiceTile) {
                const FourScores scores = scores_of(head, mine);
#pragma unroll
                for (int i = 0; i < kAtOnce; i++)
                    sum += mine + i < count_ ? lane_share(top - scores.at(i), step, space_) : 0;
            }
            sum = warp_total_of_large(sum);
            if (lane_id() < 3 && sum)
                atomic_add(&space_.sums[head][lane_id()],
                           static_cast<uint32_t>(sum >> 24 * lane_id()) & (lane_id() < 2 ? 0xffffffu : ~0u));
        }
    }

    /* p, and counts of it. How many of a thread reach the bound. */
    __device__ uint32_t add_probabilities(uint64_t bound)
    {
        uint32_t reaching = 0;
#pragma unroll 1
        for (int mine = kAtOnce * static_cast<int>(threadIdx.x); mine < count_; mine += kChoiceTile) {
            uint32_t keys[kAtOnce] = {};
#pragma unroll 1
            for (int head = 0; head < group_; head++) {
                const uint32_t top = space_.tops[head], step = space_.steps[head];
                const uint64_t inverse = space_.inverses[head];
                const FourScores scores = scores_of(head, mine);
#pragma unroll
                for (int i = 0; i < kAtOnce; i++)
                    keys[i] += hattn_head_probability(lane_share(top - scores.at(i), step, space_), inverse);
            }
#pragma unroll
            for (int i = 0; i < kAtOnce; i++) {
                keys[i] = mine + i < count_ ? keys[i] : 0;
                reaching += mine + i < count_ && keys[i] >= bound;
                if (keys[i]) /* there may be many without */
                    atomic_add(&space_.histogram[bin_of(keys[i])], 1u);
            }
            *reinterpret_cast<uint4 *>(memory_.keys + mine) = {keys[0], keys[1], keys[2], keys[3]};
        }
        return reaching;
    }

    /* The largest bin such that it and those above hold at least `wanted`, into space. Bin 0 has what none of the others has. */
    __device__ void find_bin(uint32_t wanted)
    {
        constexpr int kBins = HATTN_CUDA_BINS / kChoiceThreads;
        static_assert(kBins == 2, "a pair is loaded");
        const int first = HATTN_CUDA_BINS - kBins * (1 + static_cast<int>(threadIdx.x));
        const uint2 counts = *reinterpret_cast<const uint2 *>(&space_.histogram[first]);
        uint32_t total;
        const uint32_t mine = counts.x + counts.y, above = block_scan<kChoiceWarps>(mine, space_.scans[0], &total);
        if (total < wanted) {
            if (threadIdx.x == 0) {
                space_.bin = 0;
                space_.above = total;
            }
        } else if (above < wanted && above + mine >= wanted) {
            const bool is_second = above + counts.y >= wanted;
            space_.bin = static_cast<uint32_t>(first + is_second);
            space_.above = above + (is_second ? 0 : counts.y);
        }
        __syncthreads();
    }

    /* Few of one bin: each against all. */
    __device__ void rank_members(uint32_t bin, uint32_t ties)
    {
        for (int mine = kAtOnce * static_cast<int>(threadIdx.x); mine < count_; mine += kChoiceTile) {
            uint32_t keys[kAtOnce];
            load_words(keys, memory_.keys + mine);
#pragma unroll
            for (int i = 0; i < kAtOnce; i++)
                if (mine + i < count_ && bin_of(keys[i]) == bin)
                    space_.contest[atomic_add(&space_.num_contest, 1u)] = order_of(keys[i], mine + i);
        }
        __syncthreads();
        const uint32_t num = space_.num_contest;
        for (uint32_t i = threadIdx.x; i < num; i += kChoiceThreads) {
            const uint64_t mine = space_.contest[i];
            uint32_t before = 0;
            for (uint32_t j = 0; j < num; j++)
                before += space_.contest[j] > mine;
            if (before + 1 == ties)
                space_.least = mine;
        }
        __syncthreads();
        least_ = space_.least;
    }

    __device__ uint32_t num_reaching(uint32_t bound)
    {
        uint32_t num = 0;
        for (int mine = kAtOnce * static_cast<int>(threadIdx.x); mine < count_; mine += kChoiceTile) {
            uint32_t keys[kAtOnce];
            load_words(keys, memory_.keys + mine);
#pragma unroll
            for (int i = 0; i < kAtOnce; i++)
                num += mine + i < count_ && keys[i] >= bound;
        }
        return block_total(num, space_.joined);
    }

    /* Many of one bin, as where all weights are 0: rare and slow. */
    __device__ void search(uint32_t bin, uint32_t wanted)
    {
        uint32_t low = least_of(bin), high = bin ? least_of(bin + 1) - 1 : 0;
        while (low < high) {
            const uint32_t middle = low + (high - low + 1) / 2;
            if (num_reaching(middle) >= wanted)
                low = middle;
            else
                high = middle - 1;
        }
        const uint32_t ties = wanted - num_reaching(low + 1);
        uint32_t before = 0;
        for (int first = 0, turn = 0; first < count_; first += kChoiceThreads, turn ^= 1) {
            const int mine = first + static_cast<int>(threadIdx.x);
            const bool is_equal = mine < count_ && memory_.keys[mine] == low;
            uint32_t all;
            const uint32_t num = before + block_scan<kChoiceWarps>(is_equal, space_.scans[turn], &all);
            if (is_equal && num + 1 == ties)
                space_.least = order_of(low, mine);
            before += all;
        }
        __syncthreads();
        least_ = space_.least;
    }

    const HeadLists &lists_;
    const ChoiceMemory &memory_;
    const int count_, row_, group_, num_scores_;
    const int32_t *steps_;
    const int64_t step_stride_;
    ChoiceSpace &space_;
    uint64_t least_ = 0;
};

} // namespace hattn

#endif
