/* SPDX-License-Identifier: Apache-2.0 */
#include "api/validate.h"

#include <math.h>
#include <stdbool.h>

#include "core/status.h"

#define REFUSE_IF(condition, status, ...)                  \
    do {                                                   \
        if (condition)                                     \
            return hattn_fail(error, status, __VA_ARGS__); \
    } while (0)
#define INVALID_IF(condition, ...) REFUSE_IF(condition, HATTN_INVALID_ARGUMENT, __VA_ARGS__)
#define UNSUPPORTED_IF(condition, ...) REFUSE_IF(condition, HATTN_UNSUPPORTED, __VA_ARGS__)

/* Far beyond any memory; keeps offsets, and sums of them, inside int64. */
#define MAX_STRIDE ((int64_t)1 << 46)
#define MAX_SPAN ((int64_t)1 << 60)

/* Values of a sum below 2^40 each (hattn_sum_values), so that it is below 2^62. */
#define MAX_SUMMED (1 << 22)

/* Of scores per query head, so that what is made of them fits its integers. */
#define MOST_CANDIDATES (1 << 20)
#define MOST_HEADS 64

static hattn_status check_heads(const hattn_problem *p, hattn_error *error)
{
    INVALID_IF(p->num_kv_heads < 1 || p->num_kv_heads > 4096, "num_kv_heads is %d: it must be 1..4096",
               p->num_kv_heads);
    INVALID_IF(p->num_q_heads < 1 || p->num_q_heads % p->num_kv_heads,
               "num_q_heads is %d: it must be a multiple of num_kv_heads (%d)", p->num_q_heads, p->num_kv_heads);
    UNSUPPORTED_IF(p->num_q_heads / p->num_kv_heads > 128, "num_q_heads / num_kv_heads is %d: at most 128",
                   p->num_q_heads / p->num_kv_heads);
    INVALID_IF(p->num_code_heads != p->num_kv_heads && p->num_code_heads != p->num_q_heads,
               "num_code_heads is %d: it must be num_kv_heads or num_q_heads", p->num_code_heads);
    INVALID_IF(p->num_selection_heads != p->num_kv_heads && p->num_selection_heads != p->num_q_heads,
               "num_selection_heads is %d: it must be num_kv_heads or num_q_heads", p->num_selection_heads);
    UNSUPPORTED_IF(
        p->num_code_heads > p->num_selection_heads,
        "num_code_heads is %d with num_selection_heads %d: codes per query head need selections per query head",
        p->num_code_heads, p->num_selection_heads);
    return HATTN_OK;
}

static hattn_status check_dim(const char *name, int32_t dim, int32_t low, int32_t high, hattn_error *error)
{
    UNSUPPORTED_IF(dim < low || dim > high || dim % 8, "%s is %d: it must be %d..%d in steps of 8", name, dim, low,
                   high);
    return HATTN_OK;
}

static hattn_status check_shapes(const hattn_problem *p, hattn_error *error)
{
    hattn_status status;
    if ((status = check_dim("head_dim_qk", p->head_dim_qk, 32, 576, error)) ||
        (status = check_dim("head_dim_v", p->head_dim_v, 32, 576, error)) ||
        (status = check_dim("code_bits", p->code_bits, 32, 512, error)))
        return status;
    UNSUPPORTED_IF(p->code_layout != HATTN_CODE_LAYOUT_KEY_MAJOR,
                   "code_layout is %d: only HATTN_CODE_LAYOUT_KEY_MAJOR (0)", p->code_layout);
    UNSUPPORTED_IF(
        p->sliding_window,
        "sliding_window is %d: windows are refused; a layer with a window reads few keys, attend to them densely",
        p->sliding_window);
    INVALID_IF(p->page_size < 0, "page_size is %d: it must be 0 (contiguous) or more", p->page_size);
    INVALID_IF(p->max_sequences < 1, "max_sequences is %d: it must be at least 1", p->max_sequences);
    INVALID_IF(p->max_rows < 1, "max_rows is %d: it must be at least 1", p->max_rows);
    UNSUPPORTED_IF(p->max_q_len < 1 || p->max_q_len > 8, "max_q_len is %d: it must be 1..8", p->max_q_len);
    INVALID_IF(p->max_length < 1 || p->max_length > 1 << 30, "max_length is %d: it must be 1..2^30", p->max_length);
    INVALID_IF(p->k < 1 || p->k > 1 << 30, "k is %d: it must be 1..2^30", p->k);
    INVALID_IF(p->num_sink < 0, "num_sink is %d: it must be 0 or more", p->num_sink);
    INVALID_IF(p->num_recent < 0, "num_recent is %d: it must be 0 or more", p->num_recent);
    INVALID_IF((int64_t)p->num_sink + p->num_recent > p->k,
               "num_sink + num_recent is %lld: forced tokens count toward k (%d)",
               (long long)p->num_sink + p->num_recent, p->k);
    INVALID_IF(!isfinite(p->scale), "scale is not finite");
    INVALID_IF(!isfinite(p->soft_cap) || p->soft_cap < 0, "soft_cap is %g: it must be finite and 0 (none) or more",
               (double)p->soft_cap);
    INVALID_IF(p->key_norms != 0 && p->key_norms != 1, "key_norms is %d: it must be 0 or 1", p->key_norms);
    INVALID_IF(!(p->min_probability >= 0 && p->min_probability < 1),
               "min_probability is %g: it must be at least 0 and below 1", (double)p->min_probability);
    INVALID_IF(p->min_k < 0 || p->min_k > p->k, "min_k is %d: it must be 0..k (%d)", p->min_k, p->k);
    INVALID_IF(p->min_k && p->min_probability == 0, "min_k is %d: without min_probability there is no floor", p->min_k);
    UNSUPPORTED_IF(p->min_probability > 0 && p->key_norms,
                   "min_probability is %g with key_norms: scores with norms are no probabilities",
                   (double)p->min_probability);
    INVALID_IF(!(p->tail >= 0 && p->tail <= 1), "tail is %g: it must be 0 (none) to 1", (double)p->tail);
    UNSUPPORTED_IF(p->tail > 0 && p->key_norms, "tail is %g with key_norms: scores with norms are no probabilities",
                   (double)p->tail);
    UNSUPPORTED_IF(p->tail > 0 && p->max_length > MAX_SUMMED, "tail is %g with max_length %d: sums are of 2^22 values",
                   (double)p->tail, p->max_length);
    INVALID_IF(!(p->min_value_weight >= 0 && p->min_value_weight < 1),
               "min_value_weight is %g: it must be at least 0 and below 1", (double)p->min_value_weight);
    INVALID_IF(p->min_value_weight > 0 && p->tail == 0,
               "min_value_weight is %g: without a tail there is no mean for values that are not read",
               (double)p->min_value_weight);
    INVALID_IF(p->per_head_kv_scales != 0 && p->per_head_kv_scales != 1, "per_head_kv_scales is %d: it must be 0 or 1",
               p->per_head_kv_scales);
    if (p->num_candidates) {
        INVALID_IF(p->num_candidates < p->k || p->num_candidates > MOST_CANDIDATES,
                   "num_candidates is %d: it must be 0 (none), or k (%d) to 2^20", p->num_candidates, p->k);
        UNSUPPORTED_IF(p->key_norms || p->score_kind != HATTN_SCORE_WEIGHTED,
                       "num_candidates is %d: query heads have weighted scores without key_norms", p->num_candidates);
        UNSUPPORTED_IF(p->num_q_heads / p->num_selection_heads > MOST_HEADS,
                       "num_candidates is %d with %d query heads of a selection: at most %d", p->num_candidates,
                       p->num_q_heads / p->num_selection_heads, MOST_HEADS);
    }
    INVALID_IF(p->key_map.reserved || p->query_map.reserved, "reserved fields must be 0");
    return HATTN_OK;
}

static hattn_status check_map(const hattn_problem *p, const char *name, const hattn_map *map, hattn_error *error)
{
    bool mlp = p->map_kind == HATTN_MAP_MLP;
    INVALID_IF(map->dtype != HATTN_F32 && map->dtype != HATTN_F16 && map->dtype != HATTN_BF16,
               "%s.dtype is %d: it must be F32, F16 or BF16", name, map->dtype);
    int64_t outputs[3] = {mlp ? map->hidden[0] : p->code_bits, map->hidden[1], p->code_bits};
    for (int i = 0; i < 2; i++) {
        INVALID_IF(!mlp && map->hidden[i], "%s.hidden[%d] is %d: a linear map has none", name, i, map->hidden[i]);
        UNSUPPORTED_IF(mlp && (map->hidden[i] < 8 || map->hidden[i] > 1024 || map->hidden[i] % 8),
                       "%s.hidden[%d] is %d: it must be 8..1024 in steps of 8", name, i, map->hidden[i]);
    }
    for (int layer = 0; layer < (mlp ? 3 : 1); layer++) {
        int64_t head = map->weight_stride[layer][0], input = map->weight_stride[layer][1];
        INVALID_IF(head < 0 || head > MAX_STRIDE, "%s.weight_stride[%d] {head} is %lld: it must be 0..2^46", name,
                   layer, (long long)head);
        INVALID_IF(input < outputs[layer] || input > MAX_STRIDE,
                   "%s.weight_stride[%d] {input} is %lld: it must be at least the layer's outputs (%lld)", name, layer,
                   (long long)input, (long long)outputs[layer]);
        INVALID_IF(map->bias_stride[layer] < 0 || map->bias_stride[layer] > MAX_STRIDE,
                   "%s.bias_stride[%d] is %lld: it must be 0..2^46", name, layer, (long long)map->bias_stride[layer]);
    }
    return HATTN_OK;
}

static hattn_status check_maps(const hattn_problem *p, hattn_error *error)
{
    UNSUPPORTED_IF(p->map_kind != HATTN_MAP_LINEAR && p->map_kind != HATTN_MAP_MLP,
                   "map_kind is %d: it must be LINEAR or MLP", p->map_kind);
    UNSUPPORTED_IF(p->score_kind != HATTN_SCORE_HAMMING && p->score_kind != HATTN_SCORE_WEIGHTED,
                   "score_kind is %d: it must be HAMMING or WEIGHTED", p->score_kind);
    UNSUPPORTED_IF(p->score_kind == HATTN_SCORE_WEIGHTED && (p->weight_bits < 2 || p->weight_bits > 8),
                   "weight_bits is %d: it must be 2..8", p->weight_bits);
    hattn_status status = check_map(p, "key_map", &p->key_map, error);
    return status ? status : check_map(p, "query_map", &p->query_map, error);
}

/* A tensor's rule: its dtypes (a set of bits), its extents inside one outermost step, and whether it is written. */
typedef struct rule {
    const char *name;
    const hattn_tensor *tensor;
    unsigned dtypes;
    int num_strides;
    int64_t extent[3]; /* of each strided dimension; 0: not known here (pages, parts) */
    int64_t last;      /* extent of the contiguous dimension */
    bool written;
} rule;

/* A set of one; empty for what is no dtype. */
static unsigned bit(int32_t dtype) { return dtype >= HATTN_F32 && dtype <= HATTN_I64 ? 1u << dtype : 0; }

/* Sorted by stride, each step is at least the span of what is inside it. Where an extent is not known there are two at least. */
static bool overlaps(const rule *r)
{
    bool used[3] = {false, false, false};
    int64_t span = r->last;
    for (int n = 0; n < r->num_strides; n++) {
        int next = -1;
        for (int i = 0; i < r->num_strides; i++)
            if (!used[i] && (next < 0 || r->tensor->stride[i] < r->tensor->stride[next]))
                next = i;
        used[next] = true;
        if (r->extent[next] == 1)
            continue;
        int64_t stride = r->tensor->stride[next];
        if (stride < span)
            return true;
        span = stride * (r->extent[next] ? r->extent[next] - 1 : 1) + span;
    }
    return false;
}

static hattn_status check_tensor(const rule *r, hattn_error *error)
{
    const hattn_tensor *t = r->tensor;
    INVALID_IF(!(r->dtypes & bit(t->dtype)), "%s.dtype is %d: not one that this tensor can have", r->name, t->dtype);
    for (int i = 0; i < r->num_strides; i++) {
        INVALID_IF(t->stride[i] < 0 || t->stride[i] > MAX_STRIDE, "%s.stride[%d] is %lld: it must be 0..2^46", r->name,
                   i, (long long)t->stride[i]);
        INVALID_IF(t->stride[i] && r->extent[i] > MAX_SPAN / t->stride[i],
                   "%s.stride[%d] is %lld: the tensor spans more than 2^60 elements", r->name, i,
                   (long long)t->stride[i]);
    }
    INVALID_IF(r->written && overlaps(r), "%s.stride {%lld, %lld, %lld}: elements of an output overlap", r->name,
               (long long)t->stride[0], (long long)t->stride[1], (long long)t->stride[2]);
    return HATTN_OK;
}

static hattn_status check_tensors(const hattn_problem *p, hattn_error *error)
{
    int64_t rows = p->max_rows, Hq = p->num_q_heads, Hkv = p->num_kv_heads, Hc = p->num_code_heads,
            Hs = p->num_selection_heads, Hr = p->num_candidates ? Hq : Hs;
    int64_t slots = p->page_size ? p->page_size : p->max_length, words = (p->code_bits + 31) / 32;
    int64_t pages = p->page_size ? 0 : p->max_sequences;
    unsigned floats = bit(HATTN_F32) | bit(HATTN_F16) | bit(HATTN_BF16), cache = floats | bit(HATTN_F8_E4M3);
    const rule rules[] = {
        {"q", &p->q, floats, 2, {rows, Hq}, p->head_dim_qk, false},
        {"k_cache", &p->k_cache, cache, 3, {pages, slots, Hkv}, p->head_dim_qk, false},
        {"v_cache", &p->v_cache, bit(p->k_cache.dtype), 3, {pages, slots, Hkv}, p->head_dim_v, false},
        {"k_new", &p->k_new, bit(p->k_cache.dtype), 2, {0, Hkv}, p->head_dim_qk, false},
        {"codes", &p->codes, bit(HATTN_U32), 3, {pages, slots, Hc}, words, true},
        {"norms", &p->norms, bit(HATTN_F16), 3, {pages, slots, Hc}, 1, p->key_norms == 1},
        {"weights", &p->weights, bit(HATTN_I8), 2, {rows, Hs}, p->code_bits, true},
        {"scores", &p->scores, bit(p->key_norms ? HATTN_F32 : HATTN_U16), 2, {rows, Hs}, p->max_length, true},
        {"indices", &p->indices, bit(HATTN_I32), 2, {rows, Hs}, p->k, true},
        {"counts", &p->counts, bit(HATTN_I32), 2, {rows, Hs}, 1, true},
        {"out", &p->out, bit(p->q.dtype) | bit(HATTN_F32), 2, {rows, Hq}, p->head_dim_v, true},
        {"lse", &p->lse, bit(HATTN_F32), 2, {rows, Hq}, 1, true},
        {"partial_out", &p->partial_out, bit(HATTN_F32), 3, {0, rows, Hq}, p->head_dim_v, false},
        {"partial_lse", &p->partial_lse, bit(HATTN_F32), 3, {0, rows, Hq}, 1, false},
        {"block_table", &p->block_table, bit(HATTN_I32), 1, {p->max_sequences}, 1, false},
        {"budgets", &p->budgets, bit(HATTN_I32), 2, {p->max_sequences, Hs}, 1, false},
        {"slopes", &p->slopes, bit(HATTN_F32), 1, {Hs}, 1, false},
        {"steps", &p->steps, bit(HATTN_I32), 2, {rows, Hs}, 1, p->min_probability > 0 || p->tail > 0},
        {"shares", &p->shares, bit(HATTN_U32), 2, {rows, Hr}, p->k, p->tail > 0},
        {"rests", &p->rests, bit(HATTN_I64), 2, {rows, Hr}, 1, p->tail > 0},
        {"head_weights", &p->head_weights, bit(HATTN_I8), 2, {rows, Hq}, p->code_bits, p->num_candidates > 0},
        {"head_slopes", &p->head_slopes, bit(HATTN_F32), 1, {Hq}, 1, false},
        {"head_steps", &p->head_steps, bit(HATTN_I32), 2, {rows, Hq}, 1, p->num_candidates > 0},
        {"value_sums", &p->value_sums, bit(HATTN_I64), 2, {0, Hkv}, p->head_dim_v, p->tail > 0},
        {"value_lengths", &p->value_lengths, bit(HATTN_I32), 2, {0, Hkv}, 1, p->tail > 0},
    };
    for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++) {
        hattn_status status = check_tensor(&rules[i], error);
        if (status)
            return status;
        bool may_be_pinned = rules[i].tensor == &p->k_cache || rules[i].tensor == &p->v_cache;
        INVALID_IF(rules[i].tensor->memory != HATTN_MEMORY_DEVICE &&
                       !(may_be_pinned && rules[i].tensor->memory == HATTN_MEMORY_PINNED_HOST),
                   "%s.memory is %d: %s", rules[i].name, rules[i].tensor->memory,
                   may_be_pinned ? "it must be DEVICE or PINNED_HOST"
                                 : "only k_cache and v_cache can be elsewhere than on the device");
    }
    return HATTN_OK;
}

hattn_status hattn_validate_problem(const hattn_problem *problem, hattn_error *error)
{
    hattn_status status;
    if ((status = check_heads(problem, error)) || (status = check_shapes(problem, error)) ||
        (status = check_maps(problem, error)))
        return status;
    return check_tensors(problem, error);
}
