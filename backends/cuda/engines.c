/* SPDX-License-Identifier: Apache-2.0
 * Which engine of attention a plan takes: the first row of kernels_cuda/engines.inc that accepts the problem.
 */
#include "backends/cuda/cuda.h"
#include "core/dtype.h"

/* Whether all rows of a tensor start at 16 bytes, strides of that unit fitting 32 bits. */
static int is_aligned(const hattn_tensor *tensor)
{
    for (int i = 0; i < 3; i++) {
        const int64_t bytes = tensor->stride[i] * hattn_dtype_size(tensor->dtype);
        if (bytes % 16 || bytes / 16 > UINT32_MAX)
            return 0;
    }
    return 1;
}

/* Query heads of one attend block that serves groups of `group`. */
static int32_t block_heads(int32_t engine, const hattn_problem *p, int group)
{
    if (engine == HATTN_CUDA_WIDE)
        return group <= 8 || p->q.dtype == HATTN_F32 ? 8 : 16;
    return group == 1 ? 1 : group <= 4 ? 4 : 8;
}

/* Shared memory for WideEngine, 0 where there is too little: half of a multiprocessor's if that holds two tiles of 32
 * rows, so that two blocks run there, else what a block may have. Only a run knows whether V is inside K: sized for that
 * where it can be, with room for a tile of the other case; two tiles of it, if possible. */
static int32_t wide_shared(const hattn_cuda_properties *device, const hattn_problem *p, int32_t heads)
{
    const int64_t most = device->block_shared - HATTN_WIDE_STATIC,
                  share = device->multiprocessor_shared / 2 - device->reserved_shared - HATTN_WIDE_STATIC,
                  half = share < most ? share : most;
    const struct {
        int64_t limit;
        int32_t rows, tiles, tiles_outside;
    } tries[] = {{half, 32, 2, 2}, {most, 16, 2, 2}, {most, 16, 2, 1}, {most, 16, 1, 1}};
    const int32_t columns = p->q.dtype == HATTN_F32 ? 2 * heads : heads;
    int is_inside = p->head_dim_v <= p->head_dim_qk;
    for (int i = 0; i < 3; i++)
        is_inside &= p->k_cache.stride[i] == p->v_cache.stride[i];
    for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        const hattn_wide_layout l = hattn_wide_lay_out(p, columns, is_inside ? 0 : -1, (int32_t)tries[i].limit);
        if (l.num_tiles >= tries[i].tiles && l.tile_rows >= tries[i].rows &&
            hattn_wide_lay_out(p, columns, -1, l.used).num_tiles >= tries[i].tiles_outside)
            return l.used;
    }
    return 0;
}

/* K, V and q of one 16-bit type. */
static int is_one_type(const hattn_problem *p)
{
    return (p->k_cache.dtype == HATTN_F16 || p->k_cache.dtype == HATTN_BF16) && p->q.dtype == p->k_cache.dtype;
}

/* MmaEngine: head dims both 64 or both 128; of up to 16 heads that share rows, 8 a block: the second finds rows in L2. */
static int accepts_mma(const hattn_problem *p, int group)
{
    return is_one_type(p) && is_aligned(&p->k_cache) && is_aligned(&p->v_cache) && is_aligned(&p->q) && group <= 16 &&
           p->head_dim_qk == p->head_dim_v && (p->head_dim_qk == 64 || p->head_dim_qk == 128);
}

/* fp8 caches, q of 16 bits, head dims of 128. */
static int accepts_mma_bytes(const hattn_problem *p, int group)
{
    return p->k_cache.dtype == HATTN_F8_E4M3 && p->q.dtype != HATTN_F32 && is_aligned(&p->k_cache) &&
           is_aligned(&p->v_cache) && is_aligned(&p->q) && group <= 16 && p->head_dim_qk == 128 && p->head_dim_v == 128;
}

/* WideEngine: fp16 or fp8 caches and any q, or all bf16; rows of whole chunks of 16 bytes. */
static int accepts_wide(const hattn_problem *p, int group)
{
    (void)group;
    const int is_f8 = p->k_cache.dtype == HATTN_F8_E4M3;
    if (!is_aligned(&p->k_cache) || !is_aligned(&p->v_cache))
        return 0;
    return is_f8 ? p->head_dim_qk % 16 == 0 && p->head_dim_v % 16 == 0
                 : is_one_type(p) || p->k_cache.dtype == HATTN_F16;
}

/* PlainEngine: fp32 caches, q that bf16 cannot hold beside bf16 caches, rows that start anywhere. */
static int accepts_any(const hattn_problem *p, int group)
{
    (void)p, (void)group;
    return 1;
}

/* The first row that accepts. */
static int32_t choose_engine(const hattn_problem *p, int group)
{
#define ENGINE(number, types, accepts, attend, decode, keyed) \
    if (accepts(p, group))                                    \
        return number;
#include "kernels_cuda/engines.inc"
#undef ENGINE
    return HATTN_CUDA_PLAIN;
}

void hattn_cuda_choose_attention(const hattn_cuda_properties *device, const hattn_problem *p, hattn_cuda_params *params)
{
    params->engine = choose_engine(p, params->group);
    if (params->engine == HATTN_CUDA_WIDE) {
        params->attend_shared =
            wide_shared(device, p, block_heads(HATTN_CUDA_WIDE, p, params->dense_group)); /* group divides it */
        if (!params->attend_shared)
            params->engine = HATTN_CUDA_PLAIN;
    }
    for (int i = 0; i < 2; i++) {
        params->k_stride[i] = (uint32_t)(p->k_cache.stride[i] * hattn_dtype_size(p->k_cache.dtype) / 16);
        params->v_stride[i] = (uint32_t)(p->v_cache.stride[i] * hattn_dtype_size(p->v_cache.dtype) / 16);
    }
    params->block_heads = block_heads(params->engine, p, params->group);
    params->dense_block_heads = block_heads(params->engine, p, params->dense_group);
}
