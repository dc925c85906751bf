/* SPDX-License-Identifier: Apache-2.0
 * The rows of kernels.inc as tests, and memory between guard pages for their arguments.
 */
#ifndef HATTN_TESTS_KERNELS_CPU_ROWS_H
#define HATTN_TESTS_KERNELS_CPU_ROWS_H

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels_cpu/cpu_features.h"
#include "kernels_cpu/kernels.h"

template <class Fn>
struct Row {
    const char *symbol;
    unsigned isa;
    Fn *kernel;
};

struct Rows {
#define X(op) std::vector<Row<hattn_##op##_fn>> op;
    HATTN_CPU_OPS(X)
#undef X
    Rows()
    {
#define HATTN_CPU_KERNEL(op, isa, symbol) op.push_back({#symbol, isa, symbol});
#include "kernels_cpu/kernels.inc"
#undef HATTN_CPU_KERNEL
    }
};

/* HATTN_TEST_SEED repeats a run. */
inline uint64_t test_seed()
{
    const char *seed = std::getenv("HATTN_TEST_SEED");
    return seed ? std::strtoull(seed, nullptr, 0) : 20240607;
}

/* Of this machine and HATTN_CPU_DISABLE; 0 where that has a word that is unknown. */
inline unsigned machine_isas()
{
    char unknown[16];
    return hattn_cpu_isas(unknown, sizeof(unknown));
}

/* NEON's rows, where they are compiled, run on any machine: through SIMDe. */
inline unsigned test_isas()
{
#ifdef HATTN_BUILD_NEON
    return machine_isas() | HATTN_ISA_NEON;
#else
    return machine_isas();
#endif
}

template <class Fn>
class KernelTest : public testing::TestWithParam<Row<Fn>>
{
protected:
    void SetUp() override
    {
        if (!(test_isas() & this->GetParam().isa))
            GTEST_SKIP() << "this machine lacks the ISA of " << this->GetParam().symbol;
    }
    Fn *kernel() const { return this->GetParam().kernel; }

    std::mt19937_64 rng{test_seed()};
    testing::ScopedTrace seed_trace{__FILE__, __LINE__, "HATTN_TEST_SEED=" + std::to_string(test_seed())};

    int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); }
    float normal() { return std::normal_distribution<float>()(rng); }
};

#define HATTN_TEST_ROWS(fixture, op)                                      \
    INSTANTIATE_TEST_SUITE_P(Rows, fixture, testing::ValuesIn(Rows().op), \
                             [](const auto &row) { return std::string(row.param.symbol); })

/* An array right before a page that may not be touched (back) or right after one (front), every spare byte 0xAA. */
enum class Place { kFront, kBack };
constexpr Place kPlaces[] = {Place::kFront, Place::kBack};

template <class T>
class Guarded
{
public:
    Guarded(size_t count, Place place) : count_(count)
    {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), bytes = count * sizeof(T);
        inner_size_ = (bytes + page - 1) / page * page + (bytes == 0 ? page : 0);
        size_ = inner_size_ + 2 * page;
        base_ = static_cast<unsigned char *>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (base_ == MAP_FAILED)
            throw std::bad_alloc();
        inner_ = base_ + page;
        if (mprotect(inner_, inner_size_, PROT_READ | PROT_WRITE) != 0)
            throw std::bad_alloc();
        memset(inner_, 0xAA, inner_size_);
        offset_ = place == Place::kFront ? 0 : inner_size_ - bytes;
    }
    Guarded(const Guarded &) = delete;
    Guarded &operator=(const Guarded &) = delete;
    ~Guarded() { munmap(base_, size_); }

    T *data() { return reinterpret_cast<T *>(inner_ + offset_); }
    const T *data() const { return reinterpret_cast<const T *>(inner_ + offset_); }
    size_t size() const { return count_; }
    T &operator[](size_t i) { return data()[i]; }
    const T &operator[](size_t i) const { return data()[i]; }

    /* True if no byte outside the array, nor of the array from element `first` on, was written. */
    bool untouched_from(size_t first) const
    {
        size_t written_end = offset_ + first * sizeof(T);
        for (size_t i = 0; i < inner_size_; i++) {
            if ((i < offset_ || i >= written_end) && inner_[i] != 0xAA)
                return false;
        }
        return true;
    }
    bool untouched_outside() const { return untouched_from(count_); }

private:
    size_t count_, inner_size_, size_, offset_;
    unsigned char *base_, *inner_;
};

inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A float of `mantissa` explicit bits and `exponent` bits, from its formula. E4M3 has no infinities. */
inline double decode_float(uint32_t bits, int exponent_bits, int mantissa_bits, bool has_infinity)
{
    const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1),
                   exponent = bits >> mantissa_bits & ((1u << exponent_bits) - 1);
    const uint32_t largest = (1u << exponent_bits) - 1;
    const double sign = bits >> (exponent_bits + mantissa_bits) & 1 ? -1.0 : 1.0;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    if (has_infinity && exponent == largest)
        return mantissa ? NAN : sign * INFINITY;
    if (!has_infinity && exponent == largest && mantissa == (1u << mantissa_bits) - 1)
        return NAN;
    if (exponent == 0)
        return sign * std::ldexp(static_cast<double>(mantissa), 1 - bias - mantissa_bits);
    return sign * std::ldexp(static_cast<double>(mantissa | 1u << mantissa_bits),
                             static_cast<int>(exponent) - bias - mantissa_bits);
}

inline double decode(const void *data, int32_t dtype, int64_t i)
{
    if (dtype == HATTN_F32)
        return static_cast<const float *>(data)[i];
    if (dtype == HATTN_F8_E4M3)
        return decode_float(static_cast<const uint8_t *>(data)[i], 4, 3, false);
    const uint16_t half = static_cast<const uint16_t *>(data)[i];
    return dtype == HATTN_F16 ? decode_float(half, 5, 10, true) : decode_float(half, 8, 7, true);
}

inline size_t size_of(int32_t dtype) { return dtype == HATTN_F32 ? 4 : dtype == HATTN_F8_E4M3 ? 1 : 2; }

/* Some finite value near `value`; exactness does not matter to the caller, who decodes what was stored. */
inline void encode_near(void *data, int32_t dtype, int64_t i, float value)
{
    if (dtype == HATTN_F32) {
        static_cast<float *>(data)[i] = value;
    } else if (dtype == HATTN_BF16) {
        static_cast<uint16_t *>(data)[i] = static_cast<uint16_t>(bits_of(value) >> 16);
    } else {
        const int mantissa_bits = dtype == HATTN_F16 ? 10 : 3, exponent_bits = dtype == HATTN_F16 ? 5 : 4;
        const int bias = (1 << (exponent_bits - 1)) - 1;
        int exponent;
        const double fraction = std::frexp(std::fabs(static_cast<double>(value)), &exponent); /* 0.5..1 */
        uint32_t bits = 0;
        if (value != 0.0f && exponent - 1 >= 1 - bias)
            bits = static_cast<uint32_t>(exponent - 1 + bias) << mantissa_bits |
                   static_cast<uint32_t>((fraction * 2 - 1) * (1 << mantissa_bits));
        bits |= std::signbit(value) ? 1u << (exponent_bits + mantissa_bits) : 0;
        if (dtype == HATTN_F16) {
            static_cast<uint16_t *>(data)[i] = static_cast<uint16_t>(bits);
        } else {
            static_cast<uint8_t *>(data)[i] = static_cast<uint8_t>(bits);
        }
    }
}

inline const char *name_of(int32_t dtype)
{
    return dtype == HATTN_F32 ? "f32" : dtype == HATTN_F16 ? "f16" : dtype == HATTN_BF16 ? "bf16" : "f8_e4m3";
}

#endif
