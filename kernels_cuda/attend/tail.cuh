/* SPDX-License-Identifier: Apache-2.0
 * What tails read: eight elements of a row wherever it starts, values in fixed point, totals of shares.
 */
#ifndef HATTN_KERNELS_CUDA_ATTEND_TAIL_CUH
#define HATTN_KERNELS_CUDA_ATTEND_TAIL_CUH

#include "kernels_cuda/device/device.cuh"
#include "kernels_cuda/params.h"

#include "core/tail.h" /* after the dialect: HIP's has a memcpy for devices */

namespace hattn {

template <class T>
struct alignas(sizeof(T) * 8 > 16 ? 16 : sizeof(T) * 8) Eight {
    T x[8];
};

template <class T>
__device__ inline Eight<T> load_eight(const T *from)
{
    Eight<T> loaded;
    if (reinterpret_cast<uintptr_t>(from) % alignof(Eight<T>) == 0)
        loaded = *reinterpret_cast<const Eight<T> *>(from);
    else
#pragma unroll
        for (int i = 0; i < 8; i++)
            loaded.x[i] = from[i];
    return loaded;
}

/* A row of a cache. */
template <class T>
__device__ inline const T *cache_row(const hattn_tensor &cache, hattn_buffer buffer, const hattn_pages &pages,
                                     int32_t position, int64_t kv_head)
{
    int32_t slot;
    const int64_t page = hattn_page(&pages, position, &slot);
    return static_cast<const T *>(hattn_address(buffer)) + page * cache.stride[0] + slot * cache.stride[1] +
           kv_head * cache.stride[2];
}

/* Of shares: of anchors, and of all. */
struct ShareTotals {
    uint64_t near, all;
};

/* Of a row and a head that has shares, for attention with a tail of its own: from tail_totals_kernel, or from a decode's choice. */
__device__ inline ShareTotals *share_totals(const hattn_cuda_params &params, hattn_buffer workspace, int64_t row,
                                            int64_t head)
{
    return reinterpret_cast<ShareTotals *>(static_cast<char *>(hattn_address(workspace)) + params.tail_totals) +
           row * hattn_heads_of_shares(&params.problem) + head;
}

} // namespace hattn

#endif
