/* SPDX-License-Identifier: Apache-2.0
 * Which encoder of many keys a device has room for: the plan chooses, the kernels' files assert that sizes are these.
 */
#ifndef HATTN_KERNELS_CUDA_ENCODE_KEY_ENCODERS_H
#define HATTN_KERNELS_CUDA_ENCODE_KEY_ENCODERS_H

#include "api/hattn.h"
#include "core/dtype.h"

enum {
    HATTN_MLP_DIMS = 128,      /* of keys, hidden units and bits, at most */
    HATTN_MLP_TOKENS = 64,     /* of a tile */
    HATTN_MLP_PARTS = 3,       /* of which an activation is the sum */
    HATTN_SYSTEM_SHARED = 1024 /* bytes of shared memory that the system takes a block */
};

/* Bytes of shared memory: of tiles of keys of `chunks` times 16 bytes, with codes of `words` and slots; of a block of
 * a linear encoder, whose keys are `steps` times 16 elements of `size` bytes; of a block for MLP maps. Constants
 * where arguments are. */
#define HATTN_KEY_TILES_BYTES(chunks, tokens, words, stages) \
    ((stages) * (tokens) * (chunks)*16 + 2 * (tokens) * (words)*4 + 2 * (stages) * (tokens)*8)
#define HATTN_KEY_ENCODER_BYTES(steps, size, blocks, warps, tokens, stages) \
    (HATTN_KEY_TILES_BYTES((steps) * (size), tokens, (blocks) * (warps) / 4, stages) + (blocks) * (warps)*8 * 4)
#define HATTN_MLP_BYTES(stages)                                                                 \
    (HATTN_KEY_TILES_BYTES(HATTN_MLP_DIMS / 8, HATTN_MLP_TOKENS, HATTN_MLP_DIMS / 32, stages) + \
     HATTN_MLP_PARTS * HATTN_MLP_TOKENS * HATTN_MLP_DIMS * 2 + 3 * HATTN_MLP_DIMS * 4)

/* The row of key_encoders.inc for a linear map, from 0 on; -1: there is no room for any. */
static inline int32_t hattn_choose_key_encoder(const hattn_problem *p, int64_t block_shared,
                                               int64_t multiprocessor_shared)
{
    static const struct {
        int32_t dims, steps, blocks, warps, tokens, f8_tokens, stages, resident;
    } rows[] = {
#define KEY_ENCODER(...) {__VA_ARGS__},
#include "kernels_cuda/encode/key_encoders.inc"
#undef KEY_ENCODER
    };
    const int32_t size = (int32_t)hattn_dtype_size(p->k_new.dtype), count = (int32_t)(sizeof(rows) / sizeof(rows[0]));
    int32_t first = 0, found = -1;
    while (first < count && rows[first].dims < p->head_dim_qk)
        first++;
    for (int32_t row = first; row < count && rows[row].dims == rows[first].dims; row++) {
        const int64_t bytes =
            HATTN_KEY_ENCODER_BYTES(rows[row].steps, size, rows[row].blocks, rows[row].warps,
                                    size == 1 ? rows[row].f8_tokens : rows[row].tokens, rows[row].stages);
        if (bytes > block_shared)
            continue;
        found = row;
        if (multiprocessor_shared / (bytes + HATTN_SYSTEM_SHARED) >= rows[row].resident)
            break;
    }
    return found;
}

/* Stages of the encoder for MLP maps; 0: there is no room for it. */
static inline int32_t hattn_choose_mlp_stages(int64_t block_shared)
{
    return HATTN_MLP_BYTES(3) <= block_shared ? 3 : HATTN_MLP_BYTES(2) <= block_shared ? 2 : 0;
}

#endif
