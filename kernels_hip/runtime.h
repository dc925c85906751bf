/* SPDX-License-Identifier: Apache-2.0
 * The HIP runtime, opened when it is first asked for, and the kernels of this library that it launches. Functions return the
 * runtime's error code (0: success), or one of those below. No HIP header.
 */
#ifndef HATTN_KERNELS_HIP_RUNTIME_H
#define HATTN_KERNELS_HIP_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef HATTN_HIP_TARGETS
#error "the build says which GPUs it compiles for: third_party/hip.bzl"
#endif

enum {
    HATTN_HIP_MOST_THREADS = 512,     /* of a block */
    HATTN_HIP_MOST_SHARED = 64 << 10, /* bytes of a block, on these targets: more is not made use of */
    HATTN_HIP_NO_SUCH_KERNEL = 98,    /* the runtime's own number: invalid device function */
    HATTN_HIP_NO_RUNTIME = 10001,     /* libamdhip64.so is not there, or lacks a function */
    HATTN_HIP_TOO_MANY_DEVICES = 10002
};

/* Of an error code; of HATTN_HIP_NO_RUNTIME, what the loader said. */
const char *hattn_hip_error_text(int code);
int hattn_hip_last_error(void);
void hattn_hip_forget_last_error(void);
int hattn_hip_count_devices(int *count);
int hattn_hip_current_device(int *device);
int hattn_hip_use_device(int device);
typedef struct hattn_hip_properties {
    char name[128], isa[20]; /* gfx942 ... */
    bool has_kernels;        /* among HATTN_HIP_TARGETS */
    int num_multiprocessors;
    size_t block_shared, multiprocessor_shared, reserved_shared;
    int64_t most_blocks; /* of HATTN_HIP_MOST_THREADS each: a grid counts its threads in 32 bits */
} hattn_hip_properties;
int hattn_hip_get_properties(int device, hattn_hip_properties *properties);
int hattn_hip_zero(void *address, uint64_t bytes, void *stream);

/* kernel: the address that C++ has of it. Loads it onto the current device; bytes of shared memory that it has anyway. */
int hattn_hip_static_shared(const void *kernel, size_t *bytes);
/* That a block of the current device may have. */
int hattn_hip_most_shared(int *bytes);
/* arguments: the address of each. A kernel that was not loaded onto the current device is HATTN_HIP_NO_SUCH_KERNEL. */
int hattn_hip_launch(const void *kernel, const uint32_t blocks[3], uint32_t threads, uint32_t shared_bytes,
                     void *stream, void **arguments);

#ifdef __cplusplus
}
#endif
#endif
