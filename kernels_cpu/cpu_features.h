/* SPDX-License-Identifier: Apache-2.0
 * Which instruction sets this machine has, less what $HATTN_CPU_DISABLE lists.
 */
#ifndef HATTN_KERNELS_CPU_CPU_FEATURES_H
#define HATTN_KERNELS_CPU_CPU_FEATURES_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Every name that HATTN_CPU_DISABLE and hattn_device_options.isa know, in words. */
#define HATTN_CPU_ISA_NAMES "scalar, neon, avx2 and avx512"

/* Bits. AVX2 also means F16C, FMA and POPCNT; AVX512 means F, BW, DQ, VL, VBMI2 and VPOPCNTDQ (Ice Lake, Zen 4) on top of AVX2. */
enum { HATTN_ISA_SCALAR = 1, HATTN_ISA_NEON = 2, HATTN_ISA_AVX2 = 4, HATTN_ISA_AVX512 = 8 };

/* What the machine has and HATTN_CPU_DISABLE ("avx512, AVX2": any case, commas or spaces between) leaves; scalar always.
 * 0 where the list has a word that is no instruction set: it is copied to `unknown`, cut to `size`. */
unsigned hattn_cpu_isas(char *unknown, size_t size);

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
