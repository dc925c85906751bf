/* SPDX-License-Identifier: Apache-2.0
 * Which instruction sets this machine has, less what $HATTN_CPU_DISABLE lists.
 */
#ifndef HATTN_KERNELS_CPU_CPU_FEATURES_H
#define HATTN_KERNELS_CPU_CPU_FEATURES_H

#ifdef __cplusplus
extern "C" {
#endif

/* Bits. AVX2 also means F16C, FMA and POPCNT; AVX512 means F, BW, DQ, VL, VBMI2 and VPOPCNTDQ (Ice Lake, Zen 4) on top of AVX2. */
enum { HATTN_ISA_SCALAR = 1, HATTN_ISA_NEON = 2, HATTN_ISA_AVX2 = 4, HATTN_ISA_AVX512 = 8 };

/* What the machine has and HATTN_CPU_DISABLE ("avx512,avx2") leaves; scalar always. */
unsigned hattn_cpu_isas(void);

/* The bits of `isas` up to and including the named one; 0 if there is no such name or it is not in `isas`. */
unsigned hattn_cpu_isas_up_to(unsigned isas, const char *name);

/* 1 where a block's rows are better loaded back to back than prefetched: Intel's cores, whose prefetches of random rows leave
 * most of the misses to the loads (Granite Rapids: 658 us for what a burst of loads did in 459). */
int hattn_cpu_loads_first(void);

/* The name of the highest bit: "scalar", "neon", "avx2", "avx512". */
const char *hattn_cpu_isa_name(unsigned isas);

#ifdef __cplusplus
}
#endif
#endif
