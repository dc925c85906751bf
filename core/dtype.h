/* SPDX-License-Identifier: Apache-2.0
 * Element sizes, for those inside the library that step through tensors, on the host and in kernels.
 */
#ifndef HATTN_CORE_DTYPE_H
#define HATTN_CORE_DTYPE_H

#include "api/hattn.h"

#ifdef __CUDACC__
#define HATTN_HOST_DEVICE __host__ __device__
#elif defined(__HIP__)
#define HATTN_HOST_DEVICE __attribute__((host)) __attribute__((device))
#else
#define HATTN_HOST_DEVICE
#endif

/* Bytes of one element; 0 for what is no dtype. */
HATTN_HOST_DEVICE static inline int64_t hattn_dtype_size(int32_t dtype)
{
    switch (dtype) {
    case HATTN_F8_E4M3:
    case HATTN_I8: return 1;
    case HATTN_F16:
    case HATTN_BF16:
    case HATTN_U16: return 2;
    case HATTN_F32:
    case HATTN_I32:
    case HATTN_U32: return 4;
    case HATTN_I64: return 8;
    default: return 0;
    }
}

#endif
