/* SPDX-License-Identifier: Apache-2.0
 * Attention of up to 8 query heads on tensor cores: a warp takes tiles of 16 rows, tokens are the M of the first
 * product and the K of the second, and rows go straight from global memory into fragments:
 *   S[16 tokens, 8 heads] = K q^T: lane (g, t) = (lane / 4, lane % 4) loads 16 bytes of rows g and g + 8. Which dims
 *     the product pairs up is free as long as q is permuted alike, so 8 neighbouring dims serve two instructions.
 *   O^T[dims, 8 heads] += V^T P: the lane loads 16 bytes of rows 2t, 2t+1, 2t+8, 2t+9; a byte permute of two rows'
 *     registers is the transpose that V needs, and P's fragment is turned by two 8x8 transposes.
 * No shared memory between the loads and the result. Bound: the rows' bytes. fp8: 16 bytes are 16 dims, whose words
 * become two registers of fp16 each; K's serve four instructions, V's bytes are permuted first. bf16 queries are then
 * scaled by a power of two a head, so that fp16 holds them exactly, the largest near 2^15.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_ATTEND_MMA_CUH
#define HATTN_KERNELS_CUDA_ATTEND_ATTEND_MMA_CUH

#include "kernels_cuda/attend/attend.cuh"

namespace hattn {

/* T: float16 or bfloat16, of the products; Stored: of the caches, T or fp8_e4m3. kDim: both head dims, a multiple of
 * 64, of 128 for fp8. kGroup: heads whose results are kept, 1..8. kOf: how slots are marked, and their weights summed by that. */
template <class T, class Stored, int kDim, int kGroup, TailOf kOf = TailOf::NONE>
class MmaEngine
{
    static constexpr bool kBytes = sizeof(Stored) == 1, kTail = kOf != TailOf::NONE;
    static constexpr int kChunks = kDim * sizeof(Stored) / 64; /* of 16 bytes a lane, of a row of K */

public:
    static constexpr int kHeads = kGroup;
    static constexpr bool kNeedsSpaceLate = true;                          /* first in finish */
    static constexpr bool kTakesTokens = kGroup == HATTN_CUDA_TOKEN_HEADS; /* has add_apart */
    static constexpr size_t kStaticBytes = 48 * 1024;
    static constexpr float kOne = kWeightOne<T>;
    using Weight = std::conditional_t<kTail, TailWeight, PartWeight>;
    static constexpr TailOf kTailOf = kOf;
    using Slots = Listed<kOf>;
    template <TailOf kOther>
    using With = MmaEngine<T, Stored, kDim, kGroup, kOther>;
    using Value = Stored;

    /* Results of warps. */
    struct alignas(16) Space {
        float values[kWarps][kGroup][kDim + 4];
        float max[kGroup][kWarps], sum[kGroup][kWarps];
    };

    __device__ MmaEngine(const hattn_problem &p, const AttendTask &task, Space &space)
        : p_(p), task_(task), space_(space)
    {
        k_ = static_cast<const Stored *>(task.k_cache) + task.kv_head * p.k_cache.stride[2];
        v_ = static_cast<const Stored *>(task.v_cache) + task.kv_head * p.v_cache.stride[2];
    }

    /* row(g): the address of query g. Queries are on their way into shared memory: registers are short while rows are
     * found, and when all loads of a tile go out together. */
    template <class Row>
    __device__ void start(Row row)
    {
        if (warp_id() == 0) {
            const int head = Fragment().b_column();
            const void *query = row(min(head, task_.count - 1));
            bool is_scaled = false;
            if constexpr (kBytes) {
                is_scaled = p_.q.dtype == HATTN_BF16;
                if (is_scaled)
                    scale_query(static_cast<const bfloat16 *>(query));
                else if (lane_id() < 8)
                    query_scale()[lane_id()] = 1.0f;
            }
            if (!is_scaled)
                for (int s = 0; s < kDim / 32; s++)
                    copy_async16(&queries()[s * 32 + lane_id()], static_cast<const T *>(query) + query_dim(s),
                                 head < task_.count);
            copy_commit();
        }
        for (auto &half : values_)
            for (auto &pair : half)
                for (float &x : pair)
                    x = 0.0f;
        max_[0] = max_[1] = -INFINITY;
        sum_[0] = sum_[1] = 0.0f;
        if constexpr (kTail)
            lane_sums() = {};
        used_ = 0;
    }

    /* Before the barrier that comes before the first add_rows. */
    __device__ void settle() { copy_wait(0); }

    /* Slots in shared memory; every warp takes tiles of its own. */
    __device__ void add_rows(const Slots *slots, int n)
    {
        used_ = max(used_, min(kWarps, (n + 15) / 16));
#pragma unroll 1
        for (int first = warp_id() * 16; any_of_wave(first < n); first += kWarps * 16)
            add_tile<false>(slots, first, n, 0);
    }

    /* Rows that queries from first_query(i) on see: a tile for each row, since nothing of it may come near the others,
     * not even what is no number. */
    template <class F>
    __device__ void add_apart(const Slots *slots, int n, F first_query)
    {
        used_ = max(used_, min(kWarps, n));
#pragma unroll 1
        for (int i = warp_id(); any_of_wave(i < n); i += kWarps) {
            const bool present = kWarpsOfWave == 1 || i < n;
            add_tile<true>(slots + (present ? i : 0), 0, 1, present ? first_query(i) : kGroup);
        }
    }

    /* Ends with a barrier; then each_value gives a part of a softmax. */
    __device__ void finish()
    {
        const Fragment at;
        sum_[0] = Fragment::column_sum(sum_[0]);
        sum_[1] = Fragment::column_sum(sum_[1]);
        [[maybe_unused]] float2 marked[2]; /* anchors, all with shares */
        if constexpr (kTail)
#pragma unroll
            for (int c = 0; c < 2; c++)
                marked[c] = {Fragment::column_sum(lane_sums().near[c]), Fragment::column_sum(lane_sums().all[c])};
        __syncthreads(); /* the lists are done with */
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const int head = at.column(c);
            if (head >= kGroup)
                continue;
            if (warp_id() < used_)
                for (int h = 0; h < kDim / 64; h++)
                    for (int j = 0; j < 4; j++)
                        *reinterpret_cast<float2 *>(
                            &space_.values[warp_id()][head]
                                          [kBytes ? 16 * at.group + 8 * h + 2 * j : 64 * h + 8 * at.group + 2 * j]) =
                            make_float2(values_[h][j][c], values_[h][j][c + 2]);
            if (at.group == 0) {
                space_.max[head][warp_id()] = max_[c];
                space_.sum[head][warp_id()] = sum_[c];
                if constexpr (kTail)
                    marked_sums()[head][warp_id()] = marked[c];
            }
        }
        __syncthreads();
    }

    /* f(g, column, four values, weight) for the values of this thread, which weighs the warps for itself. */
    template <class F>
    __device__ void each_value(F f) const
    {
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x) * 4; i < task_.count * kDim; i += kThreads * 4) {
            const int g = i / kDim, column = i % kDim;
            float factor[kWarps];
            Weight weight = {-INFINITY, 0.0f};
#pragma unroll
            for (int w = 0; w < kWarps; w++)
                weight.max = fmaxf(weight.max, factor[w] = space_.max[g][w]);
            const float base = weight.max == -INFINITY ? 0.0f : weight.max;
#pragma unroll
            for (int w = 0; w < kWarps; w++) {
                factor[w] = fast_exp(factor[w] - base);
                weight.sum += space_.sum[g][w] * factor[w];
                if constexpr (kTail) {
                    const float2 marked = marked_sums()[g][w];
                    weight.near += marked.x * factor[w];
                    weight.all += marked.y * factor[w];
                }
            }
            float4 value = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int w = 0; w < kWarps; w++)
                if (w < used_) {
                    const float4 x = *reinterpret_cast<const float4 *>(&space_.values[w][g][column]);
                    value = {value.x + factor[w] * x.x, value.y + factor[w] * x.y, value.z + factor[w] * x.z,
                             value.w + factor[w] * x.w};
                }
            f(g, column, scaled(value, task_.v_scale), weight);
        }
    }

    /* A place for the mean of values, while results of warps are where parts are joined. */
    __device__ static float4 *mean_space()
    {
        __shared__ float4 mean[kDim / 4];
        return mean;
    }

private:
    /* A lane's fragments, every 32. */
    __device__ static uint4 *queries()
    {
        __shared__ uint4 fragments[kDim];
        return fragments;
    }

    /* Of warps: of anchors' weights, and of all with shares. */
    __device__ static float2 (*marked_sums())[kWarps]
    {
        __shared__ float2 sums[kGroup][kWarps];
        return sums;
    }

    struct alignas(16) MarkedSums {
        float near[2], all[2];
    };

    /* A lane's, of heads 2t, 2t+1. Registers are short. */
    __device__ static MarkedSums &lane_sums()
    {
        __shared__ MarkedSums sums[kThreads];
        return sums[threadIdx.x];
    }

    /* The first of 8 dims of such a fragment. */
    __device__ static int query_dim(int fragment)
    {
        const int t = Fragment().pair;
        return kBytes ? fragment / 2 * 64 + t * 16 + fragment % 2 * 8 : fragment * 32 + t * 8;
    }

    /* What the products of a head are to be multiplied by; fp8. */
    __device__ static float *query_scale()
    {
        __shared__ float scales[8];
        return scales;
    }

    /* By a warp, four lanes a head. */
    __device__ void scale_query(const bfloat16 *query) const
    {
        const Fragment at;
        uint4 loaded[kDim / 32];
        float x[kDim / 32][8], largest = 0.0f;
        for (int s = 0; s < kDim / 32; s++)
            loaded[s] = at.b_column() < task_.count ? *reinterpret_cast<const uint4 *>(query + query_dim(s)) : uint4{};
        for (int s = 0; s < kDim / 32; s++)
            for (int i = 0; i < 8; i++) {
                const uint32_t word = (&loaded[s].x)[i / 2];
                x[s][i] = float_of_bits(i % 2 ? word & 0xffff0000u : word << 16);
                largest = fmaxf(largest, fabsf(x[s][i]));
            }
        const PowerOfTwo scale = near_largest_half(Fragment::group_max(largest));
        for (int s = 0; s < kDim / 32; s++)
            queries()[s * 32 + lane_id()] = {pack2<T>(x[s][0] * scale.factor, x[s][1] * scale.factor),
                                             pack2<T>(x[s][2] * scale.factor, x[s][3] * scale.factor),
                                             pack2<T>(x[s][4] * scale.factor, x[s][5] * scale.factor),
                                             pack2<T>(x[s][6] * scale.factor, x[s][7] * scale.factor)};
        if (at.pair == 0)
            query_scale()[at.b_column()] = scale.inverse;
    }

    /* kApart: for queries from first_query on. With `first` at or past n, or no query, nothing is added. */
    template <bool kApart>
    __device__ void add_tile(const Slots *slots, int first, int n, int first_query)
    {
        const Fragment at;
        const int last = n - 1;
        const char *k0 = row_address(k_, task_.k_stride, slot_of<kOf>(slots[min(first + at.row(0), last)])) +
                         at.pair * 16,
                   *k1 = row_address(k_, task_.k_stride, slot_of<kOf>(slots[min(first + at.row(2), last)])) +
                         at.pair * 16;
        const char *rows[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            rows[i] = row_address(v_, task_.v_stride, slot_of<kOf>(slots[min(first + at.a_inner(i) + i % 2, last)]));
        constexpr int kPieces = kDim * sizeof(Stored) / 128; /* of V's rows */
        uint4 ka[kChunks], kb[kChunks], v[4][kPieces];
#pragma unroll
        for (int s = 0; s < kChunks; s++) {
            ka[s] = load_row16(k0 + s * 64);
            kb[s] = load_row16(k1 + s * 64);
        }
#pragma unroll
        for (int h = 0; h < kPieces; h++)
#pragma unroll
            for (int r = 0; r < 4; r++)
                v[r][h] = load_row16(rows[r] + h * 128 + at.group * 16);

        float c[4] = {0.0f, 0.0f, 0.0f, 0.0f}; /* tokens are rows, heads columns */
#pragma unroll
        for (int s = 0; s < kChunks; s++)
            if constexpr (kBytes) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint4 q = queries()[(2 * s + i) * 32 + lane_id()];
                    const uint32_t a0 = (&ka[s].x)[2 * i], b0 = (&kb[s].x)[2 * i], a1 = (&ka[s].x)[2 * i + 1],
                                   b1 = (&kb[s].x)[2 * i + 1];
                    mma_16816<T>(c, half2_of_e4m3(a0), half2_of_e4m3(b0), half2_of_e4m3(a0 >> 16),
                                 half2_of_e4m3(b0 >> 16), q.x, q.y);
                    mma_16816<T>(c, half2_of_e4m3(a1), half2_of_e4m3(b1), half2_of_e4m3(a1 >> 16),
                                 half2_of_e4m3(b1 >> 16), q.z, q.w);
                }
            } else {
                const uint4 q = queries()[s * 32 + lane_id()];
                mma_16816<T>(c, ka[s].x, kb[s].x, ka[s].y, kb[s].y, q.x, q.y);
                mma_16816<T>(c, ka[s].z, kb[s].z, ka[s].w, kb[s].w, q.z, q.w);
            }
        const float scale = p_.scale * task_.k_scale;
        float decay[2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            c[i] *= kBytes ? scale * query_scale()[at.column(i)] : scale;
            if (p_.soft_cap > 0.0f)
                c[i] = p_.soft_cap * tanhf(c[i] / p_.soft_cap);
            if (first + at.row(i) >= n || (kApart && at.column(i) < first_query))
                c[i] = -INFINITY;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float max = fmaxf(Fragment::column_max(fmaxf(c[i], c[i + 2])), max_[i]);
            const float base = max == -INFINITY ? 0.0f : max;
            decay[i] = fast_exp(max_[i] - base);
            max_[i] = max;
            c[i] = fast_exp(c[i] - base) * kOne;
            c[i + 2] = fast_exp(c[i + 2] - base) * kOne;
            sum_[i] = sum_[i] * decay[i] + c[i] + c[i + 2];
        }
        if constexpr (kTail) {
            const Slots low = slots[min(first + at.row(0), last)], high = slots[min(first + at.row(2), last)];
            MarkedSums sums = lane_sums();
#pragma unroll
            for (int i = 0; i < 2; i++) {
                sums.near[i] = sums.near[i] * decay[i] + (is_marked(low, kIsAnchor, at.column(i)) ? c[i] : 0.0f) +
                               (is_marked(high, kIsAnchor, at.column(i)) ? c[i + 2] : 0.0f);
                sums.all[i] = sums.all[i] * decay[i] + (is_marked(low, kHasShare, at.column(i)) ? c[i] : 0.0f) +
                              (is_marked(high, kHasShare, at.column(i)) ? c[i + 2] : 0.0f);
            }
            lane_sums() = sums;
        }
        const uint32_t p0 = transpose_8x8(pack2<T>(c[0], c[1])), p1 = transpose_8x8(pack2<T>(c[2], c[3]));
#pragma unroll
        for (int h = 0; h < kDim / 64; h++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float(&o)[4] = values_[h][j];
                const float before[4] = {o[0], o[1], o[2], o[3]};
                o[0] *= decay[0];
                o[1] *= decay[1];
                o[2] *= decay[0];
                o[3] *= decay[1];
                if constexpr (kBytes) {
                    const int word = 2 * h + j / 2;
                    const uint32_t pair = j % 2 ? 0x7362 : 0x5140; /* two dims of two rows each */
                    const uint32_t x = permute_bytes((&v[0][0].x)[word], (&v[1][0].x)[word], pair),
                                   y = permute_bytes((&v[2][0].x)[word], (&v[3][0].x)[word], pair);
                    mma_16816<T>(o, half2_of_e4m3(x), half2_of_e4m3(x >> 16), half2_of_e4m3(y), half2_of_e4m3(y >> 16),
                                 p0, p1);
                } else {
                    const uint32_t x0 = (&v[0][h].x)[j], x1 = (&v[1][h].x)[j], x2 = (&v[2][h].x)[j],
                                   x3 = (&v[3][h].x)[j];
                    mma_16816<T>(o, low_halves(x0, x1), high_halves(x0, x1), low_halves(x2, x3), high_halves(x2, x3),
                                 p0, p1);
                }
                if constexpr (kApart)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        o[i] = at.column(i) < first_query ? before[i] : o[i];
            }
    }

    const hattn_problem &p_;
    const AttendTask &task_;
    Space &space_;
    const Stored *k_, *v_;
    float values_[kDim / 64][4][4]; /* dims 64h + 8g + 2j (+1), fp8 16g + 8h + 2j (+1), of heads 2t, 2t+1 */
    float max_[2], sum_[2];
    int used_; /* warps that had rows */
};

} // namespace hattn

#endif
