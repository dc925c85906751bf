/* SPDX-License-Identifier: Apache-2.0
 * How attend loads rows on Intel's processors, on any other: it touches what it is given and nothing behind.
 */
#include <gtest/gtest.h>

#define __builtin_cpu_is(name) 1
#include "kernels_cpu/attend_rows.h"
#undef __builtin_cpu_is

#include "tests/kernels_cpu_rows.h"

namespace {

/* The last row of each ends at a page that may not be touched. */
TEST(AttendRows, TouchesNothingBehindRows)
{
    for (size_t size_k : {64, 128, 1152}) {
        for (size_t size_v : {64, 128, 512}) {
            const size_t num_rows = 3;
            Guarded<char> k(num_rows * size_k, Place::kBack), v(num_rows * size_v, Place::kBack);
            const void *k_rows[num_rows], *v_rows[num_rows];
            for (size_t j = 0; j < num_rows; j++) {
                k_rows[j] = k.data() + j * size_k;
                v_rows[j] = v.data() + j * size_v;
            }
            float max = -INFINITY;
            hattn_attend_block block = {};
            block.num_rows = num_rows;
            block.k_rows = k_rows;
            block.v_rows = v_rows;
            block.max = &max;
            EXPECT_EQ(fetch_block(&block, size_k, size_v), (int)NOTHING_AHEAD);
        }
    }
}

} // namespace
