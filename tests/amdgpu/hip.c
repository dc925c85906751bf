/* SPDX-License-Identifier: Apache-2.0
 * The part of AMD's runtime that this library and its programs call, over emulated devices: libamdhip64.so for tests. Memory is
 * the host's, streams are done at once, and a launch that fails says why on stderr.
 *
 * Environment: HATTN_AMDGPU_ARCHITECTURE (gfx942, gfx1100), _PYTHON and _BUILDER (build.py), _CACHE, _SEED, _LOG (a line for each
 * launch).
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/amdgpu/memory.h"
#include "tests/amdgpu/module.h"

#define API __attribute__((visibility("default")))

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_IMAGE = 200,
    NOT_FOUND = 500,
    FAULT = 719,
    NOT_SUPPORTED = 801
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local int last_error;
static int fault; /* of a kernel: all later calls tell, as on a device */

static int keep(int error)
{
    if (error)
        last_error = error;
    return error;
}

/* ---- errors and devices ---- */

API const char *hipGetErrorString(int error)
{
    switch (error) {
    case SUCCESS: return "no error";
    case INVALID_VALUE: return "invalid argument";
    case OUT_OF_MEMORY: return "out of memory";
    case NO_DEVICE: return "no ROCm-capable device is detected";
    case INVALID_IMAGE: return "device kernel image is invalid";
    case NOT_FOUND: return "named symbol not found";
    case NOT_SUPPORTED: return "operation not supported";
    case FAULT: return "unspecified launch failure";
    default: return "unknown error";
    }
}

API int hipPeekAtLastError(void) { return last_error; }

API int hipGetLastError(void)
{
    const int error = last_error;
    last_error = 0;
    return error;
}

static const char *architecture(void) { return getenv("HATTN_AMDGPU_ARCHITECTURE"); }

API int hipGetDeviceCount(int *count)
{
    *count = architecture() ? 1 : 0;
    return keep(*count ? SUCCESS : NO_DEVICE);
}

API int hipGetDevice(int *device)
{
    *device = 0;
    return SUCCESS;
}

API int hipSetDevice(int device) { return keep(device ? 101 : SUCCESS); }

/* Numbers of hipDeviceAttribute_t. Few multiprocessors: grids that fill the device are small. */
API int hipDeviceGetAttribute(int *value, int attribute, int device)
{
    static const struct {
        int attribute, value;
    } known[] = {{63, 6}, {74, 65536}, {10002, 65536}, {56, 1024}, {87, 64}, {19, 4 << 20}};
    if (device)
        return keep(101);
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].attribute == attribute) {
            *value = attribute == 87 && strncmp(architecture(), "gfx9", 4) ? 32 : known[i].value;
            return SUCCESS;
        }
    fprintf(stderr, "amdgpu: attribute %d is not known\n", attribute);
    return keep(INVALID_VALUE);
}

API int hipGetDevicePropertiesR0600(char *properties, int device)
{
    enum { ISA_OFFSET = 1160, SIZE = 1472 };
    if (device || !architecture())
        return keep(101);
    memset(properties, 0, SIZE);
    snprintf(properties, 256, "emulated %s", architecture());
    snprintf(properties + ISA_OFFSET, 256, "%s:sramecc+:xnack-", architecture());
    return SUCCESS;
}

API int hipDriverGetVersion(int *version) { return *version = 60000000, SUCCESS; }

API int hipRuntimeGetVersion(int *version) { return *version = 60000000, SUCCESS; }

/* ---- memory ---- */

static int allocate(void **address, size_t size)
{
    pthread_mutex_lock(&lock);
    void *made = memory_allocate(size);
    pthread_mutex_unlock(&lock);
    if (!made)
        return keep(OUT_OF_MEMORY);
    *address = made;
    return SUCCESS;
}

API int hipMalloc(void **address, size_t size) { return allocate(address, size); }

API int hipHostMalloc(void **address, size_t size, unsigned flags)
{
    (void)flags;
    return allocate(address, size);
}

API int hipFree(void *address)
{
    pthread_mutex_lock(&lock);
    const int found = !address || memory_free(address);
    pthread_mutex_unlock(&lock);
    return keep(found ? SUCCESS : INVALID_VALUE);
}

API int hipHostFree(void *address) { return hipFree(address); }

API int hipMemGetInfo(size_t *available, size_t *total)
{
    *available = *total = (size_t)4 << 30;
    return SUCCESS;
}

API int hipMemcpy(void *to, const void *from, size_t size, int kind)
{
    (void)kind;
    memmove(to, from, size);
    return keep(fault);
}

API int hipMemsetAsync(void *to, int byte, size_t size, void *stream)
{
    (void)stream;
    memset(to, byte, size);
    return keep(fault);
}

/* ---- streams: done when a call returns ---- */

API int hipDeviceReset(void)
{
    fault = last_error = 0;
    return SUCCESS;
}

API int hipDeviceSynchronize(void) { return keep(fault); }

API int hipStreamSynchronize(void *stream)
{
    (void)stream;
    return keep(fault);
}

API int hipStreamCreateWithFlags(void **stream, unsigned flags)
{
    (void)flags;
    *stream = malloc(1);
    return *stream ? SUCCESS : keep(OUT_OF_MEMORY);
}

API int hipStreamDestroy(void *stream)
{
    free(stream);
    return SUCCESS;
}

API int hipLaunchHostFunc(void *stream, void (*function)(void *), void *data)
{
    (void)stream;
    function(data);
    return SUCCESS;
}

/* There are no graphs: calls that are captured would have to be kept. */
API int hipStreamBeginCapture(void *stream, int mode)
{
    (void)stream, (void)mode;
    return keep(NOT_SUPPORTED);
}

API int hipStreamEndCapture(void *stream, void **graph)
{
    (void)stream, (void)graph;
    return keep(NOT_SUPPORTED);
}

API int hipGraphInstantiate(void **executable, void *graph, void **node, char *log, size_t log_size)
{
    (void)executable, (void)graph, (void)node, (void)log, (void)log_size;
    return keep(NOT_SUPPORTED);
}

API int hipGraphLaunch(void *executable, void *stream)
{
    (void)executable, (void)stream;
    return keep(NOT_SUPPORTED);
}

API int hipGraphDestroy(void *graph) { return keep(graph ? INVALID_VALUE : SUCCESS); }

API int hipGraphExecDestroy(void *executable) { return keep(executable ? INVALID_VALUE : SUCCESS); }

API int hipEventCreate(void **event)
{
    *event = calloc(1, sizeof(struct timespec));
    return *event ? SUCCESS : keep(OUT_OF_MEMORY);
}

API int hipEventDestroy(void *event)
{
    free(event);
    return SUCCESS;
}

API int hipEventRecord(void *event, void *stream)
{
    (void)stream;
    clock_gettime(CLOCK_MONOTONIC, event);
    return SUCCESS;
}

/* The emulator's time, not a device's. */
API int hipEventElapsedTime(float *ms, void *start, void *stop)
{
    const struct timespec *from = start, *to = stop;
    *ms = (float)((double)(to->tv_sec - from->tv_sec) * 1e3 + (double)(to->tv_nsec - from->tv_nsec) * 1e-6);
    return SUCCESS;
}

/* ---- modules and launches ---- */

API int hipModuleLoadData(void **module, const void *image)
{
    *module = module_load(image);
    return keep(*module ? SUCCESS : INVALID_IMAGE);
}

API int hipModuleGetFunction(void **function, void *module, const char *name)
{
    Module *in = module;
    for (size_t i = 0; i < in->num_kernels; i++)
        if (!strcmp(in->kernels[i].name, name))
            return *function = &in->kernels[i], SUCCESS;
    return keep(NOT_FOUND);
}

API int hipFuncGetAttribute(int *value, int attribute, void *function)
{
    const Kernel *kernel = function;
    if (attribute != 1) /* shared memory that it has anyway */
        return keep(INVALID_VALUE);
    *value = (int)kernel->lds_size;
    return SUCCESS;
}

/* A hidden argument, or 0 where a kernel of ours has no use for it. */
static uint64_t hidden(const char *kind, const uint32_t *grid, const uint32_t *threads, uint32_t dynamic_lds)
{
    static const char *const axes[] = {"x", "y", "z"};
    char name[40];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "hidden_block_count_%s", axes[i]);
        if (!strcmp(kind, name))
            return grid[i];
        snprintf(name, sizeof(name), "hidden_group_size_%s", axes[i]);
        if (!strcmp(kind, name))
            return threads[i];
    }
    if (!strcmp(kind, "hidden_grid_dims"))
        return 3;
    return strcmp(kind, "hidden_dynamic_lds_size") ? 0 : dynamic_lds;
}

/* The packet by which a queue is told of a launch (HSA runtime 1.2, 2.9): sizes. */
static void write_packet(uint8_t *packet, const Launch *launch)
{
    memset(packet, 0, 64);
    for (int i = 0; i < 3; i++) {
        const uint16_t threads = (uint16_t)launch->threads[i];
        const uint32_t all = launch->grid[i] * launch->threads[i];
        memcpy(packet + 4 + 2 * i, &threads, 2);
        memcpy(packet + 12 + 4 * i, &all, 4);
    }
}

/* Where a kernel finds its arguments: each at its place. */
static void pass(const Kernel *kernel, const Launch *launch, void **arguments, uint32_t dynamic_lds, uint8_t *passed)
{
    for (uint32_t i = 0, given = 0; i < kernel->num_arguments; i++) {
        const Argument *argument = &kernel->arguments[i];
        if (!strncmp(argument->kind, "hidden_", 7)) {
            const uint64_t x = hidden(argument->kind, launch->grid, launch->threads, dynamic_lds);
            memcpy(passed + argument->offset, &x, argument->size < 8 ? argument->size : 8);
        } else {
            memcpy(passed + argument->offset, arguments[given++], argument->size);
        }
    }
}

static const char *run(const Kernel *kernel, Launch *launch, void **arguments, uint32_t dynamic_lds)
{
    static uint8_t passed[16384], packet[64];
    const Module *module = kernel->module;
    size_t count;
    if (kernel->arguments_size > sizeof(passed))
        return "no room for its arguments";
    memset(passed, 0xe5, sizeof(passed));
    pass(kernel, launch, arguments, dynamic_lds, passed);
    write_packet(packet, launch);
    launch->kernel_arguments = (uint64_t)(uintptr_t)passed;
    launch->dispatch = (uint64_t)(uintptr_t)packet;
    MemoryRange *ranges = memory_ranges(module->num_ranges + 2, &count);
    if (!ranges)
        return "no memory for the list of memory";
    if (!memory_is_mapped()) {
        memcpy(ranges + count, module->ranges, module->num_ranges * sizeof(*ranges));
        count += module->num_ranges;
        ranges[count++] = (MemoryRange){launch->kernel_arguments, launch->kernel_arguments + kernel->arguments_size, 1};
        ranges[count++] = (MemoryRange){launch->dispatch, launch->dispatch + sizeof(packet), 1};
        memory_sort(ranges, count);
    }
    launch->ranges = ranges;
    launch->num_ranges = count;
    const char *error = module->emulate(launch);
    free(ranges);
    return error;
}

API int hipModuleLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads_x,
                              unsigned threads_y, unsigned threads_z, unsigned shared_bytes, void *stream,
                              void **arguments, void **extra)
{
    (void)stream;
    static uint64_t launches;
    const Kernel *kernel = function;
    const uint64_t threads = (uint64_t)threads_x * threads_y * threads_z;
    if (extra || !x || !y || !z || !threads || threads > kernel->most_threads ||
        kernel->lds_size + shared_bytes > 65536)
        return keep(INVALID_VALUE);
    pthread_mutex_lock(&lock);
    const Module *module = kernel->module;
    const char *seed = getenv("HATTN_AMDGPU_SEED");
    const uint64_t number = launches++;
    Launch launch = {.instructions = module->instructions,
                     .num_instructions = module->num_instructions,
                     .code = module->code,
                     .code_size = module->code_size,
                     .names = module->names,
                     .refusals = (const char *const *)module->refusals,
                     .entry = kernel->entry,
                     .grid = {x, y, z},
                     .threads = {threads_x, threads_y, threads_z},
                     .lds_size = kernel->lds_size + shared_bytes,
                     .scratch_size = kernel->scratch_size,
                     .rsrc1 = kernel->rsrc1,
                     .rsrc2 = kernel->rsrc2,
                     .properties = kernel->properties,
                     .most_instructions = 4000000000ull};
    launch.seed = (seed ? strtoull(seed, NULL, 0) : 1) + 1000003 * number;
    launch.resident = 1 + (uint32_t)(launch.seed % 7);
    const char *error = fault ? NULL : run(kernel, &launch, arguments, shared_bytes);
    if (error)
        fprintf(stderr, "amdgpu: %s, launch %llu: %s\n", kernel->name, (unsigned long long)number, error);
    if (getenv("HATTN_AMDGPU_LOG"))
        fprintf(stderr, "amdgpu: %llu instructions, %u x %u x %u blocks of %llu: %s\n",
                (unsigned long long)launch.executed, x, y, z, (unsigned long long)threads, kernel->name);
    fault = fault ? fault : error ? FAULT : 0;
    pthread_mutex_unlock(&lock);
    return keep(SUCCESS); /* as on a device, where the next call that waits tells */
}
