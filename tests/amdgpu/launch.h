/* SPDX-License-Identifier: Apache-2.0
 * What the HIP runtime of the tests hands to the emulator of a code object, which is a shared library of its own for
 * each set of opcodes.
 */
#ifndef HATTN_TESTS_AMDGPU_LAUNCH_H
#define HATTN_TESTS_AMDGPU_LAUNCH_H

#include <stddef.h>
#include <stdint.h>

typedef struct MemoryRange {
    uint64_t first, end;
    int is_read_only;
} MemoryRange;

typedef struct Launch {
    const void *instructions; /* Inst of each word of code, those of a pair's halves behind them */
    size_t num_instructions, code_size;
    uint64_t code;                              /* the address of the first word */
    const char *const *names, *const *refusals; /* of functions; why opcodes are not known */
    const MemoryRange *ranges;                  /* ascending */
    size_t num_ranges;
    uint64_t entry, kernel_arguments, dispatch; /* addresses */
    uint32_t grid[3], threads[3];
    uint32_t lds_size, scratch_size;
    uint32_t rsrc1, rsrc2, properties;
    uint64_t seed, most_instructions;
    uint32_t resident; /* blocks at a time */
    uint64_t executed; /* out: instructions of waves */
} Launch;

/* Runs all blocks; NULL, or what went wrong. */
typedef const char *EmulateFunction(Launch *launch);

#endif
