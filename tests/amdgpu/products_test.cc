/* SPDX-License-Identifier: Apache-2.0
 * Products of matrices of kernels_hip, as they are compiled: whole waves, and of waves of 64 halves that are on
 * their own.
 */
#include "tests/amdgpu/unit.h"
#include "tests/amdgpu/unit_ops.h"

namespace {

class Products : public Launches<&products_path>
{
protected:
    static int small(uint32_t x) { return static_cast<int>(x % 17) - 8; }

    void check(const std::string &name, unsigned warps)
    {
        std::fill(out(), out() + 512, ~uint64_t(0));
        ASSERT_EQ(run(name, 1, 128), 0);
        for (int i = 0; i < 512; i++) {
            const int warp = i / 128, row = i % 128 / 8, column = i % 8;
            const uint32_t *own = &words_[static_cast<size_t>(384 * warp)];
            int sum = 1;
            for (int k = 0; k < 16; k++)
                sum += small(own[row * 16 + k]) * small(own[256 + k * 8 + column]);
            const uint64_t expected = warps >> warp & 1 ? UNIT_U(sum) : ~uint64_t(0);
            ASSERT_EQ(out()[i], expected) << name << ", warp " << warp << ": " << row << ", " << column;
        }
    }
};

TEST_F(Products, OfWholeWaves)
{
    check("rows_float16", 15);
    check("rows_bfloat16", 15);
    check("columns_float16", 15);
    check("columns_bfloat16", 15);
}

TEST_F(Products, OfHalves)
{
    check("first_halves", 5);
    check("second_halves", 10);
}

} // namespace
