/* SPDX-License-Identifier: Apache-2.0
 * A code object that is loaded: its memory, its kernels, and the functions of its opcodes.
 */
#ifndef HATTN_TESTS_AMDGPU_MODULE_H
#define HATTN_TESTS_AMDGPU_MODULE_H

#include "tests/amdgpu/launch.h"

typedef struct Argument {
    uint32_t offset, size;
    char kind[40];
} Argument;

typedef struct Module Module;

typedef struct Kernel {
    Module *module;
    char *name;
    uint64_t entry;
    uint32_t lds_size, scratch_size, arguments_size, rsrc1, rsrc2, properties, most_threads;
    Argument arguments[64];
    uint32_t num_arguments;
} Kernel;

struct Module {
    uint8_t *memory; /* the object's segments, where they lie from each other */
    size_t size;
    uint64_t code, code_size; /* its place in memory */
    void *instructions;
    size_t num_instructions;
    MemoryRange ranges[8];
    size_t num_ranges;
    Kernel *kernels;
    size_t num_kernels;
    char **refusals;
    size_t num_refusals;
    const char *const *names;
    EmulateFunction *emulate;
};

/* image: a code object or a bundle. NULL: a line on stderr says why. */
Module *module_load(const void *image);

#endif
