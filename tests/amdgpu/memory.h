/* SPDX-License-Identifier: Apache-2.0
 * What memory kernels may use: what was allocated for the device, or, in programs that give memory of the host and allocate none,
 * whatever the process has mapped (the pages around a buffer that guard it are not).
 */
#ifndef HATTN_TESTS_AMDGPU_MEMORY_H
#define HATTN_TESTS_AMDGPU_MEMORY_H

#include "tests/amdgpu/launch.h"

/* Filled with garbage; NULL: there is none. */
void *memory_allocate(size_t size);
/* 0: it is no allocation. */
int memory_free(void *address);
/* Ascending, with room for `more` others behind them; to be freed. */
MemoryRange *memory_ranges(size_t more, size_t *count);
/* Whether these are the process's mappings, which hold all others. */
int memory_is_mapped(void);
/* Has them ascend again. */
void memory_sort(MemoryRange *ranges, size_t count);

#endif
