/* SPDX-License-Identifier: Apache-2.0
 * What a plan fixes for its kernels: which of them, how work is cut into blocks, and the workspace.
 */
#include <stdbool.h>

#include "backends/cuda/cuda.h"
#include "core/dtype.h"
#include "core/floor.h"
#include "core/rows.h"
#include "core/status.h"
#include "core/workspace.h"
#include "kernels_cuda/decode/cut.h"
#include "kernels_cuda/encode/key_encoders.h"

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* The largest score that the problem's weights can give. */
static int64_t max_score(const hattn_problem *p, int group)
{
    const int64_t hamming = group % 2 ? group : group / 2, weighted = (1 << (p->weight_bits - 1)) - 1;
    return p->code_bits * (p->score_kind == HATTN_SCORE_WEIGHTED ? weighted : hamming);
}

static int64_t part_words(const hattn_problem *p, int32_t heads)
{
    return hattn_cuda_part_words(heads, p->head_dim_v, p->tail > 0 ? 4 : 2);
}

/* Blocks that `count` rows of `heads` query heads, one of `tasks`, are split over: two blocks a multiprocessor in
 * all, none with less than 32 rows, no more than `most` parts to join, and no more than there is room for. */
static int32_t num_splits(const hattn_cuda_properties *device, const hattn_problem *p, int64_t tasks, int32_t heads,
                          int64_t count, int64_t most)
{
    if (tasks >= HATTN_CUDA_COUNTERS - HATTN_CUDA_HISTOGRAMS)
        return 1;
    most = smaller(most, HATTN_CUDA_PARTS / (tasks * part_words(p, heads)));
    return (int32_t)larger(1, smaller(smaller(2 * (int64_t)device->num_multiprocessors / tasks, most), count / 32));
}

/* Whether a stride of 16-bit elements is one of 16 bytes, as 32 bits count them. */
static int is_in_chunks(int64_t stride) { return stride % 8 == 0 && stride / 8 <= UINT32_MAX; }

/* Whether queries can be encoded on tensor cores: see sum_query_mma in kernels_cuda/encode/encode_query.cuh. */
static int encodes_by_mma(const hattn_problem *p)
{
    const hattn_map *map = &p->query_map;
    return p->map_kind == HATTN_MAP_LINEAR && p->q.dtype != HATTN_F32 && p->q.dtype == map->dtype &&
           p->head_dim_qk % 16 == 0 && p->code_bits % 32 == 0 && is_in_chunks(p->q.stride[0]) &&
           is_in_chunks(p->q.stride[1]) && map->weight_stride[0][0] % 8 == 0 && is_in_chunks(map->weight_stride[0][1]);
}

/* Of pages and slots, in bytes. */
static int has_short_strides(const hattn_problem *p, const hattn_tensor *of_keys, int64_t size)
{
    return of_keys->stride[1] * size <= UINT32_MAX && (!p->page_size || of_keys->stride[0] * size <= UINT32_MAX);
}

/* Whether a decode can go by regions: see kernels_cuda/decode/regions.cuh. Positions and strides have 32 bits there. */
static int fits_regions(const hattn_problem *p)
{
    return p->max_length <= 1 << 30 && has_short_strides(p, &p->codes, 4) &&
           (!p->key_norms || has_short_strides(p, &p->norms, 2));
}

/* Whether codes can be loaded 16 bytes at a time: whole keys of 1, 2 or 4 words, or parts of longer ones. */
static int has_packed_codes(const hattn_problem *p, int64_t words)
{
    const int64_t per_load = words < 4 ? 4 / words : 1, slots = p->page_size ? p->page_size : p->max_length;
    return (words & (words - 1)) == 0 && slots % per_load == 0 && (per_load == 1 || p->codes.stride[1] == words) &&
           p->codes.stride[0] % 4 == 0 && p->codes.stride[1] % (words < 4 ? words : 4) == 0 &&
           p->codes.stride[2] % 4 == 0;
}

static void choose_codes(const hattn_problem *p, hattn_cuda_params *params)
{
    const int32_t words = (p->code_bits + 31) / 32;
    const int is_packed = has_packed_codes(p, words);
    params->has_loose_codes = !is_packed;
    params->code_words = 0;
#define CODE_WIDTH(width, is_loose, kernel)                                                             \
    if (!params->code_words && is_loose == !is_packed && (is_packed ? words == width : words <= width)) \
        params->code_words = width;
#include "kernels_cuda/code_widths.inc"
#undef CODE_WIDTH
    if (!params->code_words)
        return;
    const int64_t step = (params->code_words < 4 ? 512 : 1024) / params->code_words;
    params->range_unit = (int32_t)larger(step, 256);
    params->sample_size = (int32_t)(HATTN_CUDA_WARPS * step / (params->code_words < 16 ? 2 : 1));
}

/* Whether the engine has tails of its own. */
static int has_tails(const hattn_cuda_params *params)
{
#define FLOOR_ENGINE(number, types, floor, tail, attend) \
    if (params->engine == number)                        \
        return 1;
#include "kernels_cuda/floors.inc"
#undef FLOOR_ENGINE
    return 0;
}

/* Whether there are kernels for a floor of probability, or a tail. */
static int has_floor(const hattn_cuda_params *params)
{
    const hattn_problem *p = &params->problem;
    const int has_engine =
        p->num_candidates || p->min_value_weight > 0 || has_tails(params); /* or attention has a list */
    int has_width = 0;
#define FLOOR_WIDTH(words, is_loose, kernel) \
    has_width |= params->code_words == words && params->has_loose_codes == is_loose;
#include "kernels_cuda/floors.inc"
#undef FLOOR_WIDTH
    return has_engine && has_width && !params->is_keyed;
}

static int64_t round_up(int64_t a, int64_t unit) { return divide_up(a, unit) * unit; }

/* Ranges of a decode, its lists and rows (cut.h), and the chunks of the score call. */
static void cut_decode(int64_t tasks, hattn_cuda_params *params, uint64_t *used)
{
    const hattn_problem *p = &params->problem;
    const int64_t unit = (int64_t)params->range_unit * HATTN_CUDA_WARPS,
                  units = divide_up(hattn_cuda_units(params), hattn_cuda_pieces(params, tasks));
    params->score_chunk = (int32_t)(units * unit);
    params->num_score_chunks = (int32_t)divide_up(p->max_length, params->score_chunk);

    /* Few rows are scored as a whole, many are sampled: the same memory is for either. */
    int64_t scored = tasks;
    while (scored && hattn_cuda_is_sampled(params, scored))
        scored--;
    const int64_t row = (int64_t)params->row_size * (int64_t)sizeof(uint16_t),
                  scored_keys = scored ? hattn_cuda_scored_units(params, scored) * unit : 0;
    int64_t lists = scored_keys * (int64_t)sizeof(uint16_t), rows = scored_keys / params->range_unit * row, keys = 0;
    if (hattn_cuda_is_sampled(params, tasks)) {
        enum { USUAL_LISTS = 8 << 20 /* entries */ };
        const int64_t pieces = hattn_cuda_most_pieces(params, tasks);
        /* Of a piece: short rows are listed as a whole, others as 2.5 k or so; and what scoring anew needs. */
        int64_t least = larger(larger(4 * (int64_t)params->sample_size, 4 * (int64_t)params->selected),
                               HATTN_CUDA_RESCORE_BINS + 2 * HATTN_CUDA_RESCORE_CHUNKS + (int64_t)params->selected);
        if (params->is_keyed)
            least = larger(least, 3 * HATTN_CUDA_RESCORE_BINS);
        const int64_t entries =
            larger(pieces * round_up(least, 64), smaller(hattn_cuda_scored_units(params, tasks) * unit, USUAL_LISTS));
        params->list_entries = (uint32_t)smaller(entries, UINT32_MAX);
        lists = larger(lists, entries * (int64_t)sizeof(uint32_t));
        rows = larger(rows, pieces * HATTN_CUDA_WARPS * row);
        keys = params->is_keyed ? entries * (int64_t)sizeof(uint32_t) : 0;
    }
    params->scores = hattn_carve(used, (uint64_t)lists);
    params->keys = hattn_carve(used, (uint64_t)keys);
    params->rows = hattn_carve(used, (uint64_t)rows);
}

/* Whether many keys can be encoded on tensor cores: see kernels_cuda/encode/encode_keys_mma.cuh and
 * encode_keys_mlp.cuh. */
static int encodes_keys_by_mma(const hattn_problem *p)
{
    const hattn_map *map = &p->key_map;
    const int is_mlp = p->map_kind == HATTN_MAP_MLP, is_fp8 = p->k_new.dtype == HATTN_F8_E4M3,
              chunk = is_fp8 ? 16 : 8; /* elements of 16 bytes */
    if (is_mlp &&
        (is_fp8 || p->head_dim_qk > 128 || map->hidden[0] > 128 || map->hidden[1] > 128 || p->code_bits > 128))
        return 0;
    for (int layer = 0; layer < (is_mlp ? 3 : 1); layer++)
        if (map->weight_stride[layer][0] % 8 || map->weight_stride[layer][1] % 8)
            return 0;
    return p->k_new.dtype != HATTN_F32 && map->dtype == (is_fp8 ? HATTN_F16 : p->k_new.dtype) &&
           p->head_dim_qk % chunk == 0 && p->k_new.stride[0] % chunk == 0 && p->k_new.stride[1] % chunk == 0;
}

/* Whether the rows' own keys can: see multiply_mma in kernels_cuda/encode/encode.cuh. */
static int appends_by_mma(const hattn_problem *p)
{
    const hattn_map *map = &p->key_map;
    return p->map_kind == HATTN_MAP_LINEAR && p->k_cache.dtype != HATTN_F32 && p->k_cache.dtype == map->dtype &&
           p->head_dim_qk % 16 == 0 && p->code_bits % 64 == 0 && p->k_cache.stride[0] % 8 == 0 &&
           p->k_cache.stride[1] % 8 == 0 && p->k_cache.stride[2] % 8 == 0 && map->weight_stride[0][0] % 8 == 0 &&
           is_in_chunks(map->weight_stride[0][1]);
}

/* Chunks of the stand-alone top-k: about four blocks a multiprocessor in all, of whole tiles. Rows may start between
 * 16-byte steps. */
static void choose_topk(const hattn_cuda_properties *device, hattn_cuda_params *params, uint64_t *used)
{
    const hattn_problem *p = &params->problem;
    const int64_t tasks = (int64_t)p->max_rows * p->num_selection_heads, keys = (int64_t)p->max_length + 7;
    const int64_t tiles = divide_up(keys, HATTN_CUDA_TILE),
                  wanted = smaller(tiles, divide_up(4 * (int64_t)device->num_multiprocessors, tasks));
    if (tasks > HATTN_CUDA_HISTOGRAMS || tiles == 1)
        return;
    params->num_topk_passes = p->key_norms ? 3 : params->digit_shift ? 2 : 1;
    params->topk_chunk = (int32_t)(HATTN_CUDA_TILE * divide_up(tiles, wanted));
    params->num_topk_chunks = (int32_t)divide_up(keys, params->topk_chunk);
    params->topk_states = hattn_carve(used, (uint64_t)tasks * sizeof(hattn_cuda_topk_state));
    params->topk_counts = hattn_carve(used, (uint64_t)(tasks * params->num_topk_chunks * params->num_topk_passes) *
                                                (HATTN_CUDA_BINS + 1) * sizeof(uint32_t));
}

/* Room for candidates of scores per query head. */
static void choose_heads(const hattn_cuda_properties *device, hattn_cuda_params *params, uint64_t *used)
{
    enum { STATIC_SHARED = 24 * 1024 }; /* of select/topk_heads.cu, and the system's own */
    const hattn_problem *p = &params->problem;
    if (!p->num_candidates)
        return;
    params->most_listed = (int32_t)smaller((int64_t)p->num_candidates + p->num_sink + p->num_recent, p->max_length);
    params->selected = params->most_listed;
    params->most_scored = (int32_t)round_up(smaller(p->num_candidates, p->max_length), 8);
    const uint64_t tasks = (uint64_t)p->max_rows * (uint64_t)p->num_selection_heads,
                   scored = tasks * (uint64_t)params->most_scored;
    params->listed = hattn_carve(used, tasks * (uint64_t)params->most_listed * sizeof(int32_t));
    params->num_listed = hattn_carve(used, tasks * sizeof(int32_t));
    params->head_scores = hattn_carve(used, scored * (uint64_t)(params->group + 1) * sizeof(uint16_t));
    params->scored_parts = (int32_t)divide_up(params->most_scored, HATTN_CUDA_SCORED);
    params->head_tops =
        hattn_carve(used, tasks * (uint64_t)(params->group + 1) * (uint64_t)params->scored_parts * sizeof(uint32_t));
    params->head_keys = hattn_carve(used, scored * sizeof(uint32_t));
    params->head_ranks = hattn_carve(used, tasks * (uint64_t)p->k * sizeof(int32_t));
    params->outside = hattn_carve(used, tasks * sizeof(uint64_t));
    /* Scores and p in shared memory, and a table by score for each query head. */
    const int64_t has_tail = p->tail > 0, levels = max_score(p, params->group) + 2,
                  shared = params->most_scored * (4 + 2 * (params->group + has_tail)) + 4 * params->group * levels +
                           4 * p->k;
    params->choice_levels = (int32_t)levels;
    params->choice_shared = shared <= device->block_shared - STATIC_SHARED ? (int32_t)shared : 0;
}

/* Room for what the later kernels of a decode with a list take, whether the caller asks for it or not. */
static void choose_own(hattn_cuda_params *params, int64_t tasks, uint64_t *used)
{
    const hattn_problem *p = &params->problem;
    if (!p->num_candidates && p->min_value_weight == 0)
        return;
    const uint64_t heads = (uint64_t)(tasks * params->group), of_shares = p->num_candidates ? heads : (uint64_t)tasks,
                   k = (uint64_t)p->k;
    params->own_indices = hattn_carve(used, (uint64_t)tasks * k * sizeof(int32_t));
    params->own_counts = hattn_carve(used, (uint64_t)tasks * sizeof(int32_t));
    params->own_shares = hattn_carve(used, p->tail > 0 ? of_shares * k * sizeof(uint32_t) : 0);
    params->own_rests = hattn_carve(used, of_shares * sizeof(int64_t));
    if (!p->num_candidates)
        return;
    params->own_head_weights = hattn_carve(used, heads * (uint64_t)p->code_bits);
    params->own_head_steps = hattn_carve(used, heads * sizeof(int32_t));
}

/* A tail's room, and the blocks that share a selection for one of its own kernels: 64 rows of K each. */
static void choose_tail(hattn_cuda_params *params, uint64_t *used)
{
    const hattn_problem *p = &params->problem;
    if (p->tail == 0)
        return;
    const uint64_t rows = (uint64_t)p->max_rows, heads = rows * (uint64_t)p->num_q_heads,
                   of_shares = rows * (uint64_t)hattn_heads_of_shares(p);
    enum { PAIR = 2 * sizeof(uint64_t) };
    params->tail_totals = hattn_carve(used, of_shares * PAIR);
    if (has_tails(params))
        return;
    params->num_tail_splits = (int32_t)smaller(32, divide_up(smaller(p->k, p->max_length), 64));
    const uint64_t splits = (uint64_t)params->num_tail_splits;
    params->tail_out = hattn_carve(used, heads * (uint64_t)p->head_dim_v * sizeof(float));
    params->tail_lse = hattn_carve(used, heads * sizeof(float));
    params->tail_sums = hattn_carve(used, heads * splits * 2 * sizeof(float));
    params->tail_shares = hattn_carve(used, of_shares * splits * PAIR);
}

static void choose_skip(hattn_cuda_params *params, uint64_t *used)
{
    const hattn_problem *p = &params->problem;
    hattn_cuda_skip *skip = &params->skip;
    if (p->min_value_weight == 0)
        return;
    skip->kept = (int32_t)smaller(p->k, p->max_length);
    const uint64_t tasks = (uint64_t)p->max_rows * (uint64_t)p->num_selection_heads,
                   heads = tasks * (uint64_t)params->group, kept = (uint64_t)skip->kept;
    /* As many parts as blocks are wanted, and one of each task more, or all that there may be. */
    const uint64_t parts = (uint64_t)smaller((int64_t)tasks * HATTN_CUDA_SKIP_SPLITS,
                                             (int64_t)tasks + 2 * (int64_t)params->num_multiprocessors) *
                           (uint64_t)params->group;
    skip->logits = hattn_carve(used, heads * kept * sizeof(float));
    skip->sums = hattn_carve(used, parts * 4 * sizeof(float));
    skip->left = hattn_carve(used, parts * sizeof(float));
    skip->parts = hattn_carve(used, parts * (uint64_t)p->head_dim_v * sizeof(float));
}

/* Tokens of a sequence that share K and V in dense attention, where a block of tensor cores has places for more heads
 * than one token has. */
static void choose_tokens(const hattn_cuda_properties *device, const hattn_problem *p, hattn_cuda_params *params)
{
    const int is_mma = params->engine == HATTN_CUDA_MMA || params->engine == HATTN_CUDA_MMA_BYTES;
    params->dense_tokens = is_mma && p->max_rows > p->max_sequences && params->dense_group <= HATTN_CUDA_TOKEN_HEADS / 2
                               ? HATTN_CUDA_TOKEN_HEADS / params->dense_group
                               : 1;
    params->dense_heads = hattn_cuda_make_divisor((uint32_t)params->dense_group);
    /* A part has a place for each row: sequences may have one. */
    const int64_t rows = (int64_t)p->max_rows * p->num_kv_heads,
                  tasks = divide_up(p->max_rows, params->dense_tokens) * p->num_kv_heads;
    const int32_t heads = params->dense_tokens * params->dense_group;
    const int64_t room = HATTN_CUDA_PARTS / (rows * part_words(p, heads));
    params->num_token_splits = rows >= HATTN_CUDA_COUNTERS - HATTN_CUDA_HISTOGRAMS
                                   ? 1
                                   : num_splits(device, p, tasks, heads, p->max_length, smaller(64, room));
    params->token_splits = hattn_cuda_make_divisor((uint32_t)params->num_token_splits);
}

void hattn_cuda_choose(const hattn_cuda_properties *device, const hattn_problem *p, hattn_cuda_params *params)
{
    const int64_t rows = p->max_rows, tasks = rows * p->num_selection_heads;
    params->problem = *p;
    params->floor_tau = hattn_floor_tau(p->min_probability);
    params->page_size = hattn_cuda_make_divisor(p->page_size ? (uint32_t)p->page_size : 1);
    params->heads_per_code = hattn_cuda_make_divisor((uint32_t)(p->num_selection_heads / p->num_code_heads));
    params->v_dim = hattn_cuda_make_divisor((uint32_t)p->head_dim_v);
    params->group = p->num_q_heads / p->num_selection_heads;
    params->dense_group = p->num_q_heads / p->num_kv_heads;
    params->num_multiprocessors = device->num_multiprocessors;
    hattn_cuda_choose_attention(device, p, params);
    params->encodes_by_mma = encodes_by_mma(p);
    params->multiprocessor_shared = device->multiprocessor_shared;
    params->key_encoder = p->map_kind == HATTN_MAP_MLP
                              ? hattn_choose_mlp_stages(device->block_shared)
                              : hattn_choose_key_encoder(p, device->block_shared, device->multiprocessor_shared);
    params->encodes_keys_by_mma =
        encodes_keys_by_mma(p) && params->key_encoder >= (p->map_kind == HATTN_MAP_MLP ? 2 : 0);
    params->appends_by_mma = appends_by_mma(p);
    params->selected = p->k;
    uint64_t used = 0;
    hattn_carve(&used, sizeof(hattn_cuda_head));
    choose_heads(device, params, &used);
    uint64_t topk = used;

    const int64_t levels = max_score(p, params->group);
    params->digit_shift = levels < HATTN_CUDA_BINS ? 0 : 5;
    params->num_bins = params->digit_shift || p->key_norms ? HATTN_CUDA_BINS : (int32_t)levels + 1;
    choose_codes(p, params);
    params->by_regions = fits_regions(p) && params->code_words;
    int64_t wave_tasks = 0;
    if (params->by_regions) {
        const int64_t weight = levels / p->code_bits;
        params->plane_blocks = weight < 4 ? 1 : weight < 16 ? 2 : 4;
        params->is_keyed = p->key_norms || levels > HATTN_CUDA_LEVELS || params->plane_blocks == 4;
        params->num_levels = params->is_keyed ? HATTN_CUDA_KEYED_LEVELS : (int32_t)levels;
        params->row_size = (int32_t)round_up(params->num_levels, 8);
        const int64_t most = smaller(HATTN_CUDA_WAVE, (int64_t)HATTN_CUDA_HISTOGRAMS * HATTN_CUDA_BINS /
                                                          hattn_cuda_histogram_words(params));
        params->wave_heads = (int32_t)smaller(p->num_selection_heads, most);
        params->wave_rows = (int32_t)smaller(rows, most / params->wave_heads);
        wave_tasks = (int64_t)params->wave_rows * params->wave_heads;
        params->by_regions = hattn_cuda_most_pieces(params, wave_tasks) <= UINT16_MAX && /* places have 32 bits */
                             (!hattn_has_shares(p) || has_floor(params)) && !(p->num_candidates && params->is_keyed);
    }
    if (params->by_regions) {
        params->weights = hattn_carve(&used, (uint64_t)(tasks * p->code_bits));
        cut_decode(wave_tasks, params, &used);
        if (hattn_has_shares(p))
            params->steps = hattn_carve(&used, (uint64_t)tasks * sizeof(int32_t));
        choose_own(params, tasks, &used);
        /* Every score block reads the map: it must be small beside the codes that it scores, or few bytes in all. */
        enum { SMALL_MAP = 64 * 1024, MAP_READS = 8 << 20 };
        const int64_t map_bytes = (int64_t)p->head_dim_qk * p->code_bits * 2;
        params->encodes_in_score =
            params->encodes_by_mma && params->group <= 16 &&
            (map_bytes <= SMALL_MAP || wave_tasks * params->num_score_chunks * map_bytes <= MAP_READS);
    } else {
        /* About four blocks a multiprocessor. */
        const int64_t tiles = divide_up(p->max_length, 2048),
                      wanted = smaller(tiles, divide_up(4 * (int64_t)device->num_multiprocessors, tasks));
        params->score_chunk = (int32_t)(2048 * divide_up(tiles, wanted));
        params->num_score_chunks = (int32_t)divide_up(p->max_length, params->score_chunk);
    }

    /* Parts of many heads and dims are more bytes than the rows that they come from. */
    enum { LARGE_PART = 4096 /* floats */ };
    const int32_t heads = (int32_t)smaller(params->group, params->block_heads),
                  dense_heads = (int32_t)smaller(params->dense_group, params->dense_block_heads);
    params->num_splits =
        num_splits(device, p, rows * (p->num_q_heads / params->group) * divide_up(params->group, heads), heads,
                   smaller(p->k, p->max_length), heads * p->head_dim_v > LARGE_PART ? 16 : 32);
    params->num_dense_splits =
        num_splits(device, p, rows * p->num_kv_heads * divide_up(params->dense_group, dense_heads), dense_heads,
                   p->max_length, 64);
    choose_tokens(device, p, params);
    params->splits = hattn_cuda_make_divisor((uint32_t)params->num_splits);
    params->most_splits = heads * p->head_dim_v > LARGE_PART ? 16 : 32;
    params->most_splits = (int32_t)larger(1, smaller(params->most_splits, smaller(p->k, p->max_length) / 32));
    params->most_parts = (int32_t)(HATTN_CUDA_PARTS / part_words(p, heads));
    params->dense_splits = hattn_cuda_make_divisor((uint32_t)params->num_dense_splits);

    choose_topk(device, params, &topk);
    choose_tail(params, &used);
    choose_skip(params, &used);
    params->workspace_size = (uint64_t)larger((int64_t)used, (int64_t)topk);
}

hattn_status hattn_cuda_check(const char *name, const hattn_cuda_properties *device, const hattn_cuda_params *params,
                              hattn_error *error)
{
    const hattn_problem *p = &params->problem;
    const int64_t tasks = (int64_t)p->max_rows * p->num_q_heads;
    if (p->num_q_heads > 65535)
        return hattn_fail(error, HATTN_UNSUPPORTED, "%s: num_q_heads is %d: a grid has at most 65535", name,
                          p->num_q_heads);
    if (tasks * larger(params->num_score_chunks, larger(params->num_splits, params->num_dense_splits)) >
        device->most_blocks)
        return hattn_fail(error, HATTN_UNSUPPORTED,
                          "%s: max_rows %d * num_q_heads %d * max_length %d needs more than %lld blocks", name,
                          p->max_rows, p->num_q_heads, p->max_length, (long long)device->most_blocks);
    return HATTN_OK;
}
