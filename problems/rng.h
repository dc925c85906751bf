/* SPDX-License-Identifier: Apache-2.0
 * Random numbers that are the same on every machine: integers only (xorshift64*, seeded through splitmix64).
 */
#ifndef HATTN_PROBLEMS_RNG_H
#define HATTN_PROBLEMS_RNG_H

#include <cstdint>
#include <string>

namespace problems {

class Rng
{
public:
    /* Different streams of one seed are independent. */
    explicit Rng(uint64_t seed, const std::string &stream = "")
    {
        for (unsigned char c : stream)
            seed = (seed ^ c) * 0x100000001b3u;
        state_ = mix(seed + 0x9e3779b97f4a7c15u) | 1;
    }

    uint64_t next()
    {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return state_ * 0x2545f4914f6cdd1du;
    }

    /* 0..n-1 */
    int64_t below(int64_t n) { return static_cast<int64_t>((next() >> 11) % static_cast<uint64_t>(n)); }
    int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
    bool chance(int percent) { return below(100) < percent; }

    template <typename T, size_t n>
    const T &pick(const T (&values)[n])
    {
        return values[below(n)];
    }

    /* Nearly normal, variance 1, |x| < 6: the sum of twelve uniforms. Exact arithmetic, so the same everywhere. */
    double normal()
    {
        int64_t sum = 0;
        for (int i = 0; i < 12; i++)
            sum += static_cast<int64_t>(next() >> 40);
        return static_cast<double>(sum - 6 * (1 << 24)) / (1 << 24);
    }

private:
    static uint64_t mix(uint64_t x)
    {
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        return x ^ (x >> 31);
    }

    uint64_t state_;
};

} // namespace problems
#endif
