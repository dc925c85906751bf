/* SPDX-License-Identifier: Apache-2.0
 * Attention on tensor cores for the shapes that do not fit into one warp's registers: any dims, fp8 caches, up to 16
 * query heads that read each row once, V inside K. All warps work on one tile of up to 128 rows in shared memory, the
 * next tiles on their way by cp.async:
 *   S[rows, heads] = K q^T: a warp has 16 rows and a share of the dims; the shares' sums meet in shared memory.
 *   softmax: a warp a head, a lane up to 4 rows. Its weights P go back to shared memory.
 *   O^T[dims, heads] += V^T P: a warp has every 8th block of 16 dims, for all rows and heads. At most 5 blocks (576
 *     dims): 40 registers.
 * A tile costs three barriers. Its bytes are read from shared memory once a product by ldmatrix, and q once for every
 * 16 rows.
 *
 * fp8 stays bytes until a fragment is made. K: a register of ldmatrix is 4 neighbouring dims of a row, of which two
 * make the low and two the high half of an instruction's inner dimension; q is permuted alike (wide_query.cuh). V: the transposing
 * ldmatrix moves pairs of dims, so that a register is two dims of two rows, and one byte permute makes two registers of
 * two rows each: block row g is dim 2g, row g + 8 is dim 2g + 1.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_ATTEND_WIDE_CUH
#define HATTN_KERNELS_CUDA_ATTEND_ATTEND_WIDE_CUH

#include "kernels_cuda/attend/attend.cuh"
#include "kernels_cuda/attend/wide_layout.h"
#include "kernels_cuda/attend/wide_query.cuh"

namespace hattn {

/* T: float16 or bfloat16, of the products; Stored: of the caches, T or fp8_e4m3. kBlocks: 1 or 2 blocks of 8 columns,
 * two with kSplit. kOf: how slots are marked, and their weights summed by that. */
template <class T, class Stored, int kBlocks, bool kSplit, TailOf kOf = TailOf::NONE>
class WideEngine
{
    static constexpr bool kTail = kOf != TailOf::NONE;

public:
    static constexpr int kHeads = kSplit ? 8 : 8 * kBlocks;
    static constexpr bool kNeedsSpaceLate = false, kTakesTokens = false;
    static constexpr size_t kStaticBytes = HATTN_WIDE_STATIC; /* the plan counts on it */
    static constexpr float kOne = kWeightOne<T>;
    using Weight = std::conditional_t<kTail, TailWeight, PartWeight>;
    static constexpr TailOf kTailOf = kOf;
    using Slots = Listed<kOf>;
    template <TailOf kOther>
    using With = WideEngine<T, Stored, kBlocks, kSplit, kOther>;
    using Value = Stored;

    struct alignas(16) Space {
        float max[kHeads], sum[kHeads], logit_scale[kHeads]; /* of the warp that has the head */
        float decay[kHeads];
    };

    __device__ WideEngine(const hattn_problem &p, const AttendTask &task, Space &space)
        : p_(p), task_(task), space_(space), layout_(*task.wide)
    {
        k_ = first_row(task.k_cache, p.k_cache);
        v_ = first_row(task.v_cache, p.v_cache);
    }

    /* row(g): the address of query g. */
    template <class Row>
    __device__ void start(Row row)
    {
#pragma unroll 1
        for (int head = warp_id(); head < task_.count; head += kWarps) {
            space_.max[head] = -INFINITY;
            space_.sum[head] = 0.0f;
            if constexpr (kTail)
                marked_sums()[head] = make_float2(0.0f, 0.0f);
            space_.logit_scale[head] =
                p_.scale * task_.k_scale *
                Query::store(p_, row(head), query(head), query(head + 8), layout_.q_bytes / 2 - 8);
        }
        if (layout_.k_chunks % 2)
#pragma unroll 1
            for (int r = threadIdx.x; r < layout_.num_tiles * layout_.tile_rows; r += kThreads)
                *reinterpret_cast<uint4 *>(shared() + layout_.tiles + r * layout_.row_bytes + layout_.k_chunks * 16) =
                    uint4{};
        for (auto &block : values_)
            for (auto &columns : block)
                for (float &x : columns)
                    x = 0.0f;
    }

    __device__ void settle() {}

    /* Slots in shared memory; n > 0. */
    __device__ void add_rows(const Slots *slots, int n)
    {
        const int rows = layout_.tile_rows, tiles = (n + rows - 1) >> layout_.log2_rows, ahead = layout_.num_tiles - 1;
        int slot = 0, next_slot = 0;
#pragma unroll 1
        for (int tile = -ahead; tile < tiles; tile++) {
            if (tile >= 0) {
                copy_wait(ahead - 1);
                __syncthreads();
            }
            load_tile(slots, n, tile + ahead, next_slot);
            if (ahead == 0) { /* room for one tile: nothing is on its way meanwhile */
                copy_wait(0);
                __syncthreads();
            }
            next_slot = next_slot == ahead ? 0 : next_slot + 1;
            if (tile < 0)
                continue;
            add_tile(tile_at(slot), min(rows, n - tile * rows), slots + tile * rows);
            slot = slot == ahead ? 0 : slot + 1;
        }
    }

    /* Ends with a barrier; then each_value gives a part of a softmax. */
    __device__ void finish()
    {
        const Fragment at;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kDimBlocks; i++) {
            const int block = warp_id() + kWarps * i;
            if (block * 16 >= p_.head_dim_v)
                break;
#pragma unroll
            for (int b = 0; b < (kSplit ? 1 : kBlocks); b++)
#pragma unroll
                for (int c = 0; c < 4; c++)
                    result(8 * b + at.column(c))[16 * block + (kBytes ? 2 * at.group + c / 2 : at.row(c))] =
                        kSplit ? values_[i][0][c] + values_[i][1][c] * kLow : values_[i][b][c];
        }
        __syncthreads();
    }

    /* f(g, column, value, weight) for the values of this thread. */
    template <class F>
    __device__ void each_value(F f) const
    {
#pragma unroll 1
        for (int head = warp_id(); head < task_.count; head += kWarps)
#pragma unroll 1
            for (int column = 4 * lane_id(); column < p_.head_dim_v; column += 4 * 32) {
                Weight weight = {space_.max[head], space_.sum[head]};
                if constexpr (kTail) {
                    weight.near = marked_sums()[head].x;
                    weight.all = marked_sums()[head].y;
                }
                f(head, column, scaled(*reinterpret_cast<const float4 *>(result(head) + column), task_.v_scale),
                  weight);
            }
    }

private:
    static constexpr bool kBytes = sizeof(Stored) == 1;
    using Query = WideQuery<T, kBytes, kSplit>;
    static constexpr int kRowsOfLane = HATTN_WIDE_ROWS / 32;
    static constexpr int kDimBlocks = (kMaxDim / 16 + kWarps - 1) / kWarps;
    static constexpr float kLow = 1.0f / 2048.0f;

    /* Of heads, by the warps that have them: of anchors' weights, and of all with shares. */
    __device__ static float2 *marked_sums()
    {
        __shared__ float2 sums[kHeads];
        return sums;
    }

    __device__ static char *shared()
    {
        extern __shared__ uint4 dynamic_memory[];
        return reinterpret_cast<char *>(dynamic_memory);
    }

    __device__ T *query(int column) const { return reinterpret_cast<T *>(shared() + column * layout_.q_bytes); }

    __device__ char *tile_at(int slot) const
    {
        return shared() + layout_.tiles + slot * layout_.tile_rows * layout_.row_bytes;
    }

    /* Where the tiles were. */
    __device__ float *result(int head) const
    {
        return reinterpret_cast<float *>(shared() + layout_.tiles) + head * layout_.result_columns;
    }

    /* This thread's chunk of it. */
    __device__ const char *first_row(const void *cache, const hattn_tensor &tensor) const
    {
        return static_cast<const char *>(cache) +
               task_.kv_head * tensor.stride[2] * static_cast<int64_t>(sizeof(Stored)) + threadIdx.x % 8 * 16;
    }

    /* Eight lanes a row: a line of 128 bytes at a time. Rows past the last, up to a multiple of 16, are zeros: their
     * weights are, too. */
    __device__ void load_tile(const Slots *slots, int n, int tile, int number) const
    {
        const int first = tile * layout_.tile_rows, rows = min(layout_.tile_rows, (n - first + 15) & ~15);
        char *base = tile_at(number) + threadIdx.x % 8 * 16;
#pragma unroll 1
        for (int r = threadIdx.x / 8; r < rows; r += kThreads / 8) {
            const bool present = first + r < n;
            const Slot slot = slot_of<kOf>(slots[min(first + r, n - 1)]);
            char *row = base + r * layout_.row_bytes;
            load_row(row, k_, task_.k_stride, slot, layout_.k_chunks, present);
            if (layout_.v_chunks)
                load_row(row + layout_.v_first * 16, v_, task_.v_stride, slot, layout_.v_chunks, present);
        }
        copy_commit();
    }

    __device__ static void load_row(char *row, const char *rows, const uint32_t (&stride)[2], Slot slot, int chunks,
                                    bool present)
    {
        const char *from = row_address(rows, stride, slot);
        const int left = chunks - static_cast<int>(threadIdx.x % 8);
#pragma unroll 4
        for (int c = 0; c < left; c += 8)
            copy_async16(row + c * 16, from + c * 16, present);
    }

    __device__ void add_tile(const char *tile, int n, const Slots *slots)
    {
        score_tile(tile, n);
        __syncthreads();
        weigh_tile(n, slots);
        __syncthreads();
        add_values(tile, n);
    }

    __device__ float *logits(int share, int column) const
    {
        return reinterpret_cast<float *>(shared() + layout_.logits) +
               (share * 8 * kBlocks + column) * (layout_.tile_rows + 4);
    }

    __device__ T *weights(int column) const
    {
        return reinterpret_cast<T *>(shared() + layout_.weights) + column * (layout_.tile_rows + 8);
    }

    /* Fragments of the second operand, rows of which are columns of the product: 16 of the inner dimension from
     * `chunk` (16 bytes) on. */
    __device__ static void load_columns(uint32_t (&x)[2 * kBlocks], const char *rows, int row_bytes, int chunk)
    {
        load_matrices(x,
                      rows + Fragment::b_source_row<kBlocks>() * row_bytes + (chunk + Fragment::b_source_chunk()) * 16);
    }

    __device__ void score_tile(const char *tile, int n)
    {
        const int log2_blocks = layout_.log2_rows - 4, first = (warp_id() & ((1 << log2_blocks) - 1)) * 16,
                  share = warp_id() >> log2_blocks, shares = kWarps >> log2_blocks;
        if (!any_of_wave(first < n)) /* else rows past n get logits, which nobody reads */
            return;
        float c[kBlocks][4] = {};
        const char *row =
            tile + (first + Fragment::a_source_row()) * layout_.row_bytes + Fragment::a_source_chunk() * 16;
#pragma unroll 1
        for (int i = share; any_of_wave(i < (layout_.k_chunks + 1) / 2); i += shares) {
            const bool present = kWarpsOfWave == 1 || i < (layout_.k_chunks + 1) / 2;
            const int pair = present ? i : 0;
            uint32_t k[4], q[2 * kBlocks];
            load_matrices(k, row + pair * 32);
            zero_unless(present, k);
            if constexpr (kBytes) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const uint32_t x = k[2 * half], y = k[2 * half + 1];
                    load_columns(q, shared(), layout_.q_bytes, 4 * pair + 2 * half);
                    zero_unless(present, q);
                    multiply(c, half2_of_e4m3(x), half2_of_e4m3(y), half2_of_e4m3(x >> 16), half2_of_e4m3(y >> 16), q);
                }
            } else {
                load_columns(q, shared(), layout_.q_bytes, 2 * pair);
                zero_unless(present, q);
                multiply(c, k[0], k[1], k[2], k[3], q);
            }
        }
        const Fragment at;
#pragma unroll
        for (int b = 0; b < kBlocks; b++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                logits(share, 8 * b + at.column(i))[first + at.row(i)] = c[b][i];
    }

    /* present: always, where a wave is a warp. */
    template <int kCount>
    __device__ static void zero_unless(bool present, uint32_t (&x)[kCount])
    {
        if constexpr (kWarpsOfWave > 1)
#pragma unroll
            for (int i = 0; i < kCount; i++)
                x[i] = present ? x[i] : 0;
    }

    __device__ static void multiply(float (&c)[kBlocks][4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    const uint32_t (&columns)[2 * kBlocks])
    {
#pragma unroll
        for (int b = 0; b < kBlocks; b++)
            mma_16816<T>(c[b], a0, a1, a2, a3, columns[2 * b], columns[2 * b + 1]);
    }

    /* A warp's heads: their logits to weights. Rows past n get weight 0. */
    __device__ void weigh_tile(int n, [[maybe_unused]] const Slots *slots)
    {
        const int shares = kWarps * 16 >> layout_.log2_rows, rows = (n + 15) & ~15; /* of which there are values */
#pragma unroll 1
        for (int head = warp_id(); head < task_.count; head += kWarps) {
            const float logit_scale = space_.logit_scale[head], old_max = space_.max[head], old_sum = space_.sum[head];
            float x[kRowsOfLane], largest = -INFINITY;
#pragma unroll
            for (int j = 0; j < kRowsOfLane; j++) {
                const int r = lane_id() + 32 * j;
                x[j] = -INFINITY;
                if (r < n) {
                    float sum = 0.0f;
#pragma unroll 2
                    for (int share = 0; share < shares; share++) {
                        const float high = logits(share, head)[r];
                        sum += kSplit && isfinite(high) ? high + logits(share, head + 8)[r] : high; /* 0 * inf is low */
                    }
                    x[j] = sum * logit_scale;
                    if (p_.soft_cap > 0.0f)
                        x[j] = p_.soft_cap * tanhf(x[j] / p_.soft_cap);
                    largest = fmaxf(largest, x[j]);
                }
            }
            const float max = fmaxf(old_max, warp_max(largest));
            const float base = max == -INFINITY ? 0.0f : max; /* then e^-inf is 0, and a NaN stays one */
            const float decay = exponential(old_max - base);
            float sum = 0.0f;
            [[maybe_unused]] float2 marked = {0.0f, 0.0f};
#pragma unroll
            for (int j = 0; j < kRowsOfLane; j++) {
                const int r = lane_id() + 32 * j;
                if (r >= rows)
                    break;
                const float e = exponential(x[j] - base) * kOne;
                sum += e;
                if constexpr (kTail) {
                    const Slots slot = slots[min(r, n - 1)]; /* past the last e is 0 */
                    marked.x += is_marked(slot, kIsAnchor, head) ? e : 0.0f;
                    marked.y += is_marked(slot, kHasShare, head) ? e : 0.0f;
                }
                const T high = from_float<T>(e);
                weights(head)[r] = high;
                if (kSplit)
                    weights(head + 8)[r] = from_float<T>((e - to_float(high)) * (1.0f / kLow));
            }
            sum = old_sum * decay + warp_sum(sum);
            if constexpr (kTail) {
                const float2 old = marked_sums()[head];
                marked = make_float2(old.x * decay + warp_sum(marked.x), old.y * decay + warp_sum(marked.y));
            }
            warp_barrier();
            if (lane_id() == 0) {
                space_.max[head] = max;
                space_.sum[head] = sum;
                space_.decay[head] = decay;
                if constexpr (kTail)
                    marked_sums()[head] = marked;
            }
        }
    }

    __device__ static float exponential(float x) { return kSplit ? expf(x) : fast_exp(x); }

    __device__ void add_values(const char *tile, int n)
    {
        const Fragment at;
        const int num_blocks = (p_.head_dim_v + 15) / 16,
                  row_of_lane = kBytes ? Fragment::a_source_row() : Fragment::b_source_row<2>(),
                  chunk_of_lane = kBytes ? 0 : Fragment::b_source_chunk();
        const char *rows = tile + row_of_lane * layout_.row_bytes + (layout_.v_first + chunk_of_lane) * 16;
        float decay[kBlocks][2];
#pragma unroll
        for (int b = 0; b < kBlocks; b++)
            for (int j = 0; j < 2; j++)
                decay[b][j] = space_.decay[(kSplit ? 0 : 8 * b) + at.column(j)];
#pragma unroll
        for (int i = 0; i < kDimBlocks; i++) {
            const int block = warp_id() + kWarps * i;
            if (!any_of_wave(block < num_blocks))
                break;
            const int from_block =
                kWarpsOfWave == 1 ? block : min(block, num_blocks - 1); /* for nothing, past the last */
            /* Sums of one tile, added outside of the tensor cores, which round towards zero. */
            float c[kBlocks][4] = {};
#pragma unroll 1
            for (int step = 0; step * 16 < n; step++) {
                uint32_t p[2 * kBlocks];
                load_columns(p, reinterpret_cast<const char *>(weights(0)), (layout_.tile_rows + 8) * 2, 2 * step);
                const char *from = rows + step * 16 * layout_.row_bytes + from_block * (kBytes ? 16 : 32);
                if constexpr (kBytes) {
                    uint32_t v[2];
                    load_transposed(v, from);
                    const uint32_t x = permute_bytes(v[0], 0, 0x3120), y = permute_bytes(v[1], 0, 0x3120);
                    multiply(c, half2_of_e4m3(x), half2_of_e4m3(x >> 16), half2_of_e4m3(y), half2_of_e4m3(y >> 16), p);
                } else {
                    uint32_t v[4];
                    load_transposed(v, from);
                    multiply(c, v[0], v[1], v[2], v[3], p);
                }
            }
#pragma unroll
            for (int b = 0; b < kBlocks; b++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    values_[i][b][j] = values_[i][b][j] * decay[b][j % 2] + c[b][j];
        }
    }

    const hattn_problem &p_;
    const AttendTask &task_;
    Space &space_;
    const hattn_wide_layout &layout_;
    const char *k_, *v_;
    float values_[kDimBlocks][kBlocks][4]; /* of block warp_id() + 8 i */
};

} // namespace hattn

#endif
