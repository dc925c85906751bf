/* SPDX-License-Identifier: Apache-2.0
 * What a plan fixes for its kernels. Passed by value beside the call's own arguments, so that nothing has to be copied to the
 * device and a captured graph holds all of it.
 */
#ifndef HATTN_KERNELS_CUDA_PARAMS_H
#define HATTN_KERNELS_CUDA_PARAMS_H

#include "api/hattn.h"
#include "core/dtype.h"
#include "kernels_cuda/attend/wide_layout.h"

enum {
    HATTN_CUDA_BINS = 2048,        /* of one digit of a key */
    HATTN_CUDA_LEVELS = 1024,      /* the largest score of a decode by regions whose scores are levels */
    HATTN_CUDA_KEYED_LEVELS = 255, /* that other scores are cut into */
    HATTN_CUDA_HISTOGRAMS = 1024,  /* the most tasks of a wave (regions.cuh), or of a top-k over several blocks a row */
    HATTN_CUDA_COUNTERS = 65536,   /* tasks that may be split over blocks */
    HATTN_CUDA_PARTS = 5 << 19 /* words of parts of attention that are on their way: kernels_cuda/attend/parts.cuh */
};

enum { HATTN_CUDA_TILE = 2048 }; /* keys that a block of the stand-alone top-k takes at a time */

/* Attention's engines: attend.cuh, attend_mma.cuh (of 16-bit caches and of bytes), attend_wide.cuh. */
enum { HATTN_CUDA_PLAIN, HATTN_CUDA_MMA, HATTN_CUDA_MMA_BYTES, HATTN_CUDA_WIDE };

/* The control region, the same for every plan: plans share workspaces. */
typedef struct hattn_cuda_control {
    uint32_t arrived[HATTN_CUDA_COUNTERS];
    uint32_t histogram[HATTN_CUDA_HISTOGRAMS][HATTN_CUDA_BINS];
    uint32_t parts[HATTN_CUDA_PARTS];
} hattn_cuda_control;

/* Words of a part of `heads` heads: values, and two that weigh each head. */
HATTN_HOST_DEVICE static inline uint32_t hattn_cuda_part_words(int32_t heads, int32_t head_dim_v)
{
    return (uint32_t)(heads * (head_dim_v + 2) + 3) / 4 * 4;
}

/* Division by a number that the host knows, as a multiplication (Granlund and Montgomery 1994, section 4). */
typedef struct hattn_cuda_divisor {
    uint32_t divisor, magic, shift;
} hattn_cuda_divisor;

/* What passes of the stand-alone top-k leave to the next: where the last kept key of a row is known to be. */
typedef struct hattn_cuda_topk_state {
    uint32_t key, ties; /* as far as its digits are known; how many of its equals are kept */
    uint32_t bin[3];    /* its digits */
    uint32_t is_open;   /* the last bin holds different keys: scores that the problem's weights cannot give */
} hattn_cuda_topk_state;

typedef struct hattn_cuda_params {
    hattn_problem problem;
    hattn_cuda_divisor page_size;      /* by 1 where there are no pages */
    hattn_cuda_divisor heads_per_code; /* selection heads of a code head */
    hattn_cuda_divisor v_dim;          /* of problem.head_dim_v */
    int32_t group, dense_group;        /* query heads that share a selection, or K and V */
    int32_t digit_shift; /* of the first digit of a u16 score: 0 if all scores are below HATTN_CUDA_BINS */
    int32_t num_bins;    /* of that digit */
    int32_t score_chunk, num_score_chunks; /* keys of one score block */
    int32_t topk_chunk, num_topk_chunks;   /* of one row over blocks of the stand-alone top-k; 0: a block a row */
    int32_t num_topk_passes;               /* digits of a key there */
    int32_t num_splits, num_dense_splits;  /* of one selection over attend blocks */
    int32_t encodes_by_mma; /* queries and their map are of one 16-bit type, and of shapes that tensor cores take */
    int32_t encodes_keys_by_mma; /* hattn_encode_keys: linear, aligned, of types that encode_keys_mma.cuh takes */
    int32_t appends_by_mma;      /* the same of keys in the cache and the keys' map */
    int32_t num_multiprocessors, shared_bytes; /* of the device; of one multiprocessor */
    int32_t engine;                            /* HATTN_CUDA_PLAIN ... */
    int32_t block_heads, dense_block_heads;    /* query heads of one attend block: of a selection's, of a KV head's */
    int32_t attend_shared;                     /* bytes of dynamic shared memory of an attend block */
    int32_t has_dependent_launch; /* compiled for sm_90: kernels may start while the one before them ends */
    /* A decode by regions (regions.cuh); otherwise it is composed of the separate calls. */
    int32_t by_regions;
    int32_t wave_rows, wave_heads;       /* of a wave: some rows with all selection heads, or some heads of a row */
    int32_t code_words, has_loose_codes; /* of the score kernel: see code_reader.cuh */
    int32_t plane_blocks;                /* pairs of planes that weights can need: 1, 2 or, keyed, 4 */
    int32_t is_sampled;                  /* candidates above a sampled bound are listed, instead of all scores */
    int32_t is_keyed;                    /* and their keys: scores are not levels */
    int32_t region, num_regions;         /* keys of one; of max_length */
    hattn_cuda_divisor regions_per_range;
    int32_t num_levels, row_size; /* the largest level, and the same rounded up to 8 */
    int32_t encodes_in_score;     /* each score block encodes its own query; 0: a kernel before it does */
    int64_t score_stride;
    uint64_t weights, scores, keys, rows; /* offsets in the workspace, behind the control region */
    uint64_t topk_states, topk_counts;    /* over the same memory: see kernels_cuda/select/topk_split.cuh */
    uint64_t workspace_size;
    hattn_cuda_divisor region_size, splits, dense_splits;
    uint32_t k_stride[2], v_stride[2]; /* of pages and slots in 16 bytes, but for the plain engine */
    hattn_wide_layout wide;            /* of the wide engine; a launch's own */
} hattn_cuda_params;

#endif
