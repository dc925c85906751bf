/* SPDX-License-Identifier: Apache-2.0
 * The shapes that every benchmark reports (docs/design.md, section 6): d 128, fp16, contiguous, unless the name says more.
 */
#include "problems/problems.h"

namespace problems {
namespace {

Problem shape(const std::string &name, int sequences, int num_q_heads, int num_kv_heads, int length, int k)
{
    Problem p;
    p.name = name;
    p.tag = Tag::BENCH;
    p.num_kv_heads = num_kv_heads;
    p.group = num_q_heads / num_kv_heads;
    p.head_dim_qk = 128;
    p.page_size = 0;
    p.lengths.assign(sequences, length);
    p.k = k;
    p.num_tokens = 4096;
    p.slot_mapping = false;
    return p;
}

/* Adds `base` under a longer name, to be changed. The reference holds until the next one is added. */
Problem &add(std::vector<Problem> *all, const Problem &base, const std::string &suffix)
{
    all->push_back(base);
    all->back().name += suffix;
    return all->back();
}

void add_grouped(std::vector<Problem> *all, const Problem &base, int group)
{
    Problem &p = add(all, base, "_g" + std::to_string(group));
    p.num_kv_heads = base.num_kv_heads * base.group / group;
    p.group = group;
}

Problem &add_per_query_head(std::vector<Problem> *all, const Problem &base, const std::string &suffix)
{
    Problem &p = add(all, base, suffix);
    p.codes_per_query_head = p.selections_per_query_head = true;
    p.code_bits = 32;
    return p;
}

/* Feature rows: `base` with one thing changed. */
void add_features(std::vector<Problem> *all, const Problem &base)
{
    Problem &bf16 = add(all, base, "_bf16");
    bf16.q_dtype = bf16.kv_dtype = HATTN_BF16;
    add(all, base, "_f8").kv_dtype = HATTN_F8_E4M3;
    add(all, base, "_d64").head_dim_qk = 64;
    add(all, base, "_d256").head_dim_qk = 256;
    add_grouped(all, base, 8);
    add_grouped(all, base, 16);
    Problem &mla = add(all, base, "_mla");
    mla.group = 16;
    mla.num_kv_heads = 1;
    mla.head_dim_qk = 576;
    mla.head_dim_v = 512;
    mla.v_inside_k = true;
    add(all, base, "_q4").q_len = 4;
    add(all, base, "_norms").key_norms = true;
    add_per_query_head(all, base, "_per_query_head_32");
    add(all, base, "_paged_16").page_size = 16;
    add(all, base, "_paged_64").page_size = 64;
}

/* On normal keys and queries 58 % of a selection weigh as much: rows of V that are read. */
float usual_value_weight(int k) { return 0.75f / static_cast<float>(k); }

/* Floors that nothing falls below, and tails: what they cost where they change nothing; the same with two fifths of V not read. */
void add_beyond(std::vector<Problem> *all, const Problem &base)
{
    for (const char *kind : {"_floor", "_floor_tail", "_floor_tail_skip"}) {
        Problem &p = add(all, base, kind);
        p.set = "floors";
        p.baseline = base.name;
        p.min_probability = 1e-30f;
        p.tail = kind == std::string("_floor") ? 0 : 0.5f;
        p.min_value_weight = kind == std::string("_floor_tail_skip") ? usual_value_weight(p.k) : 0;
    }
}

/* Scores per query head, of as many rows as without: what the cascade costs. */
void add_heads(std::vector<Problem> *all, const Problem &base)
{
    for (const char *kind : {"_heads", "_heads_floor_tail", "_heads_floor_tail_skip"}) {
        const bool has_tail = kind != std::string("_heads");
        Problem &p = add(all, base, kind);
        p.set = "heads";
        p.baseline = base.name + "_weighted";
        p.score_kind = HATTN_SCORE_WEIGHTED;
        p.num_candidates = 4 * p.k;
        p.min_probability = has_tail ? 1e-30f : 0;
        p.tail = has_tail ? 0.5f : 0;
        p.min_value_weight = kind == std::string("_heads_floor_tail_skip") ? usual_value_weight(p.k) : 0;
    }
}

/* Ways to about the output error of base_weighted, and of larger selections: docs/accuracy.md says which are equal. A floor is one
 * that nothing falls below, as k is the mean of what a real one keeps. */
void add_equal(std::vector<Problem> *all, const Problem &base)
{
    enum Kind { FIXED, TAIL, FLOOR_TAIL, HEADS_FLOOR_TAIL };
    const char *const kinds[] = {"", "_tail", "_floor_tail", "_heads_floor_tail"};
    const struct {
        int bits, k;
        Kind kind;
    } rows[] = {
        {128, 3072, FIXED},
        {128, 4096, FIXED},
        {128, 6144, FIXED},
        {128, 1024, TAIL},
        {128, 1664, FLOOR_TAIL},
        {128, 2560, FLOOR_TAIL},
        {128, 1216, HEADS_FLOOR_TAIL},
        {128, 1856, HEADS_FLOOR_TAIL},
        {64, 1408, FLOOR_TAIL},
        {64, 1536, TAIL},
        {64, 2304, FLOOR_TAIL},
        {64, 1152, HEADS_FLOOR_TAIL},
        {64, 1920, HEADS_FLOOR_TAIL},
    };
    for (const auto &row : rows) {
        Problem &p = add(all, base, "_weighted" + (row.bits == 128 ? "" : "_" + std::to_string(row.bits)));
        p.name += "_k" + std::to_string(row.k) + kinds[row.kind];
        p.set = "equal";
        p.baseline = base.name + "_weighted";
        p.score_kind = HATTN_SCORE_WEIGHTED;
        p.code_bits = row.bits;
        p.k = row.k;
        p.tail = row.kind == FIXED ? 0 : 0.5f;
        p.min_probability = row.kind >= FLOOR_TAIL ? 1e-30f : 0;
        p.num_candidates = row.kind == HEADS_FLOOR_TAIL ? 4 * row.k : 0;
    }
}

} // namespace

std::vector<Problem> bench_problems()
{
    std::vector<Problem> all = {
        shape("S1", 1, 32, 8, 32768, 512),   shape("S2", 1, 32, 8, 131072, 2048), shape("S3", 8, 32, 8, 32768, 512),
        shape("S4", 8, 32, 8, 131072, 2048), shape("S5", 8, 32, 32, 32768, 512),  shape("S6", 1, 32, 32, 131072, 2048),
        shape("S7", 1, 32, 32, 32768, 512), /* CPUs */
        shape("S8", 256, 32, 8, 4096, 512), /* GPUs: a large batch */
    };
    const std::vector<Problem> shapes = all;
    for (const Problem &base : shapes) {
        add(&all, base, "_64").code_bits = 64;
        Problem &weighted_64 = add(&all, base, "_weighted_64");
        weighted_64.code_bits = 64;
        weighted_64.score_kind = HATTN_SCORE_WEIGHTED;
        add(&all, base, "_weighted").score_kind = HATTN_SCORE_WEIGHTED;
    }

    const Problem &s1 = shapes[0], &s4 = shapes[3];
    add_features(&all, s1);
    Problem &f32 = add(&all, s1, "_f32");
    f32.q_dtype = f32.kv_dtype = HATTN_F32;
    Problem &mlp = add_per_query_head(&all, s1, "_per_query_head_mlp_32"); /* HashAttention's own maps */
    mlp.map_kind = HATTN_MAP_MLP;
    mlp.hidden[0] = mlp.hidden[1] = 128;
    for (int bits : {96, 256, 512})
        add(&all, s1, "_" + std::to_string(bits)).code_bits = bits;
    add(&all, s1, "_append").append = true;
    Problem &clustered = add(&all, s1, "_clustered");
    clustered.codes = Codes::RUNS;
    clustered.run_length = 64;

    add_features(&all, s4);               /* GPUs */
    for (bool head_major : {false, true}) /* else the codes of one token are side by side */
        for (bool ordered : {false, true}) {
            Problem &p = add(&all, s4,
                             std::string("_paged_1") + (head_major ? "_head_major" : "") + (ordered ? "_ordered" : ""));
            p.page_size = 1;
            p.ordered_pages = ordered;
            p.strides = head_major ? Strides::HEAD_MAJOR : Strides::COMPACT;
        }
    for (const Problem &base : shapes)
        add_beyond(&all, base);
    for (const Problem &base : {s1, shapes[1], s4})
        add_heads(&all, base);
    add_equal(&all, s4);
    add_key_problems(&all);
    add_plan_problems(&all);
    return all;
}

} // namespace problems
