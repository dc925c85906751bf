/* SPDX-License-Identifier: Apache-2.0
 * Selections of several parts, of up to 2048 tokens, with everything that attention and decode can be asked for beside them.
 */
#include "problems/problem_list.h"

namespace problems {
namespace {

/* One KV head and rows of some thousand keys: the reference is slow. */
template <typename Change>
void add(ProblemList &list, const std::string &name, int k, Change change)
{
    list.add("large_" + name, [&](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.num_kv_heads = 1;
        p.group = 2;
        p.head_dim_qk = 32;
        p.code_bits = 64;
        p.lengths = {3000, k + 1, 300};
        p.k = k;
        p.repetitions = 4;
        change(p);
    });
}

void add_types(ProblemList &list)
{
    add(list, "f32", 2048, [](Problem &p) {
        p.q_dtype = p.kv_dtype = HATTN_F32;
        p.score_kind = HATTN_SCORE_WEIGHTED;
        p.weight_bits = 2;
    });
    add(list, "f32_soft_cap_sink_logits", 1500, [](Problem &p) {
        p.q_dtype = p.kv_dtype = HATTN_F32;
        p.soft_cap = 20;
        p.sink_logits = p.append = true;
        p.num_recent = 100;
        p.strides = Strides::PADDED;
    });
    add(list, "f32_of_f16", 700, [](Problem &p) {
        p.q_dtype = HATTN_F32;
        p.group = 3;
        p.page_size = 7;
        p.q_len = 3;
        p.append = true;
    });
    add(list, "bf16", 2048, [](Problem &p) {
        p.q_dtype = p.kv_dtype = HATTN_BF16;
        p.num_sink = 4;
        p.sink_logits = true;
        p.page_size = 1;
    });
    add(list, "bf16_norms_budgets", 600, [](Problem &p) {
        p.q_dtype = p.kv_dtype = HATTN_BF16;
        p.key_norms = p.key_bias = true;
        p.budgets = Budgets::EACH;
        p.budget_values = {0, 257, 512, 513, 600};
        p.strides = Strides::TOKEN_MAJOR;
        p.append = true;
    });
    add(list, "f8_scales", 1000, [](Problem &p) {
        p.kv_dtype = HATTN_F8_E4M3;
        p.kv_scales = Scales::PER_HEAD;
        p.num_kv_heads = 2;
        p.q_dtype = HATTN_F32;
        p.out_dtype = HATTN_F32;
        p.soft_cap = 5;
        p.num_sink = 300;
        p.num_recent = 300;
    });
    add(list, "f8_one_scale_bf16_q", 513, [](Problem &p) {
        p.kv_dtype = HATTN_F8_E4M3;
        p.kv_scales = Scales::ONE;
        p.q_dtype = HATTN_BF16;
        p.page_size = 0;
        p.append = true;
        p.budgets = Budgets::PER_SEQUENCE;
        p.budget_values = {500, 100, 300};
    });
}

void add_shapes(ProblemList &list)
{
    add(list, "v_inside_k_f32", 600, [](Problem &p) {
        p.q_dtype = p.kv_dtype = HATTN_F32;
        p.head_dim_qk = 72;
        p.head_dim_v = 64;
        p.v_inside_k = p.append = true;
    });
    add(list, "mla_bf16", 512, [](Problem &p) {
        p.q_dtype = p.kv_dtype = HATTN_BF16;
        p.head_dim_qk = 576;
        p.head_dim_v = 512;
        p.v_inside_k = true;
        p.lengths = {900, 513};
        p.out_dtype = HATTN_F32;
    });
    add(list, "per_query_head", 700, [](Problem &p) {
        p.selections_per_query_head = true;
        p.group = 3;
        p.q_dtype = p.kv_dtype = HATTN_BF16;
        p.head_dim_v = 40;
        p.strides = Strides::HEAD_MAJOR;
    });
    add(list, "codes_per_query_head_mlp", 400, [](Problem &p) {
        p.codes_per_query_head = p.selections_per_query_head = p.append = true;
        p.map_kind = HATTN_MAP_MLP;
        p.hidden[0] = 24;
        p.hidden[1] = 16;
        p.map_dtype = HATTN_F32;
        p.code_bits = 32;
        p.q_dtype = p.kv_dtype = HATTN_F32;
        p.lengths = {1200, 401};
    });
    add(list, "ragged_padded", 300, [](Problem &p) {
        p.q_dtype = HATTN_F32;
        p.q_lens = {8, 0, 3};
        p.padding_rows = 2;
        p.append = true;
        p.lengths = {1500, 301, 305};
        p.strides = Strides::ODD;
        p.num_sink = 1;
    });
    add(list, "ragged_broadcast_on_host", 500, [](Problem &p) {
        p.q_lens = {2, 1, 8};
        p.strides = Strides::BROADCAST;
        p.budgets = Budgets::ONE;
        p.budget_values = {450};
        p.kv_on_host = true;
    });
    for (Pattern pattern : {Pattern::NOT_A_NUMBER, Pattern::OVERFLOW, Pattern::ALTERNATING})
        add(list, with("pattern", static_cast<int>(pattern)), 600, [&](Problem &p) {
            p.pattern = pattern;
            p.q_dtype = p.kv_dtype = pattern == Pattern::OVERFLOW ? HATTN_BF16 : HATTN_F32;
            p.sink_logits = pattern == Pattern::ALTERNATING;
            p.group = 5;
        });
}

/* A run of keys that starts inside a page: rows of more keys than a thread or block takes at a time, in pages that do not divide that. */
void add_pages(ProblemList &list)
{
    for (int page : {7, 129, 1000, 5000})
        list.add(with("long_pages", page), [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.lengths = {17500, 8193};
            p.page_size = page;
            p.num_kv_heads = 1;
            p.group = page == 129 ? 2 : 1;
            p.head_dim_qk = 32;
            p.code_bits = 32;
            p.k = 40;
            p.key_norms = page == 1000;
            p.repetitions = 4;
        });
}

} // namespace

void add_selection_problems(ProblemList &list)
{
    add_types(list);
    add_shapes(list);
    add_pages(list);
}

} // namespace problems
