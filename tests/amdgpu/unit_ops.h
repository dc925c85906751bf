/* SPDX-License-Identifier: Apache-2.0
 * Expressions that a processor and an emulated GPU must give the same bits for: of three words x, y, z each, which are random
 * or at the edges. UNIT(name, expression of type uint64_t)
 */
#ifndef HATTN_TESTS_AMDGPU_UNIT_OPS_H
#define HATTN_TESTS_AMDGPU_UNIT_OPS_H

/* gcc, which compiles the host's side, has no such functions. */
#ifdef __clang__
#define UNIT_ROTATED(x, n) __builtin_rotateleft32(x, n)
#define UNIT_REVERSED(x) __builtin_bitreverse32(x)
#define UNIT_LESS(x, y) __builtin_elementwise_sub_sat(x, y)
#define UNIT_MORE(x, y) __builtin_elementwise_add_sat(x, y)
#else
#define UNIT_LESS(x, y) ((x) < (y) ? 0u : (x) - (y))
#define UNIT_MORE(x, y) ((x) + (y) < (y) ? ~0u : (x) + (y))
#define UNIT_ROTATED(x, n) ((x) << ((n)&31) | (x) >> (-(n)&31))
inline uint32_t unit_reversed(uint32_t x)
{
    uint32_t y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1) << (31 - i);
    return y;
}
#define UNIT_REVERSED(x) unit_reversed(x)
#endif

#define UNIT_F(x) __builtin_bit_cast(float, x)
#define UNIT_U(x) __builtin_bit_cast(unsigned, static_cast<float>(x))
#define UNIT_H(x) static_cast<float>(__builtin_bit_cast(_Float16, static_cast<unsigned short>(x)))
#define UNIT_B(x) __builtin_bit_cast(unsigned short, static_cast<_Float16>(x))
/* Between 2^-31 and 2^33. */
#define UNIT_R(x) UNIT_F(((x)&0x9fffffffu) + 0x30000000u)
/* 0, infinity, NaN or a number, of either sign. */
#define UNIT_S(x) \
    UNIT_F((((x)&3) == 0 ? 0 : ((x)&3) == 1 ? 0x7f800000u : ((x)&3) == 2 ? 0x7fc00000u : 0x3fc00000u) | ((x)&1u << 31))
#define UNIT_D(x, y) __builtin_bit_cast(double, uint64_t(x) << 32 | (y))
/* Between 2^-255 and 2^257. */
#define UNIT_DR(x, y) UNIT_D(((x)&0x9fffffffu) + 0x30000000u, y)
/* NaN is the same whatever its bits. */
#define UNIT_N(x) ((x) == (x) ? UNIT_U(x) : 0x7fc00000u)
#define UNIT_DN(x) ((x) == (x) ? __builtin_bit_cast(uint64_t, x) : uint64_t(0x7ff8) << 48)

#define UNITS(UNIT)                                                                                                   \
    UNIT(add64, ((uint64_t(x) << 32) | y) + ((uint64_t(y) << 32) | z))                                                \
    UNIT(sub64, ((uint64_t(x) << 32) | y) - ((uint64_t(y) << 32) | z))                                                \
    UNIT(mul64, ((uint64_t(x) << 32) | y) * ((uint64_t(y) << 32) | z))                                                \
    UNIT(mul_wide, uint64_t(x) * y + z)                                                                               \
    UNIT(mul_wide_signed, uint64_t(int64_t(int(x)) * int(y) + int(z)))                                                \
    UNIT(divide, x / (y | 1))                                                                                         \
    UNIT(divide_signed, unsigned(int(x >> 1) / int(y >> 16 | 1)))                                                     \
    UNIT(remainder, x % (y >> 7 | 1))                                                                                 \
    UNIT(divide64, ((uint64_t(x) << 32) | y) / (z | 1))                                                               \
    UNIT(shift, (uint64_t(x << (y & 31)) << 32) | (x >> (z & 31)))                                                    \
    UNIT(shift_signed, unsigned(int(x) >> (y & 31)))                                                                  \
    UNIT(shift64, ((uint64_t(x) << 32) | y) >> (z & 63))                                                              \
    UNIT(shift64_signed, uint64_t(int64_t((uint64_t(x) << 32) | y) >> (z & 63)))                                      \
    UNIT(rotate, UNIT_ROTATED(x, y))                                                                                  \
    UNIT(logic, (uint64_t((x & y) | z) << 32) | ((x ^ y) + z))                                                        \
    UNIT(three, (uint64_t(x + y + z) << 32) | (x | y | z))                                                            \
    UNIT(bits,                                                                                                        \
         uint64_t(__builtin_popcount(x)) << 32 | unsigned(__builtin_clz(y | 1) * 64 + __builtin_ctz(z | 1 << 31)))    \
    UNIT(reversed, (uint64_t(UNIT_REVERSED(x)) << 32) | __builtin_bswap32(y))                                         \
    UNIT(field, (uint64_t(x >> 7 & 0x1ff) << 32) | unsigned(int(y << 5) >> 20))                                       \
    UNIT(small, (uint64_t((x & 0xffffff) * (y & 0xffffff)) << 32) | unsigned((int(x) >> 8) * (int(y) >> 8) + int(z))) \
    UNIT(smallest, (uint64_t(x < y ? x : y) << 32) | unsigned(int(x) > int(y) ? int(x) : int(y)))                     \
    UNIT(saturated, (uint64_t(UNIT_LESS(x, y)) << 32) | UNIT_MORE(y, z))                                              \
    UNIT(saturated_constants, (uint64_t(UNIT_LESS(x, 1000u)) << 32) | UNIT_LESS(0x80000000u, z))                      \
    UNIT(shorts, (uint64_t(((x & 0xffff) + (y & 0xffff)) & 0xffff) << 32) | unsigned(short(x) * short(y)))            \
    UNIT(compared, unsigned(int(x) < int(y)) | unsigned(x < y) << 1 | unsigned(UNIT_F(x) < UNIT_F(y)) << 2 |          \
                       unsigned(UNIT_F(x) >= UNIT_F(y)) << 3 | unsigned(UNIT_F(x) != UNIT_F(x)) << 4)                 \
    UNIT(compared64, unsigned((uint64_t(x) << 32 | y) < (uint64_t(y) << 32 | z)))                                     \
    UNIT(float_add, UNIT_N(UNIT_F(x) + UNIT_F(y)))                                                                    \
    UNIT(float_mul, UNIT_N(UNIT_F(x) * UNIT_F(y)))                                                                    \
    UNIT(float_fma, UNIT_N(__builtin_fmaf(UNIT_F(x), UNIT_F(y), UNIT_F(z))))                                          \
    UNIT(float_fma_negated, UNIT_N(__builtin_fmaf(-UNIT_F(x), UNIT_F(y), -UNIT_F(z))))                                \
    UNIT(float_divide, UNIT_U(UNIT_R(x) / UNIT_R(y)))                                                                 \
    UNIT(float_divide_small, UNIT_U(UNIT_F(0x00800000u | (x & 0x3ffffff)) / UNIT_R(y)))                               \
    UNIT(float_divide_special, UNIT_N(UNIT_S(x) / UNIT_S(y)))                                                         \
    UNIT(float_abs, UNIT_N(__builtin_fabsf(UNIT_F(x)) - __builtin_fabsf(UNIT_F(y))))                                  \
    UNIT(float_max, UNIT_N(__builtin_fmaxf(UNIT_F(x) + 1.0f, UNIT_F(y) + 1.0f)))                                      \
    UNIT(float_min, UNIT_N(__builtin_fminf(UNIT_F(x) + 1.0f, UNIT_F(y) + 1.0f)))                                      \
    UNIT(double_max, UNIT_DN(__builtin_fmax(UNIT_D(x, y) + 1.0, UNIT_D(y, z) + 1.0)))                                 \
    UNIT(double_min, UNIT_DN(__builtin_fmin(UNIT_D(x, y) + 1.0, UNIT_D(y, z) + 1.0)))                                 \
    UNIT(double_between, UNIT_DN(__builtin_fmax(-65536.0, __builtin_fmin(UNIT_D(x, y) + 1.0, 65536.0))))              \
    UNIT(double_divide, UNIT_DN(UNIT_DR(x, y) / UNIT_DR(y, z)))                                                       \
    UNIT(double_divide_small, UNIT_DN(UNIT_D(x & 0x803fffffu, y) / UNIT_DR(y, z)))                                    \
    UNIT(double_fma, UNIT_DN(__builtin_fma(UNIT_D(x, y), UNIT_D(y, z), UNIT_D(z, x))))                                \
    UNIT(double_mul, UNIT_DN(UNIT_D(x, y) * UNIT_D(y, z)))                                                            \
    UNIT(double_of_int, UNIT_DN(static_cast<double>(static_cast<int64_t>(uint64_t(x) << 32 | y)) + UNIT_D(z, x)))     \
    UNIT(double_to_float, UNIT_N(static_cast<float>(UNIT_D(x, y)) + static_cast<float>(y)))                           \
    UNIT(float_round, UNIT_N(__builtin_rintf(UNIT_F(x))))                                                             \
    UNIT(float_trunc, UNIT_N(__builtin_truncf(UNIT_F(x)) + __builtin_floorf(UNIT_F(y))))                              \
    UNIT(float_of_int, uint64_t(UNIT_U(int(x))) << 32 | UNIT_U(y))                                                    \
    UNIT(int_of_float, unsigned(int(UNIT_F((x & 0x807fffffu) | 0x4a000000u))))                                        \
    UNIT(unsigned_of_float, unsigned(UNIT_F((x & 0x007fffffu) | 0x4e800000u)))                                        \
    UNIT(half_to_float, UNIT_N(UNIT_H(x)))                                                                            \
    UNIT(half_of_float, UNIT_F(x) == UNIT_F(x) ? UNIT_B(UNIT_F(x)) : 0)                                               \
    UNIT(half_add,                                                                                                    \
         UNIT_H(x) == UNIT_H(x) && UNIT_H(y) == UNIT_H(y) ? UNIT_N(UNIT_H(UNIT_B(UNIT_H(x) + UNIT_H(y)))) : 0)        \
    UNIT(half_mix, UNIT_N(__builtin_fmaf(UNIT_H(x), UNIT_H(y >> 16), UNIT_F(z))))                                     \
    UNIT(float_ldexp, UNIT_N(__builtin_ldexpf(UNIT_F(x), int(y) >> 23)))                                              \
    UNIT(float_class, unsigned(__builtin_isfinite(UNIT_F(x))) | unsigned(__builtin_isinf(UNIT_F(y))) << 1)

#endif
