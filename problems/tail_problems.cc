/* SPDX-License-Identifier: Apache-2.0
 * Tails: with floors and without, over states of values as a step finds them and as it should not.
 */
#include "problems/problem_list.h"

namespace problems {
namespace {

template <typename Change>
void add(ProblemList &list, const std::string &name, Change change)
{
    list.add("tail_" + name, [&](Problem &p) {
        p.head_dim_qk = 32;
        p.score_kind = HATTN_SCORE_WEIGHTED;
        p.tail = 0.5f;
        p.k = 100;
        p.lengths = {70, 300, 1000};
        change(p);
    });
}

void add_rules(ProblemList &list)
{
    add(list, "fixed_k", [](Problem &) {});
    add(list, "hamming", [](Problem &p) { p.score_kind = HATTN_SCORE_HAMMING; });
    add(list, "floor", [](Problem &p) {
        p.min_probability = 0.004f;
        p.min_k = 4;
        p.append = true;
    });
    add(list, "floor_of_all", [](Problem &p) {
        p.min_probability = 0.999f;
        p.min_k = 2;
    });
    add(list, "of_one", [](Problem &p) {
        p.tail = 1;
        p.k = 1;
    });
    add(list, "few_anchors", [](Problem &p) { p.k = 7; });
    add(list, "tiny", [](Problem &p) { p.tail = 1e-30f; });
    add(list, "odd_slopes", [](Problem &p) {
        p.num_kv_heads = 8;
        p.odd_slopes = true;
        p.strides = Strides::BROADCAST;
    });
    for (Pattern pattern : {Pattern::ZERO, Pattern::EQUAL, Pattern::ALTERNATING, Pattern::CLUSTERED, Pattern::BY_TIME,
                            Pattern::OVERFLOW, Pattern::NOT_A_NUMBER, Pattern::INFINITE, Pattern::HUGE_VALUES})
        add(list, with("pattern", static_cast<int>(pattern)), [&](Problem &p) {
            p.pattern = pattern;
            p.q_dtype = p.kv_dtype = pattern == Pattern::OVERFLOW ? HATTN_BF16 : HATTN_F32;
            p.lengths = {70, 99, 100, 101, 700};
        });
}

void add_types(ProblemList &list)
{
    for (int32_t dtype : {HATTN_F32, HATTN_BF16, HATTN_F8_E4M3})
        add(list, with("kv_dtype", dtype), [&](Problem &p) {
            p.kv_dtype = dtype;
            p.q_dtype = dtype == HATTN_F32 ? HATTN_F32 : HATTN_BF16;
            p.kv_scales = dtype == HATTN_F8_E4M3 ? Scales::PER_HEAD : Scales::NONE;
            p.head_dim_v = 48;
            p.append = true;
        });
    for (int dim : {64, 128}) /* few keys: tests/simt has them, too */
        for (bool has_floor : {false, true})
            add(list, with("dim", dim) + (has_floor ? "_floor" : ""), [&](Problem &p) {
                p.head_dim_qk = dim;
                p.num_kv_heads = 1;
                p.q_dtype = p.kv_dtype = dim == 64 ? HATTN_BF16 : HATTN_F16;
                p.score_kind = has_floor ? HATTN_SCORE_HAMMING : HATTN_SCORE_WEIGHTED;
                p.min_probability = has_floor ? 0.01f : 0;
                p.group = has_floor ? 4 : 1;
                p.k = 60;
                p.lengths = {150, 61, 20};
                p.num_sink = 2;
                p.append = dim == 128;
                p.sink_logits = dim == 128;
            });
    add(list, "sink_logits_soft_cap", [](Problem &p) {
        p.sink_logits = true;
        p.soft_cap = 5;
    });
    add(list, "v_inside_k", [](Problem &p) {
        p.num_kv_heads = 1;
        p.group = 16;
        p.head_dim_qk = 576;
        p.head_dim_v = 512;
        p.v_inside_k = true;
        p.append = true;
        p.repetitions = 4;
    });
}

void add_batches(ProblemList &list)
{
    add(list, "lengths_around_k", [](Problem &p) {
        p.k = 32;
        p.lengths = {0, 1, 3, 4, 5, 31, 32, 33, 34, 61, 62, 122, 123};
        p.append = true;
    });
    add(list, "sinks_and_recents", [](Problem &p) {
        p.num_sink = 3;
        p.num_recent = 5;
        p.lengths = {6, 8, 9, 99, 100, 101, 500};
        p.append = true;
        p.value_slots = true;
    });
    add(list, "forced_alone", [](Problem &p) {
        p.num_sink = 40;
        p.num_recent = 60;
    });
    add(list, "budgets", [](Problem &p) {
        p.budgets = Budgets::EACH;
        p.budget_values = {0, 1, 3, 4, 5, 50, 100, 1000, -1};
        p.num_kv_heads = 4;
    });
    add(list, "ragged_padded", [](Problem &p) {
        p.min_probability = 0.01f;
        p.min_k = 4;
        p.q_lens = {8, 0, 3, 1};
        p.lengths = {70, 300, 1000, 5};
        p.padding_rows = 2;
        p.append = true;
        p.strides = Strides::ODD;
        p.value_slots = true;
    });
    add(list, "q_len_8_contiguous", [](Problem &p) {
        p.q_len = 8;
        p.page_size = 0;
        p.strides = Strides::HEAD_MAJOR;
        p.lengths = {70, 300, 5};
        p.append = true;
    });
    add(list, "clamped", [](Problem &p) {
        p.max_length = 200;
        p.q_len = 3;
        p.append = true;
    });
    add(list, "per_query_head", [](Problem &p) {
        p.selections_per_query_head = p.append = true;
        p.strides = Strides::PADDED;
    });
    add(list, "kv_on_host", [](Problem &p) { p.kv_on_host = p.append = true; });
}

void add_long(ProblemList &list)
{
    for (int group : {1, 4})
        add(list, with("long_group", group), [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.num_kv_heads = 1;
            p.group = group;
            p.min_probability = 2e-4f;
            p.k = 2048;
            p.lengths = {20000, 2000, 300};
            p.page_size = 64;
            p.append = true;
            p.repetitions = 4;
        });
    add(list, "long_all_alike", [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.num_kv_heads = 1;
        p.pattern = Pattern::EQUAL;
        p.k = 700;
        p.lengths = {20000, 500};
        p.repetitions = 4;
    });
    /* Many rows: devices of few multiprocessors list candidates. */
    for (int kind : {HATTN_SCORE_HAMMING, HATTN_SCORE_WEIGHTED})
        add(list, with("long_heads_kind", kind), [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.num_kv_heads = 6;
            p.group = 1;
            p.score_kind = kind;
            p.k = 900;
            p.lengths = {17000, 800, 5000};
            p.page_size = 64;
            p.num_sink = kind == HATTN_SCORE_HAMMING ? 4 : 0;
            p.repetitions = 4;
        });
    add(list, "long_fixed_k", [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.num_kv_heads = 1;
        p.head_dim_qk = 128;
        p.k = 512;
        p.num_sink = 4;
        p.num_recent = 60;
        p.lengths = {40000};
        p.page_size = 0;
        p.append = true;
        p.repetitions = 4;
    });
}

/* Values of small weights that are not read. */
template <typename Change>
void add_skip(ProblemList &list, const std::string &name, float least, Change change)
{
    add(list, "skip_" + name, [&](Problem &p) {
        p.min_value_weight = least;
        change(p);
    });
}

void add_skips(ProblemList &list)
{
    add_skip(list, "fixed_k", 0.005f, [](Problem &) {});
    add_skip(list, "floor", 0.01f, [](Problem &p) {
        p.min_probability = 0.004f;
        p.min_k = 4;
        p.append = true;
    });
    add_skip(list, "nearly_all", 0.999f, [](Problem &p) { p.lengths = {1, 2, 70, 300}; });
    add_skip(list, "nothing", 1e-30f, [](Problem &) {});
    add_skip(list, "of_one_head", 0.01f, [](Problem &p) {
        p.group = 1;
        p.q_dtype = p.kv_dtype = HATTN_F32;
    });
    add_skip(list, "of_heads", 0.008f, [](Problem &p) {
        p.num_candidates = 300;
        p.min_probability = 0.002f;
        p.append = true;
    });
    add_skip(list, "sink_logits_soft_cap", 0.004f, [](Problem &p) {
        p.sink_logits = true;
        p.soft_cap = 5;
    });
    add_skip(list, "per_query_head", 0.01f, [](Problem &p) {
        p.selections_per_query_head = p.append = true;
        p.strides = Strides::PADDED;
    });
    add_skip(list, "v_inside_k", 0.006f, [](Problem &p) {
        p.num_kv_heads = 1;
        p.group = 16;
        p.head_dim_qk = 576;
        p.head_dim_v = 512;
        p.v_inside_k = p.append = true;
        p.repetitions = 4;
    });
    add_skip(list, "odd_group_kv_on_host", 0.006f, [](Problem &p) {
        p.group = 11;
        p.head_dim_v = 200;
        p.kv_on_host = true;
    });
    for (int32_t dtype : {HATTN_BF16, HATTN_F8_E4M3})
        add_skip(list, with("kv_dtype", dtype), 0.006f, [&](Problem &p) {
            p.kv_dtype = dtype;
            p.q_dtype = dtype == HATTN_BF16 ? HATTN_BF16 : HATTN_F16;
            p.kv_scales = dtype == HATTN_F8_E4M3 ? Scales::PER_HEAD : Scales::NONE;
            p.head_dim_v = 48;
            p.append = true;
        });
    /* 0.01 is what each of 100 equal keys weighs: roundings decide. */
    for (Pattern pattern : {Pattern::ZERO, Pattern::EQUAL, Pattern::CLUSTERED, Pattern::OVERFLOW, Pattern::NOT_A_NUMBER,
                            Pattern::INFINITE, Pattern::HUGE_VALUES})
        add_skip(list, with("pattern", static_cast<int>(pattern)), 0.01f, [&](Problem &p) {
            p.pattern = pattern;
            p.q_dtype = p.kv_dtype = pattern == Pattern::OVERFLOW ? HATTN_BF16 : HATTN_F32;
            p.lengths = {70, 99, 100, 101, 700};
        });
    add_skip(list, "ragged_padded", 0.006f, [](Problem &p) {
        p.min_probability = 0.001f;
        p.q_lens = {8, 0, 3, 1};
        p.lengths = {70, 300, 1000, 5};
        p.padding_rows = 2;
        p.append = true;
        p.strides = Strides::ODD;
        p.value_slots = true;
    });
    add_skip(list, "q_len_8_contiguous", 0.006f, [](Problem &p) {
        p.q_len = 8;
        p.page_size = 0;
        p.strides = Strides::HEAD_MAJOR;
        p.lengths = {70, 300, 5};
        p.append = true;
    });
    for (int group : {1, 4})
        add_skip(list, with("long_group", group), 3e-4f, [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.num_kv_heads = 1;
            p.group = group;
            p.head_dim_qk = 128;
            p.min_probability = 1e-4f;
            p.num_candidates = group == 4 ? 4000 : 0;
            p.k = 2048;
            p.lengths = {20000, 2000, 300};
            p.page_size = 64;
            p.append = true;
            p.repetitions = 4;
        });
}

} // namespace

void add_tail_problems(ProblemList &list)
{
    add_rules(list);
    add_types(list);
    add_batches(list);
    add_long(list);
    add_skips(list);
}

} // namespace problems
