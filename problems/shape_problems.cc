/* SPDX-License-Identifier: Apache-2.0 */
#include "problems/problem_list.h"

namespace problems {
namespace {

void add_heads(ProblemList &list)
{
    for (int group : {1, 2, 3, 4, 5, 6, 7, 8, 16, 71, 127, 128}) {
        for (bool weighted : {false, true}) {
            list.add(with(weighted ? "group_weighted" : "group", group), [&](Problem &p) {
                p.group = group;
                p.num_kv_heads = group > 8 ? 1 : 2;
                p.head_dim_qk = 32;
                p.lengths = {33, 100};
                p.score_kind = weighted ? HATTN_SCORE_WEIGHTED : HATTN_SCORE_HAMMING;
            });
        }
    }
    /* More heads than fit into one block, and dims that are no multiple of 16. */
    for (int group : {12, 16, 17, 24, 40, 128}) {
        list.add(with("group_wide", group), [&](Problem &p) {
            p.group = group;
            p.num_kv_heads = group > 16 ? 1 : 2;
            p.head_dim_qk = group == 16 ? 128 : 72;
            p.head_dim_v = group == 16 ? 128 : 40;
            p.q_dtype = p.kv_dtype = group % 16 ? HATTN_BF16 : HATTN_F16;
            p.lengths = {65, 300};
            p.k = 150;
            p.sink_logits = group == 24;
        });
    }
    /* More selections of a row than a device has histograms for at a time. */
    list.add("heads_1030", [](Problem &p) {
        p.num_kv_heads = 1030;
        p.group = 1;
        p.head_dim_qk = 32;
        p.lengths = {33, 100};
        p.append = true;
    });
    list.add("one_kv_head", [](Problem &p) { p.num_kv_heads = 1; });
    list.add("five_kv_heads", [](Problem &p) {
        p.num_kv_heads = 5;
        p.group = 3;
    });
    list.add("select_per_query_head", [](Problem &p) { p.selections_per_query_head = true; });
    list.add("select_per_query_head_weighted", [](Problem &p) {
        p.selections_per_query_head = true;
        p.score_kind = HATTN_SCORE_WEIGHTED;
    });
    list.add("codes_per_query_head", [](Problem &p) {
        p.codes_per_query_head = p.selections_per_query_head = true;
        p.code_bits = 32;
    });
    list.add("codes_per_query_head_weighted", [](Problem &p) {
        p.codes_per_query_head = p.selections_per_query_head = true;
        p.code_bits = 64;
        p.group = 3;
        p.score_kind = HATTN_SCORE_WEIGHTED;
        p.append = true;
    });
}

void add_codes(ProblemList &list)
{
    for (int bits : {32, 40, 64, 96, 128, 160, 200, 224, 256, 384, 512}) {
        for (bool weighted : {false, true}) {
            list.add(with(weighted ? "bits_weighted" : "bits", bits), [&](Problem &p) {
                p.code_bits = bits;
                p.score_kind = weighted ? HATTN_SCORE_WEIGHTED : HATTN_SCORE_HAMMING;
                p.append = true;
            });
        }
    }
    for (int bits = 2; bits <= 8; bits++)
        list.add(with("weight_bits", bits), [&](Problem &p) {
            p.score_kind = HATTN_SCORE_WEIGHTED;
            p.weight_bits = bits;
        });
    list.add("norms", [](Problem &p) {
        p.key_norms = true;
        p.append = true;
    });
    list.add("norms_weighted", [](Problem &p) {
        p.key_norms = true;
        p.score_kind = HATTN_SCORE_WEIGHTED;
        p.weight_bits = 8;
        p.code_bits = 256;
    });
    list.add("norms_contiguous", [](Problem &p) {
        p.key_norms = true;
        p.page_size = 0;
        p.num_sink = 3;
        p.num_recent = 2;
    });
    list.add("norms_per_query_head",
             [](Problem &p) { p.key_norms = p.codes_per_query_head = p.selections_per_query_head = true; });
}

void add_dims_and_dtypes(ProblemList &list)
{
    for (int d : {32, 40, 64, 72, 96, 128, 192, 256})
        list.add(with("dim", d), [&](Problem &p) {
            p.head_dim_qk = d;
            p.append = true;
        });
    list.add("dims_192_128", [](Problem &p) {
        p.head_dim_qk = 192;
        p.head_dim_v = 128;
    });
    list.add("dims_40_256", [](Problem &p) {
        p.head_dim_qk = 40;
        p.head_dim_v = 256;
    });
    list.add("mla", [](Problem &p) {
        p.num_kv_heads = 1;
        p.group = 16;
        p.head_dim_qk = 576;
        p.head_dim_v = 512;
        p.v_inside_k = true;
        p.page_size = 64;
        p.append = true;
    });
    list.add("mla_bf16_per_query_head", [](Problem &p) {
        p.num_kv_heads = 1;
        p.group = 3;
        p.head_dim_qk = 576;
        p.head_dim_v = 512;
        p.v_inside_k = p.codes_per_query_head = p.selections_per_query_head = true;
        p.q_dtype = p.kv_dtype = HATTN_BF16;
        p.code_bits = 64;
    });
    list.add("mla_f32_q", [](Problem &p) {
        p.num_kv_heads = 1;
        p.group = 12;
        p.head_dim_qk = 576;
        p.head_dim_v = 512;
        p.v_inside_k = true;
        p.q_dtype = HATTN_F32;
    });
    list.add("v_inside_k_same_dim", [](Problem &p) {
        p.v_inside_k = true;
        p.page_size = 0;
    });
    for (int offset : {8, 16, 64}) /* GPUs want 16 bytes; 64: as behind a part with RoPE */
        list.add(with("v_inside_k_at", offset), [&](Problem &p) {
            p.num_kv_heads = offset == 64 ? 1 : 2;
            p.group = offset == 64 ? 16 : 4;
            p.head_dim_v = offset == 64 ? 512 : 64;
            p.head_dim_qk = p.head_dim_v + offset;
            p.v_inside_k = true;
            p.v_offset = offset;
            p.kv_dtype = offset == 16 ? HATTN_F8_E4M3 : HATTN_F16;
            p.append = true;
        });

    const int32_t floats[] = {HATTN_F32, HATTN_F16, HATTN_BF16};
    const char *names[] = {"f32", "f16", "bf16"};
    for (int q = 0; q < 3; q++) {
        for (int kv = 0; kv < 4; kv++) {
            std::string name = std::string("q_") + names[q] + "_kv_" + (kv < 3 ? names[kv] : "f8");
            list.add(name, [&](Problem &p) {
                p.q_dtype = floats[q];
                p.kv_dtype = kv < 3 ? floats[kv] : HATTN_F8_E4M3;
                p.score_kind = HATTN_SCORE_WEIGHTED;
                p.append = true;
            });
        }
    }
    list.add("out_f32_of_f16", [](Problem &p) { p.out_dtype = HATTN_F32; });
    list.add("out_f32_of_bf16", [](Problem &p) {
        p.out_dtype = HATTN_F32;
        p.q_dtype = p.kv_dtype = HATTN_BF16;
    });
    list.add("f8_one_scale", [](Problem &p) {
        p.kv_dtype = HATTN_F8_E4M3;
        p.kv_scales = Scales::ONE;
        p.append = true;
    });
    list.add("f8_scale_per_head", [](Problem &p) {
        p.kv_dtype = HATTN_F8_E4M3;
        p.kv_scales = Scales::PER_HEAD;
        p.num_kv_heads = 3;
        p.key_norms = true;
        p.append = true;
    });
    list.add("f8_k_scale_alone", [](Problem &p) {
        p.kv_dtype = HATTN_F8_E4M3;
        p.kv_scales = Scales::PER_HEAD;
        p.k_scale_alone = true;
        p.append = true;
    });
    list.add("f8_odd_scales", [](Problem &p) {
        p.kv_dtype = HATTN_F8_E4M3;
        p.kv_scales = Scales::PER_HEAD;
        p.odd_scales = true;
        p.num_kv_heads = 4;
        p.q_dtype = HATTN_BF16;
        p.key_norms = true;
        p.append = true;
    });
    for (int32_t q : floats) {
        list.add(std::string("f8_256_scaled_q_") + names[q - HATTN_F32], [&](Problem &p) {
            p.kv_dtype = HATTN_F8_E4M3;
            p.q_dtype = q;
            p.head_dim_qk = 256;
            p.kv_scales = Scales::PER_HEAD;
            p.lengths = {300, 17, 0};
            p.k = 100;
        });
    }
    for (int32_t q : {HATTN_F16, HATTN_BF16})
        for (int group : {1, 3, 8, 11})
            list.add(with(std::string("f8_128_q_") + names[q - HATTN_F32] + "_group", group), [&](Problem &p) {
                p.kv_dtype = HATTN_F8_E4M3;
                p.q_dtype = q;
                p.head_dim_qk = 128;
                p.group = group;
                p.kv_scales = group == 1 ? Scales::ONE : Scales::PER_HEAD;
                p.soft_cap = group == 3 ? 5 : 0;
                p.sink_logits = group == 8;
                p.page_size = group == 11 ? 0 : 16;
                p.lengths = {300, 17, 0, 129};
                p.k = 100;
            });
    list.add("f8_soft_cap_sinks", [](Problem &p) {
        p.kv_dtype = HATTN_F8_E4M3;
        p.head_dim_qk = 80;
        p.head_dim_v = 48;
        p.group = 9;
        p.soft_cap = 3;
        p.sink_logits = true;
        p.lengths = {70, 129, 0, 1};
    });
    list.add("f8_mla_scaled", [](Problem &p) {
        p.num_kv_heads = 1;
        p.group = 8;
        p.head_dim_qk = 576;
        p.head_dim_v = 512;
        p.v_inside_k = true;
        p.kv_dtype = HATTN_F8_E4M3;
        p.kv_scales = Scales::ONE;
    });
}

void add_maps(ProblemList &list)
{
    list.add("key_bias", [](Problem &p) {
        p.key_bias = true;
        p.append = true;
    });
    list.add("shared_map", [](Problem &p) { p.shared_map = true; });
    list.add("shared_map_with_key_bias", [](Problem &p) {
        p.shared_map = p.key_bias = true;
        p.score_kind = HATTN_SCORE_WEIGHTED;
    });
    list.add("map_f32_of_f16", [](Problem &p) {
        p.map_dtype = HATTN_F32;
        p.append = true;
    });
    list.add("map_bf16_of_f16", [](Problem &p) {
        p.map_dtype = HATTN_BF16;
        p.key_bias = true;
    });
    list.add("map_f16_of_f32", [](Problem &p) {
        p.map_dtype = HATTN_F16;
        p.q_dtype = p.kv_dtype = HATTN_F32;
    });
    for (int hidden : {8, 40, 128}) {
        list.add(with("mlp", hidden), [&](Problem &p) {
            p.map_kind = HATTN_MAP_MLP;
            p.hidden[0] = hidden;
            p.hidden[1] = hidden == 40 ? 24 : hidden;
            p.code_bits = 32;
            p.group = 2;
            p.codes_per_query_head = p.selections_per_query_head = true;
            p.map_dtype = hidden == 8 ? HATTN_F32 : hidden == 40 ? HATTN_BF16 : HATTN_F16;
            p.append = true;
        });
    }
    list.add("maps_of_two_dtypes", [](Problem &p) {
        p.map_dtype = HATTN_F32;
        p.query_map_dtype = HATTN_BF16;
        p.append = true;
    });
    list.add("mlps_of_two_sizes", [](Problem &p) {
        p.map_kind = HATTN_MAP_MLP;
        p.hidden[0] = 16;
        p.hidden[1] = 64;
        p.query_hidden[0] = 72;
        p.query_hidden[1] = 24;
        p.map_dtype = HATTN_BF16;
        p.query_map_dtype = HATTN_F32;
        p.append = true;
    });
    list.add("mlp_weighted_group", [](Problem &p) {
        p.map_kind = HATTN_MAP_MLP;
        p.hidden[0] = 64;
        p.hidden[1] = 96;
        p.score_kind = HATTN_SCORE_WEIGHTED;
    });
    list.add("mlp_1024", [](Problem &p) {
        p.map_kind = HATTN_MAP_MLP;
        p.hidden[0] = p.hidden[1] = 1024;
        p.num_kv_heads = p.group = 1;
        p.num_tokens = 3;
    });
    list.add("no_tokens", [](Problem &p) { p.num_tokens = 0; });
    list.add("one_token", [](Problem &p) { p.num_tokens = 1; });
    list.add("tokens_without_mapping", [](Problem &p) {
        p.num_tokens = 70;
        p.slot_mapping = false;
        p.page_size = 3;
    });
    list.add("tokens_without_mapping_contiguous", [](Problem &p) {
        p.num_tokens = 150;
        p.slot_mapping = false;
        p.page_size = 0;
    });
    list.add("many_tokens", [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.num_tokens = 900;
        p.lengths = {600, 500};
    });
    list.add("many_tokens_norms_bias", [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.num_tokens = 900;
        p.lengths = {600, 500};
        p.q_dtype = p.kv_dtype = HATTN_BF16;
        p.head_dim_qk = 128;
        p.code_bits = 192;
        p.key_norms = p.key_bias = true;
    });
    list.add("many_tokens_f8", [](Problem &p) {
        p.tag = Tag::MEDIUM;
        p.num_tokens = 900;
        p.lengths = {600, 500};
        p.kv_dtype = HATTN_F8_E4M3;
        p.kv_scales = Scales::PER_HEAD;
        p.head_dim_qk = 128;
        p.key_norms = p.key_bias = true;
    });
    for (int hidden : {64, 128}) {
        list.add(with("many_tokens_mlp", hidden), [&](Problem &p) {
            p.tag = Tag::MEDIUM;
            p.num_tokens = 300;
            p.lengths = {600, 500};
            p.q_dtype = p.kv_dtype = hidden == 64 ? HATTN_F16 : HATTN_BF16;
            p.map_kind = HATTN_MAP_MLP;
            p.hidden[0] = hidden;
            p.hidden[1] = 72;
            p.code_bits = hidden == 64 ? 64 : 32;
            p.key_norms = hidden == 64;
        });
    }
}

} // namespace

void add_shape_problems(ProblemList &list)
{
    add_heads(list);
    add_codes(list);
    add_dims_and_dtypes(list);
    add_maps(list);
}

} // namespace problems
