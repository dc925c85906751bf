/* SPDX-License-Identifier: Apache-2.0
 * Floors of probability: rows that keep what the budget allows, what min_k asks for, and what lies between.
 */
#include "problems/problem_list.h"

namespace problems {
namespace {

template <typename Change>
void add(ProblemList &list, const std::string &name, float min_probability, Change change)
{
    list.add("floor_" + name, [&](Problem &p) {
        p.head_dim_qk = 32;
        p.score_kind = HATTN_SCORE_WEIGHTED;
        p.min_probability = min_probability;
        p.min_k = 4;
        p.k = 100;
        p.lengths = {70, 300, 1000};
        change(p);
    });
}

void add_rules(ProblemList &list)
{
    add(list, "weighted", 0.004f, [](Problem &) {});
    add(list, "hamming", 0.004f, [](Problem &p) { p.score_kind = HATTN_SCORE_HAMMING; });
    add(list, "usual_min_k", 0.004f, [](Problem &p) { p.min_k = 0; });
    add(list, "usual_min_k_is_k", 0.004f, [](Problem &p) {
        p.min_k = 0;
        p.k = 20;
    });
    add(list, "of_nothing", 1e-12f, [](Problem &) {});
    add(list, "of_almost_all", 0.999f, [](Problem &) {});
    add(list, "of_tiny", 1e-30f, [](Problem &) {});
    for (int bits : {2, 6, 8})
        add(list, with("weight_bits", bits), 0.01f, [&](Problem &p) { p.weight_bits = bits; });
    for (int bits : {32, 264, 512})
        add(list, with("code_bits", bits), 0.01f, [&](Problem &p) { p.code_bits = bits; });
    add(list, "odd_slopes", 0.01f, [](Problem &p) {
        p.num_kv_heads = 8;
        p.odd_slopes = true;
    });
    add(list, "odd_slopes_broadcast", 0.01f, [](Problem &p) {
        p.odd_slopes = true;
        p.strides = Strides::BROADCAST;
    });
    for (Pattern pattern : {Pattern::ZERO, Pattern::EQUAL, Pattern::ALTERNATING, Pattern::CLUSTERED, Pattern::BY_TIME,
                            Pattern::OVERFLOW, Pattern::NOT_A_NUMBER, Pattern::INFINITE, Pattern::HUGE_VALUES})
        add(list, with("pattern", static_cast<int>(pattern)), 0.01f, [&](Problem &p) {
            p.pattern = pattern;
            p.q_dtype = p.kv_dtype = pattern == Pattern::OVERFLOW ? HATTN_BF16 : HATTN_F32;
            p.lengths = {70, 99, 100, 101, 700};
        });
}

void add_batches(ProblemList &list)
{
    add(list, "lengths_around_k", 0.01f, [](Problem &p) {
        p.k = 32;
        p.lengths = {0, 1, 3, 4, 5, 31, 32, 33, 61, 62, 122, 123};
        p.append = true;
    });
    add(list, "sinks_and_recents", 0.01f, [](Problem &p) {
        p.num_sink = 3;
        p.num_recent = 5;
        p.lengths = {6, 8, 9, 99, 100, 101, 500};
        p.append = true;
    });
    add(list, "forced_past_min_k", 0.01f, [](Problem &p) {
        p.num_sink = 10;
        p.num_recent = 20;
    });
    add(list, "budgets", 0.01f, [](Problem &p) {
        p.budgets = Budgets::EACH;
        p.budget_values = {0, 1, 3, 4, 5, 50, 100, 1000, -1};
        p.num_kv_heads = 4;
    });
    add(list, "ragged_padded", 0.01f, [](Problem &p) {
        p.q_lens = {8, 0, 3};
        p.padding_rows = 2;
        p.append = true;
        p.strides = Strides::ODD;
    });
    add(list, "q_len_8_contiguous", 0.01f, [](Problem &p) {
        p.q_len = 8;
        p.page_size = 0;
        p.strides = Strides::HEAD_MAJOR;
        p.lengths = {70, 300};
    });
    add(list, "per_query_head", 0.01f, [](Problem &p) {
        p.selections_per_query_head = p.append = true;
        p.strides = Strides::PADDED;
    });
    add(list, "codes_per_query_head_mlp", 0.01f, [](Problem &p) {
        p.codes_per_query_head = p.selections_per_query_head = true;
        p.map_kind = HATTN_MAP_MLP;
        p.hidden[0] = 24;
        p.hidden[1] = 16;
        p.code_bits = 32;
    });
}

void add_long(ProblemList &list)
{
    for (int group : {1, 4})
        add(list, with("long_group", group), 2e-4f, [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.num_kv_heads = 1;
            p.group = group;
            p.code_bits = 128;
            p.k = 2048;
            p.min_k = 64;
            p.lengths = {20000, 2000, 300};
            p.page_size = 64;
            p.repetitions = 4;
        });
    add(list, "long_hamming_sinks", 4e-4f, [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.num_kv_heads = 1;
        p.score_kind = HATTN_SCORE_HAMMING;
        p.k = 1024;
        p.min_k = 0;
        p.num_sink = 4;
        p.num_recent = 60;
        p.lengths = {40000};
        p.page_size = 0;
        p.repetitions = 4;
    });
    add(list, "long_clustered", 2e-3f, [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.num_kv_heads = 1;
        p.pattern = Pattern::CLUSTERED;
        p.k = 700;
        p.lengths = {9000, 6000};
        p.q_len = 2;
        p.repetitions = 4;
    });
    /* Many rows: devices of few multiprocessors list candidates. */
    for (int kind : {HATTN_SCORE_HAMMING, HATTN_SCORE_WEIGHTED})
        add(list, with("long_heads_kind", kind), 3e-4f, [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.num_kv_heads = 6;
            p.group = 1;
            p.score_kind = kind;
            p.k = 900;
            p.min_k = 40;
            p.lengths = {17000, 800, 5000};
            p.page_size = 64;
            p.num_sink = kind == HATTN_SCORE_HAMMING ? 4 : 0;
            p.repetitions = 4;
        });
    add(list, "long_all_alike", 1e-3f, [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.num_kv_heads = 1;
        p.pattern = Pattern::EQUAL;
        p.k = 700;
        p.lengths = {20000, 500};
        p.repetitions = 4;
    });
}

/* What GPUs have other kernels for. */
void add_types(ProblemList &list)
{
    for (int kind : {HATTN_SCORE_HAMMING, HATTN_SCORE_WEIGHTED}) /* few keys: tests/simt has them, too */
        add(list, with("few_kind", kind), 0.01f, [&](Problem &p) {
            p.head_dim_qk = 64;
            p.num_kv_heads = 1;
            p.score_kind = kind;
            p.k = 60;
            p.lengths = {150, 61, 20};
            p.num_sink = 2;
        });
    for (int dim : {64, 128})
        for (int bits : {32, 64, 128})
            add(list, with(with("dim", dim) + "_bits", bits), 0.01f, [&](Problem &p) {
                p.head_dim_qk = dim;
                p.code_bits = bits;
                p.q_dtype = p.kv_dtype = dim == 64 ? HATTN_BF16 : HATTN_F16;
                p.score_kind = bits == 64 ? HATTN_SCORE_HAMMING : HATTN_SCORE_WEIGHTED;
                p.append = bits == 32;
            });
}

} // namespace

void add_floor_problems(ProblemList &list)
{
    add_rules(list);
    add_batches(list);
    add_types(list);
    add_long(list);
}

} // namespace problems
