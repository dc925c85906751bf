/* SPDX-License-Identifier: Apache-2.0
 * The second kernel of a decode with scores per query head: the regions' selection (regions.cuh) is of candidates. Each block finds its part of
 * a task's candidates, and scores them by the weights of each query head, and with a tail by the summed ones, too. Blocks wait for none other; what
 * they leave is chosen from by select/topk_heads.cu.
 * Bound: a chain of latencies, as in attention's blocks: histogram, regions, lists, pages, codes.
 */
#include <algorithm>

#include "kernels_cuda/decode/decode_attend.cuh"
#include "kernels_cuda/decode/planes.cuh"
#include "kernels_cuda/select/head_lists.cuh"

namespace hattn {
namespace {

constexpr int kTaken = 2048; /* candidates of a block at a time */

/* Of one head, in shared memory; others come `stride` words after it. */
struct HeadPlanes {
    uint32_t sign[16];
    uint32_t plane[7][16];
};

struct ListRun {
    hattn_buffer head_weights;
    int64_t weights_row, weights_head;
    hattn_cuda_divisor splits; /* blocks of a task */
};

template <SelectBy kBy>
struct ListSpace {
    SelectSpaceBy<kBy> select;
    uint32_t arrived;
    uint32_t tops[HATTN_MOST_HEADS + 1][kWarps]; /* largest scores, of warps */
    int32_t positions[kTaken];
};

/* Makes planes of all heads, and of the summed weights behind them. By warps, a word at a time. */
class PlaneMaker
{
public:
    __device__ PlaneMaker(const hattn_cuda_params &params, const RegionRun &regions, const ListRun &list,
                          const PlacedTask &placed, int heads)
        : group_(params.group), code_bits_(params.problem.code_bits), num_words_((code_bits_ + 31) / 32),
          num_planes_(params.problem.weight_bits - 1), units_(heads * num_words_), head_stride_(list.weights_head),
          base_(static_cast<const int8_t *>(hattn_address(list.head_weights)) + placed.row * list.weights_row +
                placed.head * group_ * list.weights_head),
          summed_(regions.weights + placed.row * regions.weights_row + placed.head * regions.weights_head)
    {
    }

    /* The first weights are on their way; no line of them was read before the wait. */
    __device__ void start() { load(warp_id()); }

    /* Before a barrier. */
    __device__ void make(HeadPlanes *planes)
    {
        for (int first = warp_id();;) {
#pragma unroll
            for (int j = 0; j < kLoads; j++)
                store(min(first + j * kWarps, units_ - 1), weights_[j], planes);
            first += kLoads * kWarps;
            if (first >= units_)
                return;
            load(first);
        }
    }

private:
    static constexpr int kLoads = 2;    /* of 4 heads with 128 bits, all */
    static constexpr int kTogether = 4; /* planes, as many as whole codes have counters for */

    __device__ void load(int first)
    {
#pragma unroll
        for (int j = 0; j < kLoads; j++) {
            const int unit = min(first + j * kWarps, units_ - 1), head = unit / num_words_,
                      r = unit % num_words_ * 32 + lane_id();
            const int8_t *from = head < group_ ? base_ + head * head_stride_ : summed_;
            weights_[j] = r < code_bits_ ? from[r] : 0;
        }
    }

    __device__ void store(int unit, int weight, HeadPlanes *planes) const
    {
        HeadPlanes &its = planes[unit / num_words_];
        const int word = unit % num_words_;
        const uint32_t negative = ballot(weight < 0), magnitude = static_cast<uint32_t>(min(abs(weight), 127));
        if (lane_id() == 0)
            its.sign[word] = negative;
#pragma unroll 1
        for (int plane = 0; plane < num_planes_; plane += kTogether)
#pragma unroll
            for (int i = 0; i < kTogether; i++) {
                const uint32_t bits = ballot(magnitude >> (plane + i) & 1);
                if (lane_id() == 0 && plane + i < 7)
                    its.plane[plane + i][word] = bits;
            }
    }

    const int group_, code_bits_, num_words_, num_planes_, units_;
    const int64_t head_stride_;
    const int8_t *const base_, *const summed_;
    int weights_[kLoads];
};

/* What there is to score: candidates of a block. */
struct Taken {
    const int32_t *positions; /* in shared memory */
    int num, heads;
    uint16_t *scores; /* of the first head and candidate */
    int64_t row;      /* from head to head */
    const HeadPlanes *planes;
    uint32_t (*tops)[kWarps];

    /* Of a warp's scores, each lane's largest. */
    __device__ void note_top(int head, uint32_t score) const
    {
        const uint32_t top = static_cast<uint32_t>(warp_largest(static_cast<int32_t>(score)));
        if (lane_id() == 0)
            tops[head][warp_id()] = max(tops[head][warp_id()], top);
    }
};

/* Whole codes, up to 4 planes: 4 a thread in flight, counted on tensor cores where these can. */
template <int kWords, class Find>
__device__ inline void score_whole(const Taken &taken, Find find)
{
    constexpr int kInFlight = 4;
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
    for (int first = 0; first < taken.num; first += kInFlight * kThreads) {
        uint32_t codes[kInFlight][kWords];
        const uint32_t *at[kInFlight];
#pragma unroll
        for (int i = 0; i < kInFlight; i++)
            at[i] = find(taken.positions[min(first + i * kThreads + thread, taken.num - 1)]);
#pragma unroll
        for (int i = 0; i < kInFlight; i++) {
            using Code = std::conditional_t<kWords == 4, uint4, uint2>;
            const Code code = load_l2(reinterpret_cast<const Code *>(at[i]));
            memcpy(codes[i], &code, sizeof(code));
        }
#pragma unroll 1
        for (int head = 0; head < taken.heads; head++) {
            const PlaneCounter<kWords, 2> counter(taken.planes[head].sign, taken.planes[head].plane, 4);
            uint32_t top = 0;
#pragma unroll
            for (int i = 0; i < kInFlight; i += 2)
                if (first + i * kThreads < taken.num) {
                    uint32_t scores[2];
                    counter.count(codes[i], codes[i + 1], &scores[0], &scores[1]);
                    top = max(top, max(scores[0], scores[1])); /* past the end they are the last one's */
#pragma unroll
                    for (int s = 0; s < 2; s++) {
                        const int candidate = first + (i + s) * kThreads + thread;
                        if (candidate < taken.num)
                            taken.scores[head * taken.row + candidate] = static_cast<uint16_t>(scores[s]);
                    }
                }
            taken.note_top(head, top);
        }
    }
}

/* Any codes, a word at a time. */
template <class Find>
__device__ inline void score_any(const Taken &taken, int num_words, int num_planes, Find find)
{
#pragma unroll 1
    for (int first = 0; first < taken.num; first += kThreads) {
        const int candidate = min(first + static_cast<int>(threadIdx.x), taken.num - 1);
        const uint32_t *code = find(taken.positions[candidate]);
#pragma unroll 1
        for (int head = 0; head < taken.heads; head++) {
            const HeadPlanes &its = taken.planes[head];
            uint32_t score = 0;
#pragma unroll 1
            for (int w = 0; w < num_words; w++) {
                const uint32_t bits = load_l2(code + w) ^ its.sign[w];
#pragma unroll 1
                for (int plane = 0; plane < num_planes; plane++)
                    score += static_cast<uint32_t>(count_ones(bits & its.plane[plane][w])) << plane;
            }
            taken.scores[head * taken.row + candidate] = static_cast<uint16_t>(score);
            taken.note_top(head, score);
        }
    }
}

__device__ inline void score_taken(const hattn_cuda_params &params, const hattn_decode_args &args,
                                   const PlacedTask &placed, const SlotFinder &slots, const Taken &taken)
{
    const hattn_problem &p = params.problem;
    const uint32_t *codes =
        static_cast<const uint32_t *>(hattn_address(args.codes)) +
        static_cast<int64_t>(divide(static_cast<uint32_t>(placed.head), params.heads_per_code)) * p.codes.stride[2];
    auto find = [&](int32_t position) {
        const Slot slot = slots.find(position);
        return codes + (slot.page * p.codes.stride[0] + slot.slot * p.codes.stride[1]);
    };
    const int num_planes = p.weight_bits - 1, num_words = (p.code_bits + 31) / 32;
    const bool is_whole = !params.has_loose_codes && num_planes <= 4;
    if (is_whole && params.code_words == 4)
        score_whole<4>(taken, find);
    else if (is_whole && params.code_words == 2)
        score_whole<2>(taken, find);
    else
        score_any(taken, num_words, num_planes, find);
}

template <SelectBy kBy>
__global__ void __launch_bounds__(kThreads, 2)
    list_heads_kernel(const __grid_constant__ hattn_cuda_params params, const __grid_constant__ hattn_decode_args args,
                      const __grid_constant__ RunBy<kBy> regions, const __grid_constant__ ListRun list,
                      hattn_buffer workspace)
{
    extern __shared__ __align__(16) float shared[];
    __shared__ ListSpace<kBy> space;
    constexpr bool kTail = kBy == SelectBy::TAIL;
    const hattn_problem &p = params.problem;
    const uint32_t split = divide(blockIdx.x, regions.tasks), splits = list.splits.divisor;
    PlacedTask placed = place_task(regions, blockIdx.x - split * regions.tasks.divisor, split);
    load_length(regions, placed);
    TaskCut by(regions);
    if (!regions.is_alone) { /* as the kernel before has cut */
        const uint32_t rows = live_rows(regions);
        if (rows < static_cast<uint32_t>(regions.wave.num_rows)) {
            if (static_cast<uint32_t>(placed.row - regions.wave.first_row) >= rows)
                return wait_for_previous(); /* the next kernel takes this one's end for both */
            by = TaskCut(regions, rows * regions.heads.divisor);
        }
    }
    const RegionTask task = region_task(regions, placed.place, placed.seq_len, 0);
    const RegionCut cut = cut_task(regions, by, placed);
    RegionSelection<kBy> selection(regions, placed.index, cut, task, space.select);
    const SlotFinder slots(params, args.batch, placed.place.sequence);
    const int count = max(task.kept - p.num_sink - p.num_recent, 0),
              even = static_cast<int>(divide(static_cast<uint32_t>(count) + splits - 1, list.splits)),
              first = min(static_cast<int>(split) * even, count), end = min(first + even, count);
    const HeadLists lists(params, workspace, static_cast<int64_t>(placed.row) * p.num_selection_heads + placed.head);
    HeadPlanes *planes = reinterpret_cast<HeadPlanes *>(shared);
    const int num_scores = params.group + kTail;
    PlaneMaker maker(params, regions, list, placed, num_scores);
    for (int i = static_cast<int>(threadIdx.x); i < num_scores * kWarps; i += kThreads)
        space.tops[i / kWarps][i % kWarps] = 0;
    wait_for_previous();
    allow_dependents();
    maker.start();
    const bool is_found = selection.find(placed);
    if (!is_found) {
        rescore<kBy>(params, args, regions, selection.rescore_task(placed), space.select);
        selection.take_rescored();
    }
    maker.make(planes);
    __syncthreads();
    /* Every block of the task has read the histogram once the last one is here. */
    if (threadIdx.x == 0)
        space.arrived = task.is_ranked ? count_up(selection.joined(), 1) : 0;
    if constexpr (kTail)
        if (threadIdx.x == 0 && split == 0) {
            const TailSums &tail = tail_sums();
            uint64_t listed = task.is_ranked ? tail.of_ties : 0;
            for (int w = 0; task.is_ranked && w < kWarps; w++)
                listed += tail.kept[w];
            *lists.outside = task.is_ranked && tail.sum > listed ? tail.sum - listed : 0;
        }
#pragma unroll 1
    for (int from = first; from < end; from += kTaken) {
        const int num = min(kTaken, end - from);
        selection.visit(p.num_sink + from, p.num_sink + from + num, is_found, [&](int rank, int position) {
            space.positions[rank - p.num_sink - from] =
                kTail ? static_cast<int>(static_cast<uint32_t>(position) & ~kMarks) : position;
        });
        int32_t *positions = const_cast<int32_t *>(lists.positions) + from;
        for (int i = static_cast<int>(threadIdx.x); i < num; i += kThreads)
            positions[i] = space.positions[i];
        score_taken(params, args, placed, slots,
                    {space.positions, num, num_scores, const_cast<uint16_t *>(lists.scores) + from, params.most_scored,
                     planes, space.tops});
        __syncthreads();
    }
    if (first >= end)
        __syncthreads();
    for (int head = static_cast<int>(threadIdx.x); head < num_scores; head += kThreads) {
        uint32_t top = 0;
        for (const uint32_t its : space.tops[head])
            top = max(top, its);
        lists.tell_top(params, head, static_cast<int>(split), static_cast<int>(splits), top);
    }
    if (task.is_ranked && space.arrived == splits - 1)
        selection.clear();
}

/* Calls f with the kernel of a plan. */
template <class F>
DeviceError with_list_kernel(const hattn_cuda_params &params, F f)
{
    return params.problem.tail > 0
               ? f(list_heads_kernel<SelectBy::TAIL>, std::integral_constant<SelectBy, SelectBy::TAIL>())
               : f(list_heads_kernel<SelectBy::SCORES>, std::integral_constant<SelectBy, SelectBy::SCORES>());
}

size_t planes_bytes(const hattn_cuda_params &params) { return (params.group + 1) * sizeof(HeadPlanes); }

} // namespace

DeviceError load_list_heads(const hattn_cuda_params &params)
{
    return with_list_kernel(params, [&](auto kernel, auto) { return prepare(kernel, planes_bytes(params)); });
}

DeviceError launch_list_heads(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                              hattn_buffer workspace, DeviceStream stream)
{
    return with_list_kernel(params, [&](auto kernel, auto by) {
        const auto regions = make_run<RunBy<decltype(by)::value>>(params, args, wave, workspace);
        const int32_t tasks = wave.num_rows * wave.num_heads,
                      splits = std::max(1, std::min(hattn_cuda_blocks(&params) / tasks, params.scored_parts));
        ListRun list = {};
        list.head_weights = args.head_weights;
        list.weights_row = params.problem.head_weights.stride[0];
        list.weights_head = params.problem.head_weights.stride[1];
        list.splits = hattn_cuda_make_divisor(static_cast<uint32_t>(splits));
        return launch_dependent(params, kernel, dim3(static_cast<unsigned>(tasks * splits)), planes_bytes(params),
                                stream, params, args, regions, list, workspace);
    });
}

} // namespace hattn
