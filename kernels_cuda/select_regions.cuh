/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k out of what score_regions.cu left (regions.cuh): the threshold from the task's histogram, the regions of a share of the
 * ranks from two entries of each row, and a warp a region to list positions in order.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_REGIONS_CUH
#define HATTN_KERNELS_CUDA_SELECT_REGIONS_CUH

#include "kernels_cuda/score_anew.cuh"

namespace hattn {

/* Bits i of the scores (16 bytes, each below 2^15) that are at least `threshold`. */
__device__ inline uint32_t at_least_bits(const uint4 &scores, uint32_t threshold)
{
    const uint32_t subtrahend = threshold * 0x10001u, *words = &scores.x;
    uint32_t bits = 0; /* of even scores in the low half, of odd ones in the high half */
#pragma unroll
    for (int w = 0; w < 4; w++) /* no borrow crosses from half to half: the top bit is what is left of it */
        bits |= (((words[w] | 0x80008000u) - subtrahend) & 0x80008000u) >> (15 - 2 * w);
    return (bits | bits >> 15) & 0xff;
}

class RegionSelection
{
public:
    __device__ RegionSelection(const RegionRun &run, int32_t row, int32_t head, RegionSpace &space)
        : run_(run), task_(resolve_task(run, row, head)), space_(space)
    {
    }

    __device__ const RegionTask &task() const { return task_; }

    /* After the score kernel: threshold, and what comes before this thread's regions. False: the lists do not tell (score_anew.cuh). */
    __device__ bool find()
    {
        if (threadIdx.x == 0)
            space_.num_hits = 0;
        if (!task_.is_ranked) {
            __syncthreads();
            return true;
        }
        find_threshold();
        if (run_.is_sampled && threshold_.key == 0)
            return false;
        const int used = (task_.end + run_.region - 1) / run_.region;
        per_thread_ = (used + kThreads - 1) / kThreads;
        first_region_ = threadIdx.x * per_thread_;
        end_region_ = min(first_region_ + per_thread_, used);
        uint32_t above = 0, equal = 0, total;
#pragma unroll 1
        for (int region = first_region_; region < end_region_; region++) {
            count(region, &above_, &equal_);
            above += above_;
            equal += equal_;
        }
        above_before_ = block_scan(above, space_.sums[0], &total);
        equal_before_ = block_scan(equal, space_.sums[1], &total);
        if (run_.keys) {
            if (total > kFine)
                return false;
            rank_fine();
        }
        return true;
    }

    /* positions[rank - first] for ranks first..end of 0..kept. Ends with a barrier. */
    __device__ void visit(int first, int end, int32_t *positions)
    {
        visit_forced(task_.row.length, task_.kept, run_.num_sink, run_.num_recent, first, end,
                     [&](int rank, int position) { positions[rank - first] = position; });
        if (task_.is_ranked) {
            const int num_wanted = task_.kept - run_.num_sink - run_.num_recent;
            const int low = max(first - run_.num_sink, 0), high = min(end - run_.num_sink, num_wanted);
            int32_t *list = positions + run_.num_sink - first;
            find_hits(low, high);
            __syncthreads();
#pragma unroll 1
            for (int i = warp_id(); i < space_.num_hits; i += kWarps) {
                const auto hit = space_.hits[i];
                auto keep = [&](uint32_t rank, int position) {
                    if (static_cast<int>(rank) >= low && static_cast<int>(rank) < high)
                        list[rank] = position;
                };
                if (run_.is_sampled)
                    visit_candidates(hit.region, hit.above, hit.equal, keep);
                else
                    visit_region(hit.region, hit.above, hit.equal, keep);
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) /* for the next call, after the caller's barrier */
            space_.num_hits = 0;
    }

    /* Once, by the last block that reads it. */
    __device__ void clear() const
    {
        if (!task_.is_ranked)
            return;
        for (int i = threadIdx.x; i < run_.num_levels; i += kThreads)
            run_.histograms[task_.task * HATTN_CUDA_BINS + i] = 0;
    }

private:
    /* ---- keyed candidates ---- */

    /* Whether a candidate of the threshold's level is selected. */
    __device__ bool is_kept(uint32_t key, uint32_t position) const { return fine_of(key, position) >= space_.fine_threshold; }

    __device__ static uint64_t fine_of(uint32_t key, uint32_t position) { return static_cast<uint64_t>(key) << 32 | static_cast<uint32_t>(~position); }

    /* Brings the keys of the threshold's level together, and finds the least of those that are kept. All threads; ends with a barrier. */
    __device__ void rank_fine()
    {
        if (threadIdx.x == 0)
            space_.num_fine = 0;
#pragma unroll 1
        for (int region = first_region_; region < end_region_; region++) {
            uint32_t above = above_, equal = equal_;
            if (per_thread_ > 1)
                count(region, &above, &equal);
            if (equal)
                space_.fine_regions[atomicAdd(&space_.num_hits, 1)] = region;
        }
        __syncthreads();
#pragma unroll 1
        for (int i = warp_id(); i < space_.num_hits; i += kWarps) {
            const int region = space_.fine_regions[i];
            each_candidate(region, [&](uint32_t level, uint32_t position, int64_t place) {
                if (level == threshold_.key)
                    space_.fine[atomicAdd(&space_.num_fine, 1u)] = fine_of(__ldcg(run_.keys + place), position);
            });
        }
        __syncthreads();
        const uint32_t num = space_.num_fine;
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < num; i += kThreads) {
            const uint64_t mine = space_.fine[i];
            uint32_t before = 0;
            for (uint32_t j = 0; j < num; j++)
                before += space_.fine[j] > mine;
            if (before + 1 == threshold_.ties)
                space_.fine_threshold = mine;
        }
        if (threadIdx.x == 0)
            space_.num_hits = 0;
        __syncthreads();
    }

    /* How many of the middle are selected before a region that so many above the threshold, and equal to it, come before. */
    __device__ uint32_t kept_before(int region, uint32_t above, uint32_t equal) const
    {
        if (!run_.keys)
            return above + min(equal, threshold_.ties);
        const uint32_t num = space_.num_fine, start = static_cast<uint32_t>(region) * static_cast<uint32_t>(run_.region);
        for (uint32_t j = 0; j < num; j++) /* low words are complements of positions */
            above += space_.fine[j] >= space_.fine_threshold && ~static_cast<uint32_t>(space_.fine[j]) < start;
        return above;
    }

    /* ---- */

    /* The largest score that at least `wanted` of the middle reach, by each warp for itself. */
    __device__ void find_threshold()
    {
        const uint32_t wanted = static_cast<uint32_t>(task_.kept - run_.num_sink - run_.num_recent);
        const uint32_t *histogram = run_.histograms + task_.task * HATTN_CUDA_BINS;
        uint32_t above;
        threshold_.key = find_level(run_.row_size, wanted, &above, [&](uint32_t(&x)[8], int i) {
            *reinterpret_cast<uint4 *>(x) = __ldcg(reinterpret_cast<const uint4 *>(histogram + i));
            *reinterpret_cast<uint4 *>(x + 4) = __ldcg(reinterpret_cast<const uint4 *>(histogram + i + 4));
        });
        threshold_.ties = wanted - above;
    }

    /* Of a region: scores above the threshold, and equal to it. Rows count from the start of a warp's range. */
    __device__ void count(int region, uint32_t *above, uint32_t *equal) const
    {
        const int regions = run_.range / run_.region, range = region / regions;
        uint32_t before_above = 0, before_all = 0, all;
        count_range(region, range * run_.range, above, &all);
        if (region != range * regions)
            count_range(region - 1, range * run_.range, &before_above, &before_all);
        *above -= before_above;
        *equal = all - before_all - *above;
    }

    __device__ void count_range(int region, int32_t range_start, uint32_t *above, uint32_t *all) const
    {
        const uint16_t *row = run_.rows + (task_.task * run_.num_regions + region) * run_.row_size;
        const int threshold = static_cast<int>(threshold_.key);
        *above = threshold < run_.num_levels ? __ldcg(row + threshold) : 0;
        *all =
            threshold ? __ldcg(row + threshold - 1) : static_cast<uint32_t>(max(0, min((region + 1) * run_.region, task_.end) - max(range_start, task_.first)));
    }

    /* Regions that hold ranks low..high of the middle, in any order. */
    __device__ void find_hits(int low, int high)
    {
        uint32_t above_before = above_before_, equal_before = equal_before_;
#pragma unroll 1
        for (int region = first_region_; region < end_region_; region++) {
            uint32_t above = above_, equal = equal_;
            if (per_thread_ > 1)
                count(region, &above, &equal);
            const int before = static_cast<int>(kept_before(region, above_before, equal_before));
            const int after = static_cast<int>(kept_before(region + 1, above_before + above, equal_before + equal));
            if (after > low && before < high && after > before)
                space_.hits[atomicAdd(&space_.num_hits, 1)] = {region, run_.keys ? before : above_before, run_.keys ? 0 : equal_before};
            above_before += above;
            equal_before += equal;
        }
    }

    /* By one warp. */
    template <class Sink>
    __device__ void visit_region(int region, uint32_t above_before, uint32_t equal_before, Sink sink) const
    {
        constexpr int kLoads = 4; /* of 8 scores a lane, whose bits are a byte each of above and both */
        const int32_t start = region * run_.region, end = min(start + run_.region, task_.end);
        const uint16_t *scores = run_.scores + task_.task * run_.score_stride + lane_id() * 8;
#pragma unroll 1
        for (int32_t first = start; first < end; first += kLoads * 256) {
            uint4 loaded[kLoads] = {};
#pragma unroll
            for (int i = 0; i < kLoads; i++)
                if (first + i * 256 < end)
                    loaded[i] = __ldcg(reinterpret_cast<const uint4 *>(scores + first + i * 256));
            uint32_t above = 0, both = 0;
#pragma unroll
            for (int i = 0; i < kLoads; i++)
                if (first + i * 256 < end) {
                    above |= at_least_bits(loaded[i], threshold_.key + 1) << 8 * i;
                    both |= at_least_bits(loaded[i], threshold_.key) << 8 * i;
                }
#pragma unroll 1
            for (int32_t part = first; part < min(first + kLoads * 256, end); part += 256, above >>= 8, both >>= 8) {
                const int32_t position = part + lane_id() * 8;
                uint32_t mask = 0xff;
                if (position < task_.first)
                    mask &= 0xffu << min(task_.first - position, 8);
                if (position + 8 > end)
                    mask &= 0xffu >> min(position + 8 - end, 8);
                const uint32_t mine_above = above & mask, mine_both = both & mask;
                /* Both counts in one scan: they are below 2^16. */
                const uint32_t mine = __popc(mine_above) | __popc(mine_both & ~mine_above) << 16, scan = warp_scan(mine);
                uint32_t num_above = above_before + ((scan - mine) & 0xffff), num_equal = equal_before + ((scan - mine) >> 16);
#pragma unroll 1
                for (uint32_t left = mine_both; left; left &= left - 1) {
                    const int bit = __ffs(static_cast<int>(left)) - 1;
                    const bool is_above = mine_above >> bit & 1;
                    if (is_above || num_equal < threshold_.ties)
                        sink(num_above + min(num_equal, threshold_.ties), position + bit);
                    num_above += is_above;
                    num_equal += !is_above;
                }
                const uint32_t total = __shfl_sync(kFullMask, scan, 31);
                above_before += total & 0xffff;
                equal_before += total >> 16;
            }
        }
    }

    /* f(level, position, place in the list) of a range's candidates in order, by a warp; past the end of the list all lanes see level 0. */
    template <class F>
    __device__ void each_candidate(int region, F f) const
    {
        constexpr int kLoads = 4;
        const int32_t start = region * run_.region;
        const int size = __ldcg(run_.rows + (task_.task * run_.num_regions + region) * run_.row_size);
        const int64_t list = task_.task * run_.score_stride + start;
#pragma unroll 1
        for (int first = 0; first < size; first += kLoads * 32) {
            uint32_t loaded[kLoads];
#pragma unroll
            for (int i = 0; i < kLoads; i++) {
                const int place = first + i * 32 + lane_id();
                loaded[i] = place < size ? __ldcg(reinterpret_cast<const uint32_t *>(run_.scores) + list + place) : 0;
            }
#pragma unroll
            for (int i = 0; i < kLoads; i++)
                f(loaded[i] & 0xffff, static_cast<uint32_t>(start) + (loaded[i] >> 16), list + first + i * 32 + lane_id());
        }
    }

    /* The same as visit_region, out of a range's list. Of keyed candidates those that are kept count as above, and none as equal. */
    template <class Sink>
    __device__ void visit_candidates(int region, uint32_t above_before, uint32_t equal_before, Sink sink) const
    {
        each_candidate(region, [&](uint32_t level, uint32_t position, int64_t place) {
            bool is_above = level > threshold_.key, is_equal = level == threshold_.key; /* the threshold is not 0 */
            if (run_.keys && is_equal) {
                is_above = is_kept(__ldcg(run_.keys + place), position);
                is_equal = false;
            }
            const uint32_t above = __ballot_sync(kFullMask, is_above), equal = __ballot_sync(kFullMask, is_equal);
            const uint32_t num_above = above_before + __popc(above & lanes_below()), num_equal = equal_before + __popc(equal & lanes_below());
            if (is_above || (is_equal && num_equal < threshold_.ties))
                sink(num_above + min(num_equal, threshold_.ties), static_cast<int>(position));
            above_before += __popc(above);
            equal_before += __popc(equal);
        });
    }

    const RegionRun &run_;
    const RegionTask task_;
    RegionSpace &space_;
    Threshold threshold_ = {0, 0};
    int per_thread_ = 0, first_region_ = 0, end_region_ = 0;
    uint32_t above_ = 0, equal_ = 0; /* of the thread's only region, if it has one */
    uint32_t above_before_ = 0, equal_before_ = 0;
};

} // namespace hattn

#endif
