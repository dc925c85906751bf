/* SPDX-License-Identifier: Apache-2.0 */
#include "problems/problem_list.h"

namespace problems {
namespace {

void add_patterns_and_strides(ProblemList &list)
{
    const struct {
        const char *name;
        Pattern pattern;
    } patterns[] = {
        {"zero", Pattern::ZERO},           {"equal", Pattern::EQUAL},     {"alternating", Pattern::ALTERNATING},
        {"clustered", Pattern::CLUSTERED}, {"by_time", Pattern::BY_TIME}, {"overflow", Pattern::OVERFLOW},
        {"nan", Pattern::NOT_A_NUMBER}};
    for (const auto &row : patterns) {
        list.add(std::string(row.name), [&](Problem &p) {
            p.pattern = row.pattern;
            p.lengths = {300, 129};
            p.append = true;
        });
        list.add(std::string(row.name) + "_512_bits_weighted_8", [&](Problem &p) {
            p.pattern = row.pattern;
            p.lengths = {300, 129};
            p.code_bits = 512;
            p.score_kind = HATTN_SCORE_WEIGHTED;
            p.weight_bits = 8;
            p.page_size = 0;
        });
        list.add(std::string(row.name) + "_norms", [&](Problem &p) {
            p.pattern = row.pattern;
            p.lengths = {300, 129};
            p.key_norms = true;
        });
    }
    list.add("overflow_group_127", [](Problem &p) {
        p.pattern = Pattern::OVERFLOW;
        p.group = 127;
        p.num_kv_heads = 1;
        p.code_bits = 512;
        p.head_dim_qk = 32;
    });

    const struct {
        const char *name;
        Strides strides;
    } strides[] = {{"padded", Strides::PADDED},
                   {"odd", Strides::ODD},
                   {"token_major", Strides::TOKEN_MAJOR},
                   {"head_major", Strides::HEAD_MAJOR},
                   {"broadcast", Strides::BROADCAST}};
    for (const auto &row : strides) {
        list.add(std::string("strides_") + row.name, [&](Problem &p) {
            p.strides = row.strides;
            p.append = true;
            p.q_len = 2;
            p.lengths = {70, 129, 3};
        });
        list.add(std::string("strides_") + row.name + "_contiguous_norms", [&](Problem &p) {
            p.strides = row.strides;
            p.page_size = 0;
            p.key_norms = p.key_bias = true;
            p.q_dtype = p.kv_dtype = HATTN_F32;
            p.code_bits = 40;
            p.append = true;
        });
    }
    list.add("strides_odd_f8_mla", [](Problem &p) {
        p.strides = Strides::ODD;
        p.kv_dtype = HATTN_F8_E4M3;
        p.head_dim_qk = 72;
        p.head_dim_v = 64;
        p.v_inside_k = true;
        p.kv_scales = Scales::PER_HEAD;
    });
    list.add("strides_padded_mlp", [](Problem &p) {
        p.strides = Strides::PADDED;
        p.map_kind = HATTN_MAP_MLP;
        p.hidden[0] = 24;
        p.hidden[1] = 16;
        p.score_kind = HATTN_SCORE_WEIGHTED;
    });
}

/* The first sequence's whole pages serve the others too, as far as they are as long, less the rows' own keys. */
void add_shared_pages(ProblemList &list)
{
    const auto add = [&](const std::string &name, int page_size, auto change) {
        list.add("prefix_shared_" + name, [&](Problem &p) {
            p.shared_prefix = true;
            p.page_size = page_size;
            p.lengths = {300, 200, 41, 129};
            change(p);
        });
    };
    add("page_1", 1, [](Problem &p) { p.key_norms = true; });
    add("page_16", 16, [](Problem &) {});
    add("page_7_append", 7, [](Problem &p) {
        p.append = true;
        p.q_lens = {1, 3, 0, 4};
        p.padding_rows = 1;
    });
    add("page_64_append_f8_norms", 64, [](Problem &p) {
        p.append = p.key_norms = true;
        p.kv_dtype = HATTN_F8_E4M3;
        p.kv_scales = Scales::PER_HEAD;
        p.k = 100;
    });
}

void add_places(ProblemList &list)
{
    list.add("kv_on_host", [](Problem &p) {
        p.kv_on_host = p.append = true;
        p.head_dim_qk = 128;
    });
    list.add("k_on_host", [](Problem &p) { p.kv_on_host = p.v_on_device = p.append = true; });
    list.add("kv_on_host_contiguous_f8", [](Problem &p) {
        p.kv_on_host = p.append = true;
        p.page_size = 0;
        p.kv_dtype = HATTN_F8_E4M3;
        p.kv_scales = Scales::ONE;
    });
    list.add("kv_on_host_mla", [](Problem &p) {
        p.kv_on_host = p.v_inside_k = true;
        p.num_kv_heads = 1;
        p.group = 16;
        p.head_dim_qk = 576;
        p.head_dim_v = 512;
    });
}

} // namespace

void add_layout_problems(ProblemList &list)
{
    add_patterns_and_strides(list);
    add_shared_pages(list);
    add_places(list);
}

} // namespace problems
