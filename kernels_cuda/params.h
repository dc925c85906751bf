/* SPDX-License-Identifier: Apache-2.0
 * What a plan fixes for its kernels. Passed by value beside the call's own arguments, so that nothing has to be copied
 * to the device and a captured graph holds all of it.
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
    HATTN_CUDA_HISTOGRAMS = 1024,  /* the most tasks of a top-k over several blocks a row */
    HATTN_CUDA_WAVE = 4096, /* the most tasks of a wave (decode/regions.cuh), if there is room for their histograms */
    HATTN_CUDA_COUNTERS = 65536, /* tasks that may be split over blocks */
    HATTN_CUDA_PARTS = 5 << 19   /* words of parts of attention that are on their way: kernels_cuda/attend/parts.cuh */
};

/* Entries of a decode's histogram behind its levels: whether a list had no room for all candidates, whether all weights are 0, what is claimed
 * and done when a row is scored anew, how many blocks of the task's heads are done, and with a floor how many of the positions that it counts
 * have score 0 (decode/floor.cuh). */
enum {
    HATTN_CUDA_OVERFLOWN,
    HATTN_CUDA_ALL_EQUAL,
    HATTN_CUDA_CLAIMED,
    HATTN_CUDA_DONE,
    HATTN_CUDA_JOINED,
    HATTN_CUDA_ZEROS,
    HATTN_CUDA_FLAGS = 8
};

enum { HATTN_CUDA_TOKEN_HEADS = 8 }; /* query heads, of several tokens, of one block of dense attention */

enum { HATTN_CUDA_TILE = 2048 }; /* keys that a block of the stand-alone top-k takes at a time */

enum { HATTN_CUDA_SCORED = 256 }; /* candidates, scored by query heads, of a part that has a largest score of its own */

/* Attention's engines: attend_mma.cuh (of 16-bit caches and of bytes), attend_wide.cuh, attend.cuh. */
enum {
#define ENGINE(number, types, accepts, attend, decode, keyed) number,
#include "kernels_cuda/engines.inc"
#undef ENGINE
};

/* The control region, the same for every plan: plans share workspaces. */
typedef struct hattn_cuda_control {
    uint32_t arrived[HATTN_CUDA_COUNTERS];
    uint32_t histogram[HATTN_CUDA_HISTOGRAMS]
                      [HATTN_CUDA_BINS]; /* a decode's: rows of levels and flags, more than these if they are shorter */
    uint32_t parts[HATTN_CUDA_PARTS];
} hattn_cuda_control;

/* What a workspace starts with. Counters are apart from the control region: that is zero again after each run. */
typedef struct hattn_cuda_head {
    hattn_cuda_control control;
    uint8_t apart[256];
    uint64_t rescored; /* HATTN_COUNTER_RESCORED */
} hattn_cuda_head;

/* Words of a part of `heads` heads: values, and those that weigh each head: 2, with a tail 4. */
HATTN_HOST_DEVICE static inline uint32_t hattn_cuda_part_words(int32_t heads, int32_t head_dim_v, int32_t weigh)
{
    return (uint32_t)(heads * (head_dim_v + weigh) + 3) / 4 * 4;
}

/* Division by a number that the host knows, as a multiplication (Granlund and Montgomery 1994, section 4). */
typedef struct hattn_cuda_divisor {
    uint32_t divisor, magic, shift;
} hattn_cuda_divisor;

static inline hattn_cuda_divisor hattn_cuda_make_divisor(uint32_t divisor)
{
    hattn_cuda_divisor d = {divisor, 0, 0};
    while (d.shift < 32 && (uint64_t)1 << d.shift < divisor)
        d.shift++;
    d.magic = (uint32_t)(((uint64_t)1 << 32) * (((uint64_t)1 << d.shift) - divisor) / divisor + 1);
    return d;
}

/* What passes of the stand-alone top-k leave to the next: where the last kept key of a row is known to be. */
typedef struct hattn_cuda_topk_state {
    uint32_t key, ties; /* as far as its digits are known; how many of its equals are kept */
    uint32_t bin[3];    /* its digits */
    uint32_t is_open;   /* the last bin holds different keys: scores that the problem's weights cannot give */
} hattn_cuda_topk_state;

/* Where attention that does not read all values has what in the workspace: attend/skip.cu. */
typedef struct hattn_cuda_skip {
    uint64_t logits; /* [row, Hq, kept] */
    uint64_t sums;   /* [row, Hq, split] */
    uint64_t left;   /* likewise */
    uint64_t parts;  /* [row, Hq, split, dv] */
    int32_t kept;    /* the most of a selection */
    int32_t reserved;
} hattn_cuda_skip;

typedef struct hattn_cuda_params {
    hattn_problem problem;
    hattn_cuda_divisor page_size;      /* by 1 where there are no pages */
    hattn_cuda_divisor heads_per_code; /* selection heads of a code head */
    hattn_cuda_divisor v_dim;          /* of problem.head_dim_v */
    int32_t group, dense_group;        /* query heads that share a selection, or K and V */
    int32_t digit_shift; /* of the first digit of a u16 score: 0 if all scores are below HATTN_CUDA_BINS */
    int32_t num_bins;    /* of that digit */
    int32_t score_chunk, num_score_chunks;  /* keys of one score block, of the call of its own */
    int32_t topk_chunk, num_topk_chunks;    /* of one row over blocks of the stand-alone top-k; 0: a block a row */
    int32_t num_topk_passes;                /* digits of a key there */
    int32_t num_splits, num_dense_splits;   /* of one selection over blocks of the attend call; of all rows */
    int32_t num_tail_splits;                /* of one selection over blocks that sum for its tail */
    int32_t dense_tokens, num_token_splits; /* rows of a sequence that a block of dense attention takes; splits then */
    int32_t encodes_by_mma; /* queries and their map are of one 16-bit type, and of shapes that tensor cores take */
    int32_t encodes_keys_by_mma; /* hattn_encode_keys: linear, aligned, of types that encode_keys_mma.cuh takes */
    int32_t key_encoder;         /* the row of key_encoders.inc for that; of MLP maps, the stages */
    int32_t appends_by_mma;      /* the same of keys in the cache and the keys' map */
    int32_t num_multiprocessors, multiprocessor_shared; /* of the device; of one multiprocessor */
    int32_t engine;                                     /* HATTN_CUDA_MMA ... */
    int32_t block_heads, dense_block_heads; /* query heads of one attend block: of a selection's, of a KV head's */
    int32_t attend_shared;                  /* bytes of dynamic shared memory of an attend block */
    int32_t has_dependent_launch;           /* compiled for sm_90: kernels may start while the one before them ends */
    /* A decode by regions (regions.cuh); otherwise it is composed of the separate calls. */
    int32_t by_regions;
    int32_t wave_rows, wave_heads;       /* of a wave: some rows with all selection heads, or some heads of a row */
    int32_t code_words, has_loose_codes; /* of the score kernel: see code_reader.cuh */
    int32_t plane_blocks;                /* pairs of planes that weights can need: 1, 2 or, keyed, 4 */
    int32_t is_keyed;                    /* scores are not levels: always sampled, candidates' keys are listed, too */
    int32_t selected; /* positions that a row's regions are selected by: k, or with candidates most_listed */
    int32_t num_levels, row_size; /* the largest level, and the same rounded up to 8 */
    int32_t range_unit;           /* keys that a warp's range is a multiple of: a power of two */
    int32_t sample_size;          /* keys of a sample */
    uint32_t list_entries;        /* of all candidates' lists together */
    int32_t encodes_in_score;     /* each score block encodes its own query; 0: a kernel before it does */
    uint64_t weights, scores;     /* offsets in the workspace, behind the control region */
    union {
        uint64_t keys;  /* keyed */
        uint64_t steps; /* with a floor or a tail, which are never keyed */
    };
    uint64_t rows;
    uint64_t floor_tau;                                  /* core/floor.h */
    uint64_t tail_totals;                                /* of attention with a tail: attend/mean_tail.cuh */
    uint64_t tail_out, tail_lse, tail_sums, tail_shares; /* where it has none of its own: attend/tail.cu */
    hattn_cuda_skip skip;
    uint64_t topk_states, topk_counts; /* over the same memory: see kernels_cuda/select/topk_split.cuh */
    /* With candidates, of the top-k call over the same memory: positions, how many, scores, their largest ones, p, what is kept, O (select/head_choice.cuh). */
    uint64_t listed, num_listed, head_scores, head_tops, head_keys, head_ranks, outside;
    int32_t most_listed; /* candidates and forced positions of a row; of a row of scores, a multiple of 8: */
    int32_t most_scored;
    int32_t scored_parts;  /* of a row of scores, which have a largest one each */
    int32_t choice_shared; /* bytes of dynamic shared memory of a block that chooses; 0: it works in the workspace */
    int32_t choice_levels; /* entries of a head's table by distance, which is at most 2 less */
    int32_t makes_heads;   /* of a decode's launch: blocks that score make heads' weights, too; 0: a kernel does */
    /* Of a decode by regions with candidates, or where not all values are read, what its later kernels take and the caller does not ask for: compact. */
    uint64_t own_indices, own_counts, own_shares, own_rests, own_head_weights, own_head_steps;
    uint64_t workspace_size;
    hattn_cuda_divisor splits, dense_splits, token_splits, dense_heads /* dense_group */;
    int32_t most_splits, most_parts;   /* shares of a selection; shares in all that there is room for */
    uint32_t k_stride[2], v_stride[2]; /* of pages and slots in 16 bytes, but for the plain engine */
    hattn_wide_layout wide;            /* of the wide engine; a launch's own */
} hattn_cuda_params;

enum { HATTN_CUDA_SKIP_PIECE = 64, HATTN_CUDA_SKIP_SPLITS = 32 };

/* Blocks that share a selection where values are skipped: two a multiprocessor in all, which run together. */
static inline int32_t hattn_cuda_skip_splits(const hattn_cuda_params *params, int32_t num_rows)
{
    const int64_t tasks = (int64_t)num_rows * params->problem.num_selection_heads,
                  wanted = 2 * (int64_t)params->num_multiprocessors / tasks;
    const int32_t pieces = (params->skip.kept + HATTN_CUDA_SKIP_PIECE - 1) / HATTN_CUDA_SKIP_PIECE,
                  most = pieces < HATTN_CUDA_SKIP_SPLITS ? pieces : HATTN_CUDA_SKIP_SPLITS;
    return wanted < 1 ? 1 : wanted < most ? (int32_t)wanted : most;
}

#endif
