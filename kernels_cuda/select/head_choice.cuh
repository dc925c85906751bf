/* SPDX-License-Identifier: Apache-2.0
 * The choice among a row's candidates by all heads of a selection (api/hattn.h, hattn_topk, "With candidates"), by one block: an exact top-k of p. p is
 * counted by its leading bits, as a float has them, so that one pass over a histogram leaves a handful to rank against each other.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_HEAD_CHOICE_CUH
#define HATTN_KERNELS_CUDA_SELECT_HEAD_CHOICE_CUH

#include "kernels_cuda/attend/tail.cuh"
#include "kernels_cuda/select/head_probabilities.cuh"
#include "kernels_cuda/select/select.cuh"

namespace hattn {

/* After make_keys. */
template <bool kShared>
class HeadChoice : public HeadProbabilities<kShared>
{
    using Probabilities = HeadProbabilities<kShared>;
    using Probabilities::count_;
    using Probabilities::load_words;
    using Probabilities::memory_;
    using Probabilities::space_;

public:
    using Probabilities::Probabilities;

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
            for (int turned = 0; turned < each; turned += 4) {
                /* Where each thread has 16, neighbours begin at others, since all first ones would meet in four banks. */
                const int four = each == kMost ? (turned + 4 * lane_id()) % kMost : turned;
                if (mine + four >= count_)
                    continue;
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

    /* f(rank, position), after list_ranks: a thread has up to 4 loads in flight. */
    template <class F>
    __device__ void each_kept(int kept, const int32_t *positions, F f) const
    {
        constexpr int kInFlight = 4;
#pragma unroll 1
        for (int first = static_cast<int>(threadIdx.x); first < kept; first += kInFlight * kChoiceThreads) {
            uint32_t found[kInFlight];
#pragma unroll
            for (int i = 0; i < kInFlight; i++)
                found[i] = load_l2(reinterpret_cast<const uint32_t *>(positions) +
                                   memory_.ranks[min(first + i * kChoiceThreads, kept - 1)]);
#pragma unroll
            for (int i = 0; i < kInFlight; i++)
                if (first + i * kChoiceThreads < kept)
                    f(first + i * kChoiceThreads, static_cast<int>(found[i]));
        }
    }

    __device__ bool is_kept(uint32_t key, int candidate) const { return order_of(key, candidate) >= least_; }

    __device__ uint32_t key(int candidate) const { return memory_.keys[candidate]; }

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

    uint64_t least_ = 0;
};

} // namespace hattn

#endif
