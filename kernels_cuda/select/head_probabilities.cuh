/* SPDX-License-Identifier: Apache-2.0
 * Shares of candidates' scores, their sums, and p (api/hattn.h, hattn_topk, "With candidates"), by one block: a thread has 4 neighbours of each 2048
 * candidates, throughout.
 * Bound: instructions, for the few warps of a block, and latencies of barriers and of code, which runs once out of a cold cache. So shares and
 * probabilities are made once for each distance from the largest score that there can be, and looked up, shares while the kernel before still lists; loops
 * are rolled, but for four heads in flight; all loads of scores go out together.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_HEAD_PROBABILITIES_CUH
#define HATTN_KERNELS_CUDA_SELECT_HEAD_PROBABILITIES_CUH

#include "kernels_cuda/select/head_lists.cuh"

namespace hattn {

/* kShared: scores and p are in shared memory, and so are tables. */
template <bool kShared>
class HeadProbabilities
{
    static constexpr int kHeads = 4; /* in flight together */

public:
    /* steps: of the task's first head, those of the others `step_stride` after it; summed_step: with a tail, of the summed scores. */
    __device__ HeadProbabilities(const hattn_cuda_params &params, const HeadLists &lists, const ChoiceMemory &memory,
                                 int count, const int32_t *steps, int64_t step_stride, const int32_t *summed_step,
                                 ChoiceSpace &space)
        : memory_(memory), count_(count), space_(space), lists_(lists), row_(params.most_scored),
          num_parts_(params.scored_parts), group_(params.group),
          num_scores_(params.group + (params.problem.tail > 0.0f)), steps_(steps), summed_step_(summed_step),
          step_stride_(step_stride)
    {
    }

    /* Steps, and tables of shares: before what is listed is there. Steps are: they are older than the kernel that lists. Ends without a barrier. */
    __device__ void prepare() const
    {
        static constexpr uint32_t kFactors[HATTN_FLOOR_FACTORS] = HATTN_FLOOR_TABLE;
        const int thread = static_cast<int>(threadIdx.x);
        if (thread < num_scores_)
            space_.steps[thread] = load_l2(
                reinterpret_cast<const uint32_t *>(thread < group_ ? steps_ + thread * step_stride_ : summed_step_));
        if (thread < HATTN_FLOOR_FACTORS)
            space_.factors[thread] = kFactors[thread];
        for (int i = thread; i < HATTN_CUDA_BINS; i += kChoiceThreads)
            space_.histogram[i] = 0;
        for (int i = thread; i < 3 * HATTN_MOST_HEADS; i += kChoiceThreads)
            space_.sums[i / 3][i % 3] = 0;
        if (thread == 0)
            space_.num_contest = 0;
        if (kShared) {
            __syncthreads();
            each_level(
                [&](int head, uint32_t distance, uint32_t &entry) { entry = share_of(distance, space_.steps[head]); });
        }
    }

    /* p of all candidates; how many have at least `bound`. Ends with a barrier. */
    __device__ int make_keys(uint64_t bound)
    {
        load();
        sum_shares();
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < group_) {
            const uint64_t sum = this->sum(static_cast<int>(threadIdx.x));
            space_.inverses[threadIdx.x] = hattn_head_inverse_near(sum, fast_inverse(static_cast<float>(sum)));
        }
        __syncthreads();
        if (kShared) {
            each_level([&](int head, uint32_t, uint32_t &entry) {
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

protected:
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

    const ChoiceMemory &memory_;
    const int count_;
    ChoiceSpace &space_;

private:
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

    /* f(head, distance, its entry) for tables of query heads, in turns of threads. */
    template <class F>
    __device__ void each_level(F f) const
    {
#pragma unroll 1
        for (int head = 0; head < group_; head++)
#pragma unroll 1
            for (int i = static_cast<int>(threadIdx.x); i < memory_.levels; i += kChoiceThreads)
                f(head, static_cast<uint32_t>(i), memory_.tables[head * memory_.levels + i]);
    }

    /* The largest scores, and scores into shared memory, all of them in flight. Ends with a barrier. */
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
        find_tops();
        if (kShared) {
            copy_wait(0);
            const int last = count_ / kCopied; /* whose copy is not all candidates */
            if (count_ % kCopied && last % kChoiceThreads == thread)
#pragma unroll 1
                for (int i = 0; i < group_ * kCopied; i++)
                    if (kCopied * last + i % kCopied >= count_)
                        memory_.scores[i / kCopied * row_ + kCopied * last + i % kCopied] = 0; /* has an entry */
        }
        __syncthreads();
    }

    /* By warps, out of what blocks that scored have told. */
    __device__ void find_tops()
    {
        for (int head = warp_id(); head < num_scores_; head += kChoiceWarps) {
            uint32_t top = 0;
            for (int part = lane_id(); part < num_parts_; part += 32)
                top = max(top, load_l2(lists_.tops + head * num_parts_ + part));
            top = static_cast<uint32_t>(warp_largest(static_cast<int32_t>(top)));
            if (lane_id() == 0)
                space_.tops[head] = top;
        }
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
                    const uint32_t top = space_.tops[its];
                    const SomeScores scores = scores_of(its, mine);
#pragma unroll
                    for (int i = 0; i < kAtOnce; i++) {
                        const uint32_t distance = top - scores.at(i),
                                       share = kShared ? memory_.tables[its * memory_.levels + distance]
                                                       : share_of(distance, space_.steps[its]);
                        sums[h] += mine + i < count_ ? share : 0;
                    }
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
                    keys[i] += kShared ? table[top - scores.at(i)]
                                       : hattn_head_probability(share_of(top - scores.at(i), step), inverse);
            }
#pragma unroll
            for (int i = 0; i < kAtOnce; i++) {
                keys[i] = mine + i < count_ ? keys[i] : 0;
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

    const HeadLists &lists_;
    const int row_, num_parts_, group_, num_scores_;
    const int32_t *steps_, *summed_step_;
    const int64_t step_stride_;
};

} // namespace hattn

#endif
