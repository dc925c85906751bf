/* SPDX-License-Identifier: Apache-2.0
 * Loads and stores of vectors in the caches' and outputs' dtypes.
 */
#include "kernels_cpu/kernels.h"
#include "kernels_cpu/scalar.h"

void hattn_load_scalar(const void *src, int32_t dtype, int n, float scale, float *dst)
{
    switch (dtype) {
    case HATTN_F32: {
        const float *values = src;
        for (int i = 0; i < n; i++)
            dst[i] = values[i] * scale;
        break;
    }
    case HATTN_F16: {
        const uint16_t *halves = src;
        for (int i = 0; i < n; i++)
            dst[i] = hattn_f32_of_f16(halves[i]) * scale;
        break;
    }
    case HATTN_BF16: {
        const uint16_t *halves = src;
        for (int i = 0; i < n; i++)
            dst[i] = hattn_f32_of_bf16(halves[i]) * scale;
        break;
    }
    case HATTN_F8_E4M3: {
        const uint8_t *bytes = src;
        for (int i = 0; i < n; i++)
            dst[i] = hattn_f32_of_f8_e4m3(bytes[i]) * scale;
        break;
    }
    }
}

void hattn_store_scalar(const float *src, int n, int32_t dtype, void *dst)
{
    switch (dtype) {
    case HATTN_F32: memcpy(dst, src, (size_t)n * sizeof *src); break;
    case HATTN_F16: {
        uint16_t *halves = dst;
        for (int i = 0; i < n; i++)
            halves[i] = hattn_f16_of_f32(src[i]);
        break;
    }
    case HATTN_BF16: {
        uint16_t *halves = dst;
        for (int i = 0; i < n; i++)
            halves[i] = hattn_bf16_of_f32(src[i]);
        break;
    }
    }
}
