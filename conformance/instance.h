/* SPDX-License-Identifier: Apache-2.0
 * A problem with memory and data: every input of every operation, made from a seed. What must not be read (padding between
 * rows, unused pages, positions past the lengths, budgets of nobody) is poisoned with 0xFF bytes, which are NaN as floats.
 */
#ifndef HATTN_CONFORMANCE_INSTANCE_H
#define HATTN_CONFORMANCE_INSTANCE_H

#include <functional>

#include "conformance/tensor.h"
#include "core/arguments.h"
#include "problems/rng.h"
#include "problems/shape.h"

namespace conformance {

using namespace problems;

/* A tensor of hattn_problem by its field. */
using Field = hattn_tensor hattn_problem::*;

struct Row {
    int sequence; /* -1: padding */
    int position; /* of the row's own key; below 0 or past max_length where the lengths are clamped */
    int length;   /* keys that it sees */
};

struct Map {
    Tensor weight[3], bias[3];
    hattn_map_buffers buffers() const;
};

class Instance
{
public:
    Instance(const Problem &problem, uint64_t seed);

    const Problem problem;
    const uint64_t seed;
    hattn_problem given; /* what plans are made from */
    hattn_problem shape; /* how it is read: strides are the steps that they mean */
    std::vector<Row> rows;
    int num_pages = 0; /* of the pools, unused ones included */

    Tensor q, k_new, k_cache, v_cache, codes, norms; /* v_cache may share k_cache's memory */
    Tensor weights, scores, indices, counts, partial_out, partial_lse;
    Tensor head_weights, head_slopes, head_steps;                 /* with candidates */
    Tensor shares, rests, value_sums, value_lengths, value_slots; /* with a tail */
    Tensor block_table, budgets, slopes, steps, q_start, seq_len, slot_mapping, k_scale, v_scale, sink_logits;
    Map key_map, query_map;

    /* A new tensor for an output, of the extents that a run needs. */
    Tensor output(const std::string &name, Field field, uint8_t fill) const;

    /* Arguments with all inputs, optional ones included, and null outputs. */
    hattn_batch batch() const;
    hattn_encode_keys_args encode_keys_args() const;
    hattn_encode_queries_args encode_queries_args() const;
    hattn_score_args score_args() const;
    hattn_topk_args topk_args() const;
    hattn_attend_args attend_args(bool sparse) const;
    hattn_merge_args merge_args() const;
    hattn_sum_values_args sum_values_args() const;
    hattn_decode_args decode_args(bool append) const;

    bool has_shares() const { return shape.tail > 0 || (shape.min_probability > 0 && !shape.num_candidates); }
    int num_share_heads() const { return shape.num_candidates ? shape.num_q_heads : shape.num_selection_heads; }
    /* Where the values of a sequence and head begin that its state does not have, for a row of so many keys. */
    int first_unsummed(int sequence, int kv_head, int length) const;
    int64_t state_of(int sequence) const { return value_slots ? value_slots.value<int32_t>({sequence}) : sequence; }

    int slots_per_page() const { return shape.page_size ? shape.page_size : shape.max_length; }
    int cached_length(int sequence) const; /* keys that the caches hold: its seq_len, clamped */
    /* Index of key `position` in a cache tensor; [3] is 0. */
    Index cache_index(int sequence, int position, int head) const;
    int kv_head_of_query(int h) const { return h / problem.group; }
    int kv_head_of_code(int c) const
    {
        return static_cast<int>(static_cast<int64_t>(c) * shape.num_kv_heads / shape.num_code_heads);
    }
    int code_head_of_query(int h) const
    {
        return static_cast<int>(static_cast<int64_t>(h) * shape.num_code_heads / shape.num_q_heads);
    }
    int selection_head_of_query(int h) const
    {
        return static_cast<int>(static_cast<int64_t>(h) * shape.num_selection_heads / shape.num_q_heads);
    }
    /* Scale of fp8 values; 1 without. */
    double kv_scale(const Tensor &scale, int kv_head) const;

    /* Inputs are read-only while the library runs. */
    void protect(bool writable) const;

private:
    Arguments inputs() const;
    std::vector<int64_t> extents(Field field) const;
    Tensor make(const std::string &name, Field field) const;
    Tensor make_vector(const std::string &name, int32_t dtype, int64_t n) const;
    Region::Side side(const std::string &name) const;

    void make_batch();
    void make_block_table();
    int shared_length(int sequence) const;
    void make_maps();
    void make_caches();
    void make_codes(Rng &rng);
    void make_weights();
    void make_scores();
    void make_floor();
    void make_tail();
    void make_heads();
    void make_selection();
    void make_parts();
    void make_slot_mapping();

    std::vector<std::vector<int>> pages_; /* of each sequence */
};

/* While it lives, every row of K and V that keep_rows did not keep is NaN. */
class PoisonedCache
{
public:
    PoisonedCache(const Instance &instance, const std::function<void(PoisonedCache *)> &keep_rows);
    ~PoisonedCache();
    PoisonedCache(const PoisonedCache &) = delete;
    PoisonedCache &operator=(const PoisonedCache &) = delete;

    void keep_key(int sequence, int position, int kv_head);
    void keep_value(int sequence, int position, int kv_head);

private:
    void keep(const Tensor &cache, const std::vector<uint8_t> &saved, const Index &index, int64_t length);

    const Instance &instance_;
    std::vector<uint8_t> k_, v_; /* v_ empty where V lies inside K */
};

/* Values that a row's mean is made of beside the state; those that hattn_sum_values reads, and means after it. */
void keep_unsummed(const Instance &instance, int row, PoisonedCache *cache);
void keep_summed(const Instance &instance, PoisonedCache *cache);

} // namespace conformance
#endif
