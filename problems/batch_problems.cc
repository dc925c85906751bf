/* SPDX-License-Identifier: Apache-2.0 */
#include "problems/problem_list.h"

namespace problems {
namespace {

void add_lengths(ProblemList &list)
{
    for (int page : {0, 1, 3, 64, 1000})
        list.add(with("page", page), [&](Problem &p) {
            p.page_size = page;
            p.append = true;
            p.lengths = {70, 129, 1};
        });
    list.add("lengths_around_k", [](Problem &p) {
        p.lengths = {0, 1, 31, 32, 33, 2, 64, 65};
        p.append = true;
    });
    list.add("lengths_around_k_contiguous", [](Problem &p) {
        p.lengths = {0, 1, 31, 32, 33, 63, 64, 65};
        p.page_size = 0;
    });
    list.add("lengths_past_max", [](Problem &p) {
        p.lengths = {90, 100, 101, 250, -7};
        p.max_length = 100;
        p.append = true;
    });
    list.add("lengths_below_max", [](Problem &p) {
        p.lengths = {3, 50};
        p.max_length = 5000;
    });
    list.add("all_empty", [](Problem &p) {
        p.lengths = {0, 0, 0};
        p.max_length = 64;
        p.sink_logits = true;
    });
    list.add("no_sequences", [](Problem &p) {
        p.lengths = {};
        p.max_length = 64;
    });
    list.add("k_1", [](Problem &p) { p.k = 1; });
    list.add("k_past_length", [](Problem &p) { p.k = 500; });
    list.add("short_in_long_plan", [](Problem &p) { /* lists of all their keys, where long rows have some */
                                                    p.tag = Tag::MEDIUM;
                                                    p.lengths = {4900, 300};
                                                    p.max_length = 140000;
                                                    p.k = 300;
                                                    p.num_kv_heads = p.group = 1;
                                                    p.head_dim_qk = 64;
                                                    p.num_recent = 5;
    });
    list.add("k_2100", [](Problem &p) { /* more than a block of a device finds at a time, of few rows */
                                        p.tag = Tag::MEDIUM;
                                        p.lengths = {2300};
                                        p.k = 2100;
                                        p.num_kv_heads = 4;
                                        p.group = 1;
                                        p.head_dim_qk = 64;
    });
    list.add("k_65", [](Problem &p) {
        p.k = 65;
        p.lengths = {64, 65, 66, 300};
    });
    for (int q_len : {2, 3, 8})
        list.add(with("q_len", q_len), [&](Problem &p) {
            p.q_len = q_len;
            p.lengths = {70, 129, 5};
            p.append = true;
        });
    const struct {
        const char *name;
        int32_t dtype;
        int group;
    } late[] = {{"f16_group_4", HATTN_F16, 4}, {"bf16_group_3", HATTN_BF16, 3}, {"f8_group_1", HATTN_F8_E4M3, 1}};
    for (const auto &row : late)
        list.add(std::string("last_is_none_") + row.name, [&](Problem &p) {
            p.pattern = Pattern::LAST_IS_NONE;
            p.q_dtype = row.dtype == HATTN_BF16 ? HATTN_BF16 : HATTN_F16;
            p.kv_dtype = row.dtype;
            p.group = row.group;
            p.lengths = {140, 600, 3, 33};
            p.q_lens = {4, 7, 5, 2};
            p.head_dim_qk = p.head_dim_v = 128;
        });
    list.add("q_ragged", [](Problem &p) {
        p.lengths = {70, 129, 5, 40};
        p.q_lens = {1, 8, 0, 3};
        p.append = true;
    });
    list.add("q_ragged_padded", [](Problem &p) {
        p.lengths = {2, 129, 6, 40};
        p.q_lens = {4, 0, 1, 5};
        p.padding_rows = 3;
        p.append = true;
    });
    list.add("padding_only", [](Problem &p) {
        p.lengths = {70, 3};
        p.q_lens = {0, 0};
        p.padding_rows = 4;
    });
    list.add("ninety_sequences", [](Problem &p) {
        p.lengths.clear();
        for (int b = 0; b < 90; b++)
            p.lengths.push_back(1 + b * 7 % 41);
        p.group = 2;
        p.head_dim_qk = 32;
        p.k = 8;
    });
    list.add("long", [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.lengths = {9000, 4097};
        p.k = 512;
        p.head_dim_qk = 32;
        p.num_kv_heads = 1;
        p.page_size = 64;
    });
    const struct {
        const char *name;
        int32_t dtype, head_dim, k;
    } many[] = {{"long_among_many", HATTN_F16, 72, 1500},
                {"long_among_many_f8", HATTN_F8_E4M3, 48, 1500},
                {"long_among_many_f8_128", HATTN_F8_E4M3, 128, 1500},
                {"long_among_many_k_2100", HATTN_F16, 128, 2100}};
    for (const auto &row : many)
        list.add(row.name, [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.lengths = {2500};
            for (int b = 0; b < 139; b++)
                p.lengths.push_back(1 + b * 7 % 41);
            p.k = row.k;
            p.kv_dtype = row.dtype;
            p.group = 2;
            p.head_dim_qk = row.head_dim;
            p.page_size = 64;
        });
    list.add("long_contiguous_norms", [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.lengths = {20000};
        p.k = 300;
        p.head_dim_qk = 32;
        p.num_kv_heads = p.group = 1;
        p.page_size = 0;
        p.key_norms = true;
    });
    list.add("long_weighted", [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.lengths = {16500};
        p.k = 2048;
        p.head_dim_qk = 32;
        p.num_kv_heads = 1;
        p.group = 2;
        p.score_kind = HATTN_SCORE_WEIGHTED;
        p.num_sink = 4;
        p.num_recent = 64;
    });
    list.add("long_weighted_8_bits", [](Problem &p) { /* scores of 16 bits */
                                                      p.tag = Tag::MEDIUM;
                                                      p.lengths = {9001, 2050, 4099};
                                                      p.k = 700;
                                                      p.head_dim_qk = 32;
                                                      p.num_kv_heads = 1;
                                                      p.score_kind = HATTN_SCORE_WEIGHTED;
                                                      p.weight_bits = 8;
                                                      p.num_sink = 3;
                                                      p.budgets = Budgets::PER_HEAD;
    });
}

void add_budgets(ProblemList &list)
{
    const struct {
        const char *name;
        Budgets budgets;
    } rows[] = {{"budgets_each", Budgets::EACH},
                {"budgets_per_sequence", Budgets::PER_SEQUENCE},
                {"budgets_per_head", Budgets::PER_HEAD},
                {"budgets_one", Budgets::ONE}};
    for (const auto &row : rows)
        list.add(row.name, [&](Problem &p) {
            p.budgets = row.budgets;
            p.lengths = {70, 129, 33, 10};
        });
    list.add("budget_zero", [](Problem &p) {
        p.budgets = Budgets::ONE;
        p.budget_values = {0};
        p.sink_logits = true;
    });
    list.add("budget_below_forced", [](Problem &p) {
        p.budgets = Budgets::EACH;
        p.num_sink = 5;
        p.num_recent = 7;
        p.lengths = {70, 12, 11, 3};
    });
    list.add("forced_all_of_k", [](Problem &p) {
        p.num_sink = 16;
        p.num_recent = 16;
        p.lengths = {70, 32, 31, 33};
    });
    list.add("sinks", [](Problem &p) {
        p.num_sink = 4;
        p.append = true;
    });
    list.add("many_forced", [](Problem &p) { /* more forced positions than a warp of a device takes keys */
                                             p.tag = Tag::MEDIUM;
                                             p.lengths = {3000, 950, 901, 600};
                                             p.k = 1000;
                                             p.num_sink = 600;
                                             p.num_recent = 300;
                                             p.head_dim_qk = 32;
    });
    list.add("recents", [](Problem &p) {
        p.num_recent = 9;
        p.q_len = 3;
    });
    list.add("forced_norms", [](Problem &p) {
        p.num_sink = 4;
        p.num_recent = 9;
        p.key_norms = true;
        p.budgets = Budgets::EACH;
    });
}

void add_attention(ProblemList &list)
{
    list.add("sink_logits", [](Problem &p) {
        p.sink_logits = true;
        p.lengths = {70, 0, 1};
    });
    list.add("soft_cap", [](Problem &p) {
        p.soft_cap = 2.5f;
        p.scale = 1;
    });
    list.add("soft_cap_f32_sinks", [](Problem &p) {
        p.soft_cap = 30;
        p.sink_logits = true;
        p.q_dtype = p.kv_dtype = HATTN_F32;
    });
    list.add("scale_sharp", [](Problem &p) { p.scale = 2; });
    list.add("scale_tiny", [](Problem &p) {
        p.scale = 1e-20f;
        p.q_dtype = p.kv_dtype = HATTN_F32;
    });
    list.add("scale_negative", [](Problem &p) { p.scale = -0.2f; });
    for (int parts : {1, 2, 9, 17, 40})
        list.add(with("merge_parts", parts), [&](Problem &p) {
            p.num_parts = parts;
            p.q_dtype = parts == 2 ? HATTN_F32 : HATTN_F16;
        });
}

/* Short rows, of 0 to 40 keys: where a device shares its blocks between many rows, each block of a long one takes thousands of keys, on CUDA
 * more than 16384, and may list candidates instead of scores. */
void add_short_rows(Problem &p, int number)
{
    for (int b = 0; b < number; b++)
        p.lengths.push_back(b * 7 % 41);
}

/* Selections that several blocks of a device find together: ties from end to end, beside rows of all kinds of lengths. */
void add_long_selections(ProblemList &list)
{
    const struct {
        const char *name;
        Pattern pattern;
    } patterns[] = {{"equal", Pattern::EQUAL},
                    {"clustered", Pattern::CLUSTERED},
                    {"by_time", Pattern::BY_TIME},
                    {"zero", Pattern::ZERO}};
    for (const auto &row : patterns)
        for (bool norms : {false, true})
            list.add(std::string("long_") + row.name + (norms ? "_norms" : ""), [&](Problem &p) {
                p.tag = Tag::MEDIUM;
                p.pattern = row.pattern;
                p.lengths = {5000, 0, 1, 299, 300, 301, 2049};
                p.k = 300;
                p.head_dim_qk = 32;
                p.num_kv_heads = 1;
                p.group = 2;
                p.page_size = 16;
                p.key_norms = norms;
            });
    list.add("long_equal_8_bits", [](Problem &p) { /* scores of 16 bits, all of them ties */
                                                   p.tag = Tag::MEDIUM;
                                                   p.pattern = Pattern::EQUAL;
                                                   p.lengths = {5000, 299, 2049};
                                                   p.k = 300;
                                                   p.head_dim_qk = 32;
                                                   p.num_kv_heads = 1;
                                                   p.score_kind = HATTN_SCORE_WEIGHTED;
                                                   p.weight_bits = 8;
    });
    /* Where all scores are 0, as with weights of 0, there are no candidates. */
    for (const auto &row : patterns)
        list.add(std::string("long_among_short_") + row.name, [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.pattern = row.pattern;
            p.lengths = {17000, 16611, 2500};
            add_short_rows(p, 270);
            p.k = 300;
            p.num_sink = 3;
            p.num_recent = 5;
            p.head_dim_qk = 32;
            p.num_kv_heads = 1;
            p.group = row.pattern == Pattern::EQUAL ? 1 : 4;
            p.score_kind = row.pattern == Pattern::CLUSTERED || row.pattern == Pattern::ZERO ? HATTN_SCORE_WEIGHTED
                                                                                             : HATTN_SCORE_HAMMING;
            p.page_size = 16;
        });
    /* Rows that are scored anew, in every kind of kernel that may: what a sample promises is not there. Tasks are more than blocks of any device. */
    enum { PLAIN, NORMS, FLOOR, TAIL, HEADS };
    for (int kind : {PLAIN, NORMS, FLOOR, TAIL, HEADS})
        list.add(with("long_sampled_apart_kind", kind), [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.pattern = Pattern::SAMPLED_APART;
            p.lengths = {17000, 16611};
            add_short_rows(p, 640);
            p.k = kind == HEADS ? 300 : 1500;
            p.q_dtype = p.kv_dtype = HATTN_F16;
            p.head_dim_qk = 64;
            p.num_kv_heads = 1;
            p.group = 2;
            p.page_size = 16;
            p.key_norms = kind == NORMS;
            p.score_kind = kind == HEADS ? HATTN_SCORE_WEIGHTED : HATTN_SCORE_HAMMING;
            p.num_candidates = kind == HEADS ? 1500 : 0;
            p.min_probability = kind == FLOOR ? 1e-12f : 0; /* nothing falls below */
            p.min_k = kind == FLOOR ? 16 : 0;
            p.tail = kind == TAIL ? 0.5f : 0;
        });
    /* Codes of every number of words, and where no code starts at 16 bytes. */
    for (int bits : {32, 64, 96, 160, 256, 288, 512})
        for (bool packed : {true, false})
            list.add(with(packed ? "long_among_short_bits" : "long_among_short_odd_bits", bits), [&](Problem &p) {
                p.tag = Tag::MEDIUM;
                p.lengths = {16500, 2500};
                add_short_rows(p, 270);
                p.k = 300;
                p.head_dim_qk = 32;
                p.num_kv_heads = 1;
                p.code_bits = bits;
                p.score_kind = bits % 128 ? HATTN_SCORE_HAMMING : HATTN_SCORE_WEIGHTED;
                p.strides = packed ? Strides::COMPACT : Strides::ODD;
                p.page_size = 16;
                p.key_norms = bits == 64 || bits == 288;
            });
    for (int bits : {96, 512})
        list.add(with("long_contiguous_norms_bits", bits), [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.lengths = {9000, 300};
            p.k = 300;
            p.head_dim_qk = 32;
            p.num_kv_heads = 1;
            p.page_size = 0;
            p.code_bits = bits;
            p.key_norms = true;
        });
    /* More rows than a device may have histograms for. */
    for (bool norms : {false, true})
        list.add(norms ? "many_rows_norms" : "many_rows", [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.lengths = {600};
            add_short_rows(p, 360);
            p.num_kv_heads = 3;
            p.group = norms ? 1 : 2;
            p.head_dim_qk = 32;
            p.key_norms = norms;
            p.k = 40;
            p.num_sink = 2;
            p.append = true;
        });
}

} // namespace

void add_batch_problems(ProblemList &list)
{
    add_lengths(list);
    add_budgets(list);
    add_attention(list);
    add_long_selections(list);
}

} // namespace problems
