/* SPDX-License-Identifier: Apache-2.0
 * Random inputs of a whole decode step for the reference's tests. The same shape and seed give the same keys, values
 * and queries wherever they lie, so that two placements of one world can be compared bit by bit.
 */
#ifndef HATTN_TESTS_REFERENCE_WORLD_H
#define HATTN_TESTS_REFERENCE_WORLD_H

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "core/arguments.h"
#include "core/dtype.h"
#include "reference/reference.h"

struct Shape {
    int q_heads = 4, kv_heads = 2, code_heads = 2, selection_heads = 2;
    int d = 16, dv = 16, bits = 64, page_size = 0, sequences = 3, q_len = 1, max_length = 50, k = 8;
    int q_dtype = HATTN_F32, kv_dtype = HATTN_F32, out_dtype = HATTN_F32;
    int score_kind = HATTN_SCORE_HAMMING, weight_bits = 4, norms = 0, sink = 0, recent = 0;
    int per_head_kv_scales = 0, candidates = 0;
    float soft_cap = 0, tail = 0;
    bool spread = false; /* gaps between rows and heads everywhere, caches [page][head][slot] */
    unsigned seed = 1;
};

/* One head, 8 bits, two dimensions, everything fp32 and contiguous. */
inline Shape tiny()
{
    Shape s;
    s.q_heads = s.kv_heads = s.code_heads = s.selection_heads = s.sequences = 1;
    s.d = s.dv = 2;
    s.bits = 8;
    s.max_length = s.k = 4;
    return s;
}

template <typename T>
hattn_buffer buffer(std::vector<T> &v)
{
    return {v.data(), 0};
}

class World
{
public:
    hattn_problem p = {};
    hattn_batch batch = {};
    std::vector<uint8_t> q, k, v, codes, norms, weights, scores, indices, counts, out, lse;
    std::vector<uint8_t> steps, shares, rests, value_sums, value_lengths; /* with a tail; lengths are 0 */
    std::vector<uint8_t> head_weights, head_steps;                        /* with candidates */
    std::vector<float> wk, wq, k_bias, k_scale, v_scale, slopes, head_slopes;
    std::vector<int32_t> block_table, seq_len, q_start;
    int rows;

    explicit World(const Shape &shape) : rows(shape.sequences * shape.q_len), shape_(shape), random_(shape.seed)
    {
        set_problem();
        wk = normal(static_cast<size_t>(p.num_code_heads) * p.head_dim_qk * p.code_bits);
        wq = normal(wk.size());
        k_bias = normal(static_cast<size_t>(p.num_code_heads) * p.code_bits);
        k_scale = {0.5f, 0.75f, 1.25f, 2.0f};
        v_scale = {2.0f, 0.5f, 1.5f, 0.25f};
        slopes.assign(p.num_selection_heads, 0.05f);
        head_slopes.assign(p.num_q_heads, 0.05f);
        for (int b = 0; b < shape.sequences; b++)
            seq_len.push_back(b == 0 ? shape.max_length
                                     : static_cast<int>(random_() % static_cast<unsigned>(shape.max_length + 1)));
        q = filled(static_cast<int64_t>(rows) * p.q.stride[0], shape.q_dtype);
        for (int x = 0; x < rows; x++)
            for (int h = 0; h < p.num_q_heads; h++)
                for (int i = 0; i < p.head_dim_qk; i++)
                    put(q, shape.q_dtype, x * p.q.stride[0] + h * p.q.stride[1] + i);
        place_pages();
        k = filled(num_pages_ * p.k_cache.stride[0], shape.kv_dtype);
        v = filled(num_pages_ * p.v_cache.stride[0], shape.kv_dtype);
        for (int b = 0; b < shape.sequences; b++)
            for (int j = 0; j < shape.max_length; j++)
                for (int g = 0; g < p.num_kv_heads; g++) {
                    for (int i = 0; i < p.head_dim_qk; i++)
                        put(k, shape.kv_dtype, at(p.k_cache, b, j, g) + i);
                    for (int i = 0; i < p.head_dim_v; i++)
                        put(v, shape.kv_dtype, at(p.v_cache, b, j, g) + i);
                }
        codes.assign(num_pages_ * p.codes.stride[0] * 4, 0xaa);
        norms.assign(num_pages_ * p.norms.stride[0] * 2, 0xaa);
        weights.assign(rows * p.weights.stride[0], 0xaa);
        scores.assign(rows * p.scores.stride[0] * hattn_dtype_size(p.scores.dtype), 0xaa);
        indices.assign(rows * p.indices.stride[0] * 4, 0xaa);
        counts.assign(rows * p.counts.stride[0] * 4, 0xaa);
        out.assign(rows * p.out.stride[0] * hattn_dtype_size(p.out.dtype), 0xaa);
        lse.assign(rows * p.lse.stride[0] * 4, 0xaa);
        steps.assign(rows * p.steps.stride[0] * 4, 0xaa);
        shares.assign(rows * p.shares.stride[0] * 4, 0xaa);
        rests.assign(rows * p.rests.stride[0] * 8, 0xaa);
        head_weights.assign(rows * p.head_weights.stride[0], 0xaa);
        head_steps.assign(rows * p.head_steps.stride[0] * 4, 0xaa);
        value_sums.assign(shape.sequences * p.value_sums.stride[0] * 8, 0xaa);
        value_lengths.assign(shape.sequences * p.value_lengths.stride[0] * 4, 0);
        batch.num_sequences = shape.sequences;
        batch.num_rows = rows;
        batch.q_len = shape.q_len;
        batch.seq_len = buffer(seq_len);
        batch.block_table = shape.page_size ? buffer(block_table) : hattn_buffer{};
    }

    /* Where key j is: written here once more, not taken from the reference. */
    int64_t at(const hattn_tensor &t, int64_t b, int64_t j, int64_t head) const
    {
        int64_t page = p.page_size ? block_table[b * p.block_table.stride[0] + j / p.page_size] : b;
        int64_t slot = p.page_size ? j % p.page_size : j;
        return page * t.stride[0] + slot * t.stride[1] + head * t.stride[2];
    }

    int64_t length(int row) const
    {
        int64_t b = row / shape_.q_len, t = row % shape_.q_len;
        return std::clamp<int64_t>(seq_len[b] - shape_.q_len + t + 1, 0, p.max_length);
    }

    bool fp8() const { return shape_.kv_dtype == HATTN_F8_E4M3; }

    Arguments arguments()
    {
        Arguments all;
        all.batch = batch;
        all.q = buffer(q);
        all.k_cache = buffer(k);
        all.v_cache = buffer(v);
        all.codes = buffer(codes);
        all.norms = p.key_norms ? buffer(norms) : hattn_buffer{};
        all.weights = buffer(weights);
        all.scores = buffer(scores);
        all.indices = buffer(indices);
        all.counts = buffer(counts);
        all.out = buffer(out);
        all.lse = buffer(lse);
        all.k_scale = fp8() ? buffer(k_scale) : hattn_buffer{};
        all.v_scale = fp8() ? buffer(v_scale) : hattn_buffer{};
        all.key_map.weight[0] = buffer(wk);
        all.key_map.bias[0] = buffer(k_bias);
        all.query_map.weight[0] = buffer(wq);
        if (p.tail > 0) {
            all.slopes = buffer(slopes);
            all.steps = buffer(steps);
            all.shares = buffer(shares);
            all.rests = buffer(rests);
            all.value_sums = buffer(value_sums);
            all.value_lengths = buffer(value_lengths);
        }
        if (p.num_candidates) {
            all.head_weights = buffer(head_weights);
            all.head_slopes = buffer(head_slopes);
            all.head_steps = buffer(head_steps);
        }
        return all;
    }

    /* Codes of all keys of all sequences: append, as if all were new. */
    void encode_all_keys()
    {
        std::vector<int32_t> starts = {0}, lengths;
        for (int b = 0; b < shape_.sequences; b++) {
            starts.push_back(starts.back() + p.max_length);
            lengths.push_back(p.max_length);
        }
        hattn_decode_args args = arguments().decode_args(true);
        args.batch.q_start = buffer(starts);
        args.batch.seq_len = buffer(lengths);
        hattn_reference_append(&p, &args);
    }

    void encode_queries()
    {
        const hattn_encode_queries_args args = arguments().encode_queries_args();
        hattn_reference_encode_queries(&p, &args);
    }

    void score()
    {
        const hattn_score_args args = arguments().score_args();
        hattn_reference_score(&p, &args);
    }

    void topk(hattn_buffer budgets = {})
    {
        hattn_topk_args args = arguments().topk_args();
        args.budgets = budgets;
        hattn_reference_topk(&p, &args);
    }

    void attend(bool dense, hattn_buffer sink_logits = {})
    {
        hattn_attend_args args = arguments().attend_args(!dense);
        args.sink_logits = sink_logits;
        hattn_reference_attend(&p, &args);
    }

    void sum_values()
    {
        const hattn_sum_values_args args = arguments().sum_values_args();
        hattn_reference_sum_values(&p, &args);
    }

    template <typename T>
    T get(const std::vector<uint8_t> &bytes, int64_t index) const
    {
        T value;
        std::memcpy(&value, &bytes[index * sizeof(T)], sizeof(T));
        return value;
    }

    template <typename T>
    void set(std::vector<uint8_t> &bytes, int64_t index, T value)
    {
        std::memcpy(&bytes[index * sizeof(T)], &value, sizeof(T));
    }

private:
    void set_problem()
    {
        const Shape &s = shape_;
        p.struct_size = sizeof(p);
        p.num_q_heads = s.q_heads;
        p.num_kv_heads = s.kv_heads;
        p.num_code_heads = s.code_heads;
        p.num_selection_heads = s.selection_heads;
        p.head_dim_qk = s.d;
        p.head_dim_v = s.dv;
        p.code_bits = s.bits;
        p.map_kind = HATTN_MAP_LINEAR;
        p.score_kind = s.score_kind;
        p.weight_bits = s.weight_bits;
        p.key_norms = s.norms;
        p.page_size = s.page_size;
        p.max_sequences = s.sequences;
        p.max_rows = rows;
        p.max_q_len = s.q_len;
        p.max_length = s.max_length;
        p.k = s.k;
        p.num_sink = s.sink;
        p.num_recent = s.recent;
        p.scale = 0.25f;
        p.soft_cap = s.soft_cap;
        p.tail = s.tail;
        p.num_candidates = s.candidates;
        p.per_head_kv_scales = s.per_head_kv_scales;
        p.key_map.dtype = p.query_map.dtype = HATTN_F32;
        p.key_map.weight_stride[0][0] = p.query_map.weight_stride[0][0] = static_cast<int64_t>(s.d) * s.bits;
        p.key_map.weight_stride[0][1] = p.query_map.weight_stride[0][1] = s.bits;
        p.key_map.bias_stride[0] = s.bits;
        int words = (s.bits + 31) / 32;
        p.q = flat(s.q_dtype, s.q_heads, s.d);
        p.k_new = flat(s.kv_dtype, s.kv_heads, s.d);
        p.k_cache = cache(s.kv_dtype, s.kv_heads, s.d);
        p.v_cache = cache(s.kv_dtype, s.kv_heads, s.dv);
        p.codes = cache(HATTN_U32, s.code_heads, words);
        p.norms = cache(HATTN_F16, s.code_heads, 1);
        p.weights = flat(HATTN_I8, s.selection_heads, s.bits);
        p.scores = flat(s.norms ? HATTN_F32 : HATTN_U16, s.selection_heads, s.max_length);
        p.indices = flat(HATTN_I32, s.selection_heads, s.k);
        p.counts = flat(HATTN_I32, s.selection_heads, 1);
        p.out = flat(s.out_dtype, s.q_heads, s.dv);
        p.lse = flat(HATTN_F32, s.q_heads, 1);
        p.slopes = {HATTN_F32, HATTN_MEMORY_DEVICE, {1, 0, 0}};
        p.steps = flat(HATTN_I32, s.selection_heads, 1);
        p.shares = flat(HATTN_U32, s.candidates ? s.q_heads : s.selection_heads, s.k);
        p.rests = flat(HATTN_I64, s.candidates ? s.q_heads : s.selection_heads, 1);
        p.head_weights = flat(HATTN_I8, s.q_heads, s.bits);
        p.head_slopes = {HATTN_F32, HATTN_MEMORY_DEVICE, {1, 0, 0}};
        p.head_steps = flat(HATTN_I32, s.q_heads, 1);
        p.value_sums = flat(HATTN_I64, s.kv_heads, s.dv);
        p.value_lengths = flat(HATTN_I32, s.kv_heads, 1);
        p.block_table.dtype = p.budgets.dtype = HATTN_I32;
        p.budgets.stride[0] = s.selection_heads;
        p.budgets.stride[1] = 1;
    }

    hattn_tensor flat(int dtype, int64_t heads, int64_t last) const
    {
        int64_t head = last + (shape_.spread ? 3 : 0);
        return {dtype, HATTN_MEMORY_DEVICE, {heads * head + (shape_.spread ? 5 : 0), head, 0}};
    }

    hattn_tensor cache(int dtype, int64_t heads, int64_t last) const
    {
        int64_t slots = p.page_size ? p.page_size : p.max_length, pad = shape_.spread ? 2 : 0, row = last + pad;
        if (shape_.spread)
            return {dtype, HATTN_MEMORY_DEVICE, {heads * (slots * row + pad) + pad, row, slots * row + pad}};
        return {dtype, HATTN_MEMORY_DEVICE, {slots * heads * last, heads * last, last}};
    }

    std::vector<float> normal(size_t n)
    {
        std::vector<float> values(n);
        for (float &x : values)
            x = normal_(random_);
        return values;
    }

    /* Everything that is not put is NaN, so that a stray read shows. */
    static std::vector<uint8_t> filled(int64_t elements, int dtype)
    {
        return std::vector<uint8_t>(elements * hattn_dtype_size(dtype), 0xff);
    }

    void put(std::vector<uint8_t> &bytes, int dtype, int64_t index)
    {
        if (dtype == HATTN_F8_E4M3) {
            /* Up to 1.875, so that no key rules alone. */
            bytes[index] = static_cast<uint8_t>((random_() & 0x80) | random_() % 0x40);
            return;
        }
        hattn_reference_store(bytes.data(), dtype, index, normal_(random_));
    }

    void place_pages()
    {
        int64_t per_sequence = p.page_size ? (p.max_length + p.page_size - 1) / p.page_size : 1;
        num_pages_ = shape_.sequences * per_sequence;
        if (!p.page_size)
            return;
        p.block_table.stride[0] = per_sequence + 2;
        num_pages_ += 3;
        std::vector<int32_t> pages(num_pages_);
        std::iota(pages.begin(), pages.end(), 0);
        std::mt19937 shuffling(shape_.seed + 1000);
        std::shuffle(pages.begin(), pages.end(), shuffling);
        block_table.assign(shape_.sequences * p.block_table.stride[0], INT32_MAX);
        for (int64_t b = 0; b < shape_.sequences; b++)
            for (int64_t i = 0; i < per_sequence; i++)
                block_table[b * p.block_table.stride[0] + i] = pages[b * per_sequence + i];
    }

    Shape shape_;
    std::mt19937 random_;
    std::normal_distribution<float> normal_;
    int64_t num_pages_ = 0;
};

#endif
