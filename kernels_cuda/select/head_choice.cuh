/* SPDX-License-Identifier: Apache-2.0
 * The choice among a row's candidates by all heads of a selection (api/hattn.h, hattn_topk, "With candidates"), by one block: shares of scores, their
 * sums, p, and an exact top-k of p. A thread has 8 neighbours of each 2048 candidates, throughout.
 * Bound: instructions, for the few warps of a block, and latencies of barriers and of code, which runs once out of a cold cache. So shares and
 * probabilities are made once for each score that there can be, and looked up; loops are rolled; all loads of scores are in flight together; and p is
 * counted by its leading bits, as a float has them, so that one pass over a histogram leaves a handful to rank against each other.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_HEAD_CHOICE_CUH
#define HATTN_KERNELS_CUDA_SELECT_HEAD_CHOICE_CUH

#include "kernels_cuda/attend/tail.cuh"
#include "kernels_cuda/select/head_lists.cuh"
#include "kernels_cuda/select/select.cuh"

namespace hattn {

/* kShared: scores and p are in shared memory, and so are tables by score. */
template <bool kShared>
class HeadChoice
{
    static constexpr int kHeads = 4; /* in flight together */

public:
    /* steps: of the task's first head, those of the others `step_stride` after it; summed_step: with a tail, of the summed scores. */
    __device__ HeadChoice(const hattn_cuda_params &params, const HeadLists &lists, const ChoiceMemory &memory,
                          int count, const int32_t *steps, int64_t step_stride, const int32_t *summed_step,
                          ChoiceSpace &space)
        : lists_(lists), memory_(memory), count_(count), row_(params.most_scored), group_(params.group),
          num_scores_(params.group + (params.problem.tail > 0.0f)), steps_(steps), summed_step_(summed_step),
          step_stride_(step_stride), space_(space)
    {
    }

    /* Before what is listed is there; needs a barrier. */
    __device__ static void prepare(ChoiceSpace &space)
    {
        static constexpr uint32_t kFactors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;
        const int thread = static_cast<int>(threadIdx.x);
        if (thread < HATTN_FLOOR_FACTORS)
            space.factors[thread] = kFactors[thread];
        for (int i = thread; i < HATTN_CUDA_BINS; i += kChoiceThreads)
            space.histogram[i] = 0;
        for (int i = thread; i < 3 * HATTN_MOST_HEADS; i += kChoiceThreads)
            space.sums[i / 3][i % 3] = 0;
        if (thread == 0)
            space.num_contest = 0;
    }

    /* p of all candidates; how many have at least `bound`. Ends with a barrier. */
    __device__ int make_keys(uint64_t bound)
    {
        load();
        find_largest();
        __syncthreads();
        find_tops();
        sum_shares();
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < group_)
            space_.inverses[threadIdx.x] = hattn_head_inverse(sum(static_cast<int>(threadIdx.x)));
        __syncthreads();
        if (kShared) {
            each_level(group_, [&](int head, int, uint32_t &entry) {
                entry = hattn_head_probability(entry, space_.inverses[head]);
            });
            __syncthreads();
        }
        const uint32_t reaching = add_probabilities(bound);
        if (bound)
            return static_cast<int>(block_total(reaching, space_.joined));
        __syncthreads();
        return count_; /* all have that */
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

    /* Candidates that are kept, into ranks; ends with a barrier. Each thread has neighbours, so that one scan does for most. */
    __device__ void list_ranks()
    {
        constexpr int kMost = 16; /* of a thread */
        uint32_t done = 0;
        for (int first = 0, turn = 0; first < count_; first += kMost * kChoiceThreads, turn ^= 1) {
            const int each = min((count_ - first + 4 * kChoiceThreads - 1) / (4 * kChoiceThreads) * 4, kMost),
                      mine = first + each * static_cast<int>(threadIdx.x);
            uint32_t kept = 0, all;
#pragma unroll 1
            for (int four = 0; four < each && mine + four < count_; four += 4) {
                uint32_t keys[4];
                load_words(keys, memory_.keys + mine + four);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int candidate = mine + four + i;
                    kept |= (candidate < count_ && is_kept(keys[i], candidate) ? 1u : 0u) << (four + i);
                }
            }
            uint32_t rank = done + block_scan<kChoiceWarps>(count_ones(kept), space_.scans[turn], &all);
#pragma unroll 1
            for (; kept; kept &= kept - 1)
                memory_.ranks[rank++] = mine + lowest_one(kept);
            done += all;
        }
        __syncthreads();
    }

    __device__ bool is_kept(uint32_t key, int candidate) const { return order_of(key, candidate) >= least_; }

    __device__ uint32_t key(int candidate) const { return memory_.keys[candidate]; }

    /* T of a candidate by a head's scores; `group` of the selection: by the summed ones. */
    __device__ uint32_t share(int head, int candidate) const
    {
        return share_of(space_.tops[head] - memory_.scores[head * row_ + candidate], space_.steps[head]);
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

    __device__ uint32_t share_of(uint32_t distance, uint32_t step) const
    {
        const uint32_t e = distance * step;
        return space_.factors[e >> 4 & (HATTN_FLOOR_FACTORS - 1)] >> min(e >> 10, 31u); /* all are below 2^31 */
    }

    __device__ SomeScores scores_of(int head, int candidate) const
    {
        const uint32_t *from = reinterpret_cast<const uint32_t *>(memory_.scores + head * row_ + candidate);
        SomeScores scores;
        if (kShared)
            load_words(scores.words, from);
        else
#pragma unroll
            for (int i = 0; i < kAtOnce / 2; i += 2) {
                const uint2 two = load_l2(reinterpret_cast<const uint2 *>(from + i));
                memcpy(scores.words + i, &two, sizeof(two));
            }
        return scores;
    }

    /* f(head, score, its entry) for tables of heads, in turns of threads. */
    template <class F>
    __device__ void each_level(int heads, F f) const
    {
#pragma unroll 1
        for (int head = 0; head < heads; head++)
#pragma unroll 1
            for (int score = static_cast<int>(threadIdx.x); score < memory_.levels; score += kChoiceThreads)
                f(head, score, memory_.tables[head * memory_.levels + score]);
    }

    template <int kNum>
    __device__ static void load_words(uint32_t (&words)[kNum], const uint32_t *from)
    {
        using Loaded = std::conditional_t<kNum % 4 == 0, uint4, uint2>;
        constexpr int kStep = sizeof(Loaded) / 4;
#pragma unroll
        for (int i = 0; i < kNum; i += kStep) {
            const Loaded some = *reinterpret_cast<const Loaded *>(from + i);
            memcpy(words + i, &some, sizeof(some));
        }
    }

    /* Scores into shared memory, steps too, all of them in flight. */
    __device__ void load()
    {
        constexpr int kCopied = 16 / sizeof(uint16_t);
        const int thread = static_cast<int>(threadIdx.x);
        if (kShared) {
#pragma unroll 1
            for (int head = 0; head < num_scores_; head++)
#pragma unroll 1
                for (int first = kCopied * thread; first < count_; first += kCopied * kChoiceThreads)
                    copy_async16(memory_.scores + head * row_ + first, lists_.scores + head * row_ + first, true);
            copy_commit();
        }
        if (thread < num_scores_)
            space_.steps[thread] = load_l2(
                reinterpret_cast<const uint32_t *>(thread < group_ ? steps_ + thread * step_stride_ : summed_step_));
        if (kShared) {
            copy_wait(0);
            const int last = count_ / kCopied; /* whose copy is not all candidates */
            if (count_ % kCopied && last % kChoiceThreads == thread)
#pragma unroll 1
                for (int i = 0; i < group_ * kCopied; i++)
                    if (kCopied * last + i % kCopied >= count_)
                        memory_.scores[i / kCopied * row_ + kCopied * last + i % kCopied] =
                            static_cast<uint16_t>(memory_.levels - 1);
        }
        __syncthreads();
    }

    /* Of each warp. */
    __device__ void find_largest()
    {
#pragma unroll 1
        for (int head = 0; head < num_scores_; head += kHeads) {
            uint32_t largest[kHeads] = {};
#pragma unroll 1
            for (int mine = kAtOnce * static_cast<int>(threadIdx.x); mine < count_; mine += kChoiceTile)
#pragma unroll
                for (int h = 0; h < kHeads; h++) {
                    const SomeScores scores = scores_of(min(head + h, num_scores_ - 1), mine);
#pragma unroll
                    for (int i = 0; i < kAtOnce; i++)
                        largest[h] = max(largest[h], mine + i < count_ ? scores.at(i) : 0);
                }
#pragma unroll
            for (int h = 0; h < kHeads; h++) {
                largest[h] = static_cast<uint32_t>(warp_largest(static_cast<int32_t>(largest[h])));
                if (lane_id() == 0)
                    space_.largest[min(head + h, num_scores_ - 1)][warp_id()] = largest[h];
            }
        }
    }

    /* Of all warps, and tables of shares. Ends with a barrier. */
    __device__ void find_tops()
    {
        for (int head = static_cast<int>(threadIdx.x); head < num_scores_; head += kChoiceThreads) {
            uint32_t top = 0;
            for (const uint32_t its : space_.largest[head])
                top = max(top, its);
            space_.tops[head] = top;
        }
        __syncthreads();
        if (!kShared)
            return;
        each_level(group_, [&](int head, int score, uint32_t &entry) {
            const uint32_t top = space_.tops[head];
            entry =
                score <= static_cast<int>(top) ? share_of(top - static_cast<uint32_t>(score), space_.steps[head]) : 0;
        });
        __syncthreads();
    }

    /* By warps. */
    __device__ void sum_shares()
    {
#pragma unroll 1
        for (int head = 0; head < group_; head += kHeads) {
            uint64_t sums[kHeads] = {};
#pragma unroll 1
            for (int mine = kAtOnce * static_cast<int>(threadIdx.x); mine < count_; mine += kChoiceTile)
#pragma unroll
                for (int h = 0; h < kHeads; h++) {
                    const int its = min(head + h, group_ - 1);
                    const SomeScores scores = scores_of(its, mine);
#pragma unroll
                    for (int i = 0; i < kAtOnce; i++)
                        sums[h] += kShared             ? memory_.tables[its * memory_.levels + scores.at(i)]
                                   : mine + i < count_ ? share_of(space_.tops[its] - scores.at(i), space_.steps[its])
                                                       : 0;
                }
#pragma unroll
            for (int h = 0; h < kHeads; h++) {
                const uint64_t sum = warp_total_of_large(sums[h]);
                if (lane_id() < 3 && head + h < group_)
                    atomic_add(&space_.sums[head + h][lane_id()],
                               static_cast<uint32_t>(sum >> 24 * lane_id()) & (lane_id() < 2 ? 0xffffffu : ~0u));
            }
        }
    }

    /* p, and counts of it. How many of a thread reach the bound. */
    __device__ uint32_t add_probabilities(uint64_t bound)
    {
        uint32_t reaching = 0;
#pragma unroll 1
        for (int mine = kAtOnce * static_cast<int>(threadIdx.x); mine < count_; mine += kChoiceTile) {
            uint32_t keys[kAtOnce] = {};
#pragma unroll kHeads
            for (int head = 0; head < group_; head++) {
                const uint32_t top = space_.tops[head], step = space_.steps[head],
                               *table = memory_.tables + head * memory_.levels;
                const uint64_t inverse = space_.inverses[head];
                const SomeScores scores = scores_of(head, mine);
#pragma unroll
                for (int i = 0; i < kAtOnce; i++)
                    keys[i] += kShared ? table[scores.at(i)]
                                       : hattn_head_probability(share_of(top - scores.at(i), step), inverse);
            }
#pragma unroll
            for (int i = 0; i < kAtOnce; i++) {
                keys[i] = kShared || mine + i < count_ ? keys[i] : 0;
                reaching += mine + i < count_ && keys[i] >= bound;
                if (keys[i]) /* there may be many without */
                    atomic_add(&space_.histogram[bin_of(keys[i])], 1u);
            }
#pragma unroll
            for (int i = 0; i < kAtOnce; i += 4)
                *reinterpret_cast<uint4 *>(memory_.keys + mine + i) = {keys[i], keys[i + 1], keys[i + 2], keys[i + 3]};
        }
        return reaching;
    }

    /* The largest bin such that it and those above hold at least `wanted`, into space. Bin 0 has what none of the others has. */
    __device__ void find_bin(uint32_t wanted)
    {
        constexpr int kBins = HATTN_CUDA_BINS / kChoiceThreads;
        const int first = HATTN_CUDA_BINS - kBins * (1 + static_cast<int>(threadIdx.x));
        uint32_t counts[kBins], mine = 0, total;
        load_words(counts, &space_.histogram[first]);
#pragma unroll
        for (const uint32_t count : counts)
            mine += count;
        uint32_t above = block_scan<kChoiceWarps>(mine, space_.scans[0], &total);
        if (total < wanted) {
            if (threadIdx.x == 0) {
                space_.bin = 0;
                space_.above = total;
            }
        } else if (above < wanted && above + mine >= wanted) {
            int bin = kBins - 1;
#pragma unroll
            for (int i = kBins - 1; i > 0; i--)
                if (bin == i && above + counts[i] < wanted) {
                    above += counts[i];
                    bin = i - 1;
                }
            space_.bin = static_cast<uint32_t>(first + bin);
            space_.above = above;
        }
        __syncthreads();
    }

    /* Few of one bin: each against all, by a warp. */
    __device__ void rank_members(uint32_t bin, uint32_t ties)
    {
        const uint32_t low = least_of(bin),
                       num_keys = max(least_of(bin + 1) - low, 1u); /* small ones have bins of their own */
#pragma unroll 1
        for (int mine = kAtOnce * static_cast<int>(threadIdx.x); mine < count_; mine += kChoiceTile) {
            uint32_t keys[kAtOnce];
            load_words(keys, memory_.keys + mine);
#pragma unroll
            for (int i = 0; i < kAtOnce; i++)
                if (mine + i < count_ && keys[i] - low < num_keys)
                    space_.contest[atomic_add(&space_.num_contest, 1u)] = order_of(keys[i], mine + i);
        }
        __syncthreads();
        const int num = static_cast<int>(space_.num_contest);
#pragma unroll 1
        for (int i = warp_id(); i < num; i += kChoiceWarps) {
            const uint64_t mine = space_.contest[i];
            int before = 0;
#pragma unroll 1
            for (int other = 0; other < num; other += 32)
                before += count_ones(
                    ballot(other + lane_id() < num && space_.contest[min(other + lane_id(), num - 1)] > mine));
            if (lane_id() == 0 && static_cast<uint32_t>(before) + 1 == ties)
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
    const int32_t *steps_, *summed_step_;
    const int64_t step_stride_;
    ChoiceSpace &space_;
    uint64_t least_ = 0;
};

} // namespace hattn

#endif
