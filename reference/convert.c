/* SPDX-License-Identifier: Apache-2.0
 * Tensor elements to double and back.
 */
#include "reference/internal.h"

#include <math.h>
#include <string.h>

static double from_pattern(uint64_t pattern)
{
    double value;
    memcpy(&value, &pattern, sizeof(value));
    return value;
}

/* sign | exponent | mantissa with an IEEE bias; infinities and NaN are the callers' business. As the pattern of a double it
 * is the value times a power of two, numbers below the least exponent included. */
static double decode(uint32_t bits, int exponent_bits, int mantissa_bits)
{
    uint64_t magnitude = bits & ((1u << (exponent_bits + mantissa_bits)) - 1);
    int double_bias = 1023, bias = (1 << (exponent_bits - 1)) - 1;
    double power = from_pattern((uint64_t)(double_bias + double_bias - bias) << 52);
    double value = from_pattern(magnitude << (52 - mantissa_bits)) * power;
    return bits >> (exponent_bits + mantissa_bits) & 1 ? -value : value;
}

static double load_f16(uint16_t bits)
{
    if ((bits & 0x7fff) > 0x7c00)
        return NAN;
    if ((bits & 0x7fff) == 0x7c00)
        return bits >> 15 ? -INFINITY : INFINITY;
    return decode(bits, 5, 10);
}

static double load_bf16(uint16_t bits)
{
    if ((bits & 0x7fff) > 0x7f80)
        return NAN;
    if ((bits & 0x7fff) == 0x7f80)
        return bits >> 15 ? -INFINITY : INFINITY;
    return decode(bits, 8, 7);
}

/* OCP: all exponents are numbers, except that all ones is NaN. */
static double load_f8_e4m3(uint8_t bits) { return (bits & 0x7f) == 0x7f ? NAN : decode(bits, 4, 3); }

/* The pattern of the nearest value, ties to even: an integer number of units of the last place, put on top of the
 * exponent, so that a mantissa that rounds up to the next power of two carries into it, and at the end to infinity. */
static uint16_t encode(double value, int exponent_bits, int mantissa_bits)
{
    int max_exponent = (1 << (exponent_bits - 1)) - 1, min_exponent = 1 - max_exponent;
    uint32_t infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
    uint32_t sign = (uint32_t)(signbit(value) != 0) << (exponent_bits + mantissa_bits);
    if (isnan(value))
        return (uint16_t)(sign | infinity | 1u << (mantissa_bits - 1));
    int exponent = value == 0 ? min_exponent : isinf(value) ? max_exponent + 1 : ilogb(value);
    if (exponent > max_exponent)
        return (uint16_t)(sign | infinity);
    if (exponent < min_exponent)
        exponent = min_exponent;
    uint32_t units = (uint32_t)rint(ldexp(fabs(value), mantissa_bits - exponent));
    return (uint16_t)(sign | (((uint32_t)(exponent - min_exponent) << mantissa_bits) + units));
}

double hattn_reference_load(const void *data, int32_t dtype, int64_t index)
{
    switch (dtype) {
    case HATTN_F32: return ((const float *)data)[index];
    case HATTN_F16: return load_f16(((const uint16_t *)data)[index]);
    case HATTN_BF16: return load_bf16(((const uint16_t *)data)[index]);
    case HATTN_F8_E4M3: return load_f8_e4m3(((const uint8_t *)data)[index]);
    }
    return NAN;
}

void hattn_reference_store(void *data, int32_t dtype, int64_t index, double value)
{
    switch (dtype) {
    case HATTN_F32: ((float *)data)[index] = (float)value; break;
    case HATTN_F16: ((uint16_t *)data)[index] = encode(value, 5, 10); break;
    case HATTN_BF16: ((uint16_t *)data)[index] = encode(value, 8, 7); break;
    }
}

void hattn_reference_load_row(const void *data, int32_t dtype, int64_t offset, int n, double scale, double *values)
{
    /* A loop a type: most of the reference's time is spent here. */
    switch (dtype) {
    case HATTN_F16:
        for (int i = 0; i < n; i++)
            values[i] = load_f16(((const uint16_t *)data)[offset + i]) * scale;
        break;
    case HATTN_BF16:
        for (int i = 0; i < n; i++)
            values[i] = load_bf16(((const uint16_t *)data)[offset + i]) * scale;
        break;
    default:
        for (int i = 0; i < n; i++)
            values[i] = hattn_reference_load(data, dtype, offset + i) * scale;
    }
}
