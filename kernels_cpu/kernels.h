/* SPDX-License-Identifier: Apache-2.0
 * The CPU kernels' types. A kernel works on one unit (one vector block, one run of keys, one row); backends/cpu/ walks
 * heads, rows, pages and threads around it. kernels.inc has a row for each kernel that exists; it is declared, chosen
 * and tested from there. Kernels do not allocate and touch only what their arguments name: no read or write
 * past the counts given, unless the comment says that there is room.
 */
#ifndef HATTN_KERNELS_CPU_KERNELS_H
#define HATTN_KERNELS_CPU_KERNELS_H

#include "api/hattn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HATTN_MAX_WORDS = 16, /* of a code: 512 bits */
    HATTN_MAX_PLANES = 7, /* |w| <= 127 */
    HATTN_ATTEND_BLOCK =
        64 /* rows of one attend call: 32 KiB of K and V for fp16 rows of 128; 32..128 measured equal */
};

/* dst[i] = src[i] * scale; dtype F32, F16, BF16 or F8_E4M3 (OCP: no infinities, 0x7f and 0xff are NaN). */
typedef void hattn_load_fn(const void *src, int32_t dtype, int n, float scale, float *dst);

/* dst[i] = src[i] rounded to nearest even; dtype F32, F16 or BF16. */
typedef void hattn_store_fn(const float *src, int n, int32_t dtype, void *dst);

/* One linear layer on a block of vectors: z[x][o] = sum over i of x[x][i] * weight[i][o] + bias[o], then SiLU if asked. fp32. */
typedef struct hattn_layer {
    const float *x; /* [num_x, num_inputs] */
    int64_t stride_x;
    int num_x, num_inputs, num_outputs; /* any num_x >= 1; the others multiples of 8 */
    int silu;
    const void *weight; /* [num_inputs, num_outputs], F32, F16 or BF16 */
    int64_t stride_weight;
    const void *bias; /* [num_outputs], same dtype; or NULL */
    int32_t dtype;
    float *z; /* [num_x, num_outputs] */
    int64_t stride_z;
} hattn_layer;
typedef void hattn_project_fn(const hattn_layer *layer);

/* code bit r = (z[r] > 0), bits past num_bits in the last word 0; num_bits a multiple of 8. */
typedef void hattn_pack_fn(const float *z, int num_bits, uint32_t *code);

/* fp16 of sqrt(sum x[i]^2), fp32 sum, rounded to nearest even; overflow gives infinity. */
typedef uint16_t hattn_norm_fn(const float *x, int n);

/* Weights of one selection head: api/hattn.h, hattn_encode_queries. qmax 0: hamming. Returns max|u|; 0 where all weights are
 * 0; hamming: 1. */
typedef float hattn_weights_fn(const float *z, int64_t stride_z, int group, int num_bits, int qmax, int8_t *weights);

/* Weights as sign and magnitude bit planes: w_r = (-1)^sign_r * sum over p of 2^p plane[p]_r. Bits past num_bits are 0. */
typedef struct hattn_planes {
    int num_planes; /* of max|w|, 0..7; 0: all weights are 0 */
    int num_words;
    uint32_t max_score; /* sum |w| */
    uint32_t reserved;
    uint32_t sign[HATTN_MAX_WORDS];
    uint32_t plane[HATTN_MAX_PLANES][HATTN_MAX_WORDS];
} hattn_planes;
typedef void hattn_split_fn(const int8_t *weights, int num_bits, hattn_planes *planes);

/* Keys whose codes follow each other at one stride: those of a page, or of a whole contiguous sequence. */
typedef struct hattn_score_run {
    const uint32_t *codes;
    int64_t num_keys;
} hattn_score_run;

/* scores[j] = sum over p of 2^p popcount((codes[j] ^ sign) & plane[p]) for the keys of num_runs runs, one run's scores
 * after the other's. The array goes on with num_runs_ahead runs of the next calls: prefetched; 0: not known. */
typedef void hattn_score_fn(const hattn_planes *planes, const hattn_score_run *runs, int num_runs, int num_runs_ahead,
                            int64_t stride_key, uint16_t *scores);

/* The same of listed codes by the weights of several heads, whose words are as many: scores[h * stride_scores + i] of codes[i].
 * room: scratch for num_codes compact codes. */
typedef void hattn_score_listed_fn(const hattn_planes *planes, int num_heads, const uint32_t *const *codes,
                                   int num_codes, uint32_t *room, uint16_t *scores, int64_t stride_scores);

/* keys[j] = f32((2 * scores[j] - max_score) * norms[j]): the product is the only rounding. */
typedef void hattn_scale_fn(const uint16_t *scores, uint32_t max_score, const uint16_t *norms, int64_t stride_norm,
                            int64_t num_keys, float *keys);

/* Select the k best (0 < k < n), equal keys by smallest position: out[i] = first + position, ascending. */
typedef struct hattn_topk_scratch {
    uint32_t *histogram; /* [HATTN_TOPK_BINS] */
    int32_t *positions;  /* [hattn_topk_room(n, k)] */
    uint32_t *keys;      /* [hattn_topk_room(n, k)] */
} hattn_topk_scratch;
/* Candidates are cut down to the k best where they pass hattn_topk_limit(k), looked at once a chunk: so many keys. */
enum { HATTN_TOPK_BINS = 8192, HATTN_TOPK_SLACK = 64, HATTN_TOPK_CHUNK = 4096 };
static inline int64_t hattn_topk_limit(int64_t k) { return 4 * k > 1024 ? 4 * k : 1024; }
static inline int64_t hattn_topk_room(int64_t n, int64_t k)
{
    const int64_t most = hattn_topk_limit(k) + HATTN_TOPK_CHUNK;
    return (n < most ? n : most) + HATTN_TOPK_SLACK;
}
/* max_score: no score is larger. out has room for k + HATTN_TOPK_SLACK entries; those past k may be written. */
typedef void hattn_topk_u16_fn(const uint16_t *scores, int n, int k, uint32_t max_score, int32_t first, int32_t *out,
                               const hattn_topk_scratch *scratch);
/* Order of floats: NaN lowest, then -inf ... -0 = +0 ... +inf. */
typedef void hattn_topk_f32_fn(const float *keys, int n, int k, int32_t first, int32_t *out,
                               const hattn_topk_scratch *scratch);

/* Of candidates and one query head (core/floor.h): shares[i] of scores[i] beside the largest of them, and unless keys is NULL,
 * keys[i] += probability of the share. Returns the sum of shares. n > 0; step in 0..HATTN_FLOOR_MAX_STEP. */
typedef uint64_t hattn_vote_fn(const uint16_t *scores, int n, int32_t step, uint32_t *shares, uint32_t *keys);

/* One block of rows through online softmax. State before the first block: max -inf, sum 0, acc 0. */
typedef struct hattn_attend_block {
    const float
        *q; /* [group, stride_q] fp32, times scale (and k_scale); 64-byte aligned, zero from head_dim_qk to stride_q */
    int64_t stride_q;                   /* multiple of 16 */
    int group, head_dim_qk, head_dim_v; /* the dims are multiples of 8 */
    int32_t dtype;                      /* of K and V: F32, F16, BF16, F8_E4M3 */
    float soft_cap;                     /* 0: none */
    int num_rows;                       /* 1..HATTN_ATTEND_BLOCK */
    const void *const *k_rows;          /* [num_rows + num_rows_ahead] addresses of rows */
    const void *const *v_rows;
    float *logits;      /* scratch [group, HATTN_ATTEND_BLOCK], 64-byte aligned; left with e^(x - max) */
    float *max, *sum;   /* in and out: [group] */
    float *acc;         /* in and out: [group, stride_acc], 64-byte aligned */
    int64_t stride_acc; /* multiple of 16, >= head_dim_v */
    int num_rows_ahead; /* k_rows and v_rows go on with so many rows of the next calls: prefetched; 0: not known */
    int loads_first; /* hattn_cpu_loads_first: the rows are loaded before they are computed with, instead of prefetched */
} hattn_attend_block;
typedef void hattn_attend_fn(const hattn_attend_block *block);

/* acc[g] += the sum of logits[g][j] v_j: weights that are given. Of the rest of the block dims, rows of V and loads_first are read, and max as what
 * says whether this is the first one. */
typedef void hattn_add_values_fn(const hattn_attend_block *block);

/* Join parts: api/hattn.h, hattn_merge. out fp32 [n], may be one of the parts' rows only if num_parts is 1. */
typedef void hattn_merge_fn(const float *outs, int64_t stride_out, const float *lses, int64_t stride_lse, int num_parts,
                            int n, float *out, float *lse);

/* Every operation that has rows in kernels.inc. */
#define HATTN_CPU_OPS(X) \
    X(load)              \
    X(store)             \
    X(project)           \
    X(pack)              \
    X(norm)              \
    X(weights)           \
    X(split) X(score) X(score_listed) X(scale) X(topk_u16) X(topk_f32) X(vote) X(attend) X(add_values) X(merge)

#define HATTN_CPU_KERNEL(op, isa, symbol) hattn_##op##_fn symbol;
#include "kernels_cpu/kernels.inc"
#undef HATTN_CPU_KERNEL

typedef struct hattn_cpu_kernels {
#define X(op) hattn_##op##_fn *op;
    HATTN_CPU_OPS(X)
#undef X
} hattn_cpu_kernels;

/* Fills the table: for each op the first row of kernels.inc whose ISA is in `isas` (bits of cpu_features.h). */
void hattn_cpu_kernels_select(unsigned isas, hattn_cpu_kernels *kernels);

#ifdef __cplusplus
}
#endif
#endif
