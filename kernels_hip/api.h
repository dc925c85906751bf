/* SPDX-License-Identifier: Apache-2.0
 * The functions of AMD's runtime that are called, as its own header declares them: enumerations are ints, handles pointers.
 */
#ifndef HATTN_KERNELS_HIP_API_H
#define HATTN_KERNELS_HIP_API_H

#include <stddef.h>

/* Of hipDeviceAttribute_t, hipFunction_attribute and hipError_t. */
enum {
    HATTN_HIP_MULTIPROCESSORS = 63,
    HATTN_HIP_BLOCK_SHARED = 74,
    HATTN_HIP_MULTIPROCESSOR_SHARED = 10002,
    HATTN_HIP_STATIC_SHARED = 1,
};

/* X(name, result, parameters) */
#define HATTN_HIP_FUNCTIONS(X)                                                                                         \
    X(hipGetErrorString, const char *, (int error))                                                                    \
    X(hipPeekAtLastError, int, (void))                                                                                 \
    X(hipGetLastError, int, (void))                                                                                    \
    X(hipGetDeviceCount, int, (int *count))                                                                            \
    X(hipGetDevice, int, (int *device))                                                                                \
    X(hipSetDevice, int, (int device))                                                                                 \
    X(hipDeviceGetAttribute, int, (int *value, int attribute, int device))                                             \
    X(hipMemsetAsync, int, (void *to, int byte, size_t size, void *stream))                                            \
    X(hipModuleLoadData, int, (void **module, const void *image))                                                      \
    X(hipModuleGetFunction, int, (void **function, void *module, const char *name))                                    \
    X(hipFuncGetAttribute, int, (int *value, int attribute, void *function))                                           \
    X(hipModuleLaunchKernel, int,                                                                                      \
      (void *function, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y, unsigned threads_z, \
       unsigned shared_bytes, void *stream, void **arguments, void **extra))

#endif
