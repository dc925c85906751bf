/* SPDX-License-Identifier: Apache-2.0
 * Lists of keys that may be selected: those that reach a bound, which a sample of the row gave (regions.cuh).
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_CANDIDATES_CUH
#define HATTN_KERNELS_CUDA_DECODE_CANDIDATES_CUH

#include "kernels_cuda/decode/code_reader.cuh"
#include "kernels_cuda/decode/regions.cuh"
#include "kernels_cuda/select/score.cuh"

namespace hattn {

/* Whether a bound is looked for, or all keys are listed: of short rows, whose sample would hold the same few keys again and again, and of short
 * ranges, whose lists have room for it. Keys' levels come from a sample in any case, so that it may as well be used. */
__device__ inline bool takes_sample(const RegionRun &run, const RegionTask &task, const RegionCut &cut)
{
    const bool is_short = cut.range < HATTN_CUDA_SAMPLED_RANGE && static_cast<uint32_t>(cut.range) <= cut.room;
    return task.end - task.first >= 4 * run.sample_size && (run.keys || !is_short);
}

/* A level that is almost certainly not above the threshold, from the sample's counts in shared memory. Of the sample's keys about `expected` are
 * above the threshold. They were taken in runs of neighbours, which may all be alike: at worst whole runs are above or not, and their keys'
 * number deviates by the root of `expected` times the size of a run. The bound is 5.6 such deviations away: about one task in 10^7 at
 * worst (docs/design.md). All threads, between barriers. */
__device__ inline uint32_t find_bound(const RegionRun &run, const RegionTask &task, const uint32_t *counts,
                                      int num_levels, int run_keys, LevelSpace &space)
{
    const int32_t middle = task.end - task.first, wanted = task.kept - run.num_sink - run.num_recent;
    const float expected =
        static_cast<float>(wanted) / static_cast<float>(middle) * static_cast<float>(run.sample_size);
    const uint32_t above = static_cast<uint32_t>(expected + 5.6f * sqrtf(expected * static_cast<float>(run_keys))) + 4;
    uint32_t unused;
    return max(1u, find_level((num_levels + 7) / 8 * 8, above, &unused, space,
                              [&](auto &x, int i) { memcpy(x, counts + i, sizeof(x)); }));
}

/* Values cut into levels from 1, evenly between the least and the largest of a sample: a larger value never has a smaller level. */
struct LevelMap {
    float low = 0.0f, scale = 0.0f, top = 0.0f;

    /* What spreads a sample: by all threads, before a barrier. */
    template <int kNum>
    __device__ static void note_extents(const float (&values)[kNum], float (&extents)[2][kWarps])
    {
        float least = INFINITY, largest = -INFINITY;
#pragma unroll
        for (const float x : values)
            if (isfinite(x)) {
                least = fminf(least, x);
                largest = fmaxf(largest, x);
            }
        largest = warp_max(largest);
        least = -warp_max(-least);
        if (lane_id() == 0) {
            extents[0][warp_id()] = least;
            extents[1][warp_id()] = largest;
        }
    }

    /* After the barrier. Of both the second of all warps', so that one key far from all others, of either sign, does not leave these a single level:
     * what is beyond shares the outermost level. */
    __device__ static LevelMap of_extents(const float (&extents)[2][kWarps], int num_levels)
    {
        float least = INFINITY, second_least = INFINITY, largest = -INFINITY, second_largest = -INFINITY;
        for (int w = 0; w < kWarps; w++) {
            second_least = fminf(second_least, fmaxf(least, extents[0][w]));
            least = fminf(least, extents[0][w]);
            second_largest = fmaxf(second_largest, fminf(largest, extents[1][w]));
            largest = fmaxf(largest, extents[1][w]);
        }
        least = second_least;
        largest = second_largest;
        const float top = static_cast<float>(num_levels - 1), scale = top / (largest - least);
        return isfinite(scale) && scale > 0.0f ? LevelMap{least, scale, top}
                                               : LevelMap{}; /* all alike, or none finite: one level */
    }

    __device__ uint32_t level(float value) const
    {
        return 1 + static_cast<uint32_t>(fminf(fmaxf((value - low) * scale, 0.0f), top));
    }
};

/* Scores that are no levels: fp32 products with norms, or integers too large to count. */
template <int kWords>
class ValueMaker
{
public:
    using S = Step<kWords>;

    /* max_score: sum |w| */
    __device__ ValueMaker(bool has_norms, uint32_t max_score) : has_norms_(has_norms), max_score_(max_score) {}

    /* The norms of the step whose scores come next. */
    template <class Reader, class Units>
    __device__ void load(const Reader &reader, Units units)
    {
        if (has_norms_)
            reader.load_norms(norms_, units);
    }

    __device__ void make(float (&values)[S::kKeys], const uint32_t (&scores)[S::kKeys]) const
    {
        make(values, scores, norms_);
    }

    /* The same of a sample, at once. */
    template <class Reader, class Units, int kNum>
    __device__ void make_sample(float (&values)[kNum], const uint32_t (&scores)[kNum], const Reader &reader,
                                Units units) const
    {
        float16 norms[kNum];
        if (has_norms_)
            reader.load_norms(norms, units);
        make(values, scores, norms);
    }

private:
    template <int kNum>
    __device__ void make(float (&values)[kNum], const uint32_t (&scores)[kNum], const float16 (&norms)[kNum]) const
    {
#pragma unroll
        for (int i = 0; i < kNum; i++)
            values[i] = has_norms_ ? scale_score(scores[i], max_score_, norms[i]) : static_cast<float>(scores[i]);
    }

    bool has_norms_;
    uint32_t max_score_;
    float16 norms_[S::kKeys];
};

/* A warp's list, in the order of positions: to each candidate position << 16 | level, and its key where `keys` is not NULL. It may be larger than
 * there is room for; then those that came last are missing. */
struct CandidateList {
    uint32_t *entries, *keys;
    uint32_t size, room;
    SharedCounters counts; /* of levels */

    /* The candidates among a lane's neighbours, of which the first is `position` in the range and `key` among those that are ranked. */
    template <int kPerLoad>
    __device__ void add(const uint32_t *level, const float *values, uint32_t bound, uint32_t position, uint32_t key,
                        uint32_t ranked)
    {
        uint32_t place = size;
        bool listed[kPerLoad];
#pragma unroll
        for (int i = 0; i < kPerLoad; i++) {
            listed[i] = level[i] >= bound && key + i < ranked;
            const uint32_t all = ballot(listed[i]);
            place += count_ones(all & lanes_below());
            size += count_ones(all);
        }
#pragma unroll
        for (int i = 0; i < kPerLoad; i++)
            if (listed[i]) {
                const uint32_t there = min(place++, room - 1);
                if (keys)
                    keys[there] = ordered_key(values[i]);
                entries[there] = (position + i) << 16 | level[i];
                counts.count(level[i]);
            }
    }
};

} // namespace hattn

#endif
