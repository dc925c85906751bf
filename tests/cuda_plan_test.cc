/* SPDX-License-Identifier: Apache-2.0
 * The CUDA backend's host side without a GPU: what a plan chooses for made-up devices, and that calls make the right device current and the
 * caller's again. The kernels' side of kernels_cuda/launch.h is played here.
 */
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <vector>

extern "C" {
#include "backends/cuda/cuda.h"
#include "kernels_cuda/decode/cut.h"
#include "kernels_cuda/encode/key_encoders.h"
#include "reference/reference.h"
}
#include "problems/problems.h"
#include "problems/rng.h"
#include "problems/shape.h"

namespace {

/* What the played runtime does and saw. */
struct Runtime {
    int count = 2, current = 0, launch_code = 0, launches = 0, launched_on = -1;
    hattn_cuda_properties properties = {"made up", "sm_90", 1, 132, 232448, 233472, 1024, INT32_MAX, 0};
    uint64_t zeroed = 0;
    bool computes = false; /* kernels do, as the reference does */
    int streams = 0, allocations = 0, allocate_code = 0;
    const char *wrong = ""; /* the operation whose kernel gives one wrong value */
};
Runtime runtime;

int launch()
{
    runtime.launches++;
    runtime.launched_on = runtime.current;
    return runtime.launch_code;
}

/* 0 and the reference's results where kernels compute; else as any launch. */
template <class Call>
int compute(const char *operation, hattn_buffer output, Call call)
{
    const int code = launch();
    if (code || !runtime.computes)
        return code;
    call();
    if (!std::strcmp(operation, runtime.wrong))
        static_cast<uint8_t *>(output.data)[output.byte_offset + 3] ^= 64;
    return 0;
}

/* Not more than what the known answer asks: all outputs are there, scores are integers. */
void decode(const hattn_problem &p, const hattn_decode_args &a)
{
    std::vector<uint16_t> scores(static_cast<size_t>(p.max_length));
    hattn_encode_queries_args encode = {};
    encode.num_rows = a.batch.num_rows, encode.q = a.q, encode.query_map = a.query_map, encode.weights = a.weights;
    hattn_reference_encode_queries(&p, &encode);
    hattn_score_args score = {};
    score.batch = a.batch, score.weights = a.weights, score.codes = a.codes, score.scores = {scores.data(), 0};
    hattn_reference_score(&p, &score);
    hattn_topk_args topk = {};
    topk.batch = a.batch, topk.scores = score.scores, topk.indices = a.indices, topk.counts = a.counts;
    hattn_reference_topk(&p, &topk);
    hattn_attend_args attend = {};
    attend.batch = a.batch, attend.q = a.q, attend.k_cache = a.k_cache, attend.v_cache = a.v_cache;
    attend.indices = a.indices, attend.counts = a.counts, attend.out = a.out, attend.lse = a.lse;
    hattn_reference_attend(&p, &attend);
}

const hattn_cuda_scratch scratch = {
    [](void **stream) {
        *stream = &runtime;
        runtime.streams += !runtime.launch_code;
        return runtime.launch_code;
    },
    [](void *) { runtime.streams--; },
    [](uint64_t size, void *, void **address) {
        if (runtime.allocate_code)
            return runtime.allocate_code;
        *address = std::aligned_alloc(256, (size + 255) / 256 * 256);
        runtime.allocations++;
        return 0;
    },
    [](void *address, void *) {
        std::free(address);
        runtime.allocations--;
    },
    [](void *to, const void *from, uint64_t size, void *) {
        std::memcpy(to, from, size);
        return 0;
    },
};

} // namespace

extern "C" const hattn_cuda_kernels *hattn_cuda_kernels_by_nvcc()
{
    static const hattn_cuda_kernels kernels = {
        "sm_80 or later",
        [](int code) { return code == 7 ? "out of luck" : "another error"; },
        [](int *count) {
            *count = runtime.count;
            return 0;
        },
        [](int, hattn_cuda_properties *properties) {
            *properties = runtime.properties;
            return 0;
        },
        [](int index, hattn_cuda_caller *caller) {
            *caller = {runtime.current, 0};
            runtime.current = index;
            return 0;
        },
        [](const hattn_cuda_caller *caller) { runtime.current = caller->device; },
        [](void *, uint64_t bytes, void *) {
            runtime.zeroed += bytes;
            return launch();
        },
        [](hattn_cuda_params *) { return launch(); },
        [](const hattn_cuda_params *, const hattn_decode_args *, void *) { return launch(); },
        [](const hattn_cuda_params *p, const hattn_encode_keys_args *a, void *) {
            return compute("encode_keys", a->codes, [&] { hattn_reference_encode_keys(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_encode_queries_args *a, void *) {
            return compute("encode_queries", a->weights, [&] { hattn_reference_encode_queries(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_score_args *a, void *) {
            return compute("score", a->scores, [&] { hattn_reference_score(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_topk_args *a, hattn_buffer, void *) {
            return compute("topk", a->counts, [&] { hattn_reference_topk(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_attend_args *a, hattn_buffer, void *) {
            return compute("attend", a->out, [&] { hattn_reference_attend(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_merge_args *a, void *) {
            return compute("merge", a->out, [&] { hattn_reference_merge(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_decode_args *a, hattn_buffer, void *) {
            return compute("decode", a->lse, [&] { decode(p->problem, *a); });
        },
        &scratch,
    };
    return &kernels;
}

namespace {

hattn_cuda_params choose(const hattn_problem &problem)
{
    hattn_cuda_params params = {};
    hattn_cuda_choose(&runtime.properties, &problem, &params);
    return params;
}

hattn_problem shape_of(int32_t q, int32_t kv, int dim, int group = 4)
{
    problems::Problem p;
    p.q_dtype = q;
    p.kv_dtype = kv;
    p.head_dim_qk = dim;
    p.group = group;
    p.lengths = {1000};
    return problems::make_shape(p, 70);
}

class CudaPlan : public testing::Test
{
protected:
    void SetUp() override
    {
        runtime = Runtime();
        setenv("HATTN_SELFTEST", "0", 1);
    }
};

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
    runtime.properties.block_shared = HATTN_WIDE_STATIC + 1000;
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
            runtime.properties = card;
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
        runtime.properties = card;
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
    int by_regions = 0, keyed = 0, sampled = 0, split = 0, loose = 0;
    for (const problems::Problem &problem : problems::all_problems()) {
        SCOPED_TRACE(problem.name);
        const hattn_problem shape = problems::make_shape(problem, 1000);
        const hattn_cuda_params p = choose(shape);
        EXPECT_EQ(hattn_cuda_check("cuda", &runtime.properties, &p, nullptr), HATTN_OK);
        EXPECT_GE(p.workspace_size, sizeof(hattn_cuda_head));
        EXPECT_GE(p.num_splits, 1);
        EXPECT_GE(p.num_dense_splits, 1);
        EXPECT_EQ(p.block_heads % 2 == 0 || p.block_heads == 1, true);
        split += p.num_splits > 1;
        if (!p.by_regions)
            continue;
        by_regions++;
        keyed += p.is_keyed;
        sampled += hattn_cuda_is_sampled(&p, p.wave_rows * p.wave_heads);
        loose += p.has_loose_codes;
        EXPECT_GE(static_cast<int64_t>(p.score_chunk) * p.num_score_chunks, shape.max_length);
        for (int64_t tasks = 1; tasks <= p.wave_rows * p.wave_heads; tasks++) {
            const int64_t pieces = hattn_cuda_pieces(&p, tasks), units = hattn_cuda_units(&p),
                          units_of_piece = (units + pieces - 1) / pieces;
            EXPECT_LE(units_of_piece, hattn_cuda_most_units(&p));
            EXPECT_LE(units_of_piece * p.range_unit, HATTN_CUDA_MOST_RANGE);
            EXPECT_LE(tasks * pieces, hattn_cuda_most_pieces(&p, tasks));
        }
        EXPECT_LE(p.wave_rows * p.wave_heads * (p.row_size + HATTN_CUDA_FLAGS),
                  HATTN_CUDA_HISTOGRAMS * HATTN_CUDA_BINS);
        EXPECT_GE(p.wave_rows * p.wave_heads, 1);
        EXPECT_LE(p.row_size, HATTN_CUDA_LEVELS);
        EXPECT_TRUE(p.code_words * 32 >= shape.code_bits &&
                    (p.has_loose_codes || p.code_words * 32 < shape.code_bits + 32));
        EXPECT_EQ(p.encodes_in_score && !p.encodes_by_mma, false);
    }
    for (int seen : {by_regions, keyed, sampled, split, loose})
        EXPECT_GE(seen, 10);
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

/* With AMD's 64 KiB a block and nothing more for the multiprocessor, every shape has a plan that fits. */
TEST_F(CudaPlan, PlansFitSixtyFourKibibytes)
{
    runtime.properties = {"MI300X", "gfx942", 1, 304, 65536, 65536, 0, (1 << 24) - 1, 0};
    int by_engine[4] = {};
    for (const problems::Problem &problem : problems::bench_problems()) {
        SCOPED_TRACE(problem.name);
        const hattn_problem shape = problems::make_shape(problem, 4096);
        const hattn_cuda_params p = choose(shape);
        EXPECT_EQ(hattn_cuda_check("hip", &runtime.properties, &p, nullptr), HATTN_OK);
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
    EXPECT_EQ(hattn_cuda_check("cuda", &runtime.properties, &params, &error), HATTN_UNSUPPORTED);
    EXPECT_NE(std::strstr(error.text, "num_q_heads is 131072"), nullptr) << error.text;
    p = shape_of(HATTN_F16, HATTN_F16, 128);
    p.max_rows = 1 << 28;
    params = choose(p);
    EXPECT_EQ(hattn_cuda_check("cuda", &runtime.properties, &params, &error), HATTN_UNSUPPORTED);
    EXPECT_NE(std::strstr(error.text, "more than 2147483647 blocks"), nullptr) << error.text;
}

TEST_F(CudaPlan, CallsRunOnThePlansDeviceAndLeaveTheCallersCurrent)
{
    const hattn_backend &cuda = hattn_cuda_backend;
    hattn_device_options options = {};
    options.index = 1;
    hattn_device *device = nullptr;
    hattn_error error = {};
    ASSERT_EQ(cuda.open(&options, &device, &error), HATTN_OK) << error.text;
    device->backend = &cuda;
    const hattn_problem problem = shape_of(HATTN_F16, HATTN_F16, 128);
    hattn_plan *plan = nullptr;
    ASSERT_EQ(cuda.plan(device, &problem, &plan, &error), HATTN_OK) << error.text;
    EXPECT_EQ(runtime.launched_on, 1);
    EXPECT_EQ(runtime.current, 0);
    plan->device = device;
    hattn_exec exec = {};
    ASSERT_EQ(cuda.workspace_init(device, {}, plan->workspace_size, nullptr, &error), HATTN_OK);
    EXPECT_EQ(runtime.zeroed, sizeof(hattn_cuda_control) + sizeof(uint64_t));
    const std::function<hattn_status()> calls[] = {
        [&] {
            hattn_encode_keys_args a = {};
            return cuda.encode_keys(plan, &a, &exec, &error);
        },
        [&] {
            hattn_encode_queries_args a = {};
            return cuda.encode_queries(plan, &a, &exec, &error);
        },
        [&] {
            hattn_score_args a = {};
            return cuda.score(plan, &a, &exec, &error);
        },
        [&] {
            hattn_topk_args a = {};
            return cuda.topk(plan, &a, &exec, &error);
        },
        [&] {
            hattn_attend_args a = {};
            return cuda.attend(plan, &a, &exec, &error);
        },
        [&] {
            hattn_merge_args a = {};
            return cuda.merge(plan, &a, &exec, &error);
        },
        [&] {
            hattn_decode_args a = {};
            return cuda.decode(plan, &a, &exec, &error);
        },
        [&] {
            hattn_decode_args a = {};
            return cuda.append(plan, &a, &exec, &error);
        },
    };
    for (int code : {0, 7}) {
        runtime.launch_code = code;
        for (const auto &call : calls) {
            const int launches = runtime.launches;
            runtime.launched_on = -1;
            EXPECT_EQ(call(), code ? HATTN_DEVICE_ERROR : HATTN_OK);
            EXPECT_EQ(runtime.launches, launches + 1);
            EXPECT_EQ(runtime.launched_on, 1);
            EXPECT_EQ(runtime.current, 0);
            EXPECT_TRUE(!code || std::strstr(error.text, "out of luck")) << error.text;
        }
    }
    cuda.plan_destroy(plan);
    plan = nullptr;
    EXPECT_EQ(cuda.plan(device, &problem, &plan, &error), HATTN_DEVICE_ERROR); /* kernels that do not load */
    EXPECT_EQ(plan, nullptr);
    EXPECT_EQ(runtime.current, 0);
    cuda.close(device);
}

TEST_F(CudaPlan, OpensWithAKnownAnswer)
{
    unsetenv("HATTN_SELFTEST");
    hattn_device_options options = {};
    options.index = 1;
    hattn_device *device = nullptr;
    hattn_error error = {};
    runtime.computes = true;
    ASSERT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_OK) << error.text;
    EXPECT_EQ(runtime.launched_on, 1);
    EXPECT_EQ(runtime.current, 0);
    hattn_cuda_backend.close(device);
    for (const char *operation : {"encode_keys", "encode_queries", "score", "attend", "merge", "decode"}) {
        runtime.wrong = operation;
        device = nullptr;
        EXPECT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_DEVICE_ERROR) << operation;
        EXPECT_NE(std::strstr(error.text, (std::string("the known answer of ") + operation).c_str()), nullptr)
            << error.text;
        EXPECT_EQ(device, nullptr);
    }
    runtime.launch_code = 7;
    EXPECT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_DEVICE_ERROR);
    EXPECT_NE(std::strstr(error.text, "out of luck"), nullptr) << error.text;
    runtime.launch_code = 0;
    runtime.allocate_code = 7;
    EXPECT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_DEVICE_ERROR);
    runtime.allocate_code = 801; /* no pools: nothing is asked, not even what is wrong */
    ASSERT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_OK) << error.text;
    hattn_cuda_backend.close(device);
    runtime.allocate_code = 0;
    EXPECT_EQ(runtime.streams, 0);
    EXPECT_EQ(runtime.allocations, 0);
    EXPECT_EQ(runtime.current, 0);
    setenv("HATTN_SELFTEST", "0", 1);
    const int launches = runtime.launches;
    ASSERT_EQ(hattn_cuda_backend.open(&options, &device, &error), HATTN_OK) << error.text;
    EXPECT_EQ(runtime.launches, launches);
    hattn_cuda_backend.close(device);
}

TEST_F(CudaPlan, OldDevicesAndForeignOptionsAreRefused)
{
    hattn_device_options options = {};
    hattn_device *device = nullptr;
    runtime.properties.has_kernels = 0;
    EXPECT_EQ(hattn_cuda_backend.open(&options, &device, nullptr), HATTN_NO_DEVICE);
    runtime.properties.has_kernels = 1;
    options.isa = "avx2";
    EXPECT_EQ(hattn_cuda_backend.open(&options, &device, nullptr), HATTN_INVALID_ARGUMENT);
    char why[64] = "";
    runtime.count = 0;
    EXPECT_EQ(hattn_cuda_backend.device_count(why, sizeof(why)), 0);
    EXPECT_STREQ(why, "the driver reports no device");
}

} // namespace
