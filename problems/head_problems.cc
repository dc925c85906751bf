/* SPDX-License-Identifier: Apache-2.0
 * Scores per query head: fewer candidates than keys, as many, and more; with floors and tails and without.
 */
#include "problems/problem_list.h"

namespace problems {
namespace {

template <typename Change>
void add(ProblemList &list, const std::string &name, Change change)
{
    list.add("heads_" + name, [&](Problem &p) {
        p.head_dim_qk = 32;
        p.score_kind = HATTN_SCORE_WEIGHTED;
        p.num_candidates = 128;
        p.k = 32;
        p.lengths = {20, 32, 33, 128, 129, 300};
        change(p);
    });
}

void set_floor(Problem &p)
{
    p.min_probability = 0.01f;
    p.min_k = 4;
}

void add_rules(ProblemList &list)
{
    add(list, "fixed_k", [](Problem &p) { p.append = true; });
    add(list, "floor", set_floor);
    add(list, "tail", [](Problem &p) { p.tail = 0.5f; });
    add(list, "floor_tail", [](Problem &p) {
        set_floor(p);
        p.tail = 0.5f;
        p.append = true;
    });
    add(list, "floor_of_all", [](Problem &p) {
        p.min_probability = 0.999f;
        p.min_k = 2;
        p.tail = 1;
    });
    add(list, "floor_of_nothing", [](Problem &p) {
        p.num_kv_heads = 1;
        p.min_probability = 1e-12f;
        p.min_k = 1;
    });
    add(list, "as_many_as_kept", [](Problem &p) {
        p.num_candidates = 32;
        p.tail = 0.5f;
    });
    for (int bits : {2, 6, 8})
        add(list, with("weight_bits", bits), [&](Problem &p) {
            p.weight_bits = bits;
            p.tail = 0.5f;
        });
    for (int bits : {32, 264})
        add(list, with("code_bits", bits), [&](Problem &p) {
            p.num_kv_heads = 1;
            p.code_bits = bits;
        });
    for (int group : {1, 2, 7, 64})
        add(list, with("group", group), [&](Problem &p) {
            set_floor(p);
            p.num_kv_heads = 1;
            p.group = group;
            p.tail = 0.5f;
            p.lengths = {33, 200};
        });
    add(list, "odd_slopes_broadcast", [](Problem &p) {
        set_floor(p);
        p.tail = 0.5f;
        p.odd_slopes = true;
        p.strides = Strides::BROADCAST;
    });
    for (Pattern pattern : {Pattern::ZERO, Pattern::EQUAL, Pattern::ALTERNATING, Pattern::CLUSTERED, Pattern::BY_TIME,
                            Pattern::OVERFLOW, Pattern::NOT_A_NUMBER, Pattern::HUGE_VALUES})
        add(list, with("pattern", static_cast<int>(pattern)), [&](Problem &p) {
            set_floor(p);
            p.num_kv_heads = 1;
            p.pattern = pattern;
            p.tail = 0.5f;
            p.q_dtype = p.kv_dtype = pattern == Pattern::OVERFLOW ? HATTN_BF16 : HATTN_F32;
        });
}

void add_batches(ProblemList &list)
{
    add(list, "sinks_and_recents", [](Problem &p) {
        set_floor(p);
        p.tail = 0.5f;
        p.num_sink = 3;
        p.num_recent = 5;
        p.lengths = {0, 1, 8, 9, 32, 136, 137, 300};
        p.append = true;
    });
    add(list, "budgets", [](Problem &p) {
        p.tail = 0.5f;
        p.budgets = Budgets::EACH;
        p.budget_values = {0, 1, 3, 4, 5, 31, 32, 1000, -1};
        p.num_kv_heads = 4;
    });
    add(list, "ragged_padded", [](Problem &p) {
        set_floor(p);
        p.tail = 0.5f;
        p.q_lens = {8, 0, 3, 1};
        p.lengths = {70, 300, 200, 5};
        p.padding_rows = 2;
        p.append = true;
        p.strides = Strides::ODD;
    });
    add(list, "q_len_4_contiguous", [](Problem &p) {
        p.tail = 0.5f;
        p.q_len = 4;
        p.page_size = 0;
        p.strides = Strides::HEAD_MAJOR;
        p.lengths = {70, 300, 5};
        p.append = true;
    });
    add(list, "per_query_head", [](Problem &p) {
        set_floor(p);
        p.tail = 0.5f;
        p.selections_per_query_head = p.append = true;
        p.strides = Strides::PADDED;
    });
    add(list, "mlp", [](Problem &p) {
        p.codes_per_query_head = p.selections_per_query_head = true;
        p.map_kind = HATTN_MAP_MLP;
        p.hidden[0] = 24;
        p.hidden[1] = 16;
        p.code_bits = 32;
        p.tail = 0.5f;
    });
    add(list, "long", [](Problem &p) {
        set_floor(p);
        p.min_probability = 1e-3f;
        p.tag = Tag::MEDIUM;
        p.num_kv_heads = 1;
        p.tail = 0.5f;
        p.k = 256;
        p.num_candidates = 1024;
        p.lengths = {9000, 900};
        p.append = true;
        p.repetitions = 4;
    });
}

/* Rows that a decode samples where devices have few multiprocessors, of candidates that several of its blocks share; neighbours alike, so that a sample's
 * bound may be too high. */
void add_sampled(ProblemList &list)
{
    for (Pattern pattern : {Pattern::RANDOM, Pattern::CLUSTERED})
        add(list, with("sampled_pattern", static_cast<int>(pattern)), [&](Problem &p) {
            p.min_probability = 1e-3f;
            p.min_k = 16;
            p.pattern = pattern;
            p.tag = Tag::MEDIUM;
            p.num_kv_heads = 6;
            p.group = 2;
            p.code_bits = 128;
            p.tail = 0.5f;
            p.k = 300;
            p.num_candidates = 1500;
            p.num_sink = 4;
            p.num_recent = 9;
            p.lengths = {17000, 1513, 5000};
            p.page_size = 64;
            p.repetitions = 2;
        });
}

} // namespace

void add_head_problems(ProblemList &list)
{
    add_rules(list);
    add_batches(list);
    add_sampled(list);
}

} // namespace problems
