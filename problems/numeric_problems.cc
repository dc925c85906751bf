/* SPDX-License-Identifier: Apache-2.0 */
#include "problems/problem_list.h"

namespace problems {
namespace {

const struct {
    const char *name;
    int32_t dtype;
} caches[] = {{"f32", HATTN_F32}, {"f16", HATTN_F16}, {"bf16", HATTN_BF16}, {"f8", HATTN_F8_E4M3}};

/* q and k are normal: logits have a deviation of scale * sqrt(d), the largest are 3 to 4 times as large. Random keys leave one or two
 * of them with weight, biased ones many. */
void add_large_logits(ProblemList &list)
{
    for (int32_t q_dtype : {HATTN_F32, HATTN_BF16}) {
        for (const auto &cache : caches) {
            for (int largest : {115, 400, 1200}) {
                const std::string prefix = std::string(q_dtype == HATTN_F32 ? "q_f32_kv_" : "q_bf16_kv_") + cache.name;
                list.add(with(prefix + "_logits", largest), [&](Problem &p) {
                    p.q_dtype = q_dtype;
                    p.kv_dtype = cache.dtype;
                    p.map_dtype = HATTN_F32;
                    p.head_dim_qk = largest == 400 ? 64 : 128;
                    p.head_dim_v = largest == 400 ? 72 : 128;
                    p.pattern = largest == 115 ? Pattern::RANDOM : Pattern::BIASED;
                    p.scale = static_cast<float>(largest) / (largest == 400 ? 28 : 40);
                    p.lengths = {70, 700};
                    p.k = 600; /* more than one part */
                });
            }
        }
    }
    list.add("large_logits_capped", [](Problem &p) {
        p.q_dtype = p.kv_dtype = HATTN_F32;
        p.scale = 10;
        p.soft_cap = 300;
        p.lengths = {70, 700};
        p.k = 300;
    });
    list.add("large_logits_sinks", [](Problem &p) {
        p.pattern = Pattern::BIASED;
        p.q_dtype = p.kv_dtype = HATTN_F32;
        p.head_dim_qk = 576;
        p.head_dim_v = 512;
        p.group = 3;
        p.v_inside_k = p.sink_logits = true;
        p.scale = 15;
        p.lengths = {70, 700};
        p.k = 300;
    });
}

void add_huge_values(ProblemList &list)
{
    for (const auto &cache : caches) {
        for (bool sinks : {false, true}) {
            list.add(std::string(sinks ? "huge_values_sinks_" : "huge_values_") + cache.name, [&](Problem &p) {
                p.pattern = Pattern::HUGE_VALUES;
                p.q_dtype = cache.dtype == HATTN_F16 ? HATTN_F16 : sinks ? HATTN_BF16 : HATTN_F32;
                p.kv_dtype = cache.dtype;
                p.map_dtype = cache.dtype == HATTN_F16 ? HATTN_F16 : HATTN_F32;
                p.sink_logits = sinks;
                p.head_dim_v = sinks ? 64 : 40;
                p.lengths = {2, 100, 900};
                p.k = 700;
                p.num_parts = 20;
            });
        }
    }
    /* All heads of a group of one, on what serves wide and narrow dims. */
    list.add("huge_values_one_head", [](Problem &p) {
        p.pattern = Pattern::HUGE_VALUES;
        p.q_dtype = p.kv_dtype = HATTN_BF16;
        p.group = 1;
        p.head_dim_qk = 128;
        p.lengths = {2, 100, 900};
        p.k = 100;
    });
}

void add_infinities(ProblemList &list)
{
    for (const auto &cache : caches) {
        if (cache.dtype == HATTN_F8_E4M3) /* has none */
            continue;
        for (int32_t q_dtype : {static_cast<int32_t>(HATTN_F32), cache.dtype}) {
            const std::string suffix = std::string(q_dtype == cache.dtype ? "_" : "_q_f32_") + cache.name;
            const auto add = [&](const char *name, Pattern pattern, bool sinks, float soft_cap) {
                list.add(name + suffix, [&](Problem &p) {
                    p.pattern = pattern;
                    p.q_dtype = q_dtype;
                    p.kv_dtype = cache.dtype;
                    p.map_dtype = HATTN_F32;
                    p.sink_logits = sinks;
                    p.soft_cap = soft_cap;
                    p.lengths = {1, 70, 600};
                    p.k = 300;
                });
            };
            add("infinite", Pattern::INFINITE, false, 0);
            add("infinite_capped", Pattern::INFINITE, true, 20);
            add("nothing", Pattern::NOTHING, false, 0);
            add("nothing_but_sinks", Pattern::NOTHING, true, 0);
            if (cache.dtype == HATTN_F32)
                break; /* the two q are one */
        }
    }
}

/* The scale makes logits of about 1. */
void add_subnormals(ProblemList &list)
{
    for (const auto &cache : caches) {
        for (int page_size : {16, 0}) {
            list.add(std::string(page_size ? "subnormal_" : "subnormal_contiguous_") + cache.name, [&](Problem &p) {
                const bool f8 = cache.dtype == HATTN_F8_E4M3;
                p.pattern = Pattern::SUBNORMAL;
                p.q_dtype = f8 ? static_cast<int32_t>(HATTN_F16) : cache.dtype;
                p.kv_dtype = cache.dtype;
                p.scale = f8 ? 0x1p-8f : cache.dtype == HATTN_F16 ? 1 : 0x1p44f;
                p.page_size = page_size;
                p.lengths = {70, 300};
                p.q_len = 2;
                p.append = true;
            });
        }
    }
}

} // namespace

void add_numeric_problems(ProblemList &list)
{
    add_large_logits(list);
    add_huge_values(list);
    add_infinities(list);
    add_subnormals(list);
    for (bool norms : {false, true})
        list.add(norms ? "lowest_weight_norms" : "lowest_weight", [&](Problem &p) {
            p.pattern = Pattern::LOWEST_WEIGHT;
            p.score_kind = HATTN_SCORE_WEIGHTED;
            p.weight_bits = 8;
            p.code_bits = 512;
            p.key_norms = norms;
        });
}

} // namespace problems
