/* SPDX-License-Identifier: Apache-2.0
 * What a plan fixes for its kernels. Passed by value beside the call's own arguments, so that nothing has to be copied to the
 * device and a captured graph holds all of it.
 */
#ifndef HATTN_KERNELS_CUDA_PARAMS_H
#define HATTN_KERNELS_CUDA_PARAMS_H

#include "api/hattn.h"

enum {
    HATTN_CUDA_BINS = 2048,               /* of one digit of a key */
    HATTN_CUDA_HISTOGRAMS = 1024,         /* tasks whose histogram is counted while scoring; more tasks count while selecting */
    HATTN_CUDA_COUNTERS = 65536,          /* tasks that may be split over blocks */
    HATTN_CUDA_GROUP_BLOCK = 8            /* query heads of one attend block */
};

/* The control region, the same for every plan: plans share workspaces. */
typedef struct hattn_cuda_control {
    uint32_t arrived[HATTN_CUDA_COUNTERS];
    uint32_t histogram[HATTN_CUDA_HISTOGRAMS][HATTN_CUDA_BINS];
} hattn_cuda_control;

/* Counts of tiles of keys, u16 [task][tile][num_bins + 1]: entry b is how many scores of the tile are at least b, the last is 0.
 * Selecting blocks read two entries a tile and so know which tiles hold their ranks. */
enum { HATTN_CUDA_TILE = 2048 }; /* keys that a block scores with all loads in flight, and the counts' unit */

/* What passes of the stand-alone top-k leave to the next: where the last kept key of a row is known to be. */
typedef struct hattn_cuda_topk_state {
    uint32_t key, ties; /* as far as its digits are known; how many of its equals are kept */
    uint32_t bin[3];    /* its digits */
    uint32_t is_open;   /* the last bin holds different keys: scores that the problem's weights cannot give */
} hattn_cuda_topk_state;

typedef struct hattn_cuda_params {
    hattn_problem problem;
    int32_t group, dense_group;           /* query heads that share a selection, or K and V */
    int32_t digit_shift;                  /* of the first digit of a u16 score: 0 if all scores are below HATTN_CUDA_BINS */
    int32_t num_bins;                     /* of that digit */
    int32_t score_chunk, num_score_chunks; /* keys of one score block: whole tiles */
    int32_t num_tiles;                    /* of max_length */
    int32_t topk_chunk, num_topk_chunks;  /* of one row over blocks of the stand-alone top-k; 0: a block a row */
    int32_t num_topk_passes;              /* digits of a key there */
    int32_t num_splits, num_dense_splits; /* of one selection over attend blocks */
    int32_t num_splits_max;               /* of the two: what the partial results are laid out for */
    int32_t encodes_in_score;             /* decode: each score block encodes its own query; 0: a kernel before it does */
    int32_t encodes_by_mma;               /* queries and their map are of one 16-bit type, and of shapes that tensor cores take */
    int32_t encodes_keys_by_mma;          /* hattn_encode_keys: linear, aligned, of types that encode_keys_mma.cuh takes */
    int32_t appends_by_mma;               /* the same of keys in the cache and the keys' map */
    int32_t counts_in_score;              /* decode: score blocks fill the histograms */
    int32_t counts_tiles;                 /* decode: and leave a row of counts for each tile; only where one digit is the whole key */
    int32_t num_multiprocessors, shared_bytes; /* of the device; of one multiprocessor */
    int32_t tensor_cores;                 /* attention by MmaEngine */
    int32_t has_dependent_launch;         /* sm_90: the attend kernel may start while the score kernel ends */
    uint64_t weights, scores, tile_counts, part_out, part_lse; /* offsets in the workspace, behind the control region */
    uint64_t topk_states, topk_counts;    /* over the same memory: see kernels_cuda/topk_split.cuh */
    uint64_t workspace_size;
} hattn_cuda_params;

#endif
