/* SPDX-License-Identifier: Apache-2.0
 * Exact top-k out of what score_regions.cu left (regions.cuh): the threshold from the task's histogram, the regions of a share of the
 * ranks from two entries of each row, and a warp a region to list positions in order.
 */
#ifndef HATTN_KERNELS_CUDA_SELECT_REGIONS_CUH
#define HATTN_KERNELS_CUDA_SELECT_REGIONS_CUH

#include "kernels_cuda/regions.cuh"
#include "kernels_cuda/select.cuh"

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
    struct Space {
        uint32_t sums[2][kWarps];
        int32_t num_hits;
        struct {
            int32_t region;
            uint32_t above, equal;
        } hits[kList];
    };

    __device__ RegionSelection(const RegionRun &run, int32_t row, int32_t head, Space &space)
        : run_(run), task_(resolve_task(run, row, head)), space_(space)
    {
    }

    __device__ const RegionTask &task() const { return task_; }

    /* After the score kernel: threshold, and what comes before this thread's regions. */
    __device__ void find()
    {
        if (threadIdx.x == 0)
            space_.num_hits = 0;
        if (!task_.is_ranked) {
            __syncthreads();
            return;
        }
        find_threshold();
        const int used = (task_.end + run_.region - 1) / run_.region;
        per_thread_ = (used + kThreads - 1) / kThreads;
        first_region_ = threadIdx.x * per_thread_;
        end_region_ = min(first_region_ + per_thread_, used);
        uint32_t above = 0, equal = 0, total;
        for (int region = first_region_; region < end_region_; region++) {
            count(region, &above_, &equal_);
            above += above_;
            equal += equal_;
        }
        above_before_ = block_scan(above, space_.sums[0], &total);
        equal_before_ = block_scan(equal, space_.sums[1], &total);
    }

    /* sink(rank, position) for ranks first..end of 0..kept. Ends with a barrier. */
    template <class Sink>
    __device__ void visit(int first, int end, Sink sink)
    {
        visit_forced(task_.row.length, task_.kept, run_.num_sink, run_.num_recent, first, end, sink);
        if (task_.is_ranked) {
            const int num_wanted = task_.kept - run_.num_sink - run_.num_recent;
            const int low = max(first - run_.num_sink, 0), high = min(end - run_.num_sink, num_wanted);
            find_hits(low, high);
            __syncthreads();
            for (int i = warp_id(); i < space_.num_hits; i += kWarps)
                visit_region(space_.hits[i].region, space_.hits[i].above, space_.hits[i].equal, [&](uint32_t rank, int position) {
                    if (static_cast<int>(rank) >= low && static_cast<int>(rank) < high)
                        sink(static_cast<int>(rank) + run_.num_sink, position);
                });
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
            run_.histograms[task_.task * HATTN_CUDA_LEVELS + i] = 0;
    }

private:
    /* The largest score that at least `wanted` of the middle reach, by each warp for itself. */
    __device__ void find_threshold()
    {
        const uint32_t wanted = static_cast<uint32_t>(task_.kept - run_.num_sink - run_.num_recent);
        const uint32_t *histogram = run_.histograms + task_.task * HATTN_CUDA_LEVELS;
        threshold_ = {0, 0};
        uint32_t above = 0; /* count of what the blocks before hold */
        int num_reached = 0;
        for (int block = (run_.row_size - 1) / 256 * 256; block >= 0; block -= 256) {
            uint32_t x[8];
            load_levels(x, histogram, block + lane_id() * 8);
#pragma unroll
            for (int k = 6; k >= 0; k--)
                x[k] += x[k + 1];
            const uint32_t at_least = warp_scan_down(x[0]), base = above + at_least - x[0];
            int mine = 0;
            uint32_t next = base; /* count at the lowest level of this lane that is not reached */
#pragma unroll
            for (int k = 7; k >= 0; k--) {
                if (x[k] + base < wanted)
                    next = x[k] + base;
                mine += x[k] + base >= wanted;
            }
            num_reached = __reduce_add_sync(kFullMask, mine);
            if (num_reached) {
                threshold_.key = static_cast<uint32_t>(block + num_reached);
                above = __shfl_sync(kFullMask, next, (num_reached - 1) / 8);
                break;
            }
            above += __shfl_sync(kFullMask, at_least, 0);
        }
        threshold_.ties = wanted - above;
    }

    __device__ void load_levels(uint32_t (&x)[8], const uint32_t *histogram, int first) const
    {
#pragma unroll
        for (int k = 0; k < 8; k += 4) {
            uint4 v = {};
            if (first + k < run_.row_size)
                v = __ldcg(reinterpret_cast<const uint4 *>(histogram + first + k));
            *reinterpret_cast<uint4 *>(x + k) = v;
        }
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
        *all = threshold ? __ldcg(row + threshold - 1)
                         : static_cast<uint32_t>(max(0, min((region + 1) * run_.region, task_.end) - max(range_start, task_.first)));
    }

    /* Regions that hold ranks low..high of the middle, in any order. */
    __device__ void find_hits(int low, int high)
    {
        uint32_t above_before = above_before_, equal_before = equal_before_;
        for (int region = first_region_; region < end_region_; region++) {
            uint32_t above = above_, equal = equal_;
            if (per_thread_ > 1)
                count(region, &above, &equal);
            const int before = static_cast<int>(above_before + min(equal_before, threshold_.ties));
            const int after = static_cast<int>(above_before + above + min(equal_before + equal, threshold_.ties));
            if (after > low && before < high && after > before)
                space_.hits[atomicAdd(&space_.num_hits, 1)] = {region, above_before, equal_before};
            above_before += above;
            equal_before += equal;
        }
    }

    /* By one warp. */
    template <class Sink>
    __device__ void visit_region(int region, uint32_t above_before, uint32_t equal_before, Sink sink) const
    {
        constexpr int kLoads = 4;
        const int32_t start = region * run_.region, end = min(start + run_.region, task_.end);
        const uint16_t *scores = run_.scores + task_.task * run_.score_stride + lane_id() * 8;
        for (int32_t first = start; first < end; first += kLoads * 256) {
            uint4 loaded[kLoads] = {};
#pragma unroll
            for (int i = 0; i < kLoads; i++)
                if (first + i * 256 < end)
                    loaded[i] = __ldcg(reinterpret_cast<const uint4 *>(scores + first + i * 256));
#pragma unroll
            for (int i = 0; i < kLoads; i++) {
                const int32_t position = first + i * 256 + lane_id() * 8;
                if (first + i * 256 >= end)
                    break;
                uint32_t mask = 0xff;
                if (position < task_.first)
                    mask &= 0xffu << min(task_.first - position, 8);
                if (position + 8 > end)
                    mask &= 0xffu >> min(position + 8 - end, 8);
                const uint32_t above = at_least_bits(loaded[i], threshold_.key + 1) & mask, both = at_least_bits(loaded[i], threshold_.key) & mask;
                /* Both counts in one scan: a region has less than 2^16 keys. */
                const uint32_t mine = __popc(above) | __popc(both & ~above) << 16, scan = warp_scan(mine);
                uint32_t num_above = above_before + ((scan - mine) & 0xffff), num_equal = equal_before + ((scan - mine) >> 16);
                for (uint32_t left = both; left; left &= left - 1) {
                    const int bit = __ffs(static_cast<int>(left)) - 1;
                    const bool is_above = above >> bit & 1;
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

    const RegionRun &run_;
    const RegionTask task_;
    Space &space_;
    Threshold threshold_;
    int per_thread_ = 0, first_region_ = 0, end_region_ = 0;
    uint32_t above_ = 0, equal_ = 0; /* of the thread's only region, if it has one */
    uint32_t above_before_ = 0, equal_before_ = 0;
};

} // namespace hattn

#endif
