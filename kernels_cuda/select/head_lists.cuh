/* SPDX-License-Identifier: Apache-2.0
 * Candidates of scores per query head: where a row has them, and what a block that chooses among them (head_choice.cuh) has of shares and of p.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_HEAD_LISTS_CUH
#define HATTN_KERNELS_CUDA_SELECT_HEAD_LISTS_CUH

#include "core/floor.h"
#include "kernels_cuda/device/device.cuh"
#include "kernels_cuda/params.h"

namespace hattn {

/* A block that chooses. */
constexpr int kChoiceThreads = 512, kChoiceWarps = kChoiceThreads / 32;
constexpr int kAtOnce = 2048 / kChoiceThreads,
              kChoiceTile = kAtOnce * kChoiceThreads; /* candidates of a thread, of a block */
constexpr int kContest = 512;                         /* candidates that are ranked against each other, at most */

/* What scores of candidates are in, of all tasks, and how it is cut. */
struct HeadLists {
    const int32_t *positions; /* rising, of this task */
    const uint16_t *scores;   /* [group, and with a tail the summed ones, most_scored] */
    uint32_t *tops;    /* [the same, scored_parts]: each the largest of some scores, all of them together of all */
    uint32_t *keys;    /* p */
    int32_t *ranks;    /* of those that are kept, among the candidates */
    uint64_t *outside; /* O of hattn_topk */

    __device__ HeadLists(const hattn_cuda_params &params, hattn_buffer workspace, int64_t task)
    {
        char *base = static_cast<char *>(hattn_address(workspace));
        positions = reinterpret_cast<const int32_t *>(base + params.listed) + task * params.most_listed;
        scores = reinterpret_cast<const uint16_t *>(base + params.head_scores) +
                 task * params.most_scored * (params.group + 1);
        tops = reinterpret_cast<uint32_t *>(base + params.head_tops) + task * params.scored_parts * (params.group + 1);
        keys = reinterpret_cast<uint32_t *>(base + params.head_keys) + task * params.most_scored;
        ranks = reinterpret_cast<int32_t *>(base + params.head_ranks) + task * params.problem.k;
        outside = reinterpret_cast<uint64_t *>(base + params.outside) + task;
    }

    /* The largest score of a head, of those that block `part` of `parts` has. */
    __device__ void tell_top(const hattn_cuda_params &params, int head, int part, int parts, uint32_t top) const
    {
        for (int i = part; i < params.scored_parts; i += parts)
            tops[head * params.scored_parts + i] = top;
    }
};

struct ChoiceSpace {
    uint32_t factors[HATTN_FLOOR_FACTORS];
    alignas(16) uint32_t histogram[HATTN_CUDA_BINS];
    uint32_t sums[HATTN_MOST_HEADS][3]; /* Z, in pieces of 24 bits that warps add to */
    alignas(16) uint64_t contest[kContest];
    uint64_t inverses[HATTN_MOST_HEADS];
    uint32_t tops[HATTN_MOST_HEADS + 1], steps[HATTN_MOST_HEADS + 1];
    JoinedWarps<kChoiceWarps> joined;
    uint32_t scans[2][kChoiceWarps];
    uint32_t bin, above, num_contest;
    uint64_t least;
};

/* A thread's scores of neighbours. */
struct SomeScores {
    uint32_t words[kAtOnce / 2];

    __device__ uint32_t at(int i) const { return i % 2 ? words[i / 2] >> 16 : words[i / 2] & 0xffff; }
};

/* The order of p: a bin's lowest bits are 6 of the mantissa. */
__device__ inline uint32_t bin_of(uint32_t p)
{
    const uint32_t width = static_cast<uint32_t>(bit_width(p)); /* 1 to 31 */
    return p ? (width << 6 | (p << (32 - width) >> 25 & 63)) - 63 : 0;
}

/* The least p of a bin, or of one past the last. */
__device__ inline uint32_t least_of(uint32_t bin)
{
    const uint64_t mantissa = 64 + ((bin + 63) & 63), width = (bin + 63) >> 6;
    return bin ? static_cast<uint32_t>((mantissa << (width - 1) >> 6)) : 0;
}

/* Where a block has what it reads more than once. In shared memory query heads have tables of shares, later of probabilities, by distance from the
 * largest score. */
struct ChoiceMemory {
    uint16_t *scores;
    uint32_t *keys;
    int32_t *ranks;
    uint32_t *tables;
    int levels; /* of a table */
};

} // namespace hattn

#endif
