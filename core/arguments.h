/* SPDX-License-Identifier: Apache-2.0
 * For the C++ programs around the library: the arguments of every call out of one set of buffers.
 */
#ifndef HATTN_CORE_ARGUMENTS_H
#define HATTN_CORE_ARGUMENTS_H

#include "api/hattn.h"
#include "core/sized.h"

/* A buffer for each tensor of a problem, null where there is none. What one call writes the next one reads. */
struct Arguments {
    hattn_batch batch = {};
    int32_t num_tokens = 0, num_parts = 0;
    hattn_buffer q = {}, k_new = {}, k_cache = {}, v_cache = {}, codes = {}, norms = {}, weights = {}, scores = {};
    hattn_buffer indices = {}, counts = {}, out = {}, lse = {}, partial_out = {}, partial_lse = {};
    hattn_buffer slot_mapping = {}, budgets = {}, slopes = {}, steps = {}, k_scale = {}, v_scale = {}, sink_logits = {};
    hattn_buffer shares = {}, rests = {}, value_sums = {}, value_lengths = {}, value_slots = {};
    hattn_buffer head_weights = {}, head_slopes = {}, head_steps = {};
    hattn_map_buffers key_map = {}, query_map = {};

    hattn_encode_keys_args encode_keys_args() const
    {
        auto args = sized<hattn_encode_keys_args>();
        args.num_tokens = num_tokens;
        args.k_new = k_new;
        args.k_scale = k_scale;
        args.key_map = key_map;
        args.slot_mapping = slot_mapping;
        args.codes = codes;
        args.norms = norms;
        return args;
    }

    hattn_encode_queries_args encode_queries_args() const
    {
        auto args = sized<hattn_encode_queries_args>();
        args.num_rows = batch.num_rows;
        args.q = q;
        args.query_map = query_map;
        args.weights = weights;
        args.slopes = slopes;
        args.steps = steps;
        args.head_slopes = head_slopes;
        args.head_weights = head_weights;
        args.head_steps = head_steps;
        return args;
    }

    hattn_score_args score_args() const
    {
        auto args = sized<hattn_score_args>();
        args.batch = batch;
        args.weights = weights;
        args.codes = codes;
        args.norms = norms;
        args.scores = scores;
        return args;
    }

    hattn_topk_args topk_args() const
    {
        auto args = sized<hattn_topk_args>();
        args.batch = batch;
        if (!head_weights.data)
            args.batch.block_table = {};
        args.scores = scores;
        args.budgets = budgets;
        args.indices = indices;
        args.counts = counts;
        args.steps = steps;
        args.shares = shares;
        args.rests = rests;
        if (head_weights.data)
            args.codes = codes;
        args.head_weights = head_weights;
        args.head_steps = head_steps;
        return args;
    }

    /* Not sparse: to every position. */
    hattn_attend_args attend_args(bool sparse) const
    {
        auto args = sized<hattn_attend_args>();
        args.batch = batch;
        args.q = q;
        args.k_cache = k_cache;
        args.v_cache = v_cache;
        args.k_scale = k_scale;
        args.v_scale = v_scale;
        args.sink_logits = sink_logits;
        if (sparse) {
            args.indices = indices;
            args.counts = counts;
            args.shares = shares;
            args.rests = rests;
            args.value_sums = value_sums;
            args.value_lengths = value_lengths;
            args.value_slots = value_slots;
        }
        args.out = out;
        args.lse = lse;
        return args;
    }

    hattn_merge_args merge_args() const
    {
        auto args = sized<hattn_merge_args>();
        args.num_parts = num_parts;
        args.num_rows = batch.num_rows;
        args.partial_out = partial_out;
        args.partial_lse = partial_lse;
        args.out = out;
        args.lse = lse;
        return args;
    }

    hattn_sum_values_args sum_values_args() const
    {
        auto args = sized<hattn_sum_values_args>();
        args.batch = batch;
        args.v_cache = v_cache;
        args.value_sums = value_sums;
        args.value_lengths = value_lengths;
        args.value_slots = value_slots;
        return args;
    }

    hattn_decode_args decode_args(bool append) const
    {
        auto args = sized<hattn_decode_args>();
        args.append = append;
        args.batch = batch;
        args.q = q;
        args.k_cache = k_cache;
        args.v_cache = v_cache;
        args.codes = codes;
        args.norms = norms;
        args.k_scale = k_scale;
        args.v_scale = v_scale;
        args.sink_logits = sink_logits;
        args.budgets = budgets;
        if (append)
            args.key_map = key_map;
        args.query_map = query_map;
        args.out = out;
        args.lse = lse;
        args.weights = weights;
        args.indices = indices;
        args.counts = counts;
        args.slopes = slopes;
        args.steps = steps;
        args.value_sums = value_sums;
        args.value_lengths = value_lengths;
        args.value_slots = value_slots;
        args.head_slopes = head_slopes;
        args.head_weights = head_weights;
        args.head_steps = head_steps;
        return args;
    }
};

#endif
