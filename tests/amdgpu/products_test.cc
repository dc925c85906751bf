/* SPDX-License-Identifier: Apache-2.0
 * Products of matrices of kernels_hip, as they are compiled: of whole waves, and of loops that a warp of a wave leaves before
 * the other.
 */
#include "tests/amdgpu/unit.h"
#include "tests/amdgpu/unit_ops.h"

namespace {

class Products : public Launches<&products_path>
{
protected:
    static int small(uint32_t x) { return static_cast<int>(x % 17) - 8; }

    /* turns: as in products.cu. */
    void check(const std::string &name, unsigned turns)
    {
        std::fill(out(), out() + 512, ~uint64_t(0));
        ASSERT_EQ(run(name, 1, 128), 0);
        for (int i = 0; i < 512; i++) {
            const int warp = i / 128, row = i % 128 / 8, column = i % 8;
            const uint32_t *own = &words_[static_cast<size_t>(384 * warp)];
            int product = 0;
            for (int k = 0; k < 16; k++)
                product += small(own[row * 16 + k]) * small(own[256 + k * 8 + column]);
            const int sum = 1 + static_cast<int>(turns >> 4 * warp & 15) * product;
            ASSERT_EQ(out()[i], UNIT_U(sum)) << name << ", warp " << warp << ": " << row << ", " << column;
        }
    }
};

TEST_F(Products, OfWholeWaves)
{
    check("rows_float16", 0x1111);
    check("rows_bfloat16", 0x1111);
    check("columns_float16", 0x1111);
    check("columns_bfloat16", 0x1111);
}

TEST_F(Products, OfWavesThatStayTogether) { check("together", 0x3201); }

/* MFMA would write registers of the warp that is done. */
TEST_F(Products, OfWarpsThatPart)
{
    if (is_wave64())
        EXPECT_NE(run("apart", 1, 128), 0);
    else
        check("apart", 0x3201);
}

} // namespace
