/* SPDX-License-Identifier: Apache-2.0
 * The first kernel of a decode by regions (regions.cuh): a block encodes its query, or takes weights that are there, and each of its
 * warps scores a range of keys.
 * Bound: the codes' bytes; 128 bytes a lane are in flight while the keys before are counted. For short caches it is a chain of
 * latencies instead (row, codes and map, barriers, rows), so that codes and map are asked for together and little code is unrolled.
 */
#ifndef HATTN_KERNELS_CUDA_DECODE_SCORE_REGIONS_CUH
#define HATTN_KERNELS_CUDA_DECODE_SCORE_REGIONS_CUH

#include "kernels_cuda/decode/schedule.cuh"
#include "kernels_cuda/decode/score_ranges.cuh"
#include "kernels_cuda/decode/score_run.cuh"
#include "kernels_cuda/kernels.cuh"

namespace hattn {

/* How much of a row is written and read where no level is above num_levels: up to the end of the 256 entries with entry num_levels. */
__device__ inline int published_size(int row_size, int num_levels)
{
    return min(row_size, num_levels / 256 * 256 + 256);
}

/* Words of a warp's histogram. */
__host__ __device__ inline int histogram_stride(int row_size) { return 4 + row_size; }

__device__ inline void clear(uint32_t *counts, int num, int thread, int threads)
{
#pragma unroll 1
    for (int i = thread * 4; i < num; i += threads * 4)
        *reinterpret_cast<uint4 *>(counts + i) = {};
}

/* Shared memory of a block beside what the host gives it. */
template <int kWords, bool kSampled>
struct ScoreSpace {
    Planes<kWords> planes;
    std::conditional_t<kSampled, LevelSpace, char> levels;
};

/* Scores one piece of a task. `shared`: the sample's histogram; partial sums of the query, then a histogram a warp. */
template <int kWords, bool kLoose, int kBlocks, class W, Leaves kLeaves, class Regions>
__device__ inline void score_piece(const ScoreRun<Regions> &run, const PlacedTask &placed, const TaskCut &by,
                                   const QueryProduct<W> &product, CodeReader<kWords, kLoose> &reader, float *shared,
                                   ScoreSpace<kWords, kLeaves != Leaves::SCORES> &fixed)
{
    using S = Step<kWords>;
    using Reader = CodeReader<kWords, kLoose>;
    using Scorer = RangeScorer<kWords, kLoose, kBlocks, kLeaves, Regions>;
    constexpr bool kSampled = Scorer::kSampled, kKeyed = Scorer::kKeyed, kFloor = Scorer::kFloor;
    const Regions &regions = run.regions;
    RegionCut cut;
    const int32_t budget = load_budget(regions, placed);
    Planes<kWords> &planes = fixed.planes;
    const int stride = histogram_stride(regions.row_size);
    float *space = shared + (kSampled ? stride : 0);
    RegionTask task = {};
    bool scores_keys = false, samples = false;
    int32_t begin = 0, end = 0;
    [[maybe_unused]] int32_t slope = 0;
    /* Counts of scores 0, 1, ...: that of 1 is at 16 bytes, that of 0 is where what is not ranked goes. */
    uint32_t *sample = reinterpret_cast<uint32_t *>(shared);
    uint32_t words[S::kAll][4];
    /* Codes of the sample, or of this warp's first keys: these before there are planes, if they are not appended meanwhile. */
    const bool comes_early = !kSampled && run.is_first;
    auto load_first = [&] {
        const auto units = samples ? reader.sample(task.first) : Reader::step(begin);
        if (samples && scores_keys) {
            reader.template look_up<S::kSampleUnits>(units);
            reader.template load<S::kSampleUnits>(words, units);
        } else if (!samples && begin < end) {
            reader.look_up(units);
            reader.load(words, units);
        }
    };
    make_planes<kWords, kBlocks>(
        run, product, placed.row, placed.head, (kSampled || kFloor) && placed.piece == 0, space, planes,
        [&] {
            task = region_task(regions, placed.place, placed.seq_len, budget);
            cut = cut_task(regions, by, placed);
            if constexpr (kFloor)
                slope = load_now(regions.slopes + placed.head * regions.slope_head);
            const int32_t range = cut.range;
            samples = kKeyed || (kSampled && takes_sample(regions, task, cut));
            const int32_t first = static_cast<int32_t>(placed.piece) * kWarps * range;
            scores_keys = task.is_ranked && first < task.end;
            begin = first + warp_id() * range;
            end = min(begin + range, scores_keys ? task.end : 0);
            reader.end_at(task.end - 1);
            if (kSampled)
                clear(sample + 4, regions.row_size, threadIdx.x, kThreads);
            if (samples && scores_keys)
                reader.prefetch_sample(task.first);
            if (begin < end)
                reader.prefetch(Reader::step(begin));
        },
        [&] {
            if (comes_early)
                load_first();
        },
        [&]([[maybe_unused]] float largest) {
            if constexpr (kFloor)
                if (placed.piece == 0 && threadIdx.x == 0)
                    regions.steps[placed.row * regions.steps_row + placed.head * regions.steps_head] = hattn_floor_step(
                        float_of_bits(static_cast<uint32_t>(slope)), unit_of(run.query.weight_max, largest));
            if constexpr (kBlocks == 2 && !kKeyed)
                if (run.heads.weights)
                    make_head_weights<kWords>(run, placed.row, placed.head, placed.piece, by.pieces, space,
                                              planes.extents);
        });
    wait_for_previous(); /* which may have appended codes; the next kernel takes this one's end for both */
    if (!scores_keys)
        return;
    uint32_t *total = histogram_of(regions, placed.index);
    if (kSampled && !run.codes.norms &&
        planes.max_score() == 0) { /* the smallest positions are kept, and nothing is listed */
        if (placed.piece == 0 && threadIdx.x == 0) {
            total[level_words(regions) + HATTN_CUDA_ALL_EQUAL] = 1;
            if constexpr (kFloor)
                total[level_words(regions) + HATTN_CUDA_ZEROS] = num_floor_positions(task);
        }
        return;
    }
    if (!comes_early)
        load_first();

    const PlaneCounter<kWords, kBlocks> counter(planes.sign, planes.plane, kPlanes<kBlocks>);
    int32_t num_levels = regions.num_levels;
    if constexpr (kBlocks > 1 && !kKeyed) /* of 4 bits: a weight's largest magnitude is far above the mean */
        num_levels = min(num_levels, static_cast<int32_t>(planes.max_score()));
    ValueMaker<kWords> maker(kKeyed && run.codes.norms, kKeyed ? planes.max_score() : 0);
    float values[S::kSampleKeys];
    const SharedCounters sample_counts(sample + 3);
    if (samples) {
        uint32_t score[S::kSampleKeys];
        score_step(score, words, counter);
        if constexpr (kKeyed) {
            maker.make_sample(values, score, reader, reader.sample(task.first));
            LevelMap::note_extents(values, planes.extents);
        } else {
#pragma unroll
            for (uint32_t x : score)
                sample_counts.count(x);
        }
    }
    if (begin < end) {
        if (samples) {
            reader.look_up(Reader::step(begin));
            reader.load(words, Reader::step(begin));
        }
        if constexpr (kKeyed)
            maker.load(reader, Reader::step(begin));
        reader.look_up(Reader::step(begin + S::kSize));
    }
    uint32_t *histogram = reinterpret_cast<uint32_t *>(space) + warp_id() * stride;
    const int row_size = published_size(regions.row_size, num_levels);
    clear(histogram + 4, row_size, lane_id(), 32);
    LevelMap map;
    uint32_t bound = 1;
    if (samples) {
        if constexpr (kKeyed) {
            __syncthreads();
            map = LevelMap::of_extents(planes.extents, regions.num_levels);
#pragma unroll
            for (float x : values)
                sample_counts.count(map.level(x));
        }
        __syncthreads();
        if constexpr (kSampled)
            if (!kKeyed || takes_sample(regions, task, cut))
                bound = find_bound(regions, task, sample + 4, num_levels, Reader::kRunKeys, fixed.levels);
    }
    warp_barrier();
    const Scorer scorer(regions, task, cut, placed.piece, histogram);
    if (scorer.scan(reader, words, counter, maker, map, bound, row_size, total) && lane_id() == 0)
        total[level_words(regions) + HATTN_CUDA_OVERFLOWN] = 1;

    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < num_levels; i += kThreads) {
        uint32_t sum = 0, halves = 0;
#pragma unroll
        for (int w = 0; w < kWarps; w++) {
            const uint32_t its = reinterpret_cast<const uint32_t *>(space)[w * stride + 4 + i];
            sum += its;
            if (kFloor)
                halves += its & 0xffff;
        }
        if (sum && !kFloor)
            atomic_add(&total[i], sum);
        if (sum && kFloor) /* a pair */
            atomic_add(reinterpret_cast<uint64_t *>(total) + i, halves + (static_cast<uint64_t>(sum - halves) << 16));
    }
}

template <int kWords, bool kLoose, int kBlocks, class W, Leaves kLeaves, class Regions>
__global__ void __launch_bounds__(kThreads, 2) score_regions_kernel(const __grid_constant__ ScoreRun<Regions> run)
{
    extern __shared__ __align__(16) float shared[];
    __shared__ ScoreSpace<kWords, kLeaves != Leaves::SCORES> space;
    const Regions &regions = run.regions;
    /* What can be known before the wait is, if no row is padding: a packed code of a query that is encoded here fills its words. */
    if (run.is_first && regions.batch.q_start.data)
        wait_for_previous();
    const uint32_t piece = divide(blockIdx.x, regions.tasks);
    PlacedTask placed = place_task(regions, blockIdx.x - piece * regions.tasks.divisor, piece);
    TaskCut by(regions);
    CodeReader<kWords, kLoose> reader(run.codes);
    auto code_head = [&] { return static_cast<int32_t>(divide(placed.head, run.query.heads_per_code)); };
    reader.aim(placed.place.sequence, code_head());
    QueryProduct<W> product(run.query, placed.row, placed.head, kLoose ? run.query.code_bits : 32 * kWords);
    if (run.encodes)
        product.prefetch();
    if (run.is_first)
        wait_for_previous();
    allow_dependents();
    load_length(regions, placed);
    if (!regions.is_alone) {
        const uint32_t rows = live_rows(regions);
        if (rows < static_cast<uint32_t>(regions.wave.num_rows)) {
            const uint32_t live = rows * regions.heads.divisor;
            if (live == 0 || blockIdx.x >= max(live * regions.least_pieces, static_cast<uint32_t>(regions.num_blocks)))
                return wait_for_previous(); /* at once */
            by = TaskCut(regions, live);
            const uint32_t its = blockIdx.x / by.tasks;
            placed = place_task(regions, blockIdx.x - its * by.tasks, its);
            load_length(regions, placed);
            reader.aim(placed.place.sequence, code_head());
            product.aim(placed.row, placed.head);
        }
    }
    if (placed.piece >= by.pieces)
        return wait_for_previous(); /* the next kernel takes this one's end for both */
    score_piece<kWords, kLoose, kBlocks, W, kLeaves>(run, placed, by, product, reader, shared, space);
}

/* Calls f with the kernel of a problem. Where there is little to gain, it has more planes than it needs. */
template <int kWords, bool kLoose, int kBlocks, class W, class Regions, class F>
DeviceError with_leaves([[maybe_unused]] const hattn_cuda_params &params, bool is_sampled, F f)
{
    if constexpr (std::is_same_v<Regions, RegionRun>)
        if (params.is_keyed)
            return f(score_regions_kernel<kWords, kLoose, kBlocks, W, Leaves::KEYED_CANDIDATES, Regions>);
    if constexpr (kBlocks < 4)
        return is_sampled ? f(score_regions_kernel<kWords, kLoose, kBlocks, W, Leaves::CANDIDATES, Regions>)
                          : f(score_regions_kernel<kWords, kLoose, kBlocks, W, Leaves::SCORES, Regions>);
    return kNoSuchKernel; /* the plan keys what needs more than 4 planes, and has no floor with it */
}

template <int kWords, bool kLoose, int kBlocks, class Regions, class F>
DeviceError with_map_type(const hattn_cuda_params &params, bool is_sampled, F f)
{
    return params.problem.query_map.dtype == HATTN_BF16
               ? with_leaves<kWords, kLoose, kBlocks, bfloat16, Regions>(params, is_sampled, f)
               : with_leaves<kWords, kLoose, kBlocks, float16, Regions>(params, is_sampled, f);
}

template <int kWords, bool kLoose, class Regions, class F>
DeviceError with_kernel(const hattn_cuda_params &params, bool is_sampled, F f)
{
    if constexpr (!kLoose && kWords < 16)
        if (params.plane_blocks == 1)
            return with_map_type<kWords, kLoose, 1, Regions>(params, is_sampled, f);
    return params.plane_blocks < 4 ? with_map_type<kWords, kLoose, 2, Regions>(params, is_sampled, f)
                                   : with_map_type<kWords, kLoose, 4, Regions>(params, is_sampled, f);
}

inline size_t score_shared_bytes(const hattn_cuda_params &params, bool is_sampled)
{
    const size_t query = params.encodes_in_score ? query_space_bytes(params) : 0,
                 histograms = kWarps * histogram_stride(params.row_size) * sizeof(uint32_t),
                 sample = is_sampled ? histogram_stride(params.row_size) * sizeof(uint32_t) : 0;
    return sample + (query > histograms ? query : histograms);
}

/* Both of what few and many rows are scored by. Regions: RegionRun, or FloorRun. */
template <int kWords, bool kLoose, class Regions>
DeviceError load_score_regions(const hattn_cuda_params &params)
{
    auto load = [&](bool is_sampled) {
        return with_kernel<kWords, kLoose, Regions>(
            params, is_sampled, [&](auto kernel) { return prepare(kernel, score_shared_bytes(params, is_sampled)); });
    };
    return first_error({load(false), load(true)});
}

template <int kWords, bool kLoose, class Regions>
DeviceError launch_score_regions(const hattn_cuda_params &params, const hattn_decode_args &args, const Wave &wave,
                                 hattn_buffer workspace, DeviceStream stream)
{
    const ScoreRun<Regions> run = score_run<Regions>(params, args, wave, workspace);
    const bool is_sampled = run.regions.is_sampled;
    const size_t bytes = score_shared_bytes(params, is_sampled);
    const dim3 grid(static_cast<unsigned>(
        hattn_cuda_score_grid(&params, static_cast<int64_t>(wave.num_rows) * wave.num_heads, run.regions.is_alone)));
    return with_kernel<kWords, kLoose, Regions>(params, is_sampled, [&](auto kernel) {
        if (!run.is_first || run.regions.overlaps)
            return launch_dependent(params, kernel, grid, bytes, stream, run);
        return launch({grid, kThreads, bytes, stream}, kernel, run);
    });
}

} // namespace hattn

#endif
