/* SPDX-License-Identifier: Apache-2.0
 * The first kernel of a decode by regions (regions.cuh): a block encodes its query, or takes weights that are there, and each of its
 * warps scores a range of keys.
 * Bound: the codes' bytes; 128 bytes a lane are in flight while the keys before are counted. For short caches it is a chain of
 * latencies instead (row, codes and map, barriers, rows), so that codes and map are asked for together and little code is unrolled.
 */
#include "kernels_cuda/candidates.cuh"
#include "kernels_cuda/code_reader.cuh"
#include "kernels_cuda/encode_query.cuh"
#include "kernels_cuda/kernels.cuh"
#include "kernels_cuda/planes.cuh"

namespace hattn {
namespace {

struct ScoreRun {
    RegionRun regions;
    QueryRun query;
    CodeRun codes;
    int32_t is_first;      /* kernel of the decode: no other appends keys or encodes queries */
    int32_t encodes;       /* 0: weights are given */
    int32_t shows_weights; /* of all rows, also of those that have nothing to score */
};

/* Weights of a thread's bits as planes in shared memory. */
template <int kWords>
struct Planes {
    uint32_t sign[kWords];
    uint32_t plane[7][16];
    float largest[kWarps];
    float extents[2][kWarps]; /* of the sample */

    /* sum |w| */
    __device__ uint32_t max_score(int num_planes) const
    {
        uint32_t sum = 0;
        for (int p = 0; p < num_planes; p++)
            for (int w = 0; w < kWords; w++)
                sum += __popc(plane[p][w]) << p;
        return sum;
    }
};

template <int kBlocks>
constexpr int kPlanes = kBlocks < 4 ? 2 * kBlocks : 7;

/* What is left of a warp's keys. */
enum class Leaves { SCORES, CANDIDATES, KEYED_CANDIDATES };

/* All threads; ends with a barrier. meanwhile() is called while the first loads are on their way. */
template <int kWords, int kBlocks, class W, class Meanwhile>
__device__ inline void make_planes(const ScoreRun &run, int32_t row, int32_t head, bool stores, float *parts, Planes<kWords> &planes, Meanwhile meanwhile)
{
    int8_t *weights = run.regions.weights + row * run.regions.weights_row + head * run.regions.weights_head;
    constexpr int kBits = (32 * kWords + kThreads - 1) / kThreads; /* of a thread */
    const int code_bits = run.query.code_bits;
    int weight[kBits] = {};
    if (!run.encodes) {
        meanwhile();
        wait_for_previous();
#pragma unroll
        for (int i = 0; i < kBits; i++) {
            const int r = threadIdx.x + i * kThreads;
            weight[i] = r < code_bits ? weights[r] : 0;
        }
    } else {
        float sums[kBits] = {}, largest = 0.0f;
        sum_query_mma<W>(run.query, row, head, parts, meanwhile, [&](int r, float sum) {
            sums[kBits == 1 ? 0 : r / kThreads] = sum;
            largest = fmaxf(largest, finite_magnitude(sum));
        });
        if (run.query.weight_max) {
            largest = warp_max(largest);
            if (lane_id() == 0)
                planes.largest[warp_id()] = largest;
            __syncthreads();
            for (float x : planes.largest)
                largest = fmaxf(largest, x);
        }
#pragma unroll
        for (int i = 0; i < kBits; i++) {
            const int r = threadIdx.x + i * kThreads;
            weight[i] = r < code_bits ? weight_of(run.query.group, run.query.weight_max, sums[i], largest) : 0;
            if (stores && r < code_bits)
                weights[r] = static_cast<int8_t>(weight[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < kBits; i++) {
        const int word = (threadIdx.x + i * kThreads) / 32;
        if (word < kWords) { /* whole warps */
            const uint32_t negative = __ballot_sync(kFullMask, weight[i] < 0);
            if (lane_id() == 0)
                planes.sign[word] = negative;
#pragma unroll
            for (int p = 0; p < kPlanes<kBlocks>; p++) {
                const uint32_t bits = __ballot_sync(kFullMask, abs(weight[i]) >> p & 1);
                if (lane_id() == 0)
                    planes.plane[p][word] = bits;
            }
        }
    }
    __syncthreads();
}

/* A row out of a warp's histogram: entry b - 1 becomes the count of scores >= b. None are above num_levels. */
__device__ inline void publish_row(const uint32_t *histogram, int row_size, int num_levels, uint16_t *row)
{
    uint32_t above = 0;
    __syncwarp();
#pragma unroll 1
    for (int block = (row_size - 1) / 256 * 256; block >= 0; block -= 256) {
        const int i = block + lane_id() * 8;
        if (block >= num_levels) {
            if (i < row_size)
                *reinterpret_cast<uint4 *>(row + i) = {};
            continue;
        }
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
            packed.x = (x[0] + base) | (x[1] + base) << 16;
            packed.y = (x[2] + base) | (x[3] + base) << 16;
            packed.z = (x[4] + base) | (x[5] + base) << 16;
            packed.w = (x[6] + base) | (x[7] + base) << 16;
            *reinterpret_cast<uint4 *>(row + i) = packed;
        }
        above += __shfl_sync(kFullMask, at_least, 0);
    }
    __syncwarp();
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

/* Words of a warp's histogram. */
__host__ __device__ inline int histogram_stride(int row_size)
{
    return 4 + row_size;
}

__device__ inline void clear(uint32_t *counts, int num, int thread, int threads)
{
#pragma unroll 1
    for (int i = thread * 4; i < num; i += threads * 4)
        *reinterpret_cast<uint4 *>(counts + i) = {};
}

template <int kWords, int kBlocks>
__device__ inline void score_step(uint32_t (&score)[Step<kWords>::kKeys], const uint32_t (&words)[Step<kWords>::kAll][4],
                                  const PlaneCounter<kWords, kBlocks> &counter)
{
#pragma unroll
    for (int i = 0; i < Step<kWords>::kKeys; i += 2) {
        uint32_t key0[kWords], key1[kWords];
        take_key(key0, words, i);
        take_key(key1, words, i + 1);
        counter.count(key0, key1, &score[i], &score[i + 1]);
    }
}

template <int kWords, int kBlocks, class W, Leaves kLeaves>
__global__ void __launch_bounds__(kThreads, 2) score_regions_kernel(const __grid_constant__ ScoreRun run)
{
    using S = Step<kWords>;
    constexpr bool kSampled = kLeaves != Leaves::SCORES, kKeyed = kLeaves == Leaves::KEYED_CANDIDATES;
    extern __shared__ float shared[]; /* the sample's histogram; partial sums of the query, then a histogram a warp */
    __shared__ Planes<kWords> planes;
    const RegionRun &regions = run.regions;
    const int32_t row = blockIdx.x, head = blockIdx.y, chunk = blockIdx.z;
    if (run.encodes)
        prefetch_map(query_map<W>(run.query, head), run.query.map_input, run.query.head_dim, run.query.code_bits);
    if (run.is_first)
        wait_for_previous();
    allow_dependents();
    const int stride = histogram_stride(regions.row_size);
    float *space = shared + (kSampled ? stride : 0);
    const RegionTask task = resolve_task(regions, row, head);
    const bool shows = run.shows_weights && chunk == 0, scores_keys = task.is_ranked && chunk * regions.chunk < task.end;
    const int32_t begin = chunk * regions.chunk + warp_id() * regions.range, end = min(begin + regions.range, scores_keys ? task.end : 0);
    using Reader = CodeReader<kWords>;
    Reader reader(run.codes, task.row.sequence, head / run.query.heads_per_code, task.end - 1);
    /* Counts of scores 0, 1, ...: that of 1 is at 16 bytes, that of 0 is where what is not ranked goes. */
    uint32_t *sample = reinterpret_cast<uint32_t *>(shared);
    make_planes<kWords, kBlocks, W>(run, row, head, shows || (kSampled && chunk == 0), space, planes, [&] {
        if (kSampled)
            clear(sample + 4, regions.row_size, threadIdx.x, kThreads);
        if (kSampled && scores_keys)
            reader.prefetch(reader.sample(task.first));
        if (begin < end)
            reader.prefetch(Reader::step(begin));
    });
    wait_for_previous(); /* which may have appended codes; the next kernel takes this one's end for both */
    if (!scores_keys)
        return;

    uint32_t words[S::kAll][4], score[S::kKeys];
    const PlaneCounter<kWords, kBlocks> counter(planes.sign, planes.plane, kPlanes<kBlocks>);
    int32_t num_levels = regions.num_levels;
    if constexpr (kBlocks > 1 && !kKeyed) /* of 4 bits: a weight's largest magnitude is far above the mean */
        num_levels = min(num_levels, static_cast<int32_t>(planes.max_score(kPlanes<kBlocks>)));
    ValueMaker<kWords> maker(kKeyed && run.codes.norms, kKeyed ? planes.max_score(kPlanes<kBlocks>) : 0);
    float values[S::kKeys];
    const SharedCounters sample_counts(sample + 3);
    if constexpr (kSampled) {
        reader.look_up(reader.sample(task.first));
        reader.load(words, reader.sample(task.first));
        if constexpr (kKeyed)
            maker.load(reader, reader.sample(task.first));
        score_step(score, words, counter);
        if constexpr (kKeyed) {
            maker.make(values, score);
            LevelMap::note_extents(values, planes.extents);
        } else {
#pragma unroll
            for (uint32_t x : score)
                sample_counts.count(x);
        }
    }
    if (begin < end) {
        reader.look_up(Reader::step(begin));
        reader.load(words, Reader::step(begin));
        if constexpr (kKeyed)
            maker.load(reader, Reader::step(begin));
        reader.look_up(Reader::step(begin + S::kSize));
    }
    uint32_t *histogram = reinterpret_cast<uint32_t *>(space) + warp_id() * stride;
    clear(histogram + 4, regions.row_size, lane_id(), 32);
    LevelMap map;
    uint32_t bound = 1; /* of a short row the sample would hold the same few keys again and again: all are listed */
    if constexpr (kSampled) {
        if constexpr (kKeyed) {
            __syncthreads();
            map = LevelMap::of_extents(planes.extents, regions.num_levels);
#pragma unroll
            for (float x : values)
                sample_counts.count(map.level(x));
        }
        __syncthreads();
        const int32_t middle = task.end - task.first, wanted = task.kept - regions.num_sink - regions.num_recent;
        constexpr int kSample = kWarps * S::kSize;
        if (middle >= 4 * kSample)
            bound = find_bound(sample + 4, (num_levels + 7) / 8 * 8,
                               static_cast<float>(wanted) / static_cast<float>(middle) * kSample);
    }
    __syncwarp();
    const SharedCounters counts(histogram + 3);
    const int64_t first_score = task.task * regions.score_stride;
    uint16_t *scores = regions.scores + first_score + lane_id() * S::kPerLoad;
    CandidateList list = {reinterpret_cast<uint32_t *>(regions.scores) + first_score + begin,
                          kKeyed ? regions.keys + first_score + begin : nullptr, 0, counts};
    uint16_t *rows = regions.rows + task.task * regions.num_regions * regions.row_size;
    const uint32_t ranked = max(end - task.first, 0); /* 0: a range of sinks alone */
    int32_t region_end = begin + regions.region;
#pragma unroll 1
    for (int32_t first = begin; first < end; first += S::kSize) {
        score_step(score, words, counter);
        if constexpr (kKeyed)
            maker.make(values, score);
        const int32_t next = first + S::kSize;
        if (next < end) {
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
            const uint32_t position = first + (u * 32 + lane_id()) * S::kPerLoad, key = position - task.first; /* wraps for sinks: not ranked */
            const uint32_t *mine = score + u * S::kPerLoad;
            if constexpr (kSampled) {
                list.template add<S::kPerLoad>(mine, values + u * S::kPerLoad, bound, position - begin, key, ranked);
            } else {
                store_scores<S::kPerLoad>(scores + first + u * 32 * S::kPerLoad, mine);
#pragma unroll
                for (int i = 0; i < S::kPerLoad; i++)
                    counts.count(key + i < ranked ? mine[i] : 0);
            }
        }
        if (next == region_end || next >= end) {
            publish_row(histogram + 4, regions.row_size, num_levels,
                        rows + static_cast<int64_t>(first / regions.region) * regions.row_size);
            region_end += regions.region;
        }
    }

    __syncthreads();
    uint32_t *total = regions.histograms + task.task * HATTN_CUDA_BINS;
#pragma unroll 1
    for (int i = threadIdx.x; i < num_levels; i += kThreads) {
        uint32_t sum = 0;
#pragma unroll
        for (int w = 0; w < kWarps; w++)
            sum += reinterpret_cast<const uint32_t *>(space)[w * stride + 4 + i];
        if (sum)
            atomicAdd(&total[i], sum);
    }
}

ScoreRun score_run(const hattn_cuda_params &params, const hattn_decode_args &args, hattn_buffer workspace)
{
    const hattn_problem &p = params.problem;
    ScoreRun run = {};
    run.regions = region_run(params, args, workspace);
    run.query = query_run(params, args.q, args.query_map);
    run.codes.codes = static_cast<const uint32_t *>(hattn_address(args.codes));
    run.codes.stride_page = p.codes.stride[0];
    run.codes.stride_head = p.codes.stride[2];
    run.codes.page_bytes = static_cast<uint32_t>(p.codes.stride[0] * 4);
    run.codes.slot_bytes = static_cast<uint32_t>(p.codes.stride[1] * 4);
    if (p.page_size) {
        run.codes.table = static_cast<const int32_t *>(hattn_address(args.batch.block_table));
        run.codes.table_stride = p.block_table.stride[0];
        run.codes.page_size = params.page_size;
    }
    if (p.key_norms) {
        run.codes.norms = static_cast<const __half *>(hattn_address(args.norms));
        for (int i = 0; i < 3; i++)
            run.codes.norm_stride[i] = p.norms.stride[i];
    }
    run.is_first = params.encodes_in_score && !args.append;
    run.encodes = params.encodes_in_score;
    run.shows_weights = run.encodes && args.weights.data;
    return run;
}

/* Calls f with the kernel of a problem. */
template <int kWords, int kBlocks, class W, class F>
cudaError_t with_leaves(const hattn_cuda_params &params, F f)
{
    if (params.is_keyed)
        return f(score_regions_kernel<kWords, kBlocks, W, Leaves::KEYED_CANDIDATES>);
    if constexpr (kBlocks < 4)
        return params.is_sampled ? f(score_regions_kernel<kWords, kBlocks, W, Leaves::CANDIDATES>)
                                 : f(score_regions_kernel<kWords, kBlocks, W, Leaves::SCORES>);
    return cudaErrorInvalidDeviceFunction; /* the plan keys what needs more than 4 planes */
}

template <int kWords, int kBlocks, class F>
cudaError_t with_map_type(const hattn_cuda_params &params, F f)
{
    return params.problem.query_map.dtype == HATTN_BF16 ? with_leaves<kWords, kBlocks, __nv_bfloat16>(params, f)
                                                        : with_leaves<kWords, kBlocks, __half>(params, f);
}

template <int kWords, class F>
cudaError_t with_planes(const hattn_cuda_params &params, F f)
{
    return params.plane_blocks == 1   ? with_map_type<kWords, 1>(params, f)
           : params.plane_blocks == 2 ? with_map_type<kWords, 2>(params, f)
                                      : with_map_type<kWords, 4>(params, f);
}

template <class F>
cudaError_t with_kernel(const hattn_cuda_params &params, F f)
{
    switch ((params.problem.code_bits + 31) / 32) {
    case 1: return with_planes<1>(params, f);
    case 2: return with_planes<2>(params, f);
    case 4: return with_planes<4>(params, f);
    default: return with_planes<8>(params, f);
    }
}

size_t space_bytes(const hattn_cuda_params &params)
{
    const size_t query = params.encodes_in_score ? query_space_bytes(params) : 0, histograms = kWarps * histogram_stride(params.row_size) * sizeof(uint32_t);
    const size_t sample = params.is_sampled ? histogram_stride(params.row_size) * sizeof(uint32_t) : 0;
    return sample + (query > histograms ? query : histograms);
}

} // namespace

cudaError_t load_score_regions(const hattn_cuda_params &params)
{
    return with_kernel(params, [&](auto kernel) { return prepare(kernel, space_bytes(params)); });
}

cudaError_t launch_score_regions(const hattn_cuda_params &params, const hattn_decode_args &args, hattn_buffer workspace, cudaStream_t stream)
{
    const dim3 grid(args.batch.num_rows, params.problem.num_selection_heads, params.num_score_chunks);
    const ScoreRun run = score_run(params, args, workspace);
    const size_t bytes = space_bytes(params);
    if (!run.is_first || run.regions.overlaps)
        return with_kernel(params,
                           [&](auto kernel) { return launch_dependent(params, kernel, grid, bytes, stream, run); });
    return with_kernel(params, [&](auto kernel) {
        kernel<<<grid, kThreads, bytes, stream>>>(run);
        return cudaGetLastError();
    });
}

} // namespace hattn
