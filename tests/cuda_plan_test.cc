/* SPDX-License-Identifier: Apache-2.0
 * What the CUDA backend's plans choose for made-up devices.
 */
#include <gtest/gtest.h>

#include <cstring>
#include <iterator>

extern "C" {
#include "backends/cuda/cuda.h"
#include "kernels_cuda/decode/cut.h"
#include "kernels_cuda/encode/key_encoders.h"
}
#include "problems/problems.h"
#include "problems/rng.h"
#include "problems/shape.h"
#include "tests/fake_cuda.h"

namespace {

using CudaPlan = CudaTest;

hattn_cuda_params choose(const hattn_problem &problem)
{
    hattn_cuda_params params = {};
    hattn_cuda_choose(&fake_cuda.properties, &problem, &params);
    return params;
}

TEST_F(CudaPlan, EnginesAreOfTypesAndDims)
{
    const struct {
        int32_t q, kv;
        int dim, group, engine;
    } rows[] = {
        {HATTN_F16, HATTN_F16, 128, 4, HATTN_CUDA_MMA},      {HATTN_BF16, HATTN_BF16, 64, 16, HATTN_CUDA_MMA},
        {HATTN_F16, HATTN_F16, 128, 17, HATTN_CUDA_WIDE},    {HATTN_F16, HATTN_F16, 96, 4, HATTN_CUDA_WIDE},
        {HATTN_F32, HATTN_F16, 128, 4, HATTN_CUDA_WIDE},     {HATTN_F32, HATTN_F32, 128, 4, HATTN_CUDA_PLAIN},
        {HATTN_F32, HATTN_F32, 64, 4, HATTN_CUDA_PLAIN},     {HATTN_F32, HATTN_BF16, 128, 4, HATTN_CUDA_PLAIN},
        {HATTN_F16, HATTN_BF16, 128, 4, HATTN_CUDA_PLAIN},   {HATTN_F16, HATTN_F8_E4M3, 128, 4, HATTN_CUDA_MMA_BYTES},
        {HATTN_F32, HATTN_F8_E4M3, 128, 4, HATTN_CUDA_WIDE}, {HATTN_F16, HATTN_F8_E4M3, 64, 4, HATTN_CUDA_WIDE},
        {HATTN_F16, HATTN_F8_E4M3, 72, 4, HATTN_CUDA_PLAIN},
    };
    for (const auto &row : rows)
        EXPECT_EQ(choose(shape_of(row.q, row.kv, row.dim, row.group)).engine, row.engine)
            << "q " << row.q << " kv " << row.kv << " dim " << row.dim << " group " << row.group;
}

TEST_F(CudaPlan, RowsOffSixteenBytesAreForThePlainEngine)
{
    for (hattn_tensor hattn_problem::*cache : {&hattn_problem::k_cache, &hattn_problem::v_cache}) {
        for (int dimension = 0; dimension < 3; dimension++) {
            hattn_problem p = shape_of(HATTN_F16, HATTN_F16, 128);
            (p.*cache).stride[dimension] += 4;
            EXPECT_EQ(choose(p).engine, HATTN_CUDA_PLAIN) << dimension;
        }
    }
    hattn_problem far = shape_of(HATTN_F16, HATTN_F16, 128);
    far.k_cache.stride[2] = static_cast<int64_t>(1) << 36; /* 2^33 units of 16 bytes */
    EXPECT_EQ(choose(far).engine, HATTN_CUDA_PLAIN);
}

TEST_F(CudaPlan, WideNeedsSharedMemory)
{
    EXPECT_EQ(choose(shape_of(HATTN_F16, HATTN_F16, 256)).engine, HATTN_CUDA_WIDE);
    fake_cuda.properties.block_shared = HATTN_WIDE_STATIC + 1000;
    EXPECT_EQ(choose(shape_of(HATTN_F16, HATTN_F16, 256)).engine, HATTN_CUDA_PLAIN);
    EXPECT_FALSE(choose(shape_of(HATTN_F16, HATTN_F16, 128)).encodes_keys_by_mma);
}

const hattn_cuda_properties cards[] = {
    {"A100", "sm_80", 1, 108, 166912, 167936, 1024, INT32_MAX, 0},
    {"RTX A6000", "sm_86", 1, 84, 101376, 102400, 1024, INT32_MAX, 0},
    {"L40S", "sm_89", 1, 142, 101376, 102400, 1024, INT32_MAX, 0},
    {"H200", "sm_90", 1, 132, 232448, 233472, 1024, INT32_MAX, 0},
    {"B200", "sm_100", 1, 148, 232448, 233472, 1024, INT32_MAX, 0},
    {"RTX 5090", "sm_120", 1, 170, 101376, 102400, 1024, INT32_MAX, 0},
};

/* Every shape that benchmarks report has tensor cores on every card, but for fp32: for attention, and for many keys. */
TEST_F(CudaPlan, EveryCardHasTensorCoresForBenchShapes)
{
    int seen[4] = {};
    for (const hattn_cuda_properties &card : cards)
        for (const problems::Problem &problem : problems::bench_problems()) {
            SCOPED_TRACE(std::string(card.isa) + " " + problem.name);
            fake_cuda.properties = card;
            const hattn_problem shape = problems::make_shape(problem, 4096);
            const hattn_cuda_params p = choose(shape);
            const int32_t type = shape.k_cache.dtype, dim = shape.head_dim_qk == shape.head_dim_v && p.group <= 16
                                                                ? shape.head_dim_qk
                                                                : 0; /* of MmaEngine */
            const int32_t engine = type == HATTN_F32                                    ? HATTN_CUDA_PLAIN
                                   : type == HATTN_F8_E4M3 && dim == 128                ? HATTN_CUDA_MMA_BYTES
                                   : type != HATTN_F8_E4M3 && (dim == 64 || dim == 128) ? HATTN_CUDA_MMA
                                                                                        : HATTN_CUDA_WIDE;
            EXPECT_EQ(p.engine, engine);
            EXPECT_EQ(p.encodes_keys_by_mma, type != HATTN_F32);
            EXPECT_LE(p.attend_shared + (engine == HATTN_CUDA_WIDE ? HATTN_WIDE_STATIC : 0), card.block_shared);
            seen[p.engine]++;
        }
    for (int count : seen)
        EXPECT_GE(count, static_cast<int>(std::size(cards)));
}

/* Where a block has 99 KiB: one tile less of V outside of K, and of keys two stages instead of three. */
TEST_F(CudaPlan, SmallSharedMemoryIsEnough)
{
    for (const hattn_cuda_properties &card : cards) {
        SCOPED_TRACE(card.name);
        fake_cuda.properties = card;
        const bool is_small = card.block_shared < 100 << 10;
        problems::Problem mla;
        mla.q_dtype = mla.kv_dtype = HATTN_F16;
        mla.num_kv_heads = 1;
        mla.group = 16;
        mla.head_dim_qk = 576;
        mla.head_dim_v = 512;
        mla.v_inside_k = true;
        mla.lengths = {1000};
        const hattn_problem shape = problems::make_shape(mla, 70);
        const hattn_cuda_params p = choose(shape);
        ASSERT_EQ(p.engine, HATTN_CUDA_WIDE);
        EXPECT_GE(hattn_wide_lay_out(&shape, 16, 0, p.attend_shared).num_tiles, 2);
        EXPECT_EQ(hattn_wide_lay_out(&shape, 16, -1, p.attend_shared).num_tiles >= 2, !is_small);
        EXPECT_GE(hattn_wide_lay_out(&shape, 16, -1, p.attend_shared).num_tiles, 1);
        for (int32_t type : {HATTN_F16, HATTN_BF16, HATTN_F8_E4M3})
            for (int dim : {64, 128, 192, 256, 576}) {
                SCOPED_TRACE(dim);
                problems::Problem keys;
                keys.q_dtype = HATTN_F16;
                keys.kv_dtype = type;
                keys.head_dim_qk = dim;
                keys.lengths = {1000};
                const hattn_problem linear = problems::make_shape(keys, 70);
                const int32_t row = hattn_choose_key_encoder(&linear, card.block_shared, card.multiprocessor_shared);
                const int large = dim > 256 ? 6 : dim > 192 ? 4 : dim > 128 ? 3 : dim > 64 ? 1 : 0;
                EXPECT_GE(row, large);
                EXPECT_LE(row, large + (large != 0 && large != 3));
                EXPECT_TRUE(row == large || is_small || dim == 128) << row;
            }
        EXPECT_EQ(hattn_choose_mlp_stages(card.block_shared), is_small ? 2 : 3);
    }
}

/* As kernels divide: numbers.cuh's divide. */
uint32_t divide(uint32_t n, const hattn_cuda_divisor &d)
{
    const uint32_t high = static_cast<uint32_t>(static_cast<uint64_t>(n) * d.magic >> 32);
    return (high + n) >> d.shift;
}

TEST_F(CudaPlan, DivisorsDivide)
{
    problems::Rng rng(1);
    for (int page_size : {1, 2, 3, 5, 7, 16, 100, 129, 1000, 4096, 65537}) {
        hattn_problem p = shape_of(HATTN_F16, HATTN_F16, 128);
        p.page_size = page_size;
        const hattn_cuda_divisor d = choose(p).page_size;
        for (int i = 0; i < 1000; i++) {
            const uint32_t n = static_cast<uint32_t>(rng.next() >> (34 + rng.below(30)));
            const uint32_t multiple = n / static_cast<uint32_t>(page_size) * static_cast<uint32_t>(page_size);
            for (uint32_t one : {n, multiple, multiple ? multiple - 1 : 0})
                ASSERT_EQ(divide(one, d), one / static_cast<uint32_t>(page_size)) << one << " / " << page_size;
        }
    }
}

/* For every problem of the list: kernels' ranges cover all positions, offsets stay inside the workspace, and it is accepted. */
TEST_F(CudaPlan, EveryListedProblemHasASoundPlan)
{
    int by_regions = 0, keyed = 0, sampled = 0, split = 0, loose = 0, floors = 0, tails = 0, composed_shares = 0;
    for (const problems::Problem &problem : problems::all_problems()) {
        SCOPED_TRACE(problem.name);
        const hattn_problem shape = problems::make_shape(problem, 1000);
        const hattn_cuda_params p = choose(shape);
        EXPECT_EQ(hattn_cuda_check("cuda", &fake_cuda.properties, &p, nullptr), HATTN_OK);
        EXPECT_GE(p.workspace_size, sizeof(hattn_cuda_head));
        EXPECT_GE(p.num_splits, 1);
        EXPECT_GE(p.num_dense_splits, 1);
        EXPECT_EQ(p.block_heads % 2 == 0 || p.block_heads == 1, true);
        split += p.num_splits > 1;
        composed_shares += hattn_has_shares(&shape) && !p.by_regions;
        if (!p.by_regions)
            continue;
        by_regions++;
        keyed += p.is_keyed;
        sampled += hattn_cuda_is_sampled(&p, p.wave_rows * p.wave_heads);
        loose += p.has_loose_codes;
        floors += shape.min_probability > 0;
        tails += shape.tail > 0;
        EXPECT_GE(static_cast<int64_t>(p.score_chunk) * p.num_score_chunks, shape.max_length);
        for (int64_t tasks = 1; tasks <= p.wave_rows * p.wave_heads; tasks++) {
            const int64_t pieces = hattn_cuda_pieces(&p, tasks), units = hattn_cuda_units(&p),
                          units_of_piece = (units + pieces - 1) / pieces;
            EXPECT_LE(units_of_piece, hattn_cuda_most_units(&p));
            EXPECT_LE(units_of_piece * p.range_unit, HATTN_CUDA_MOST_RANGE);
            EXPECT_LE(tasks * pieces, hattn_cuda_most_pieces(&p, tasks));
        }
        EXPECT_GE(hattn_cuda_histogram_words(&p),
                  (hattn_has_shares(&shape) ? 2 * p.row_size : p.row_size) + HATTN_CUDA_FLAGS);
        EXPECT_LE(p.wave_rows * p.wave_heads * hattn_cuda_histogram_words(&p), HATTN_CUDA_HISTOGRAMS * HATTN_CUDA_BINS);
        EXPECT_GE(p.wave_rows * p.wave_heads, 1);
        EXPECT_LE(p.row_size, HATTN_CUDA_LEVELS);
        EXPECT_TRUE(p.code_words * 32 >= shape.code_bits &&
                    (p.has_loose_codes || p.code_words * 32 < shape.code_bits + 32));
        EXPECT_EQ(p.encodes_in_score && !p.encodes_by_mma, false);
    }
    for (int seen : {by_regions, keyed, sampled, split, loose, floors, tails, composed_shares})
        EXPECT_GE(seen, 10);
}

/* Floors and tails go by regions where floors.inc has kernels for both halves of the step, and scores are their own levels; else they are composed. */
TEST_F(CudaPlan, FloorsHaveKernelsOfTheirOwn)
{
    auto with_floor = [](hattn_problem p) {
        p.min_probability = 0.001f;
        p.min_k = 64;
        return p;
    };
    auto with_tail = [](hattn_problem p) {
        p.tail = 0.5f;
        return p;
    };
    auto with_bits = [&](int bits, int spare) {
        hattn_problem p = with_floor(shape_of(HATTN_F16, HATTN_F16, 128));
        p.code_bits = bits;
        p.codes.stride[1] = (bits + 31) / 32 + spare;
        p.codes.stride[2] = p.codes.stride[1] * p.max_length;
        p.codes.stride[0] = p.codes.stride[2] * p.num_code_heads;
        return choose(p).by_regions;
    };
    const struct {
        int32_t q, kv;
        int dim, engine, by_regions;
    } rows[] = {
        {HATTN_F16, HATTN_F16, 128, HATTN_CUDA_MMA, 1},   {HATTN_BF16, HATTN_BF16, 64, HATTN_CUDA_MMA, 1},
        {HATTN_F16, HATTN_F16, 256, HATTN_CUDA_WIDE, 1},  {HATTN_F16, HATTN_F8_E4M3, 128, HATTN_CUDA_MMA_BYTES, 0},
        {HATTN_F32, HATTN_F32, 128, HATTN_CUDA_PLAIN, 0},
    };
    for (const auto &row : rows) {
        const hattn_cuda_params p = choose(with_floor(shape_of(row.q, row.kv, row.dim)));
        EXPECT_EQ(p.engine, row.engine);
        EXPECT_EQ(p.by_regions, row.by_regions) << "q " << row.q << " kv " << row.kv << " dim " << row.dim;
        EXPECT_EQ(choose(with_tail(shape_of(row.q, row.kv, row.dim))).by_regions, row.by_regions);
        EXPECT_EQ(choose(with_tail(with_floor(shape_of(row.q, row.kv, row.dim)))).by_regions, row.by_regions);
        EXPECT_TRUE(choose(shape_of(row.q, row.kv, row.dim)).by_regions);
    }
    for (int bits : {32, 64, 128})
        EXPECT_TRUE(with_bits(bits, 0)) << bits;
    for (int bits : {96, 256, 512})
        EXPECT_FALSE(with_bits(bits, 0)) << bits;
    EXPECT_FALSE(with_bits(128, 1));
    hattn_problem keyed = with_floor(shape_of(HATTN_F16, HATTN_F16, 128));
    keyed.score_kind = HATTN_SCORE_WEIGHTED;
    keyed.weight_bits = 4;
    EXPECT_TRUE(choose(keyed).by_regions);
    keyed.weight_bits = 8;
    EXPECT_TRUE(choose(keyed).is_keyed);
    EXPECT_FALSE(choose(keyed).by_regions);
    for (const problems::Problem &problem : problems::bench_problems())
        if (problem.name.size() == 2) { /* S1 ... */
            const hattn_problem shape = problems::make_shape(problem, 4096);
            const hattn_cuda_params p = choose(with_floor(shape)), without = choose(shape);
            EXPECT_TRUE(p.by_regions) << problem.name;
            EXPECT_GT(p.steps, p.weights) << problem.name;
            EXPECT_GE(p.workspace_size, without.workspace_size) << problem.name;
        }
}

/* No width of codes is forgotten in the rows of kernels, packed or not. */
TEST_F(CudaPlan, EveryWidthOfCodesHasAKernel)
{
    for (int bits = 32; bits <= 512; bits += 8)
        for (const int spare : {0, 1}) {
            hattn_problem problem = shape_of(HATTN_F16, HATTN_F16, 128);
            problem.code_bits = bits;
            const int words = (bits + 31) / 32;
            problem.codes.stride[1] = words + spare;
            problem.codes.stride[2] = problem.codes.stride[1] * problem.max_length;
            problem.codes.stride[0] = problem.codes.stride[2] * problem.num_code_heads;
            const hattn_cuda_params p = choose(problem);
            ASSERT_TRUE(p.by_regions) << bits << " + " << spare;
            const bool is_power = (words & (words - 1)) == 0;
            EXPECT_TRUE(is_power && !spare ? p.code_words == words : p.code_words >= words) << bits << " + " << spare;
        }
}

/* Kernels have 32 bits for bytes between slots, and between pages; a contiguous cache's sequences may be as far apart as they like. */
TEST_F(CudaPlan, RegionsHaveShortStrides)
{
    const int64_t far = int64_t(1) << 31;
    for (const bool is_paged : {false, true})
        for (const bool of_codes : {false, true}) {
            hattn_problem problem = shape_of(HATTN_F16, HATTN_F16, 128);
            problem.page_size = is_paged ? 16 : 0;
            problem.key_norms = 1;
            problem.norms = problem.codes;
            problem.norms.dtype = HATTN_F16;
            EXPECT_TRUE(choose(problem).by_regions);
            hattn_problem slots = problem, pages = problem;
            (of_codes ? slots.codes : slots.norms).stride[1] = far;
            (of_codes ? pages.codes : pages.norms).stride[0] = far;
            EXPECT_FALSE(choose(slots).by_regions) << is_paged << of_codes;
            EXPECT_EQ(choose(pages).by_regions, !is_paged) << is_paged << of_codes;
            problem.key_norms = 0;
            problem.norms.stride[1] = far;
            EXPECT_TRUE(choose(problem).by_regions) << "there are none";
        }
}

/* With AMD's 64 KiB a block and nothing more for the multiprocessor, every shape has a plan that fits. */
TEST_F(CudaPlan, PlansFitSixtyFourKibibytes)
{
    fake_cuda.properties = {"MI300X", "gfx942", 1, 304, 65536, 65536, 0, (1 << 24) - 1, 0};
    int by_engine[4] = {};
    for (const problems::Problem &problem : problems::bench_problems()) {
        SCOPED_TRACE(problem.name);
        const hattn_problem shape = problems::make_shape(problem, 4096);
        const hattn_cuda_params p = choose(shape);
        EXPECT_EQ(hattn_cuda_check("hip", &fake_cuda.properties, &p, nullptr), HATTN_OK);
        EXPECT_LE(p.attend_shared, p.engine == HATTN_CUDA_WIDE ? 65536 - HATTN_WIDE_STATIC : 0);
        by_engine[p.engine]++;
    }
    EXPECT_GT(by_engine[HATTN_CUDA_MMA], 0);
    EXPECT_GT(by_engine[HATTN_CUDA_WIDE], 0);
}

TEST_F(CudaPlan, RefusesWhatNoGridHolds)
{
    hattn_problem p = shape_of(HATTN_F16, HATTN_F16, 128);
    p.num_q_heads = 65536 * 2;
    p.num_kv_heads = p.num_selection_heads = p.num_code_heads = 1024;
    hattn_cuda_params params = choose(p);
    hattn_error error = {};
    EXPECT_EQ(hattn_cuda_check("cuda", &fake_cuda.properties, &params, &error), HATTN_UNSUPPORTED);
    EXPECT_NE(std::strstr(error.text, "num_q_heads is 131072"), nullptr) << error.text;
    p = shape_of(HATTN_F16, HATTN_F16, 128);
    p.max_rows = 1 << 28;
    params = choose(p);
    EXPECT_EQ(hattn_cuda_check("cuda", &fake_cuda.properties, &params, &error), HATTN_UNSUPPORTED);
    EXPECT_NE(std::strstr(error.text, "more than 2147483647 blocks"), nullptr) << error.text;
}

} // namespace
