/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels_cpu/neon.h"

#include "kernels_cpu/convert_f32x8.h"

void hattn_load_neon(const void *src, int32_t dtype, int n, float scale, float *dst)
{
    load(src, dtype, n, scale, dst);
}

void hattn_store_neon(const float *src, int n, int32_t dtype, void *dst) { store(src, n, dtype, dst); }
