/* SPDX-License-Identifier: Apache-2.0
 * Element sizes, for those inside the library that step through tensors.
 */
#ifndef HATTN_API_DTYPE_H
#define HATTN_API_DTYPE_H

#include "api/hattn.h"

/* Bytes of one element; 0 for what is no dtype. */
static inline int64_t hattn_dtype_size(int32_t dtype)
{
    static const uint8_t sizes[] = {0, 4, 2, 2, 1, 1, 2, 4, 4, 8};
    return dtype < 0 || dtype > HATTN_I64 ? 0 : sizes[dtype];
}

#endif
