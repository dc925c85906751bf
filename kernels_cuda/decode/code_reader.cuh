/* SPDX-License-Identifier: Apache-2.0
 * Codes of one sequence and head on their way into registers.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_CODE_READER_CUH
#define HATTN_KERNELS_CUDA_DECODE_CODE_READER_CUH

#include "kernels_cuda/device/device.cuh"

namespace hattn {

/* Code caches, resolved on the host. */
struct CodeRun {
    const uint32_t *codes;
    int64_t stride_page, stride_head; /* words */
    uint32_t page_bytes, slot_bytes;  /* the page's only with pages */
    int32_t num_words;
    const int32_t *table; /* NULL: contiguous */
    int64_t table_stride;
    hattn_cuda_divisor page_size;
    const float16 *norms;   /* NULL: none */
    int64_t norm_stride[3]; /* page, slot, head */
};

/* What a lane loads at a time: 4 or 8 times 16 bytes, of which each is several keys, one, or a part of one; more scores than 16 would not
 * fit its registers. Loose codes, of any number of words up to kWords and at any word, come a word at a time instead. */
template <int kWords>
struct Step {
    static constexpr int kPerLoad = kWords < 4 ? 4 / kWords : 1,
                         kLoads = kWords > 4 ? kWords / 4 : 1; /* keys a load, loads a key */
    static constexpr int kAll = kWords < 4 ? 4 : 8, kUnits = kAll / kLoads, kKeys = kUnits * kPerLoad,
                         kSize = 32 * kKeys;
    static constexpr int kSampleUnits = kUnits > 2 ? kUnits / 2 : kUnits, kSampleKeys = kSampleUnits * kPerLoad;
};

/* Codes of one sequence and head: key(u) for each unit of a step, the pages of all of them first. */
template <int kWords, bool kLoose>
class CodeReader
{
public:
    using S = Step<kWords>;

    __device__ explicit CodeReader(const CodeRun &run) : run_(run) {}

    __device__ void aim(int32_t sequence, int32_t code_head)
    {
        base_ = reinterpret_cast<const char *>(run_.codes + code_head * run_.stride_head +
                                               (run_.table ? 0 : sequence * run_.stride_page));
        table_ = run_.table + sequence * run_.table_stride;
        norms_ = run_.norms + code_head * run_.norm_stride[2] + (run_.table ? 0 : sequence * run_.norm_stride[0]);
        compute_now(base_);
        compute_now(table_);
    }

    /* The last key that is there, before anything else. */
    __device__ void end_at(int32_t last) { last_ = last / S::kPerLoad * S::kPerLoad; }

    /* Units of a lane: keys first, first + spacing, ... */
    struct Units {
        uint32_t first, spacing;
    };

    __device__ static Units step(int32_t first)
    {
        return {static_cast<uint32_t>(first + lane_id() * S::kPerLoad), 32 * S::kPerLoad};
    }

    /* A warp's part of a sample of kThreads * S::kSampleKeys keys of first..last: runs of few keys, one somewhere in each
     * of as many equal parts of the row, so that neither clusters of keys nor what comes again at even distances are in
     * it much more often or seldom than they are in the row. */
    __device__ Units sample(int32_t first) const
    {
        constexpr int kRuns = 32 / kRunLanes;                                                       /* of a load */
        const uint32_t spread = (last_ - first) / (S::kSampleUnits * kWarps * kRuns) / S::kPerLoad, /* loads */
            run = warp_id() * kRuns + lane_id() / kRunLanes,
                       somewhere = spread > kRunLanes ? high_product(run * 0x9e3779b1u, spread - kRunLanes + 1) : 0;
        return {(first / S::kPerLoad + run * spread + somewhere + lane_id() % kRunLanes) * S::kPerLoad,
                kWarps * kRuns * spread * S::kPerLoad};
    }

    /* Lanes of a run, and its keys: 32 bytes, what memory gives at least, but at 64 bits and less 16. */
    static constexpr int kRunLanes = S::kPerLoad * S::kLoads == 1 ? 2 : 1, kRunKeys = kRunLanes * S::kPerLoad;

    /* Asks for codes, as far as it is known where they are. */
    __device__ void prefetch(Units units) const
    {
        prefetch<kLoose ? 1 : 8 / S::kLoads, S::kUnits>(units);
    } /* a line has 128 bytes */

    __device__ void prefetch_sample(int32_t first) const { prefetch<kRunLanes, S::kSampleUnits>(sample(first)); }

    /* Before load, for the same units, the first kUnits. */
    template <int kUnits = S::kUnits>
    __device__ void look_up(Units units)
    {
        if (run_.table)
#pragma unroll
            for (int u = 0; u < kUnits; u++)
                page_[u] = table_[divide(min(units.first + u * units.spacing, last_), run_.page_size)];
    }

    template <int kUnits = S::kUnits>
    __device__ void load(uint32_t (&words)[S::kAll][4], Units units) const
    {
#pragma unroll
        for (int u = 0; u < kUnits; u++) {
            const char *code = base_ + static_cast<uint64_t>(slot_of(units, u)) * run_.slot_bytes;
            if (run_.table)
                code += static_cast<uint64_t>(page_[u]) * run_.page_bytes;
#pragma unroll
            for (int i = 0; i < S::kLoads; i++)
                if constexpr (kLoose)
                    load_words(words[u * S::kLoads + i], reinterpret_cast<const uint32_t *>(code) + 4 * i,
                               run_.num_words - 4 * i);
                else
                    load_streamed(words[u * S::kLoads + i], code + 16 * i);
        }
    }

    /* Norms of the same keys as load's, and before the next look_up. */
    template <int kNum>
    __device__ void load_norms(float16 (&norms)[kNum], Units units) const
    {
#pragma unroll
        for (int u = 0; u < kNum / S::kPerLoad; u++) {
            const float16 *norm = norms_ + slot_of(units, u) * run_.norm_stride[1];
            if (run_.table)
                norm += page_[u] * run_.norm_stride[0];
#pragma unroll
            for (int i = 0; i < S::kPerLoad; i++)
                norms[u * S::kPerLoad + i] = load_streamed(norm + i * run_.norm_stride[1]);
        }
    }

private:
    /* For each kLanes lanes. */
    template <int kLanes, int kUnits>
    __device__ void prefetch(Units units) const
    {
        if (!run_.table && lane_id() % kLanes == 0)
#pragma unroll 1
            for (int u = 0; u < kUnits; u++, units.first += units.spacing)
                prefetch_line(base_ + static_cast<uint64_t>(min(units.first, last_)) * run_.slot_bytes);
    }

    /* In its page, or the sequence. */
    __device__ uint32_t slot_of(Units units, int u) const
    {
        const uint32_t position = min(units.first + u * units.spacing, last_);
        return run_.table ? position - divide(position, run_.page_size) * run_.page_size.divisor : position;
    }

    /* The first num_words, and zeros. */
    __device__ static void load_words(uint32_t (&words)[4], const uint32_t *code, int num_words)
    {
#pragma unroll
        for (int w = 0; w < 4; w++)
            words[w] = w < num_words ? load_streamed(code + w) : 0;
    }

    const CodeRun &run_;
    const char *base_;
    const float16 *norms_;
    const int32_t *table_;
    uint32_t last_, page_[S::kUnits];
};

/* The words of key number `key` of a lane. */
template <int kWords>
__device__ inline void take_key(uint32_t (&code)[kWords], const uint32_t (&words)[Step<kWords>::kAll][4], int key)
{
    for (int w = 0; w < kWords; w++)
        code[w] = words[(key * kWords + w) / 4][(key * kWords + w) % 4];
}

} // namespace hattn

#endif
