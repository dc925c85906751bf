/* SPDX-License-Identifier: Apache-2.0
 * Benchmark data: values that attention can work on, and random bits, on whatever memory they lie in.
 */
#ifndef HATTN_BENCH_FILL_H
#define HATTN_BENCH_FILL_H

#include "devices/memory.h"

/* Random values of magnitude 1/8 to 2 and either sign: HATTN_F32, F16, BF16 or F8_E4M3. About 5 GB/s a thread of the host. */
void fill_values(const devices::Memory &memory, void *data, size_t size, int32_t dtype, uint64_t seed);
/* Positive ones: HATTN_F16. */
void fill_norms(const devices::Memory &memory, void *data, size_t size, uint64_t seed);
/* Random bits. */
void fill_bits(const devices::Memory &memory, void *data, size_t size, uint64_t seed);

#endif
