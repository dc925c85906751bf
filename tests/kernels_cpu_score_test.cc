/* SPDX-License-Identifier: Apache-2.0
 * Every row of kernels.inc against formulas written out here: weights, planes, scores, top-k. All exact.
 */
#include <algorithm>
#include <memory>
#include <numeric>

#include "tests/kernels_cpu_rows.h"

namespace {

const float kInfinity = INFINITY;

using Weights = KernelTest<hattn_weights_fn>;
HATTN_TEST_ROWS(Weights, weights);

TEST_P(Weights, Hamming)
{
    for (Place place : kPlaces) {
        for (int group : {1, 2, 3, 4, 5, 7, 8, 16, 127, 128}) {
            for (int num_bits : {8, 32, 40, 64, 104, 128, 256, 512}) {
                const int64_t stride = num_bits + group % 3;
                Guarded<float> z(stride * (group - 1) + num_bits, place);
                Guarded<int8_t> weights(num_bits, place);
                for (int pattern = 0; pattern < 3; pattern++) {
                    for (size_t i = 0; i < z.size(); i++)
                        z[i] = pattern == 0 ? 1.0f : pattern == 1 ? -0.0f : pick(0, 9) ? normal() : NAN;
                    kernel()(z.data(), stride, group, num_bits, 0, weights.data());
                    for (int r = 0; r < num_bits; r++) {
                        int sum = 0;
                        for (int g = 0; g < group; g++)
                            sum += z[g * stride + r] > 0 ? 1 : -1;
                        ASSERT_EQ(weights[r], group % 2 ? sum : sum / 2)
                            << "group " << group << " bits " << num_bits << " r " << r;
                    }
                    ASSERT_TRUE(weights.untouched_outside());
                }
            }
        }
    }
}

TEST_P(Weights, WeightedRoundsTiesToEven)
{
    for (Place place : kPlaces) {
        for (int qmax : {1, 3, 7, 15, 31, 63, 127}) {
            for (int group : {1, 3, 4, 16}) {
                for (int num_bits : {8, 64, 72, 128, 512}) {
                    Guarded<float> z(num_bits * group, place);
                    Guarded<int8_t> weights(num_bits, place);
                    /* Integers with max|u| = 2 qmax: all sums are exact, and every odd one is a tie. */
                    std::vector<int> sums(num_bits, 0);
                    for (int r = 0; r < num_bits; r++) {
                        sums[r] = r == 5 ? -2 * qmax : pick(-2 * qmax, 2 * qmax);
                        for (int g = 0; g < group; g++)
                            z[g * num_bits + r] = g ? static_cast<float>(g % 2 ? 100 * r : -100 * r)
                                                    : static_cast<float>(sums[r] - (group % 2 ? 0 : 100 * r));
                    }
                    const float unit = std::ldexp(1.0f, pick(-100, 90)); /* far from 1: only the ratio matters */
                    for (size_t i = 0; i < z.size(); i++)
                        z[i] *= unit;
                    kernel()(z.data(), num_bits, group, num_bits, qmax, weights.data());
                    for (int r = 0; r < num_bits; r++)
                        ASSERT_EQ(weights[r], std::nearbyint(sums[r] / 2.0))
                            << "qmax " << qmax << " group " << group << " u " << sums[r];
                    ASSERT_TRUE(weights.untouched_outside());
                }
            }
        }
    }
}

TEST_P(Weights, ZeroAndNotFinite)
{
    std::vector<float> z(2 * 40);
    std::vector<int8_t> weights(40);
    for (float odd : {0.0f, NAN, kInfinity, -kInfinity, 3e38f}) { /* 3e38 overflows in the sum of the group */
        for (size_t i = 0; i < z.size(); i++)
            z[i] = odd == 0.0f ? (i % 2 ? 0.0f : -0.0f) : normal();
        z[33] = z[40 + 33] = odd;
        std::fill(weights.begin(), weights.end(), static_cast<int8_t>(0x55));
        kernel()(z.data(), 40, 2, 40, 7, weights.data());
        for (int8_t w : weights)
            ASSERT_EQ(w, 0) << odd;
    }
    for (float huge : {3e38f, 0x1p-149f}) {
        std::fill(z.begin(), z.end(), 0.0f);
        z[0] = huge;
        z[1] = -huge;
        kernel()(z.data(), 40, 1, 40, 127, weights.data());
        EXPECT_EQ(weights[0], 127);
        EXPECT_EQ(weights[1], -127);
        EXPECT_EQ(weights[2], 0);
    }
}

void random_weights(std::mt19937_64 &rng, int max, int8_t *weights, int num_bits)
{
    for (int r = 0; r < num_bits; r++)
        weights[r] = static_cast<int8_t>(std::uniform_int_distribution<int>(-max, max)(rng));
}

using Split = KernelTest<hattn_split_fn>;
HATTN_TEST_ROWS(Split, split);

TEST_P(Split, SignAndMagnitude)
{
    for (Place place : kPlaces) {
        for (int num_bits = 8; num_bits <= 512; num_bits += 8) {
            for (int max : {0, 1, 2, 3, 4, 7, 8, 15, 31, 64, 127, 128}) {
                Guarded<int8_t> weights(num_bits, place);
                Guarded<hattn_planes> out(1, place);
                hattn_planes &planes = out[0];
                if (max == 128) {
                    std::fill(weights.data(), weights.data() + num_bits,
                              static_cast<int8_t>(-128)); /* counts as -127 */
                } else {
                    random_weights(rng, max, weights.data(), num_bits);
                }
                kernel()(weights.data(), num_bits, &planes);
                int largest = 0;
                uint32_t sum = 0;
                for (int r = 0; r < num_bits; r++) {
                    const int magnitude = std::min(std::abs(static_cast<int>(weights[r])), 127);
                    largest = std::max(largest, magnitude);
                    sum += static_cast<uint32_t>(magnitude);
                }
                ASSERT_EQ(planes.num_planes, largest ? std::ilogb(largest) + 1 : 0);
                ASSERT_EQ(planes.num_words, (num_bits + 31) / 32);
                ASSERT_EQ(planes.max_score, sum);
                ASSERT_EQ(planes.reserved, 0u);
                for (int r = 0; r < 32 * HATTN_MAX_WORDS; r++) {
                    const int w = r < num_bits ? std::max(static_cast<int>(weights[r]), -127) : 0;
                    ASSERT_EQ(planes.sign[r / 32] >> r % 32 & 1, w < 0 ? 1u : 0u) << "bits " << num_bits << " r " << r;
                    for (int p = 0; p < HATTN_MAX_PLANES; p++)
                        ASSERT_EQ(planes.plane[p][r / 32] >> r % 32 & 1, static_cast<unsigned>(std::abs(w)) >> p & 1)
                            << "bits " << num_bits << " r " << r << " plane " << p;
                }
            }
        }
    }
}

using Score = KernelTest<hattn_score_fn>;
HATTN_TEST_ROWS(Score, score);

enum Pattern { kZeros, kOnes, kAlternating, kEqual, kRandom, kPatterns };

void check_score(hattn_score_fn *kernel, std::mt19937_64 &rng, Place place, int num_bits, int max, int64_t padding,
                 int64_t num_keys, int pattern)
{
    const int words = (num_bits + 31) / 32;
    const int64_t stride = words + padding;
    /* Runs of pages and odd ones, each between guards of its own; the last two are only ahead. */
    std::vector<int64_t> lengths;
    for (int64_t left = num_keys; left > 0; left -= lengths.back()) {
        const int64_t lengths_of_runs[] = {left, 16, 32, 48, 64, 1 + static_cast<int64_t>(rng() % 40)};
        lengths.push_back(std::min(left, lengths_of_runs[rng() % 6]));
    }
    if (lengths.empty())
        lengths.push_back(0);
    const int num_runs = static_cast<int>(lengths.size()), num_runs_ahead = static_cast<int>(rng() % 3);
    lengths.insert(lengths.end(), static_cast<size_t>(num_runs_ahead), 1 + static_cast<int64_t>(rng() % 40));
    std::vector<std::unique_ptr<Guarded<uint32_t>>> pages;
    std::vector<hattn_score_run> runs;
    std::vector<const uint32_t *> code_of_key;
    for (int64_t length : lengths) {
        pages.push_back(std::make_unique<Guarded<uint32_t>>(
            length ? static_cast<size_t>(stride * (length - 1) + words) : 0, place));
        runs.push_back({pages.back()->data(), length});
        for (int64_t j = 0; j < length; j++)
            code_of_key.push_back(pages.back()->data() + j * stride);
    }
    Guarded<uint16_t> scores(num_keys, place);
    std::vector<int8_t> weights(num_bits);
    random_weights(rng, max, weights.data(), num_bits);
    if (pattern == kOnes)
        std::fill(weights.begin(), weights.end(), static_cast<int8_t>(max)); /* 512 bits of 127: 65024 */
    for (auto &codes : pages)
        for (size_t i = 0; i < codes->size(); i++) {
            const uint32_t word = pattern == kZeros         ? 0
                                  : pattern == kOnes        ? 0xffffffff
                                  : pattern == kAlternating ? 0xaaaaaaaa
                                  : pattern == kEqual       ? 0x12345678
                                                            : static_cast<uint32_t>(rng());
            (*codes)[i] = word; /* bits past num_bits included: no plane has them */
        }
    hattn_planes planes;
    hattn_split_scalar(weights.data(), num_bits, &planes);
    kernel(&planes, runs.data(), num_runs, num_runs_ahead, stride, scores.data());
    int negative = 0;
    for (int8_t w : weights)
        negative -= std::min(static_cast<int>(w), 0);
    for (int64_t j = 0; j < num_keys; j++) {
        int want = negative;
        for (int r = 0; r < num_bits; r++)
            want += (code_of_key[j][r / 32] >> r % 32 & 1) ? weights[r] : 0;
        ASSERT_EQ(scores[j], want) << "bits " << num_bits << " max " << max << " stride " << stride << " keys "
                                   << num_keys << " key " << j << " pattern " << pattern;
    }
    ASSERT_TRUE(scores.untouched_outside()) << "bits " << num_bits << " keys " << num_keys;
}

TEST_P(Score, EveryWordCountAndPlaneCount)
{
    for (Place place : kPlaces) {
        for (int words = 1; words <= HATTN_MAX_WORDS; words++) {
            for (int max : {0, 1, 3, 7, 15, 31, 63, 127}) {
                const int64_t counts[] = {pick(0, 1) ? 0 : 1, 31, 32, 33, pick(2, 130)};
                for (int64_t num_keys : counts)
                    ASSERT_NO_FATAL_FAILURE(check_score(kernel(), rng, place, 32 * words - 8 * pick(0, 3), max,
                                                        pick(0, 2) ? 0 : pick(1, 9), num_keys, kRandom));
            }
        }
    }
}

TEST_P(Score, PatternsAndLongRuns)
{
    for (int num_bits : {32, 64, 96, 128, 256, 512}) {
        for (int pattern = 0; pattern < kPatterns; pattern++)
            ASSERT_NO_FATAL_FAILURE(
                check_score(kernel(), rng, Place::kBack, num_bits, pattern == kRandom ? 7 : 127, 0, 77, pattern));
        for (Place place : kPlaces)
            ASSERT_NO_FATAL_FAILURE(check_score(kernel(), rng, place, num_bits, 3, 0, 2500 + pick(0, 31),
                                                kRandom)); /* past what is prefetched */
    }
}

using Scale = KernelTest<hattn_scale_fn>;
HATTN_TEST_ROWS(Scale, scale);

TEST_P(Scale, OneRounding)
{
    for (Place place : kPlaces) {
        for (int64_t num_keys : {0, 1, 15, 16, 17, 100}) {
            for (int64_t stride : {1, 3}) {
                for (uint32_t max_score : {0u, 128u, 65024u}) {
                    Guarded<uint16_t> scores(num_keys, place),
                        norms(num_keys ? static_cast<size_t>(stride * (num_keys - 1) + 1) : 0, place);
                    Guarded<float> keys(num_keys, place);
                    for (int64_t j = 0; j < num_keys; j++) {
                        scores[j] = static_cast<uint16_t>(pick(0, static_cast<int>(max_score)));
                        norms[j * stride] = static_cast<uint16_t>(rng()); /* subnormals, infinities and NaNs too */
                    }
                    kernel()(scores.data(), max_score, norms.data(), stride, num_keys, keys.data());
                    for (int64_t j = 0; j < num_keys; j++) {
                        const double centred = 2.0 * scores[j] - max_score,
                                     want = centred * decode_float(norms[j * stride], 5, 10, true);
                        if (std::isnan(want)) {
                            ASSERT_TRUE(std::isnan(keys[j]));
                        } else {
                            ASSERT_EQ(keys[j], static_cast<float>(want)) << centred;
                        }
                    }
                    ASSERT_TRUE(keys.untouched_outside());
                }
            }
        }
    }
}

/* The definition: positions by a stable sort, larger keys first; the first k of them in order of position. */
template <class T, class Run, class Before>
void check_topk(const Guarded<T> &keys, int n, Place place, int32_t first, const char *pattern, Run run, Before before)
{
    std::vector<int32_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return before(keys[a], keys[b]); });
    for (int k : {1, 2, n / 64, n / 7, n / 2, n - n / 64, n - 1}) {
        if (k < 1 || k >= n)
            continue;
        std::vector<int32_t> want(order.begin(), order.begin() + k);
        std::sort(want.begin(), want.end());
        const size_t room = static_cast<size_t>(hattn_topk_room(n, k));
        Guarded<uint32_t> histogram(HATTN_TOPK_BINS, place), scratch_keys(room, place);
        Guarded<int32_t> positions(room, place), out(k + HATTN_TOPK_SLACK, place);
        const hattn_topk_scratch scratch = {histogram.data(), positions.data(), scratch_keys.data()};
        run(keys.data(), k, out.data(), &scratch);
        for (int i = 0; i < k; i++)
            ASSERT_EQ(out[i], first + want[i]) << pattern << " n " << n << " k " << k << " i " << i;
        ASSERT_TRUE(out.untouched_outside() && histogram.untouched_outside() && positions.untouched_outside() &&
                    scratch_keys.untouched_outside());
    }
}

constexpr int kCounts[] = {2, 3, 15, 16, 17, 31, 32, 33, 64, 1000, 4095, 4097, 8192, 8193, 12345, 40001, 131072};

using TopkU16 = KernelTest<hattn_topk_u16_fn>;
HATTN_TEST_ROWS(TopkU16, topk_u16);

TEST_P(TopkU16, EqualsAStableSort)
{
    using Fill = uint16_t (*)(int j, int n, uint32_t max, std::mt19937_64 &rng);
    const std::pair<const char *, Fill> fills[] = {
        {"random", [](int, int, uint32_t max, std::mt19937_64 &r) { return static_cast<uint16_t>(r() % (max + 1)); }},
        {"all equal", [](int, int, uint32_t max, std::mt19937_64 &) { return static_cast<uint16_t>(max); }},
        {"all zero", [](int, int, uint32_t, std::mt19937_64 &) { return static_cast<uint16_t>(0); }},
        {"rising",
         [](int j, int n, uint32_t max, std::mt19937_64 &) {
             return static_cast<uint16_t>(static_cast<uint64_t>(j) * max / static_cast<uint64_t>(n));
         }},
        {"falling",
         [](int j, int n, uint32_t max, std::mt19937_64 &) {
             return static_cast<uint16_t>(max - static_cast<uint64_t>(j) * max / static_cast<uint64_t>(n));
         }},
        {"needles",
         [](int, int, uint32_t max, std::mt19937_64 &r) { return static_cast<uint16_t>(r() % 500 ? 0 : max); }},
        {"one cluster",
         [](int j, int n, uint32_t max, std::mt19937_64 &r) {
             return static_cast<uint16_t>(j > n / 3 && j < n / 3 + n / 40 ? max - r() % (max / 2 + 1) : 0);
         }},
        /* What a sample of runs sees is not what there is. */
        {"high at multiples of 64",
         [](int j, int, uint32_t max, std::mt19937_64 &r) {
             return static_cast<uint16_t>(j % 64 < 8 ? max : r() % (max + 1) / 2);
         }},
        {"low at multiples of 64",
         [](int j, int, uint32_t max, std::mt19937_64 &r) {
             return static_cast<uint16_t>(j % 64 < 8 ? 0 : r() % (max + 1));
         }},
        {"binomial",
         [](int, int, uint32_t max, std::mt19937_64 &r) {
             return static_cast<uint16_t>(static_cast<uint64_t>(__builtin_popcountll(r())) * max / 64);
         }},
    };
    for (int n : kCounts) {
        for (uint32_t max_score : {0u, 1u, 64u, 896u, 8191u, 8192u, 65024u}) {
            if (n > 20000 && max_score != 896 && max_score != 65024) /* one digit, two; sorting is the slow part */
                continue;
            for (const auto &[name, fill] : fills) {
                const Place place = kPlaces[pick(0, 1)];
                Guarded<uint16_t> scores(n, place);
                for (int j = 0; j < n; j++)
                    scores[j] = fill(j, n, max_score, rng);
                const int32_t first = pick(0, 1) ? 0 : pick(1, 1000000);
                ASSERT_NO_FATAL_FAILURE(check_topk(
                    scores, n, place, first, name,
                    [&](const uint16_t *keys, int k, int32_t *out, const hattn_topk_scratch *scratch) {
                        kernel()(keys, n, k, max_score, first, out, scratch);
                    },
                    [](uint16_t a, uint16_t b) { return a > b; }));
            }
        }
    }
}

using TopkF32 = KernelTest<hattn_topk_f32_fn>;
HATTN_TEST_ROWS(TopkF32, topk_f32);

TEST_P(TopkF32, EqualsAStableSort)
{
    using Fill = float (*)(int j, int n, std::mt19937_64 &rng);
    const std::pair<const char *, Fill> fills[] = {
        {"normal", [](int, int, std::mt19937_64 &r) { return std::normal_distribution<float>()(r); }},
        {"any bits", [](int, int, std::mt19937_64 &r) { return float_of(static_cast<uint32_t>(r())); }},
        {"zeros of both signs", [](int, int, std::mt19937_64 &r) { return r() % 2 ? 0.0f : -0.0f; }},
        {"zeros and neighbours",
         [](int, int, std::mt19937_64 &r) { return float_of(static_cast<uint32_t>(r() % 2 << 31 | r() % 3)); }},
        {"all NaN", [](int, int, std::mt19937_64 &) { return NAN; }},
        {"mostly NaN",
         [](int, int, std::mt19937_64 &r) { return r() % 50 ? -NAN : std::normal_distribution<float>()(r); }},
        {"infinities",
         [](int, int, std::mt19937_64 &r) {
             const float v[] = {kInfinity, -kInfinity, NAN, 1.0f};
             return v[r() % 4];
         }},
        {"all equal", [](int, int, std::mt19937_64 &) { return -2.5f; }},
        {"rising", [](int j, int n, std::mt19937_64 &) { return static_cast<float>(j) / static_cast<float>(n); }},
        {"falling", [](int j, int n, std::mt19937_64 &) { return -static_cast<float>(j) / static_cast<float>(n); }},
        {"high at multiples of 64",
         [](int j, int, std::mt19937_64 &r) {
             return (j % 64 < 8 ? 10.0f : 0.0f) + std::normal_distribution<float>()(r);
         }},
    };
    const auto before = [](float a, float b) { return std::isnan(b) ? !std::isnan(a) : a > b; };
    for (int n : kCounts) {
        for (const auto &[name, fill] : fills) {
            const Place place = kPlaces[pick(0, 1)];
            Guarded<float> values(n, place);
            for (int j = 0; j < n; j++)
                values[j] = fill(j, n, rng);
            const int32_t first = pick(0, 1) ? 0 : pick(1, 1000000);
            ASSERT_NO_FATAL_FAILURE(check_topk(
                values, n, place, first, name,
                [&](const float *keys, int k, int32_t *out, const hattn_topk_scratch *scratch) {
                    kernel()(keys, n, k, first, out, scratch);
                },
                before));
        }
    }
}

} // namespace
