/* SPDX-License-Identifier: Apache-2.0
 * The first kernel of a decode by regions (regions.cuh): a block encodes its query, or takes weights that are there, and each of its
 * warps scores a range of keys.
 * Bound: the codes' bytes; 128 bytes a lane are in flight while the keys before are counted. For short caches it is a chain of
 * latencies instead (row, codes and map, barriers, rows), so that codes and map are asked for together and little code is unrolled.
 */
#include "kernels_cuda/encode.cuh"
#include "kernels_cuda/kernels.cuh"
#include "kernels_cuda/regions.cuh"

namespace hattn {
namespace {

/* Code caches, resolved on the host. Strides in words. */
struct CodeRun {
    const uint32_t *codes;
    int64_t stride_page, stride_slot, stride_head;
    const int32_t *table; /* NULL: contiguous */
    int64_t table_stride;
    int32_t page_size, page_shift; /* log2(page_size), or -1 */
};

struct ScoreRun {
    RegionRun regions;
    QueryRun query;
    CodeRun codes;
    const int8_t *weights; /* given, or NULL: the query is encoded here */
    int8_t *weights_out;   /* or NULL */
    int64_t weights_row, weights_head;
};

/* What a lane loads at a time: 8 times 16 bytes, of which each is several keys, one, or a part of one. */
template <int kWords>
struct Step {
    static constexpr int kPerLoad = kWords < 4 ? 4 / kWords : 1, kLoads = kWords > 4 ? kWords / 4 : 1; /* keys a load, loads a key */
    static constexpr int kUnits = 8 / kLoads, kKeys = kUnits * kPerLoad, kSize = 32 * kKeys;
};

/* Codes of one sequence and head, a step at a time. */
template <int kWords>
class CodeReader
{
public:
    using S = Step<kWords>;

    __device__ CodeReader(const CodeRun &run, int32_t sequence, int32_t code_head, int32_t last) : run_(run), last_(last / S::kPerLoad * S::kPerLoad)
    {
        base_ = run.codes + code_head * run.stride_head;
        table_ = run.table + sequence * run.table_stride;
        if (!run.table)
            base_ += sequence * run.stride_page;
        /* Pages that a step touches, if they are few enough for a lane each. */
        shares_pages_ = run.table && run.page_shift >= 0 && (S::kSize >> run.page_shift) <= 32;
    }

    /* Must be called for every step, in order, before load. */
    __device__ void look_up(int32_t first)
    {
        if (shares_pages_)
            page_ = table_[min((first >> run_.page_shift) + lane_id(), last_ >> run_.page_shift)];
    }

    __device__ void load(uint32_t (&words)[8][4], int32_t first) const
    {
#pragma unroll
        for (int u = 0; u < S::kUnits; u++) {
            const int32_t key = min(first + (u * 32 + lane_id()) * S::kPerLoad, last_);
            const uint32_t *code = base_ + key * run_.stride_slot;
            if (run_.table) {
                int32_t page, slot;
                if (shares_pages_) {
                    page = __shfl_sync(kFullMask, page_, (key >> run_.page_shift) - (first >> run_.page_shift));
                    slot = key & (run_.page_size - 1);
                } else {
                    page = table_[key / run_.page_size];
                    slot = key % run_.page_size;
                }
                code = base_ + page * run_.stride_page + slot * run_.stride_slot;
            }
#pragma unroll
            for (int i = 0; i < S::kLoads; i++)
                load_streamed(words[u * S::kLoads + i], code + 4 * i);
        }
    }

private:
    const CodeRun &run_;
    const uint32_t *base_;
    const int32_t *table_;
    int32_t last_, page_ = 0;
    bool shares_pages_;
};

/* The words of key number `key` of a lane. */
template <int kWords>
__device__ inline void take_key(uint32_t (&code)[kWords], const uint32_t (&words)[8][4], int key)
{
    for (int w = 0; w < kWords; w++)
        code[w] = words[(key * kWords + w) / 4][(key * kWords + w) % 4];
}

/* Weights of a thread's bits as planes in shared memory. */
template <int kWords>
struct Planes {
    uint32_t sign[kWords];
    uint32_t plane[7][16];
    float largest[kWarps];
};

/* All threads; ends with a barrier. */
template <int kWords, int kBlocks, class W>
__device__ inline void make_planes(const ScoreRun &run, int32_t row, int32_t head, bool shows, float *parts, Planes<kWords> &planes)
{
    constexpr int kBits = (32 * kWords + kThreads - 1) / kThreads; /* of a thread */
    const int code_bits = run.query.code_bits;
    int weight[kBits] = {};
    if (run.weights) {
#pragma unroll
        for (int i = 0; i < kBits; i++) {
            const int r = threadIdx.x + i * kThreads;
            weight[i] = r < code_bits ? run.weights[row * run.weights_row + head * run.weights_head + r] : 0;
        }
    } else {
        float sums[kBits] = {}, largest = 0.0f;
        sum_query_mma<W>(run.query, row, head, parts, [&](int r, float sum) {
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
            if (shows && r < code_bits)
                run.weights_out[row * run.weights_row + head * run.weights_head + r] = static_cast<int8_t>(weight[i]);
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
            for (int p = 0; p < (kBlocks < 4 ? 2 * kBlocks : 7); p++) {
                const uint32_t bits = __ballot_sync(kFullMask, abs(weight[i]) >> p & 1);
                if (lane_id() == 0)
                    planes.plane[p][word] = bits;
            }
        }
    }
    __syncthreads();
}

/* A row out of a warp's histogram: entry b - 1 becomes the count of scores >= b. */
__device__ inline void publish_row(const uint32_t *histogram, int row_size, uint16_t *row)
{
    uint32_t above = 0;
    __syncwarp();
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

template <int kWords, int kBlocks, class W>
__global__ void __launch_bounds__(kThreads, 2) score_regions_kernel(const __grid_constant__ ScoreRun run)
{
    using S = Step<kWords>;
    extern __shared__ float shared[]; /* partial sums of the query, then a histogram a warp */
    __shared__ Planes<kWords> planes;
    allow_dependents();
    const RegionRun &regions = run.regions;
    const int32_t row = blockIdx.x, head = blockIdx.y, chunk = blockIdx.z;
    if (!run.weights)
        prefetch_map(run.query, head);
    const RegionTask task = resolve_task(regions, row, head);
    const bool shows = run.weights_out && chunk == 0, scores_keys = task.is_ranked && chunk * regions.chunk < task.end;
    if (!shows && !scores_keys)
        return;
    const int32_t begin = chunk * regions.chunk + warp_id() * regions.range, end = min(begin + regions.range, scores_keys ? task.end : 0);
    CodeReader<kWords> reader(run.codes, task.row.sequence, head / run.query.heads_per_code, task.end - 1);
    uint32_t words[8][4];
    if (begin < end) {
        reader.look_up(begin);
        reader.load(words, begin);
        reader.look_up(begin + S::kSize);
    }
    make_planes<kWords, kBlocks, W>(run, row, head, shows, shared, planes);
    if (!scores_keys)
        return;

    uint32_t *histogram = reinterpret_cast<uint32_t *>(shared) + warp_id() * regions.row_size;
    for (int i = lane_id(); i < regions.row_size; i += 32)
        histogram[i] = 0;
    __syncwarp();
    const PlaneCounter<kWords, kBlocks> counter(planes.sign, planes.plane, kBlocks < 4 ? 2 * kBlocks : 7);
    uint16_t *scores = regions.scores + task.task * regions.score_stride + lane_id() * S::kPerLoad;
    uint16_t *rows = regions.rows + task.task * regions.num_regions * regions.row_size;
    int32_t region_end = begin + regions.region;
    for (int32_t first = begin; first < end; first += S::kSize) {
        uint32_t score[S::kKeys];
#pragma unroll
        for (int i = 0; i < S::kKeys; i += 2) {
            uint32_t key0[kWords], key1[kWords];
            take_key(key0, words, i);
            take_key(key1, words, i + 1);
            counter.count(key0, key1, &score[i], &score[i + 1]);
        }
        const int32_t next = first + S::kSize;
        if (next < end) {
            reader.load(words, next);
            reader.look_up(next + S::kSize);
        }
        const bool is_inside = first >= task.first && next <= end;
#pragma unroll
        for (int u = 0; u < S::kUnits; u++) {
            store_scores<S::kPerLoad>(scores + first + u * 32 * S::kPerLoad, score + u * S::kPerLoad);
#pragma unroll
            for (int i = u * S::kPerLoad; i < (u + 1) * S::kPerLoad; i++) {
                const int32_t key = first + (u * 32 + lane_id()) * S::kPerLoad + i % S::kPerLoad;
                if (score[i] && (is_inside || (key >= task.first && key < end)))
                    atomicAdd(&histogram[score[i] - 1], 1u);
            }
        }
        if (next == region_end || next >= end) {
            publish_row(histogram, regions.row_size, rows + static_cast<int64_t>(first / regions.region) * regions.row_size);
            region_end += regions.region;
        }
    }

    __syncthreads();
    uint32_t *total = regions.histograms + task.task * HATTN_CUDA_LEVELS;
    for (int i = threadIdx.x; i < regions.num_levels; i += kThreads) {
        uint32_t sum = 0;
#pragma unroll
        for (int w = 0; w < kWarps; w++)
            sum += reinterpret_cast<const uint32_t *>(shared)[w * regions.row_size + i];
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
    run.codes.stride_slot = p.codes.stride[1];
    run.codes.stride_head = p.codes.stride[2];
    run.codes.page_shift = -1;
    if (p.page_size) {
        run.codes.table = static_cast<const int32_t *>(hattn_address(args.batch.block_table));
        run.codes.table_stride = p.block_table.stride[0];
        run.codes.page_size = p.page_size;
        for (int shift = 0; shift < 31; shift++)
            if (1 << shift == p.page_size)
                run.codes.page_shift = shift;
    }
    const bool encodes = params.encodes_in_score;
    int8_t *shown = static_cast<int8_t *>(hattn_address(args.weights));
    run.weights_row = p.weights.stride[0];
    run.weights_head = p.weights.stride[1];
    if (encodes && args.weights.data) {
        run.weights_out = shown;
    } else if (!encodes && args.weights.data) {
        run.weights = shown;
    } else if (!encodes) {
        run.weights = static_cast<const int8_t *>(hattn_address(workspace)) + params.weights;
        run.weights_row = static_cast<int64_t>(p.num_selection_heads) * p.code_bits;
        run.weights_head = p.code_bits;
    }
    return run;
}

/* Calls f with the kernel of a problem. */
template <int kWords, int kBlocks, class F>
cudaError_t with_map_type(const hattn_problem &p, F f)
{
    return p.query_map.dtype == HATTN_BF16 ? f(score_regions_kernel<kWords, kBlocks, __nv_bfloat16>) : f(score_regions_kernel<kWords, kBlocks, __half>);
}

template <int kWords, class F>
cudaError_t with_planes(const hattn_cuda_params &params, F f)
{
    switch (params.plane_blocks) {
    case 1: return with_map_type<kWords, 1>(params.problem, f);
    case 2: return with_map_type<kWords, 2>(params.problem, f);
    default: return with_map_type<kWords, 4>(params.problem, f);
    }
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
    const size_t query = params.encodes_in_score ? query_space_bytes(params) : 0, histograms = kWarps * params.row_size * sizeof(uint32_t);
    return query > histograms ? query : histograms;
}

} // namespace

cudaError_t load_score_regions(const hattn_cuda_params &params)
{
    return with_kernel(params, [&](auto kernel) { return prepare(kernel, space_bytes(params)); });
}

cudaError_t launch_score_regions(const hattn_cuda_params &params, const hattn_decode_args &args, hattn_buffer workspace, cudaStream_t stream)
{
    const dim3 grid(args.batch.num_rows, params.problem.num_selection_heads, params.num_score_chunks);
    return with_kernel(params, [&](auto kernel) {
        kernel<<<grid, kThreads, space_bytes(params), stream>>>(score_run(params, args, workspace));
        return cudaGetLastError();
    });
}

} // namespace hattn
