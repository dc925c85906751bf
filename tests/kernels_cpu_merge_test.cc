/* SPDX-License-Identifier: Apache-2.0
 * Every row of kernels.inc against formulas written out here, in double: merge.
 */
#include <algorithm>

#include "contract/attention.h"
#include "tests/kernels_cpu_rows.h"

namespace {

const float kInfinity = INFINITY;

using Merge = KernelTest<hattn_merge_fn>;
HATTN_TEST_ROWS(Merge, merge);

TEST_P(Merge, PartsInDouble)
{
    for (Place place : kPlaces) {
        for (int num_parts : {1, 2, 3, 15, 16, 17, 33, 100}) {
            for (int n : {8, 16, 40, 128, 512, 576}) {
                const int64_t stride_out = n + num_parts % 3, stride_lse = 1 + n % 5;
                Guarded<float> outs(stride_out * (num_parts - 1) + n, place),
                    lses(stride_lse * (num_parts - 1) + 1, place), out(n, place), lse(1, place);
                const float size = num_parts % 2 ? 1.0f : 3e38f; /* sums of so large parts would overflow */
                std::vector<contract::Logit> parts;
                std::vector<int> used;
                for (int p = 0; p < num_parts; p++) {
                    const bool empty = num_parts > 1 && p % 3 == 0;
                    const float part = empty ? -kInfinity : 10.0f * normal() + (n == 40 ? 500.0f : 0.0f);
                    lses[p * stride_lse] = part;
                    for (int i = 0; i < n; i++)
                        outs[p * stride_out + i] = empty ? NAN : size * std::tanh(normal());
                    if (!empty) {
                        parts.push_back({part, 0});
                        used.push_back(p);
                    }
                }
                const contract::Attention exact(parts);
                std::vector<double> v(n);
                const contract::Columns columns = exact.columns(n, [&](size_t j) {
                    const float *values = outs.data() + used[j] * stride_out;
                    std::copy(values, values + n, v.begin());
                    return v.data();
                });
                kernel()(outs.data(), stride_out, lses.data(), stride_lse, num_parts, n, out.data(), lse.data());
                ASSERT_TRUE(contract::within(lse[0], exact.lse(), exact.lse_tolerance(contract::Sums::F32), HATTN_F32))
                    << num_parts << " parts, got " << lse[0] << " want " << exact.lse();
                for (int i = 0; i < n; i++)
                    ASSERT_TRUE(contract::within(out[i], columns.exact(i),
                                                 columns.tolerance(i, contract::Sums::F32, HATTN_F32), HATTN_F32))
                        << num_parts << " parts, n " << n << " i " << i << " got " << out[i] << " want "
                        << columns.exact(i);
                ASSERT_TRUE(out.untouched_outside() && lse.untouched_outside());
            }
        }
    }
}

TEST_P(Merge, EmptyAliasedAndWithoutLse)
{
    float outs[2 * 24], lses[2] = {-kInfinity, -kInfinity}, out[24], lse = 1.0f;
    std::fill(outs, outs + 48, NAN);
    kernel()(outs, 24, lses, 1, 2, 24, out, &lse);
    EXPECT_EQ(lse, -kInfinity);
    for (float value : out)
        EXPECT_EQ(bits_of(value), 0u);
    kernel()(outs, 24, lses, 1, 2, 24, out, nullptr);

    for (int i = 0; i < 24; i++)
        outs[i] = out[i] = normal();
    lses[0] = 3.25f;
    kernel()(outs, 24, lses, 1, 1, 24, outs, &lse); /* one part, in place */
    EXPECT_EQ(lse, 3.25f);
    for (int i = 0; i < 24; i++)
        EXPECT_EQ(outs[i], out[i]);

    lses[1] = NAN;
    kernel()(outs, 24, lses, 1, 2, 24, out, &lse);
    EXPECT_TRUE(std::isnan(lse) && std::isnan(out[7]));
}

} // namespace
