/* SPDX-License-Identifier: Apache-2.0
 * A warp's range of keys in the first kernel of a decode (score_regions.cuh): it counts their scores and leaves these or its candidates.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_SCORE_RANGES_CUH
#define HATTN_KERNELS_CUDA_DECODE_SCORE_RANGES_CUH

#include "kernels_cuda/decode/candidates.cuh"
#include "kernels_cuda/decode/floor.cuh"
#include "kernels_cuda/decode/planes.cuh"

namespace hattn {

/* What is left of a warp's keys. */
enum class Leaves { SCORES, CANDIDATES, KEYED_CANDIDATES };

/* A row out of a warp's histogram: entry b - 1 becomes the count of scores >= b. kPairs: of its words the low halves. */
template <bool kPairs>
__device__ inline void publish_row(const uint32_t *histogram, int row_size, uint16_t *row)
{
    uint32_t above = 0;
    warp_barrier();
#pragma unroll 1
    for (int block = (row_size - 1) / 256 * 256; block >= 0; block -= 256) {
        const int i = block + lane_id() * 8;
        uint32_t x[8] = {};
        if (i < row_size) {
            *reinterpret_cast<uint4 *>(x) = *reinterpret_cast<const uint4 *>(histogram + i);
            *reinterpret_cast<uint4 *>(x + 4) = *reinterpret_cast<const uint4 *>(histogram + i + 4);
        }
#pragma unroll
        for (int k = 6; k >= 0; k--)
            x[k] += x[k + 1];
        const uint32_t at_least = warp_scan_down(x[0]), base = above + at_least - x[0];
        if (i < row_size) {
            uint4 packed;
            auto pack = [&](uint32_t low, uint32_t high) {
                return kPairs ? low_halves(low + base, high + base) : (low + base) | (high + base) << 16;
            };
            packed.x = pack(x[0], x[1]);
            packed.y = pack(x[2], x[3]);
            packed.z = pack(x[4], x[5]);
            packed.w = pack(x[6], x[7]);
            *reinterpret_cast<uint4 *>(row + i) = packed;
        }
        above += from_lane(at_least, 0);
    }
    warp_barrier();
}

template <int kPerLoad>
__device__ inline void store_scores(uint16_t *to, const uint32_t *scores)
{
    if constexpr (kPerLoad == 1)
        *to = static_cast<uint16_t>(scores[0]);
    else if constexpr (kPerLoad == 2)
        *reinterpret_cast<uint32_t *>(to) = scores[0] | scores[1] << 16;
    else
        *reinterpret_cast<uint2 *>(to) = make_uint2(scores[0] | scores[1] << 16, scores[2] | scores[3] << 16);
}

/* The first kNum keys. */
template <int kWords, int kBlocks, int kNum>
__device__ inline void score_step(uint32_t (&score)[kNum], const uint32_t (&words)[Step<kWords>::kAll][4],
                                  const PlaneCounter<kWords, kBlocks> &counter)
{
#pragma unroll
    for (int i = 0; i < kNum; i += 2) {
        uint32_t key0[kWords], key1[kWords];
        take_key(key0, words, i);
        take_key(key1, words, i + 1);
        counter.count(key0, key1, &score[i], &score[i + 1]);
    }
}

/* Of a step's keys of a lane the one that a floor counts, if one is: HATTN_FLOOR_STRIDE is prime, so that no two are. */
template <int kWords>
class FloorKey
{
public:
    using S = Step<kWords>;

    /* first: of the range. */
    __device__ explicit FloorKey(int32_t first)
        : rest_(static_cast<uint32_t>(first + lane_id() * S::kPerLoad) % HATTN_FLOOR_STRIDE)
    {
    }

    /* Key i of unit u of the step. */
    __device__ bool is(int u, int i) const
    {
        const uint32_t after = (u * 32 * S::kPerLoad + i) % HATTN_FLOOR_STRIDE;
        return rest_ == (HATTN_FLOOR_STRIDE - after) % HATTN_FLOOR_STRIDE;
    }

    __device__ void next_step()
    {
        rest_ += S::kSize % HATTN_FLOOR_STRIDE;
        rest_ = min(rest_, rest_ - HATTN_FLOOR_STRIDE); /* which wraps where it is the smaller one already */
    }

private:
    uint32_t rest_; /* of the lane's first key */
};

/* What a warp leaves of its range, step by step. */
template <int kWords, bool kLoose, int kBlocks, Leaves kLeaves, class Regions>
class RangeScorer
{
public:
    using S = Step<kWords>;
    using Reader = CodeReader<kWords, kLoose>;
    static constexpr bool kSampled = kLeaves != Leaves::SCORES, kKeyed = kLeaves == Leaves::KEYED_CANDIDATES,
                          kFloor = std::is_same_v<Regions, FloorRun>;

    __device__ RangeScorer(const Regions &run, const RegionTask &task, const RegionCut &cut, uint32_t piece,
                           uint32_t *histogram)
        : run_(run), task_(task), cut_(cut), histogram_(histogram), range_(piece * kWarps + warp_id()),
          begin_(static_cast<int32_t>(range_) * cut.range), end_(min(begin_ + cut.range, task.is_ranked ? task.end : 0))
    {
    }

    /* The first step's codes are in `words`; the next one's pages are known. total: the task's histogram. True if a list had no room. */
    __device__ bool scan(Reader &reader, uint32_t (&words)[S::kAll][4], const PlaneCounter<kWords, kBlocks> &counter,
                         ValueMaker<kWords> &maker, const LevelMap &map, uint32_t bound, int row_size,
                         [[maybe_unused]] uint32_t *total) const
    {
        const SharedCounters counts(histogram_ + 3);
        const uint32_t first_list = cut_.first_score + range_ * cut_.room;
        uint16_t *scores = run_.scores + cut_.first_score + lane_id() * S::kPerLoad;
        CandidateList list = {reinterpret_cast<uint32_t *>(run_.scores) + first_list,
                              kKeyed ? run_.keys + first_list : nullptr, 0, cut_.room, counts};
        uint16_t *rows = run_.rows + static_cast<int64_t>(cut_.first_row + range_ * cut_.per_range) * run_.row_size;
        const uint32_t ranked = max(end_ - task_.first, 0); /* 0: a range of sinks alone */
        int32_t region_end = begin_ + cut_.region;
        uint32_t score[S::kKeys];
        float values[S::kKeys];
        [[maybe_unused]] FloorKey<kWords> floor_key(begin_);
#pragma unroll 1
        for (int32_t first = begin_; first < end_; first += S::kSize) {
            score_step(score, words, counter);
            if constexpr (kKeyed)
                maker.make(values, score);
            const int32_t next = first + S::kSize;
            if (next < end_) {
                reader.load(words, Reader::step(next));
                if constexpr (kKeyed)
                    maker.load(reader, Reader::step(next));
                reader.look_up(Reader::step(next + S::kSize));
            }
            if constexpr (kKeyed)
#pragma unroll
                for (int i = 0; i < S::kKeys; i++)
                    score[i] = map.level(values[i]);
#pragma unroll
            for (int u = 0; u < S::kUnits; u++) {
                const uint32_t position = first + (u * 32 + lane_id()) * S::kPerLoad,
                               key = position - task_.first; /* wraps for sinks: not ranked */
                const uint32_t *mine = score + u * S::kPerLoad;
                if constexpr (kSampled) {
                    list.template add<S::kPerLoad>(mine, values + u * S::kPerLoad, bound, position - begin_, key,
                                                   ranked);
                } else {
                    store_scores<S::kPerLoad>(scores + first + u * 32 * S::kPerLoad, mine);
#pragma unroll
                    for (int i = 0; i < S::kPerLoad; i++)
                        counts.count(key + i < ranked ? mine[i] : 0);
                }
            }
            if constexpr (kFloor) {
                count_for_floor(floor_key, score, first, ranked, total);
                floor_key.next_step();
            }
            if (next == region_end || next >= end_) {
                publish_row<kFloor>(histogram_ + 4, row_size, rows);
                rows += run_.row_size;
                region_end += cut_.region;
            }
        }
        return kSampled && list.size > cut_.room;
    }

private:
    /* In the upper halves of the warp's counts: a range has fewer keys than 2^16. */
    __device__ void count_for_floor(const FloorKey<kWords> &key, const uint32_t (&score)[S::kKeys], int32_t first,
                                    uint32_t ranked, uint32_t *total) const
    {
        int32_t mine = -1;
#pragma unroll
        for (int u = 0; u < S::kUnits; u++)
#pragma unroll
            for (int i = 0; i < S::kPerLoad; i++) {
                const uint32_t position = first + (u * 32 + lane_id()) * S::kPerLoad + i;
                if (key.is(u, i) && position - task_.first < ranked)
                    mine = static_cast<int32_t>(score[u * S::kPerLoad + i]);
            }
        if (mine > 0)
            atomic_add(&histogram_[3 + mine], 1u << 16);
        if (mine == 0) /* seldom: what is not ranked is counted there, too */
            atomic_add(&total[level_words(run_) + HATTN_CUDA_ZEROS], 1u);
    }

    const Regions &run_;
    const RegionTask &task_;
    const RegionCut &cut_;
    uint32_t *histogram_;
    const uint32_t range_;
    const int32_t begin_, end_;
};

} // namespace hattn

#endif
