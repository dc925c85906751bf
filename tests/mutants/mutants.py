# SPDX-License-Identifier: Apache-2.0
"""The bugs that tests must find. A row: a name, the file, its text (there exactly once), what stands there instead, the targets that must
all fail, a --test_filter that makes them fast, and what of /proc/cpuinfo's flags the machine needs."""
from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    targets: str
    filter: str = ""
    needs: str = ""


CONFORMANCE, KERNELS, NEON = "//tests:conformance_test", "//tests:kernels_cpu_test", "//tests:kernels_neon_test"
SELFTEST, FAR, PLAN, HOST = "//tests:selftest", "//tests:far_test", "//tests:plan_test", "//tests:host_process_test"

MUTANTS = [
    # ---- kernels_cpu ----
    Mutant("a second digit of top-k counted in 16 bits", "kernels_cpu/topk_scalar.c", "histogram[scores[j] & low_mask]++;",
           "histogram[scores[j] & low_mask] = (uint16_t)(histogram[scores[j] & low_mask] + 1);", KERNELS, "*TopkU16*scalar"),
    Mutant("ties of top-k kept from the end", "kernels_cpu/topk_lanes.h", "num_out += c->keys[i] > threshold;",
           "num_out += c->keys[i] >= threshold;", KERNELS, "*Topk*avx2"),
    Mutant("top-k stops one key early", "kernels_cpu/topk_lanes.h", "    for (; j < keys->n; j++) {\n        c->positions",
           "    for (; j < keys->n - 1; j++) {\n        c->positions", KERNELS, "*Topk*avx2"),
    Mutant("NaN ranks above infinity", "kernels_cpu/topk_lanes.h", "return key != key ? 0 : bits", "return key != key ? ~0u : bits",
           KERNELS, "*TopkF32*avx2"),
    Mutant("NaN ranks above infinity, 16 lanes", "kernels_cpu/topk_avx512.c",
           "_mm512_maskz_xor_epi32(_mm512_cmp_ps_mask(keys, keys, _CMP_ORD_Q), bits, flip)", "_mm512_xor_epi32(bits, flip)",
           KERNELS, "*TopkF32*avx512", "avx512_vpopcntdq"),
    Mutant("fp16 rounds half up", "kernels_cpu/scalar.h", "magnitude += 0xfff + (magnitude >> 13 & 1);", "magnitude += 0x1000;",
           KERNELS, "*scalar"),
    Mutant("weights of no finite sum are not 0", "kernels_cpu/encode_f32x8.h", "max == 0.0f || f32x8_sum(infinite) != 0.0f",
           "max == 0.0f", KERNELS, "*Weights*avx2"),
    Mutant("even groups are not halved", "kernels_cpu/encode_f32x8.h", "group % 2 ? 1.0f : 0.5f", "1.0f", KERNELS, "*Weights*avx2"),
    Mutant("bits past code_bits", "kernels_cpu/encode_f32x8.h", "r < 32 && w * 32 + r < num_bits; r += 8", "r < 32; r += 8", KERNELS,
           "*Pack*avx2"),
    Mutant("the last weight plane forgotten", "kernels_cpu/encode_f32x8.h", "any[p] ? p + 1 : planes->num_planes",
           "any[p] ? p : planes->num_planes", KERNELS, "*Split*avx2"),
    Mutant("a largest logit of +infinity taken for none", "kernels_cpu/attend_f32x8.h", "base = max == -INFINITY ? 0.0f : max;",
           "base = max - max != 0 ? 0.0f : max;", KERNELS, "*Attend*avx2"),
    Mutant("an empty part of a merge is read", "kernels_cpu/merge_f32x8.h",
           "num_used += lses[(first + p) * stride_lse] != -INFINITY;", "num_used++;", KERNELS, "*Merge*avx2"),
    Mutant("parts of a merge past the eighth are dropped", "kernels_cpu/merge_f32x8.h", "first > 0, n - i, out + i",
           "0, n - i, out + i", KERNELS, "*Merge*avx2"),
    Mutant("parts of a merge past the sixteenth are dropped", "kernels_cpu/merge_avx512.c",
           "if (first) /* groups", "if (0) /* groups", KERNELS, "*Merge*avx512",
           "avx512_vpopcntdq"),
    Mutant("dims past a whole register are dropped", "kernels_cpu/attend_avx512.c", "if (dim < block->head_dim_qk) {",
           "if (dim + 8 < block->head_dim_qk) {", KERNELS, "*Attend*avx512", "avx512_vpopcntdq"),
    Mutant("V's rows touched with K's size", "kernels_cpu/attend_rows.h", "touch_row(block->v_rows[j], size_v);",
           "touch_row(block->v_rows[j], size_k);", KERNELS, "*FetchedWithTheirOwnSizes*"),
    # The bits stay the same, so no test of results can see it; the objects are looked at instead.
    Mutant("nothing is prefetched", "kernels_cpu/attend_rows.h", "__builtin_prefetch((const char *)rows[row] + i, 0, 2);",
           "(void)rows;", "//tests:isa_test"),
    Mutant("the compiler may use what is not probed", "kernels_cpu/isa.bzl", '"-mavx512vbmi2",', '"-mavx512vbmi2",\n"-mavx512bitalg",',
           "//tests:isa_test"),
    Mutant("BMI2 is used and not probed", "kernels_cpu/cpu_features.c", ' && __builtin_cpu_supports("bmi2")', "", "//tests:isa_test"),
    Mutant("VBMI2 is used and not probed", "kernels_cpu/cpu_features.c", '__builtin_cpu_supports("avx512vbmi2") && ', "",
           "//tests:isa_test"),
    # ---- NEON's twins ----
    Mutant("NEON: bf16 truncated", "kernels_cpu/neon.h", "vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd)", "vaddq_u32(bits, odd)", NEON),
    Mutant("NEON: fp8 NaN is a number", "kernels_cpu/neon.h", "vandq_u16(nan, vdupq_n_u16(0x7e00 - 0x3f80))",
           "vandq_u16(nan, vdupq_n_u16(0))", NEON),
    Mutant("NEON: zero counts as positive", "kernels_cpu/neon.h", "vmovn_u32(vcgtq_f32(a.high, vdupq_n_f32(0.0f)))",
           "vmovn_u32(vcgeq_f32(a.high, vdupq_n_f32(0.0f)))", NEON),
    Mutant("NEON: one word of a short code is lost", "kernels_cpu/neon.h", "memcpy(lane, src, (size_t)words * sizeof *src);",
           "memcpy(lane, src, (size_t)(words > 1 ? words - 1 : 1) * sizeof *src);", NEON),
    # ---- core and backends ----
    Mutant("offsets of 32 bits", "core/rows.h", "const int64_t offset = i * tensor->stride[0]",
           "const int64_t offset = (int32_t)0 + (int32_t)(i * tensor->stride[0])", FAR),
    Mutant("lengths not clamped", "core/rows.h", "length > max_length ? max_length : length",
           "length > max_length ? max_length + 1 : length", CONFORMANCE,
           "*scalar_lengths_past_max*"),
    Mutant("budgets of the first sequence for all", "core/rows.h", "budgets, row->sequence, head, 0)", "budgets, 0, head, 0)",
           "//tests:batch_invariance_test", "*avx2_budgets"),
    Mutant("parts of any size", "backends/cpu/plan.c", "MAX_PART = 4096", "MAX_PART = 1 << 30", FAR, "*Equal*"),
    Mutant("positions of 16 bits", "backends/cpu/attend.c",
           "const int64_t position = a->indices ? a->indices[first + i] : first + i;",
           "const int64_t position = (uint16_t)(a->indices ? a->indices[first + i] : first + i);", "//tests:bench_shapes_test"),
    Mutant("a chunk starts at the first slot of its page", "backends/cpu/score.c", "first % pages->page_size, count}", "0, count}",
           CONFORMANCE, "*scalar_long_pages*"),
    Mutant("composed decode ignores budgets", "backends/compose.c", "                                  .budgets = args->budgets,\n",
           "", CONFORMANCE, "ConformanceReference*"),
    # ---- the host process ----
    Mutant("appended keys are scored before they are encoded", "backends/cpu/encode.c",
           "    hattn_crew_finish(crew, HATTN_STEP_APPEND, units);\n", "", HOST, "*Appended*"),
    Mutant("ranks without scratch work", "backends/cpu/crew.c", "if (crew->rank < cpu->max_threads)", "if (crew->rank >= 0)", HOST,
           "*TeamsMayBeLarger*"),
    Mutant("a child joins its parent's helpers", "backends/cpu/pool.c", "if (pool && !is_forked(pool)) {", "if (pool) {", HOST,
           "*Fork*"),
    Mutant("a refused rank stays away", "api/runs.c", "    if (r->team) {\n        r->team->barrier(r->team->context);",
           "    if (r->team && !r->status) {\n        r->team->barrier(r->team->context);", HOST, "*RefusedRank*"),
    Mutant("codes of two tokens mix", "backends/cpu/encode.c", "    hattn_crew_lock(crew, code);\n", "", HOST, "*TwoTokens*"),
    Mutant("counters are left as they are", "backends/cpu/crew.c", "    hattn_host_control_reset(control_of(crew));\n", "", HOST),
    Mutant("the caller's rounding stays", "api/runs.c", "r->fp = hattn_fp_enter();", "r->fp = 0;", HOST, "*FloatingPoint*"),
    Mutant("fields that nobody knows are let pass", "api/structs.c", "        if (((const char *)theirs)[i])", "        if (0)",
           "//tests:run_test"),
    Mutant("more is written than the caller has", "api/structs.c", "const size_t known = given < size ? given : size, head = sizeof(given);",
           "const size_t known = size, head = sizeof(given);", "//tests:device_test"),
    Mutant("quotas of the groups above do not count", "backends/cpu/processors.c", "        *slash = 0;\n", "        return quota;\n",
           "//tests:processors_test"),
    # ---- CUDA's host side ----
    Mutant("CUDA: fp32 caches on tensor cores", "backends/cuda/plan.c",
           "const int is_one_type = (is_half || is_bf16) && p->q.dtype == p->k_cache.dtype;",
           "const int is_one_type = (is_half || is_bf16 || !is_f8) && p->q.dtype == p->k_cache.dtype;", "//tests:cuda_plan_test"),
    Mutant("CUDA: rows that start anywhere taken for aligned", "backends/cuda/plan.c", "if (bytes % 16 || bytes / 16 > UINT32_MAX)",
           "if (bytes / 16 > UINT32_MAX)", "//tests:cuda_plan_test"),
    Mutant("CUDA: a divisor's magic off by one", "backends/cuda/plan.c", "/ divisor + 1);", "/ divisor);", "//tests:cuda_plan_test"),
    Mutant("CUDA: a graph of too many blocks", "backends/cuda/plan.c", "if (p->num_q_heads > 65535)", "if (p->num_q_heads > 1 << 30)",
           "//tests:cuda_plan_test"),
    Mutant("CUDA: the caller's device is not restored", "backends/cuda/device.c",
           "            hattn_cuda_leave(previous);                                                               \\\n", "",
           "//tests:cuda_plan_test"),
    # ---- the rules ----
    Mutant("outputs may overlap", "api/validate.c", "if (stride < span)", "if (stride + 1 < span)",
           PLAN),
    Mutant("forced tokens past k", "api/validate.c", "(int64_t)p->num_sink + p->num_recent > p->k", "p->num_sink > p->k", PLAN),
    Mutant("nine query tokens", "api/validate.c", "p->max_q_len > 8,", "p->max_q_len > 9,", PLAN),
    # ---- conformance itself ----
    Mutant("conformance compares nothing", "conformance/case.cc", "if (want.empty() || !memcmp(begin, want.data(), want.size()))",
           "if (begin)", SELFTEST),
    Mutant("conformance: what has no rule may be anything", "conformance/case.cc", "else if (!rule || !rule(", "else if (rule && !rule(",
           SELFTEST),
    Mutant("conformance: unselected rows are not poisoned", "conformance/instance.cc",
           "    instance.k_cache.memory->fill(POISON);\n", "", SELFTEST),
    Mutant("conformance: code bits may flip at fifty times the bound", "contract/flips.cc", "return bound > 0 && std::fabs(z) <= bound;",
           "return bound > 0 && std::fabs(z) <= 50 * bound;", SELFTEST),
    Mutant("conformance: a NaN is near everything", "contract/attention.cc", "return std::isnan(got);",
           "return true;", SELFTEST),
    Mutant("conformance: no second run", "conformance/case.cc", "return repeat(context, checked, expectations);",
           'return context.golden ? repeat(context, checked, expectations) : "";',
           SELFTEST),
    Mutant("conformance: a dirty workspace is fine", "conformance/session.cc", "return result.empty() ? workspace.check() : result;",
           "return result;", SELFTEST),
    Mutant("conformance: golden values are not compared", "conformance/case.cc", "if (!context.golden->get(key, &golden))",
           "if (context.golden)", SELFTEST),
    Mutant("conformance: flips are never too many", "conformance/session.cc", "bool enough = static_cast<double>(count) * share >= 10;",
           "bool enough = false;", SELFTEST),
    # ---- tools and bench ----
    Mutant("safetensors: holes between tensors", "tools/safetensors.cc", "if (begin != end)", "if (begin < end)",
           "//tests:safetensors_test"),
    Mutant("the lower median", "bench/timer.h", "(values[half - 1] + values[half]) / 2", "values[half - 1]", "//tests:bench_test",
           "*Median*"),
    Mutant("the best of the first k only", "tools/truth.cc", "sum[a] != sum[b] ? sum[a] > sum[b] : a < b", "a < b",
           "//tests:accuracy_test"),
]
