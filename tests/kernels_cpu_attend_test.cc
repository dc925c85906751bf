/* SPDX-License-Identifier: Apache-2.0
 * Every row of kernels.inc against formulas written out here, in double: attention in blocks.
 */
#include <algorithm>

#include "contract/attention.h"
#include "tests/kernels_cpu_rows.h"

namespace {

constexpr int32_t kAllFloats[] = {HATTN_F32, HATTN_F16, HATTN_BF16, HATTN_F8_E4M3};
const float kInfinity = INFINITY;

using Attend = KernelTest<hattn_attend_fn>;
HATTN_TEST_ROWS(Attend, attend);

struct AttendCase {
    int group, head_dim_qk, head_dim_v, num_rows;
    int32_t dtype;
    float soft_cap;
    bool aliased; /* V rows lie in the K rows */
};

std::ostream &operator<<(std::ostream &out, const AttendCase &c)
{
    return out << "group " << c.group << " d " << c.head_dim_qk << " dv " << c.head_dim_v << " rows " << c.num_rows
               << " " << name_of(c.dtype) << " cap " << c.soft_cap << (c.aliased ? " aliased" : "");
}

/* A cache of `2 * num_rows` rows between guard pages, of which every other one is selected; the others are NaN. */
class Attention
{
public:
    Attention(const AttendCase &c, Place place, std::mt19937_64 &rng, float q_scale)
        : c_(c), row_k_(c.head_dim_qk), stride_q_((c.head_dim_qk + 15) / 16 * 16),
          stride_acc_((c.head_dim_v + 15) / 16 * 16 + 16),
          k_(2 * static_cast<size_t>(c.num_rows) * static_cast<size_t>(c.head_dim_qk) * size_of(c.dtype), place),
          v_(2 * static_cast<size_t>(c.num_rows) * static_cast<size_t>(c.head_dim_v) * size_of(c.dtype), place),
          q(c.group * stride_q_, place), logits(static_cast<size_t>(c.group) * HATTN_ATTEND_BLOCK, place),
          max(c.group, place), sum(c.group, place), acc(c.group * stride_acc_, place)
    {
        std::normal_distribution<float> normal;
        memset(k_.data(), 0xFF, k_.size()); /* NaN in every dtype */
        memset(v_.data(), 0xFF, v_.size());
        const int parity = place == Place::kBack; /* so that a selected row is next to the guard page */
        for (int j = 0; j < c.num_rows; j++) {
            char *k = reinterpret_cast<char *>(k_.data()) +
                      static_cast<size_t>((2 * j + parity) * c.head_dim_qk) * size_of(c.dtype);
            char *v = c.aliased ? k
                                : reinterpret_cast<char *>(v_.data()) +
                                      static_cast<size_t>((2 * j + parity) * c.head_dim_v) * size_of(c.dtype);
            for (int i = 0; i < c.head_dim_qk; i++)
                encode_near(k, c.dtype, i, normal(rng));
            for (int i = 0; i < c.head_dim_v && !c.aliased; i++)
                encode_near(v, c.dtype, i, normal(rng));
            k_rows.push_back(k);
            v_rows.push_back(v);
        }
        for (int g = 0; g < c.group; g++) {
            for (int i = 0; i < stride_q_; i++)
                q[g * stride_q_ + i] = i < c.head_dim_qk ? q_scale * normal(rng) : 0.0f;
            max[g] = -kInfinity;
            sum[g] = 0.0f;
            for (int i = 0; i < c.head_dim_v; i++)
                acc[g * stride_acc_ + i] = 0.0f;
        }
    }

    /* Rows first..end. */
    hattn_attend_block block(int first, int end)
    {
        hattn_attend_block block = {};
        block.q = q.data();
        block.stride_q = stride_q_;
        block.group = c_.group;
        block.head_dim_qk = c_.head_dim_qk;
        block.head_dim_v = c_.head_dim_v;
        block.dtype = c_.dtype;
        block.soft_cap = c_.soft_cap;
        block.num_rows = end - first;
        block.k_rows = k_rows.data() + first;
        block.v_rows = v_rows.data() + first;
        block.logits = logits.data();
        block.max = max.data();
        block.sum = sum.data();
        block.acc = acc.data();
        block.stride_acc = stride_acc_;
        block.num_rows_ahead = c_.num_rows - end;
        block.loads_first = loads_first;
        return block;
    }

    /* All rows, in blocks of at most `block_rows`. */
    void run(hattn_attend_fn *kernel, int block_rows)
    {
        for (int j = 0; j < c_.num_rows; j += block_rows) {
            const hattn_attend_block rows = block(j, std::min(j + block_rows, c_.num_rows));
            kernel(&rows);
        }
    }

    double logit(int g, int j) const
    {
        double x = 0;
        for (int i = 0; i < row_k_; i++)
            x += q[g * stride_q_ + i] * decode(k_rows[j], c_.dtype, i);
        return c_.soft_cap > 0 ? c_.soft_cap * std::tanh(x / c_.soft_cap) : x;
    }
    float acc_at(int g, int i) const { return acc[g * stride_acc_ + i]; }

    /* By the numerics contract for sums in fp32. */
    void check(bool exact_logits = false) const
    {
        for (int g = 0; g < c_.group; g++) {
            std::vector<contract::Logit> x;
            for (int j = 0; j < c_.num_rows; j++) {
                double magnitude = 0;
                for (int i = 0; i < row_k_; i++)
                    magnitude += std::fabs(q[g * stride_q_ + i] * decode(k_rows[j], c_.dtype, i));
                const double value = logit(g, j), capped = c_.soft_cap > 0 ? std::fabs(value) : 0;
                x.push_back({value, exact_logits ? 0 : contract::logit_error(row_k_, magnitude, capped)});
            }
            const contract::Attention exact(x);
            std::vector<double> v(c_.head_dim_v);
            const contract::Columns columns = exact.columns(c_.head_dim_v, [&](size_t j) {
                for (int i = 0; i < c_.head_dim_v; i++)
                    v[i] = decode(v_rows[j], c_.dtype, i);
                return v.data();
            });
            const double lse = max[g] + std::log(static_cast<double>(sum[g]));
            ASSERT_TRUE(contract::within(lse, exact.lse(), exact.lse_tolerance(contract::Sums::F32), HATTN_F32))
                << c_ << " lse of query " << g << " got " << lse << " want " << exact.lse();
            for (int i = 0; i < c_.head_dim_v; i++) {
                const double got = acc_at(g, i) / static_cast<double>(sum[g]);
                ASSERT_TRUE(contract::within(got, columns.exact(i),
                                             columns.tolerance(i, contract::Sums::F32, HATTN_F32), HATTN_F32))
                    << c_ << " query " << g << " dim " << i << " got " << got << " want " << columns.exact(i);
            }
            for (int i = c_.head_dim_v; i < stride_acc_; i++)
                ASSERT_EQ(bits_of(acc_at(g, i)), 0xAAAAAAAAu) << c_ << " padding of acc";
        }
        ASSERT_TRUE(logits.untouched_outside() && max.untouched_outside() && sum.untouched_outside() &&
                    acc.untouched_outside())
            << c_;
    }

private:
    AttendCase c_;
    int row_k_, stride_q_, stride_acc_;
    Guarded<uint8_t> k_, v_;

public:
    Guarded<float> q, logits, max, sum, acc;
    std::vector<const void *> k_rows, v_rows;
    int loads_first = 0;
};

using AddValues = KernelTest<hattn_add_values_fn>;
HATTN_TEST_ROWS(AddValues, add_values);

/* Weights that are given, blocks of any size, K never looked at. */
TEST_P(AddValues, IsTheSum)
{
    for (int32_t dtype : kAllFloats)
        for (int group : {1, 2, 3, 4, 5, 8, 16})
            for (int dims : {32, 48, 128, 200, 576}) {
                const AttendCase c = {group, 32, dims, pick(1, 64), dtype, 0, false};
                Attention attention(c, kPlaces[pick(0, 1)], rng, 1);
                for (int g = 0; g < group; g++)
                    for (int j = 0; j < c.num_rows; j++)
                        attention.logits[g * HATTN_ATTEND_BLOCK + j] =
                            static_cast<float>(pick(0, 1000)) / 1000.0f / static_cast<float>(c.num_rows);
                const std::vector<float> weights(attention.logits.data(),
                                                 attention.logits.data() + group * HATTN_ATTEND_BLOCK);
                hattn_attend_block block = attention.block(0, c.num_rows);
                block.q = nullptr;
                block.sum = nullptr;
                block.k_rows = block.v_rows;
                block.head_dim_qk = 0;
                block.loads_first = pick(0, 1);
                kernel()(&block);
                for (int g = 0; g < group; g++)
                    for (int i = 0; i < dims; i++) {
                        double exact = 0, largest = 0;
                        for (int j = 0; j < c.num_rows; j++) {
                            const double value = decode(block.v_rows[j], dtype, i);
                            exact += weights[static_cast<size_t>(g * HATTN_ATTEND_BLOCK + j)] * value;
                            largest = std::max(largest, std::fabs(value));
                        }
                        ASSERT_NEAR(attention.acc_at(g, i), exact, 0x1p-20 * largest) << c;
                    }
                ASSERT_TRUE(attention.acc.untouched_outside()) << c;
            }
}

TEST_P(Attend, GroupsDimsRowsAndDtypes)
{
    std::vector<AttendCase> cases;
    for (int32_t dtype : kAllFloats) {
        for (int group : {1, 2, 3, 4, 5, 7, 8, 16}) {
            for (int rows : {1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 63, 64})
                cases.push_back({group, 128, 128, rows, dtype, 0, false});
        }
        for (int d : {32, 40, 64, 72, 80, 96, 120, 136, 192, 200, 256, 264, 576}) {
            for (int group : {1, 2, 4, 7}) {
                cases.push_back({group, d, d, pick(1, 64), dtype, 0, false});
                cases.push_back({group, d, 8 * pick(4, d / 8), pick(1, 64), dtype, 30.0f, true});
            }
        }
        cases.push_back({16, 576, 512, 64, dtype, 0, true});
        cases.push_back({128, 128, 128, 20, dtype, 50.0f, false});
        cases.push_back({4, 32, 576, 64, dtype, 1.0f, false});
    }
    for (const AttendCase &c : cases) {
        Attention attention(c, kPlaces[pick(0, 1)], rng, pick(0, 3) ? 0.125f : 0.7f);
        attention.loads_first = pick(0, 1);
        attention.run(kernel(), HATTN_ATTEND_BLOCK);
        ASSERT_NO_FATAL_FAILURE(attention.check());
    }
}

TEST_P(Attend, ManyBlocksOfAnySize)
{
    for (int32_t dtype : kAllFloats) {
        for (int group : {1, 2, 4, 6}) {
            for (int block_rows : {1, 7, 16, 63, 64}) {
                Attention attention({group, 64, 72, block_rows == 64 ? 4000 : 500, dtype, 0, false},
                                    kPlaces[pick(0, 1)], rng, 0.3f);
                attention.run(kernel(), block_rows);
                ASSERT_NO_FATAL_FAILURE(attention.check());
            }
        }
    }
}

/* Equal rows: rounding errors of one sign add up, which a single running sum would not survive. */
TEST_P(Attend, LongRunOfEqualRows)
{
    for (bool all : {false, true}) { /* a larger logit first, and other weights are no powers of two */
        Attention attention({4, 32, 32, 4096, HATTN_F32, 0, false}, Place::kBack, rng, all ? 0.1f : 1.0f);
        std::fill(attention.k_rows.begin() + !all, attention.k_rows.end(), attention.k_rows[1]);
        std::fill(attention.v_rows.begin() + !all, attention.v_rows.end(), attention.v_rows[1]);
        attention.run(kernel(), HATTN_ATTEND_BLOCK);
        ASSERT_NO_FATAL_FAILURE(attention.check(true));
    }
}

TEST_P(Attend, LargeLogitsRiseAndFall)
{
    for (float q_scale : {5.0f, 60.0f}) {
        for (int group : {1, 4}) {
            /* Exact logits: integers below 2^24, so that the bound is that of exp and the sums. */
            Attention attention({group, 32, 64, 300, HATTN_F32, 0, false}, Place::kFront, rng, 1.0f);
            for (int j = 0; j < 300; j++) {
                float *k = static_cast<float *>(const_cast<void *>(attention.k_rows[j]));
                for (int i = 0; i < 32; i++)
                    k[i] = i == 0 ? static_cast<float>((j * 37 % 300 - 150) * static_cast<int>(q_scale)) : 0.0f;
            }
            for (int g = 0; g < group; g++)
                attention.q[g * 32] = g % 2 ? -1.0f : 1.0f;
            attention.run(kernel(), HATTN_ATTEND_BLOCK);
            ASSERT_NO_FATAL_FAILURE(attention.check(true));
        }
    }
}

/* Keys near each other, far from zero: many weights, each of a logit that fp32 rounds. */
TEST_P(Attend, LargeLogitsOfManyKeys)
{
    for (int32_t dtype : kAllFloats) {
        for (float q_scale : {1.0f, 10.0f, 30.0f}) {
            Attention attention({4, 128, 64, 200, dtype, 0, false}, Place::kBack, rng, q_scale);
            for (int j = 1; j < 200; j++)
                for (int i = 0; i < 128; i++) {
                    const double first = decode(attention.k_rows[0], dtype, i);
                    encode_near(const_cast<void *>(attention.k_rows[j]), dtype, i,
                                static_cast<float>(first + normal() / 64));
                }
            attention.run(kernel(), HATTN_ATTEND_BLOCK);
            ASSERT_NO_FATAL_FAILURE(attention.check());
        }
    }
}

/* Both manners of fetching rows touch no more than rows: V's are shorter than K's and end where a guard page starts. */
TEST_P(Attend, RowsAreFetchedWithTheirOwnSizes)
{
    for (int32_t dtype : kAllFloats) {
        for (int head_dim_v : {32, 576}) {
            std::vector<float> outs[2];
            for (int loads_first : {0, 1}) {
                std::mt19937_64 same(test_seed());
                Attention attention({5, 608 - head_dim_v, head_dim_v, 100, dtype, 0, false}, Place::kBack, same, 0.1f);
                attention.loads_first = loads_first;
                attention.run(kernel(), HATTN_ATTEND_BLOCK);
                ASSERT_NO_FATAL_FAILURE(attention.check());
                outs[loads_first].assign(attention.acc.data(), attention.acc.data() + attention.acc.size());
            }
            ASSERT_EQ(0, memcmp(outs[0].data(), outs[1].data(), outs[0].size() * sizeof(float)));
        }
    }
}

/* e^(inf - inf): a key of infinite logit leaves NaN, as it does in the formula, not the other keys' mean. */
TEST_P(Attend, PlusInfinityLeavesNaN)
{
    for (int group : {1, 2, 4}) {
        for (int infinite : {0, 5, 69}) { /* in either block */
            Attention attention({group, 32, 40, 70, HATTN_F32, 0, false}, Place::kBack, rng, 0.5f);
            for (int g = 0; g < group; g++)
                attention.q[g * 32] = 1.0f;
            memcpy(const_cast<void *>(attention.k_rows[infinite]), &kInfinity, sizeof kInfinity);
            attention.run(kernel(), HATTN_ATTEND_BLOCK);
            for (int g = 0; g < group; g++)
                EXPECT_TRUE(std::isnan(attention.acc_at(g, 7)) && std::isnan(attention.sum[g]))
                    << "group " << group << " key " << infinite << " query " << g;
        }
    }
}

TEST_P(Attend, MinusInfinityCountsNothingAndNaNStays)
{
    for (int32_t dtype : {HATTN_F32, HATTN_F16, HATTN_BF16}) {
        for (int group : {1, 2, 4}) {
            const AttendCase c = {group, 32, 40, 70, dtype, 0, false};
            Attention attention(c, Place::kBack, rng, 0.5f);
            const auto set_first = [&](int j, uint32_t f32, uint16_t f16, uint16_t bf16) {
                const uint16_t half = dtype == HATTN_F16 ? f16 : bf16;
                memcpy(const_cast<void *>(attention.k_rows[j]),
                       dtype == HATTN_F32 ? static_cast<const void *>(&f32) : &half, size_of(dtype));
            };
            for (int g = 0; g < group; g++)
                attention.q[g * 32] = 1.0f;
            for (int j = 0; j < 64; j++)
                set_first(j, 0xff800000, 0xfc00, 0xff80); /* a whole block of logits -inf */
            const hattn_attend_block block = attention.block(0, 64);
            kernel()(&block);
            for (int g = 0; g < group; g++) {
                ASSERT_EQ(attention.max[g], -kInfinity);
                ASSERT_EQ(attention.sum[g], 0.0f);
                for (int i = 0; i < 40; i++)
                    ASSERT_EQ(attention.acc_at(g, i), 0.0f);
            }
            attention.run(kernel(), HATTN_ATTEND_BLOCK); /* the 64 again, then 6 finite ones */
            ASSERT_NO_FATAL_FAILURE(attention.check());
            set_first(5, 0x7fc00000, 0x7e00, 0x7fc0);
            kernel()(&block);
            for (int g = 0; g < group; g++)
                ASSERT_TRUE(std::isnan(attention.sum[g]) && std::isnan(attention.acc_at(g, 39))) << c;
        }
    }
}

/* Softmax has no limit there: not what a maximum of -inf gives, an empty selection. */
TEST_P(Attend, PlusInfinityIsNotANumber)
{
    for (int32_t dtype : {HATTN_F32, HATTN_F16, HATTN_BF16}) {
        for (int infinite : {0, 63, 64, 69}) {
            const AttendCase c = {3, 32, 40, 70, dtype, 0, false};
            Attention attention(c, Place::kFront, rng, 0.5f);
            const uint32_t f32 = 0x7f800000;
            const uint16_t half = dtype == HATTN_F16 ? 0x7c00 : 0x7f80;
            memcpy(const_cast<void *>(attention.k_rows[infinite]),
                   dtype == HATTN_F32 ? static_cast<const void *>(&f32) : &half, size_of(dtype));
            for (int g = 0; g < 3; g++)
                attention.q[g * 32] = g == 1 ? -1.0f : 1.0f; /* -inf for the second query: as if it were not there */
            attention.run(kernel(), HATTN_ATTEND_BLOCK);
            for (int g = 0; g < 3; g++)
                for (int i = 0; i < 40; i++) {
                    ASSERT_EQ(std::isnan(attention.acc_at(g, i)), g != 1) << c << " query " << g;
                    ASSERT_EQ(std::isnan(attention.sum[g]), g != 1) << c << " query " << g;
                }
        }
    }
}

} // namespace
