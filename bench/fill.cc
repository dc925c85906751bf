/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/fill.h"

#include "api/hattn.h"

/* keep: sign, the two low bits of the exponent, the mantissa; set: the exponent of 1/8. */
void fill_values(const devices::Memory &memory, void *data, size_t size, int32_t dtype, uint64_t seed)
{
    switch (dtype) {
    case HATTN_F32: return memory.fill(data, size, 0x81ffffff81ffffffu, 0x3e0000003e000000u, seed);
    case HATTN_F16: return memory.fill(data, size, 0x8fff8fff8fff8fffu, 0x3000300030003000u, seed);
    case HATTN_BF16: return memory.fill(data, size, 0x81ff81ff81ff81ffu, 0x3e003e003e003e00u, seed);
    case HATTN_F8_E4M3: return memory.fill(data, size, 0x9f9f9f9f9f9f9f9fu, 0x2020202020202020u, seed);
    }
}

void fill_norms(const devices::Memory &memory, void *data, size_t size, uint64_t seed)
{
    memory.fill(data, size, 0x0fff0fff0fff0fffu, 0x3000300030003000u, seed);
}

void fill_bits(const devices::Memory &memory, void *data, size_t size, uint64_t seed)
{
    memory.fill(data, size, ~uint64_t(0), 0, seed);
}
