/* SPDX-License-Identifier: Apache-2.0
 * CUDA, played: the kernels' side of kernels_cuda/launch.h without a GPU. It records what is asked of it, fails where it is told to,
 * and can compute what the reference does.
 */
#ifndef HATTN_TESTS_FAKE_CUDA_H
#define HATTN_TESTS_FAKE_CUDA_H

#include <cstdlib>

#include <gtest/gtest.h>

extern "C" {
#include "backends/cuda/cuda.h"
}
#include "problems/problems.h"
#include "problems/shape.h"

/* What it does and saw. */
struct FakeCuda {
    int count = 2, current = 0, launch_code = 0, launches = 0, launched_on = -1;
    hattn_cuda_properties properties = {"made up", "sm_90", 1, 132, 232448, 233472, 1024, INT32_MAX, 0};
    uint64_t zeroed = 0;
    bool computes = false; /* kernels do, as the reference does */
    int streams = 0, allocations = 0, allocate_code = 0;
    const char *wrong = ""; /* the operation whose kernel gives one wrong value */
};

extern FakeCuda fake_cuda;

/* As at the start, and devices are opened without a known answer. */
class CudaTest : public testing::Test
{
protected:
    void SetUp() override
    {
        fake_cuda = FakeCuda();
        setenv("HATTN_SELFTEST", "0", 1);
    }
};

/* One sequence of up to 1000 keys. */
inline hattn_problem shape_of(int32_t q, int32_t kv, int dim, int group = 4)
{
    problems::Problem p;
    p.q_dtype = q;
    p.kv_dtype = kv;
    p.head_dim_qk = dim;
    p.group = group;
    p.lengths = {1000};
    return problems::make_shape(p, 70);
}

#endif
