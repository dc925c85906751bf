/* SPDX-License-Identifier: Apache-2.0
 * Lists of keys that may be selected: those that reach a bound, which a sample of the row gave (regions.cuh).
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_CANDIDATES_CUH
#define HATTN_KERNELS_CUDA_DECODE_CANDIDATES_CUH

#include "kernels_cuda/decode/code_reader.cuh"
#include "kernels_cuda/decode/regions.cuh"
#include "kernels_cuda/select/score.cuh"

namespace hattn {

/* A level that is almost certainly not above the one that is looked for, of which `sample` keys hold about `expected`: the deviation of
 * their number is its root, and five of them are less than one in a million. counts are in shared memory. All threads, between barriers. */
__device__ inline uint32_t find_bound(const uint32_t *counts, int row_size, float expected, LevelSpace &space)
{
    uint32_t above;
    const uint32_t wanted = static_cast<uint32_t>(expected + 5.0f * sqrtf(expected)) + 4;
    return max(1u,
               find_level(row_size, wanted, &above, space, [&](auto &x, int i) { memcpy(x, counts + i, sizeof(x)); }));
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

    /* After the barrier. */
    __device__ static LevelMap of_extents(const float (&extents)[2][kWarps], int num_levels)
    {
        float least = INFINITY, largest = -INFINITY;
        for (int w = 0; w < kWarps; w++) {
            least = fminf(least, extents[0][w]);
            largest = fmaxf(largest, extents[1][w]);
        }
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
#pragma unroll
        for (int i = 0; i < S::kKeys; i++)
            values[i] = has_norms_ ? scale_score(scores[i], max_score_, norms_[i]) : static_cast<float>(scores[i]);
    }

private:
    bool has_norms_;
    uint32_t max_score_;
    float16 norms_[S::kKeys];
};

/* A warp's list, in the order of positions: to each candidate position << 16 | level, and its key where `keys` is not NULL. */
struct CandidateList {
    uint32_t *entries, *keys;
    uint32_t size;
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
                if (keys)
                    keys[place] = ordered_key(values[i]);
                entries[place++] = (position + i) << 16 | level[i];
                counts.count(level[i]);
            }
    }
};

} // namespace hattn

#endif
