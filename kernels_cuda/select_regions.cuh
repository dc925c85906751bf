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

struct RegionSpace {
    uint32_t sums[2][kWarps];
    int32_t num_hits;
    union {
        struct {
            int32_t region;
            uint32_t above, equal;
        } hits[kList];
        struct {
            QueryCode query;
            SelectSpace select;
            Threshold threshold;
        } anew;
    };
};

/* ---- a bound that was too high ----
 * Scores of the whole row, in the memory of its list, and a selection from these. All blocks of the task do and write the same. Apart from
 * the rest, which must not pay for it in registers. */

__device__ inline Selection<uint16_t> anew_selection(const RegionRun &run, const RegionTask &task, Threshold threshold)
{
    const uint16_t *scores = reinterpret_cast<const uint16_t *>(reinterpret_cast<const uint32_t *>(run.scores) + task.task * run.score_stride);
    return {scores + run.num_sink, task.row.length, task.kept, run.num_sink, run.num_recent, threshold};
}

static __device__ __noinline__ void score_anew(const hattn_cuda_params &params, const hattn_decode_args &args, const RegionRun &run, int32_t row, int32_t head,
                                               RegionSpace &space)
{
    const RegionTask task = resolve_task(run, row, head);
    QueryCode &query = space.anew.query;
    const hattn_problem &p = params.problem;
    const int8_t *weights = run.weights + row * run.weights_row + head * run.weights_head;
    for (int r = threadIdx.x; r < 512; r += kThreads)
        query.weights[r] = r < p.code_bits ? weights[r] : static_cast<int8_t>(0);
    __syncthreads();
    split_planes(query);
    const hattn_pages pages = hattn_sequence_pages(&p, &args.batch, task.row.sequence);
    const int64_t code_head = static_cast<int64_t>(head) * p.num_code_heads / p.num_selection_heads;
    Selection<uint16_t> selection = anew_selection(run, task, {});
    uint16_t *scores = const_cast<uint16_t *>(selection.keys) - run.num_sink;
    for (int32_t j = threadIdx.x; j < task.end; j += kThreads) {
        int32_t slot;
        const int64_t page = hattn_page(&pages, j, &slot);
        scores[j] = static_cast<uint16_t>(
            score_key(query, reinterpret_cast<const uint32_t *>(hattn_element(&p.codes, args.codes, page, slot, code_head)), (p.code_bits + 31) / 32));
    }
    __syncthreads();
    selection.find(params, space.anew.select);
    if (threadIdx.x == 0)
        space.anew.threshold = selection.threshold;
    __syncthreads();
}

static __device__ __noinline__ void visit_anew(const RegionRun &run, int32_t row, int32_t head, int first, int end, int32_t *positions, RegionSpace &space)
{
    anew_selection(run, resolve_task(run, row, head), space.anew.threshold).visit(first, end, space.anew.select, [&](int rank, int position) {
        positions[rank - first] = position;
    });
}

class RegionSelection
{
public:
    __device__ RegionSelection(const RegionRun &run, int32_t row, int32_t head, RegionSpace &space)
        : run_(run), task_(resolve_task(run, row, head)), space_(space)
    {
    }

    __device__ const RegionTask &task() const { return task_; }

    /* After the score kernel: threshold, and what comes before this thread's regions. False: the bound was too high. */
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

    /* The same out of a range's list. */
    template <class Sink>
    __device__ void visit_candidates(int region, uint32_t above_before, uint32_t equal_before, Sink sink) const
    {
        constexpr int kLoads = 4;
        const int32_t start = region * run_.region;
        const int size = __ldcg(run_.rows + (task_.task * run_.num_regions + region) * run_.row_size);
        const uint32_t *list = reinterpret_cast<const uint32_t *>(run_.scores) + task_.task * run_.score_stride + start;
#pragma unroll 1
        for (int first = 0; first < size; first += kLoads * 32) {
            uint32_t loaded[kLoads];
#pragma unroll
            for (int i = 0; i < kLoads; i++) {
                const int place = first + i * 32 + lane_id();
                loaded[i] = place < size ? __ldcg(list + place) : 0;
            }
#pragma unroll
            for (int i = 0; i < kLoads; i++) {
                const uint32_t score = loaded[i] & 0xffff; /* 0 past the end; the threshold is not */
                const bool is_above = score > threshold_.key, is_equal = score == threshold_.key;
                const uint32_t above = __ballot_sync(kFullMask, is_above), equal = __ballot_sync(kFullMask, is_equal);
                const uint32_t num_above = above_before + __popc(above & lanes_below()), num_equal = equal_before + __popc(equal & lanes_below());
                if (is_above || (is_equal && num_equal < threshold_.ties))
                    sink(num_above + min(num_equal, threshold_.ties), start + static_cast<int>(loaded[i] >> 16));
                above_before += __popc(above);
                equal_before += __popc(equal);
            }
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
