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

template <bool kKeyed>
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
        block_scan_two(above, equal, space_.sums, &above_before_, &equal_before_, &total);
        if constexpr (kKeyed) {
            if (total > kFine)
                return false;
            rank_fine(run_, task_, threshold_, space_);
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
            auto keep = [&](uint32_t rank, int position) {
                if (static_cast<int>(rank) >= low && static_cast<int>(rank) < high)
                    list[rank] = position;
            };
            if (kKeyed || run_.is_sampled)
                visit_candidates(keep);
            else
                visit_scores(keep);
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
    /* How many of the middle are selected before a region that so many above the threshold, and equal to it, come before. */
    __device__ uint32_t kept_before(int region, uint32_t above, uint32_t equal) const
    {
        if (!kKeyed)
            return above + min(equal, threshold_.ties);
        const uint32_t num = space_.num_fine,
                       start = static_cast<uint32_t>(region) * static_cast<uint32_t>(run_.region);
        for (uint32_t j = 0; j < num; j++) /* low words are complements of positions */
            above += space_.fine[j] >= space_.fine_threshold && ~static_cast<uint32_t>(space_.fine[j]) < start;
        return above;
    }

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

    __device__ void count(int region, uint32_t *above, uint32_t *equal) const
    {
        count_region(run_, task_, threshold_.key, region, above, equal);
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
                space_.hits[atomicAdd(&space_.num_hits, 1)] = {region, kKeyed ? before : above_before,
                                                               kKeyed ? 0 : equal_before};
            above_before += above;
            equal_before += equal;
        }
    }

    /* A lane's 8 scores of 256 of a region. */
    __device__ uint4 load_scores(int region, int offset) const
    {
        const int32_t first = region * run_.region + offset;
        const uint16_t *scores = run_.scores + task_.task * run_.score_stride + first + lane_id() * 8;
        return first < task_.end ? __ldcg(reinterpret_cast<const uint4 *>(scores)) : uint4{};
    }

    /* What is selected of 256 scores, after so many of its region; adds to them. By a warp. */
    template <class Sink>
    __device__ void list_scores(const uint4 &scores, int32_t first, uint32_t *above_before, uint32_t *equal_before,
                                Sink sink) const
    {
        const int32_t position = first + lane_id() * 8;
        uint32_t mask = 0xff;
        if (position < task_.first)
            mask &= 0xffu << min(task_.first - position, 8);
        if (position + 8 > task_.end)
            mask &= 0xffu >> min(position + 8 - task_.end, 8);
        const uint32_t above = at_least_bits(scores, threshold_.key + 1) & mask,
                       both = at_least_bits(scores, threshold_.key) & mask;
        /* Both counts in one scan: they are below 2^16. */
        const uint32_t mine = __popc(above) | __popc(both & ~above) << 16, scan = warp_scan(mine),
                       total = __shfl_sync(kFullMask, scan, 31);
        uint32_t num_above = *above_before + ((scan - mine) & 0xffff),
                 num_equal = *equal_before + ((scan - mine) >> 16);
#pragma unroll 1
        for (uint32_t left = both; left; left &= left - 1) {
            const int bit = __ffs(static_cast<int>(left)) - 1;
            const bool is_above = above >> bit & 1;
            if (is_above || num_equal < threshold_.ties)
                sink(num_above + min(num_equal, threshold_.ties), position + bit);
            num_above += is_above;
            num_equal += !is_above;
        }
        *above_before += total & 0xffff;
        *equal_before += total >> 16;
    }

    /* A warp's hits, 256 keys at a time, the next ones' scores on their way. */
    template <class Sink>
    __device__ void visit_scores(Sink sink) const
    {
        int i = warp_id(), offset = 0;
        uint32_t above = 0, equal = 0;
        uint4 next = {};
        if (i < space_.num_hits)
            next = load_scores(space_.hits[i].region, 0);
#pragma unroll 1
        while (i < space_.num_hits) {
            const auto hit = space_.hits[i];
            const uint4 scores = next;
            const int32_t first = hit.region * run_.region + offset;
            if (offset == 0) {
                above = hit.above;
                equal = hit.equal;
            }
            offset += 256;
            if (offset >= run_.region) {
                offset = 0;
                i += kWarps;
            }
            if (i < space_.num_hits)
                next = load_scores(space_.hits[i].region, offset);
            list_scores(scores, first, &above, &equal, sink);
        }
    }

    /* The same out of ranges' lists. Of keyed candidates those that are kept count as above, and none as equal. */
    template <class Sink>
    __device__ void visit_candidates(Sink sink) const
    {
#pragma unroll 1
        for (int i = warp_id(); i < space_.num_hits; i += kWarps) {
            const auto hit = space_.hits[i];
            uint32_t above_before = hit.above, equal_before = hit.equal;
            each_candidate(run_, task_, hit.region, [&](uint32_t level, uint32_t position, int64_t place) {
                bool is_above = level > threshold_.key, is_equal = level == threshold_.key; /* the threshold is not 0 */
                if (kKeyed && is_equal) {
                    is_above = fine_of(__ldcg(run_.keys + place), position) >= space_.fine_threshold;
                    is_equal = false;
                }
                const uint32_t above = __ballot_sync(kFullMask, is_above), equal = __ballot_sync(kFullMask, is_equal);
                const uint32_t num_above = above_before + __popc(above & lanes_below()),
                               num_equal = equal_before + __popc(equal & lanes_below());
                if (is_above || (is_equal && num_equal < threshold_.ties))
                    sink(num_above + min(num_equal, threshold_.ties), static_cast<int>(position));
                above_before += __popc(above);
                equal_before += __popc(equal);
            });
        }
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
