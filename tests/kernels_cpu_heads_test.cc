/* SPDX-License-Identifier: Apache-2.0
 * Every row of kernels.inc against formulas written out here: what scores per query head are made of. All exact.
 */
#include <algorithm>
#include <memory>
#include <random>

extern "C" {
#include "core/floor.h"
}
#include "tests/kernels_cpu_rows.h"

namespace {

using ScoreListed = KernelTest<hattn_score_listed_fn>;
HATTN_TEST_ROWS(ScoreListed, score_listed);

/* Each code has guards of its own, all heads different weights. */
void check_listed(hattn_score_listed_fn *kernel, std::mt19937_64 &rng, Place place, int num_bits, int num_heads,
                  int num_codes, int max)
{
    const int words = (num_bits + 31) / 32;
    hattn_cpu_kernels scalar;
    hattn_cpu_kernels_select(0, &scalar);
    std::vector<std::vector<int8_t>> weights(num_heads, std::vector<int8_t>(num_bits));
    std::vector<hattn_planes> planes(num_heads);
    for (int h = 0; h < num_heads; h++) {
        const int most = h % 3 ? static_cast<int>(rng() % (max + 1)) : max; /* fewer planes, or none */
        for (int8_t &weight : weights[h])
            weight = static_cast<int8_t>(h % 5 == 4 ? -most : static_cast<int>(rng() % (2 * most + 1)) - most);
        scalar.split(weights[h].data(), num_bits, &planes[h]);
    }
    std::vector<std::unique_ptr<Guarded<uint32_t>>> codes;
    std::vector<const uint32_t *> listed;
    for (int i = 0; i < num_codes; i++) {
        if (i < 20 || i + 20 > num_codes)
            codes.push_back(std::make_unique<Guarded<uint32_t>>(words, place));
        for (size_t w = 0; w < codes.back()->size(); w++)
            codes.back()->data()[w] = i == 3 ? 0xffffffff : static_cast<uint32_t>(rng());
        listed.push_back(codes.back()->data());
    }
    Guarded<uint32_t> room(static_cast<size_t>(num_codes) * words, place);
    const int64_t stride = num_codes + num_heads % 3;
    Guarded<uint16_t> scores(stride * (num_heads - 1) + num_codes, place);
    kernel(planes.data(), num_heads, listed.data(), num_codes, room.data(), scores.data(), stride);
    for (int h = 0; h < num_heads; h++) {
        for (int i = 0; i < num_codes; i++) {
            int want = 0;
            for (int r = 0; r < num_bits; r++) {
                const int w = weights[h][r];
                want += w < 0 ? -w : 0;
                want += listed[i][r / 32] >> r % 32 & 1 ? w : 0;
            }
            ASSERT_EQ(scores[h * stride + i], want) << num_bits << " bits, " << num_heads << " heads, " << num_codes
                                                    << " codes, weights to " << max << ", head " << h << " code " << i;
        }
        for (int64_t i = num_codes; i < stride && h + 1 < num_heads; i++)
            ASSERT_EQ(scores[h * stride + i], 0xaaaa) << "behind head " << h;
    }
    ASSERT_TRUE(scores.untouched_outside() && room.untouched_outside());
}

TEST_P(ScoreListed, EveryWordCountAndPlaneCount)
{
    for (Place place : kPlaces)
        for (int words = 1; words <= HATTN_MAX_WORDS; words++)
            for (int max : {0, 1, 3, 7, 15, 31, 63, 127})
                ASSERT_NO_FATAL_FAILURE(
                    check_listed(kernel(), rng, place, 32 * words - 8 * pick(0, 3), pick(1, 9), pick(1, 40), max));
}

TEST_P(ScoreListed, CountsOfHeadsAndCodes)
{
    for (int num_heads : {1, 2, 3, 4, 5, 7, 8, 64})
        for (int num_codes : {1, 15, 16, 17, 63, 64, 65, 600})
            ASSERT_NO_FATAL_FAILURE(check_listed(kernel(), rng, kPlaces[pick(0, 1)], 128, num_heads, num_codes, 7));
}

using Vote = KernelTest<hattn_vote_fn>;
HATTN_TEST_ROWS(Vote, vote);

/* Of core/floor.h, by its words in api/hattn.h. */
uint32_t share_of(uint32_t distance, int32_t step)
{
    static const uint32_t factors[] = HATTN_FLOOR_TABLE;
    const uint64_t e = static_cast<uint64_t>(distance) * static_cast<uint64_t>(step);
    return e >> 10 > 30 ? 0 : factors[e >> 4 & 63] >> (e >> 10);
}

TEST_P(Vote, SharesSumsAndProbabilities)
{
    for (Place place : kPlaces) {
        for (int n : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 100, 2048}) {
            for (int32_t step : {0, 1, 15, 16, 73, 1023, 1024, 5000, 32767, 32768}) {
                for (int range : {1, 40, 1000, 65025}) {
                    Guarded<uint16_t> scores(n, place);
                    Guarded<uint32_t> shares(n, place), keys(n, place);
                    uint32_t largest = 0;
                    for (int i = 0; i < n; i++) {
                        scores[i] = static_cast<uint16_t>(rng() % range);
                        largest = std::max<uint32_t>(largest, scores[i]);
                        keys[i] = static_cast<uint32_t>(rng() % (1u << 30));
                    }
                    std::vector<uint32_t> before(keys.data(), keys.data() + n);
                    const bool asks_keys = pick(0, 3) > 0;
                    const uint64_t sum =
                        kernel()(scores.data(), n, step, shares.data(), asks_keys ? keys.data() : nullptr);
                    uint64_t want = 0;
                    for (int i = 0; i < n; i++) {
                        ASSERT_EQ(shares[i], share_of(largest - scores[i], step))
                            << n << " candidates, step " << step << " i " << i;
                        want += shares[i];
                    }
                    ASSERT_EQ(sum, want) << n << " candidates, step " << step;
                    const uint64_t inverse = (static_cast<uint64_t>(1) << 62) / sum;
                    for (int i = 0; i < n; i++) /* products are below 2^62 */
                        ASSERT_EQ(keys[i],
                                  before[i] + (asks_keys ? static_cast<uint32_t>(shares[i] * inverse >> 38) : 0))
                            << n << " candidates, step " << step << " i " << i;
                    ASSERT_TRUE(shares.untouched_outside() && keys.untouched_outside());
                }
            }
        }
    }
}

/* 1 / Z is that of a device, off to either side. */
TEST(HeadInverse, ByFloatsIsTheQuotient)
{
    std::mt19937_64 random(62);
    for (int i = 0; i < 300000; i++) {
        const int width = 30 + i % 32;
        const uint64_t low = uint64_t(1) << width, some = low + random() % low;
        for (const uint64_t sum : {some, low, low + 1, 2 * low - 1})
            for (const double off : {-0x1p-20, 0.0, 0x1p-20})
                ASSERT_EQ(hattn_head_inverse_near(sum, float(1.0 / double(sum) * (1 + off))), hattn_head_inverse(sum))
                    << sum << " off by " << off;
    }
}

} // namespace
