/* SPDX-License-Identifier: Apache-2.0
 * Loads against an independent decode of every pattern; stores at, just below and just above every midpoint between
 * neighbours, which with monotony is every double.
 */
#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "reference/reference.h"

namespace {

/* Sign, exponent and mantissa by ldexp; the all-ones exponent as IEEE has it. */
double ieee(uint32_t bits, int exponent_bits, int mantissa_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    double mantissa = bits & ((1u << mantissa_bits) - 1);
    int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    double sign = bits >> (mantissa_bits + exponent_bits) ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1)
        return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                             : sign * std::numeric_limits<double>::infinity();
    if (exponent > 0)
        mantissa += 1 << mantissa_bits;
    return sign * std::ldexp(mantissa, std::max(exponent, 1) - bias - mantissa_bits);
}

void expect_same(double expected, double got, unsigned pattern)
{
    if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(got)) << std::hex << pattern;
    } else {
        EXPECT_EQ(expected, got) << std::hex << pattern;
        EXPECT_EQ(std::signbit(expected), std::signbit(got)) << std::hex << pattern;
    }
}

TEST(ReferenceConvert, LoadsEveryF16)
{
    for (unsigned bits = 0; bits < 65536; bits++) {
        uint16_t pattern = static_cast<uint16_t>(bits);
        expect_same(ieee(bits, 5, 10), hattn_reference_load(&pattern, HATTN_F16, 0), bits);
    }
}

TEST(ReferenceConvert, LoadsEveryBf16)
{
    for (unsigned bits = 0; bits < 65536; bits++) {
        uint16_t pattern = static_cast<uint16_t>(bits);
        uint32_t wide = bits << 16;
        float value;
        std::memcpy(&value, &wide, sizeof(value));
        expect_same(value, hattn_reference_load(&pattern, HATTN_BF16, 0), bits);
    }
}

TEST(ReferenceConvert, LoadsEveryF8E4m3)
{
    for (unsigned bits = 0; bits < 256; bits++) {
        uint8_t pattern = static_cast<uint8_t>(bits);
        double got = hattn_reference_load(&pattern, HATTN_F8_E4M3, 0);
        if ((bits & 0x7f) == 0x7f) {
            EXPECT_TRUE(std::isnan(got)) << bits;
            continue;
        }
        double mantissa = bits & 7, exponent = bits >> 3 & 15;
        double size = exponent > 0 ? (8 + mantissa) * std::pow(2.0, exponent - 10) : mantissa / 512;
        expect_same(bits & 0x80 ? -size : size, got, bits);
    }
    const uint8_t known[] = {0x7e, 0x78, 0x38, 0xb8, 0x08, 0x01, 0x80};
    const double values[] = {448, 256, 1, -1, 1.0 / 64, 1.0 / 512, -0.0};
    for (int i = 0; i < 7; i++)
        expect_same(values[i], hattn_reference_load(known, HATTN_F8_E4M3, i), known[i]);
}

TEST(ReferenceConvert, LoadsF32ByIndex)
{
    const float values[] = {1.5f, -0.0f, 3e-45f, INFINITY};
    for (int i = 0; i < 4; i++)
        expect_same(values[i], hattn_reference_load(values, HATTN_F32, i), static_cast<unsigned>(i));
}

uint16_t stored(int dtype, double value)
{
    uint16_t element[3] = {0x5555, 0x5555, 0x5555};
    hattn_reference_store(element, dtype, 1, value);
    EXPECT_EQ(0x5555, element[0]);
    EXPECT_EQ(0x5555, element[2]);
    return element[1];
}

void check_rounding(int dtype, int exponent_bits, int mantissa_bits)
{
    const double infinity = std::numeric_limits<double>::infinity();
    unsigned infinite = ((1u << exponent_bits) - 1) << mantissa_bits;
    for (unsigned bits = 0; bits < infinite; bits++) {
        /* Beyond the largest number, the neighbour is where the next one would be. */
        double low = ieee(bits, exponent_bits, mantissa_bits);
        double high = bits + 1 < infinite ? ieee(bits + 1, exponent_bits, mantissa_bits)
                                          : std::ldexp(1.0, 1 << (exponent_bits - 1));
        double middle = low + (high - low) / 2;
        unsigned even = bits % 2 == 0 ? bits : bits + 1;
        for (unsigned sign : {0u, 0x8000u}) {
            double s = sign ? -1 : 1;
            ASSERT_EQ(sign | bits, stored(dtype, s * low));
            ASSERT_EQ(sign | bits, stored(dtype, s * std::nextafter(middle, 0.0))) << bits;
            ASSERT_EQ(sign | even, stored(dtype, s * middle)) << bits;
            ASSERT_EQ(sign | (bits + 1), stored(dtype, s * std::nextafter(middle, infinity))) << bits;
        }
    }
    EXPECT_EQ(infinite, stored(dtype, infinity));
    EXPECT_EQ(infinite | 0x8000, stored(dtype, -infinity));
    EXPECT_EQ(infinite, stored(dtype, 1e300));
    EXPECT_EQ(0x8000, stored(dtype, -1e-300));
    EXPECT_EQ(0x8000, stored(dtype, -0.0));
    uint16_t nan = stored(dtype, std::numeric_limits<double>::quiet_NaN());
    EXPECT_TRUE(std::isnan(ieee(nan, exponent_bits, mantissa_bits)));
}

TEST(ReferenceConvert, StoresF16NearestEven) { check_rounding(HATTN_F16, 5, 10); }

TEST(ReferenceConvert, StoresBf16NearestEven) { check_rounding(HATTN_BF16, 8, 7); }

TEST(ReferenceConvert, StoresF32NearestEven)
{
    const double value[] = {1 + 0x1p-24, 1 + 0x1.8p-23, 1 + 0x1.000001p-24, -1 - 0x1p-24, 0x1p-150, 0x1.8p-150};
    const float expected[] = {1, 1 + 0x1p-22f, 1 + 0x1p-23f, -1, 0, 0x1p-149f};
    for (int i = 0; i < 6; i++) {
        float got = -7;
        hattn_reference_store(&got, HATTN_F32, 0, value[i]);
        EXPECT_EQ(expected[i], got) << i;
    }
}

} // namespace
