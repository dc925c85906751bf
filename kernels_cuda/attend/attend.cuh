/* SPDX-License-Identifier: Apache-2.0
 * Attention over a list of rows by online softmax, for any dims and dtypes, and the joining of parts. An engine (this
 * one, attend_mma.cuh's or attend_wide.cuh's) takes up to 8 or 16 query heads that share rows: start, settle, add_rows
 * as often as there are, finish and each_value.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_ATTEND_CUH
#define HATTN_KERNELS_CUDA_ATTEND_ATTEND_CUH

#include "kernels_cuda/attend/parts.cuh"
#include "kernels_cuda/device/device.cuh"
#include "kernels_cuda/params.h"

namespace hattn {

constexpr int kList = 512; /* positions that a block finds at a time */
constexpr int kTile = 64;
constexpr int kColumns = (kMaxDim + kThreads - 1) / kThreads; /* of V, of one thread */

/* Where a key is. Attention with a tail of rows has marks above the slot: whether the key has a share, whether it is an anchor. */
struct Slot {
    int32_t page, slot;
};

/* With marks of each head of a block, from the lowest bits on. */
struct HeadSlot {
    int32_t page, slot;
    uint32_t marks;
};

/* Whose marks attention with a tail sums by. */
enum class TailOf { NONE, ROWS, HEADS };

template <TailOf kTail>
using Listed = std::conditional_t<kTail == TailOf::HEADS, HeadSlot, Slot>;

constexpr uint32_t kHasShare = 1u << 30, kIsAnchor = 1u << 31, kMarks = kHasShare | kIsAnchor;

__device__ inline bool is_marked(const Slot &slot, uint32_t mark, int)
{
    return (static_cast<uint32_t>(slot.slot) & mark) != 0;
}

__device__ inline bool is_marked(const HeadSlot &slot, uint32_t mark, int head)
{
    return (slot.marks << (30 - 2 * head) & mark) != 0;
}

__device__ inline Slot unmarked(Slot slot)
{
    return {slot.page, static_cast<int32_t>(static_cast<uint32_t>(slot.slot) & ~kMarks)};
}

template <TailOf kTail>
__device__ inline Slot slot_of(const Listed<kTail> &listed)
{
    if constexpr (kTail == TailOf::ROWS)
        return unmarked(listed);
    else
        return {listed.page, listed.slot};
}

/* The address of its row in a cache whose strides, of pages and slots, are in 16 bytes, so that they fit 32 bits: the plan
 * has seen to it. */
__device__ inline const char *row_address(const void *cache, const uint32_t (&stride)[2], Slot slot)
{
    return static_cast<const char *>(cache) + (static_cast<uint64_t>(static_cast<uint32_t>(slot.page)) * stride[0] +
                                               static_cast<uint64_t>(static_cast<uint32_t>(slot.slot)) * stride[1]) *
                                                  16;
}

struct PowerOfTwo {
    float factor, inverse;
};

/* Takes `largest` near 2^15, as fp16 can hold it. */
__device__ inline PowerOfTwo near_largest_half(float largest)
{
    const int exponent = min(max(static_cast<int>(bits_of(largest) >> 23) - 127, -100), 127) - 14;
    return {float_of_bits(static_cast<uint32_t>(127 - exponent) << 23),
            float_of_bits(static_cast<uint32_t>(127 + exponent) << 23)};
}

/* The heads, caches and scales of one attend block. */
struct AttendTask {
    int64_t kv_head;
    int count; /* of query heads */
    float k_scale, v_scale;
    const void *k_cache, *v_cache;
    uint32_t k_stride[2], v_stride[2]; /* of pages and slots in 16 bytes, where rows are aligned */
    const hattn_wide_layout *wide;     /* of the wide engine */
};

/* Any dims and dtypes, up to kGroup query heads: tiles of 64 rows, logits a warp a row, values a thread a column.
 * fp32. */
template <class T, int kGroup>
class PlainEngine
{
public:
    static constexpr int kHeads = kGroup;
    static constexpr bool kNeedsSpaceLate = false, kTakesTokens = false;
    static constexpr size_t kStaticBytes = 48 * 1024; /* of a block, at most, without dynamic memory */
    static constexpr float kOne = kWeightOne<T>;
    static constexpr TailOf kTailOf = TailOf::NONE;
    using Weight = PartWeight;

    struct alignas(16) Space {
        float logits[kGroup][kTile];
        float decay[kGroup], max[kGroup], sum[kGroup];
        int64_t k_row[kTile], v_row[kTile]; /* element offsets */
        float q[kGroup][kMaxDim];           /* scaled; zero for absent heads */
    };

    __device__ PlainEngine(const hattn_problem &p, const AttendTask &task, Space &space)
        : p_(p), task_(task), space_(space)
    {
    }

    /* row(g): the address of query g. */
    template <class Row>
    __device__ void start(Row row)
    {
        for (int i = threadIdx.x; i < kGroup * p_.head_dim_qk; i += kThreads) {
            const int g = i / p_.head_dim_qk, e = i % p_.head_dim_qk;
            space_.q[g][e] = g < task_.count ? load_element(row(g), p_.q.dtype, e) * (p_.scale * task_.k_scale) : 0.0f;
        }
        for (int c = 0; c < kColumns; c++)
            for (int g = 0; g < kGroup; g++)
                values_[c][g] = 0.0f;
        if (threadIdx.x < kGroup) {
            space_.max[threadIdx.x] = -INFINITY;
            space_.sum[threadIdx.x] = 0.0f;
        }
        __syncthreads();
    }

    __device__ void settle() {}

    /* Slots in shared memory. Ends with a barrier. */
    __device__ void add_rows(const Slot *slots, int n)
    {
        for (int first = 0; first < n; first += kTile)
            add_tile(slots + first, min(kTile, n - first));
    }

    /* Ends with a barrier; then each_value gives a part of a softmax. */
    __device__ void finish() { __syncthreads(); }

    /* f(g, column, value, weight) for the values of this thread. */
    template <class F>
    __device__ void each_value(F f) const
    {
#pragma unroll
        for (int g = 0; g < kGroup; g++) {
            const PartWeight weight = {space_.max[g], space_.sum[g]};
#pragma unroll
            for (int c = 0; c < kColumns; c++) {
                const int column = c * kThreads + static_cast<int>(threadIdx.x);
                if (g < task_.count && column < p_.head_dim_v)
                    f(g, column, values_[c][g] * task_.v_scale, weight);
            }
        }
    }

private:
    __device__ void add_tile(const Slot *slots, int n)
    {
        const T *k_cache = static_cast<const T *>(task_.k_cache), *v_cache = static_cast<const T *>(task_.v_cache);
        for (int i = threadIdx.x; i < n; i += kThreads) {
            space_.k_row[i] = slots[i].page * p_.k_cache.stride[0] + slots[i].slot * p_.k_cache.stride[1] +
                              task_.kv_head * p_.k_cache.stride[2];
            space_.v_row[i] = slots[i].page * p_.v_cache.stride[0] + slots[i].slot * p_.v_cache.stride[1] +
                              task_.kv_head * p_.v_cache.stride[2];
        }
        __syncthreads();

        for (int i = warp_id(); i < n; i += kWarps) {
            const T *row = k_cache + space_.k_row[i];
            float dot[kGroup] = {};
            for (int e = lane_id(); e < p_.head_dim_qk; e += 32) {
                const float k = to_float(row[e]);
                for (int g = 0; g < kGroup; g++)
                    dot[g] = fmaf(space_.q[g][e], k, dot[g]);
            }
            for (int g = 0; g < kGroup; g++) {
                float logit = warp_sum(dot[g]);
                if (p_.soft_cap > 0.0f)
                    logit = p_.soft_cap * tanhf(logit / p_.soft_cap);
                if (lane_id() == 0)
                    space_.logits[g][i] = logit;
            }
        }
        __syncthreads();

        for (int g = warp_id(); g < kGroup; g += kWarps) {
            const float x0 = lane_id() < n ? space_.logits[g][lane_id()] : -INFINITY;
            const float x1 = lane_id() + 32 < n ? space_.logits[g][lane_id() + 32] : -INFINITY;
            const float old_max = space_.max[g], max = fmaxf(old_max, warp_max(fmaxf(x0, x1)));
            const float base = max == -INFINITY ? 0.0f : max; /* then e^-inf is 0, and a NaN stays one */
            const float e0 = expf(x0 - base) * kOne, e1 = expf(x1 - base) * kOne;
            space_.logits[g][lane_id()] = e0;
            space_.logits[g][lane_id() + 32] = e1;
            const float sum = warp_sum(e0 + e1), decay = expf(old_max - base);
            warp_barrier(); /* all lanes have read the old maximum */
            if (lane_id() == 0) {
                space_.max[g] = max;
                space_.sum[g] = space_.sum[g] * decay + sum;
                space_.decay[g] = decay;
            }
        }
        __syncthreads();

        for (int c = 0; c < kColumns; c++) {
            const int column = c * kThreads + static_cast<int>(threadIdx.x);
            if (column >= p_.head_dim_v)
                break;
            float sums[kGroup] = {};
#pragma unroll 4
            for (int i = 0; i < n; i++) {
                const float v = to_float(v_cache[space_.v_row[i] + column]);
                for (int g = 0; g < kGroup; g++)
                    sums[g] = fmaf(space_.logits[g][i], v, sums[g]);
            }
            for (int g = 0; g < kGroup; g++)
                values_[c][g] = values_[c][g] * space_.decay[g] + sums[g];
        }
        __syncthreads();
    }

    const hattn_problem &p_;
    const AttendTask &task_;
    Space &space_;
    float values_[kColumns][kGroup]; /* columns of this thread */
};

/* Joins parts of one head, a thread a column: L = ln(sum e^lse_p); lse(p) and out(p, column) read part p, parts with
 * lse -inf are not read. Returns L; write(column, value) is called by the thread that owns the column. */
template <class Lse, class Out, class Write>
__device__ inline float merge_any(int num_parts, int num_columns, Lse lse, Out out, Write write)
{
    float max = -INFINITY, sum = 0.0f;
    bool is_nan = false;
    for (int part = 0; part < num_parts; part++) {
        const float x = lse(part);
        is_nan |= x != x;
        max = fmaxf(max, x);
    }
    if (is_nan)
        max = NAN;
    for (int part = 0; part < num_parts && max != -INFINITY; part++)
        sum += expf(lse(part) - max);
    for (int column = threadIdx.x; column < num_columns; column += kThreads) {
        float value = 0.0f;
        for (int part = 0; part < num_parts && max != -INFINITY; part++) {
            const float x = lse(part);
            if (x != -INFINITY)
                value += expf(x - max) / sum * out(part, column);
        }
        write(column, value);
    }
    return max == -INFINITY ? max : max + logf(sum);
}

} // namespace hattn

#endif
