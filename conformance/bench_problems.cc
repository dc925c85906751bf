/* SPDX-License-Identifier: Apache-2.0
 * The shapes that every benchmark reports (docs/design.md, section 6): d 128, fp16, contiguous, unless the name says more.
 */
#include "conformance/problems.h"

namespace conformance {
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

} // namespace

std::vector<Problem> bench_problems()
{
    std::vector<Problem> all = {
        shape("S1", 1, 32, 8, 32768, 512),   shape("S2", 1, 32, 8, 131072, 2048), shape("S3", 8, 32, 8, 32768, 512),
        shape("S4", 8, 32, 8, 131072, 2048), shape("S5", 8, 32, 32, 32768, 512),  shape("S6", 1, 32, 32, 131072, 2048),
        shape("S7", 1, 32, 32, 32768, 512), /* CPUs */
    };
    const std::vector<Problem> shapes = all;
    for (const Problem &base : shapes) {
        Problem p = base;
        p.name = base.name + "_64";
        p.code_bits = 64;
        all.push_back(p);
        p.name = base.name + "_weighted_64";
        p.score_kind = HATTN_SCORE_WEIGHTED;
        all.push_back(p);
        p.name = base.name + "_weighted";
        p.code_bits = 128;
        all.push_back(p);
    }

    /* Feature rows: S1 with one thing changed. */
    auto feature = [&all](const char *name) -> Problem & {
        all.push_back(shape(std::string("S1_") + name, 1, 32, 8, 32768, 512));
        return all.back();
    };
    Problem &bf16 = feature("bf16");
    bf16.q_dtype = bf16.kv_dtype = HATTN_BF16;
    feature("f8").kv_dtype = HATTN_F8_E4M3;
    Problem &f32 = feature("f32");
    f32.q_dtype = f32.kv_dtype = HATTN_F32;
    feature("d64").head_dim_qk = 64;
    feature("d256").head_dim_qk = 256;
    Problem &g8 = feature("g8");
    g8.group = 8;
    g8.num_kv_heads = 4;
    Problem &g16 = feature("g16");
    g16.group = 16;
    g16.num_kv_heads = 2;
    Problem &mla = feature("mla");
    mla.group = 16;
    mla.num_kv_heads = 1;
    mla.head_dim_qk = 576;
    mla.head_dim_v = 512;
    mla.v_inside_k = true;
    feature("q4").q_len = 4;
    feature("norms").key_norms = true;
    auto per_query_head = [&feature](const char *name) -> Problem & {
        Problem &p = feature(name);
        p.codes_per_query_head = p.selections_per_query_head = true;
        p.code_bits = 32;
        return p;
    };
    per_query_head("per_query_head_32");
    Problem &mlp = per_query_head("per_query_head_mlp_32"); /* HashAttention's own maps */
    mlp.map_kind = HATTN_MAP_MLP;
    mlp.hidden[0] = mlp.hidden[1] = 128;
    feature("paged_16").page_size = 16;
    feature("paged_64").page_size = 64;
    feature("append").append = true;
    feature("clustered").pattern = Pattern::CLUSTERED;
    return all;
}

} // namespace conformance
