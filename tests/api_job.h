/* SPDX-License-Identifier: Apache-2.0
 * A problem, memory for all of its tensors, and good arguments for every call: what the API's tests spoil one by one.
 */
#ifndef HATTN_TESTS_API_JOB_H
#define HATTN_TESTS_API_JOB_H

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "api/hattn.h"
#include "core/arguments.h"
#include "core/dtype.h"
#include "reference/reference.h"

/* Eight query heads on two, pages of 16, fp16. Change it before it is completed. */
inline hattn_problem plain_problem()
{
    hattn_problem p = sized<hattn_problem>();
    p.num_q_heads = 8;
    p.num_kv_heads = 2;
    p.head_dim_qk = 64;
    p.code_bits = 64;
    p.page_size = 16;
    p.max_sequences = 2;
    p.max_q_len = 2;
    p.max_length = 100;
    p.k = 10;
    p.q.dtype = p.k_cache.dtype = HATTN_F16;
    return p;
}

inline hattn_problem completed(const hattn_problem &problem)
{
    hattn_problem p = sized<hattn_problem>();
    EXPECT_EQ(HATTN_OK, hattn_problem_complete(&problem, &p, nullptr));
    return p;
}

inline hattn_problem good_problem() { return completed(plain_problem()); }

inline hattn_error fresh_error()
{
    hattn_error error = {HATTN_OK, "untouched"};
    return error;
}

/* A device that is closed again. */
class Device
{
public:
    explicit Device(const char *backend)
    {
        hattn_device_options options = sized<hattn_device_options>();
        options.backend = backend;
        options.max_threads = 3;
        hattn_error error = fresh_error();
        EXPECT_EQ(HATTN_OK, hattn_device_open(&options, &device_, &error)) << error.text;
    }
    ~Device() { hattn_device_close(device_); }
    Device(const Device &) = delete;
    Device &operator=(const Device &) = delete;
    hattn_device *get() const { return device_; }

private:
    hattn_device *device_ = nullptr;
};

struct FreePlan {
    void operator()(hattn_plan *plan) const { hattn_plan_destroy(plan); }
};
using Plan = std::unique_ptr<hattn_plan, FreePlan>;

inline Plan make_plan(const Device &device, const hattn_problem &problem)
{
    hattn_plan *plan = nullptr;
    hattn_error error = fresh_error();
    EXPECT_EQ(HATTN_OK, hattn_plan_create(device.get(), &problem, &plan, &error)) << error.text;
    return Plan(plan);
}

/* All sequences with all of max_length, max_q_len tokens each. */
class Job : public Arguments
{
public:
    Job(const Device &device, const hattn_problem &problem, unsigned seed = 1)
        : p(problem), plan(make_plan(device, problem)), random_(seed), slots_(p.page_size ? p.page_size : p.max_length),
          pages_(p.page_size ? static_cast<int64_t>(p.max_sequences) * pages_of_a_sequence() : p.max_sequences)
    {
        int64_t rows = p.max_rows, words = (p.code_bits + 31) / 32;
        num_tokens = static_cast<int32_t>(pages_ * slots_);
        q = make(p.q, {rows, p.num_q_heads, p.head_dim_qk}, true);
        k_new = make(p.k_new, {num_tokens, p.num_kv_heads, p.head_dim_qk}, true);
        k_cache = make(p.k_cache, {pages_, slots_, p.num_kv_heads, p.head_dim_qk}, true);
        v_cache = make(p.v_cache, {pages_, slots_, p.num_kv_heads, p.head_dim_v}, true);
        codes = make(p.codes, {pages_, slots_, p.num_code_heads, words});
        norms = p.key_norms ? make(p.norms, {pages_, slots_, p.num_code_heads, 1}) : hattn_buffer{};
        weights = make(p.weights, {rows, p.num_selection_heads, p.code_bits});
        scores = make(p.scores, {rows, p.num_selection_heads, p.max_length});
        indices = make(p.indices, {rows, p.num_selection_heads, p.k});
        counts = make(p.counts, {rows, p.num_selection_heads, 1});
        out = make(p.out, {rows, p.num_q_heads, p.head_dim_v});
        lse = make(p.lse, {rows, p.num_q_heads, 1});
        partial_out = make(p.partial_out, {2, rows, p.num_q_heads, p.head_dim_v}, true);
        partial_lse = make(p.partial_lse, {2, rows, p.num_q_heads, 1}, true);
        key_map = make_map(p.key_map, true);
        query_map = make_map(p.query_map, false);
        batch.seq_len = integers(p.max_sequences, [&](int64_t) { return p.max_length; });
        batch.q_start = integers(p.max_sequences + 1,
                                 [&](int64_t b) { return static_cast<int32_t>(std::min(b * p.max_q_len, rows)); });
        slot_mapping = make({HATTN_I64, 0, {1}}, {num_tokens});
        for (int32_t t = 0; t < num_tokens; t++)
            static_cast<int64_t *>(slot_mapping.data)[t] = t;
        batch.block_table =
            !p.page_size
                ? hattn_buffer{}
                : integers((p.max_sequences - 1) * p.block_table.stride[0] + pages_of_a_sequence(), [&](int64_t i) {
                      return static_cast<int32_t>(p.block_table.stride[0] ? std::min(i, pages_ - 1) : i);
                  });
        budgets = integers((p.max_sequences - 1) * p.budgets.stride[0] +
                               (p.num_selection_heads - 1) * p.budgets.stride[1] + 1,
                           [&](int64_t) { return static_cast<int32_t>(random_() % static_cast<unsigned>(p.k)); });
        scales = integers(p.num_kv_heads, [](int64_t) { return 0x3f800000; });
        if (p.k_cache.dtype == HATTN_F8_E4M3)
            k_scale = v_scale = scales;
        if (p.tail > 0 || (p.min_probability > 0 && !p.num_candidates)) {
            slopes = integers(p.num_selection_heads, [](int64_t) { return 0x3d000000; });
            steps = make(p.steps, {rows, p.num_selection_heads, 1});
        }
        if (p.tail > 0) {
            const int64_t heads = p.num_candidates ? p.num_q_heads : p.num_selection_heads;
            shares = make(p.shares, {rows, heads, p.k});
            rests = make(p.rests, {rows, heads, 1});
            value_sums = make(p.value_sums, {p.max_sequences, p.num_kv_heads, p.head_dim_v});
            value_lengths = make(p.value_lengths, {p.max_sequences, p.num_kv_heads, 1});
            value_slots =
                integers(p.max_sequences, [&](int64_t b) { return static_cast<int32_t>(p.max_sequences - 1 - b); });
        }
        if (p.num_candidates) {
            head_weights = make(p.head_weights, {rows, p.num_q_heads, p.code_bits});
            head_slopes = integers(p.num_q_heads, [](int64_t) { return 0x3d000000; });
            head_steps = make(p.head_steps, {rows, p.num_q_heads, 1});
        }
        sink_logits = integers(p.num_q_heads, [](int64_t) { return 0x3f000000; });

        batch.num_sequences = p.max_sequences;
        batch.num_rows = p.max_rows;
        num_parts = 2;

        exec.struct_size = sizeof(exec);
        exec.workspace_size = hattn_plan_workspace_size(plan.get());
        EXPECT_GT(exec.workspace_size, 0u);
        workspace_.reset(std::aligned_alloc(256, (exec.workspace_size + GUARD + 255) / 256 * 256));
        std::memset(workspace_.get(), 0xaa, exec.workspace_size + GUARD);
        exec.workspace.data = workspace_.get();
        EXPECT_EQ(HATTN_OK, hattn_workspace_init(device.get(), exec.workspace, exec.workspace_size, nullptr, nullptr));
    }

    /* Bytes of a buffer that this made. */
    std::vector<uint8_t> &bytes(hattn_buffer b)
    {
        for (auto &block : blocks_)
            if (block->data() == b.data)
                return *block;
        ADD_FAILURE() << "not a buffer of this job";
        return *blocks_[0];
    }

    /* All memory that calls may write. */
    std::vector<std::vector<uint8_t>> snapshot()
    {
        std::vector<std::vector<uint8_t>> all;
        for (auto &block : blocks_)
            all.push_back(*block);
        auto *workspace = static_cast<const uint8_t *>(workspace_.get());
        all.emplace_back(workspace, workspace + exec.workspace_size);
        return all;
    }

    bool workspace_guard_intact() const
    {
        auto *guard = static_cast<const uint8_t *>(workspace_.get()) + exec.workspace_size;
        return std::all_of(guard, guard + GUARD, [](uint8_t byte) { return byte == 0xaa; });
    }

    hattn_problem p;
    Plan plan;
    hattn_exec exec = {};
    hattn_buffer scales; /* for fp8 */

private:
    static constexpr int GUARD = 256;

    int64_t pages_of_a_sequence() const { return (p.max_length + p.page_size - 1) / p.page_size; }

    /* 0xaa, or random numbers where it is an input. */
    hattn_buffer make(const hattn_tensor &t, const std::vector<int64_t> &extent, bool input = false)
    {
        int64_t elements = extent.back();
        for (size_t i = 0; i + 1 < extent.size(); i++)
            elements += (extent[i] - 1) * t.stride[i];
        blocks_.push_back(std::make_unique<std::vector<uint8_t>>(elements * hattn_dtype_size(t.dtype), 0xaa));
        std::vector<uint8_t> &block = *blocks_.back();
        for (int64_t i = 0; i < elements && input; i++) {
            if (t.dtype == HATTN_F8_E4M3)
                block[i] = static_cast<uint8_t>((random_() & 0x80) | random_() % 0x40);
            else
                hattn_reference_store(block.data(), t.dtype, i, normal_(random_));
        }
        return {block.data(), 0};
    }

    template <typename F>
    hattn_buffer integers(int64_t n, F value)
    {
        hattn_buffer b = make({HATTN_I32, 0, {1}}, {n});
        for (int64_t i = 0; i < n; i++)
            static_cast<int32_t *>(b.data)[i] = value(i);
        return b;
    }

    hattn_map_buffers make_map(const hattn_map &map, bool key)
    {
        bool mlp = p.map_kind == HATTN_MAP_MLP;
        int64_t dims[4] = {p.head_dim_qk, mlp ? map.hidden[0] : p.code_bits, map.hidden[1], p.code_bits};
        hattn_map_buffers buffers = {};
        for (int layer = 0; layer < (mlp ? 3 : 1); layer++) {
            const int64_t *stride = map.weight_stride[layer];
            buffers.weight[layer] =
                make({map.dtype, 0, {stride[0], stride[1]}}, {p.num_code_heads, dims[layer], dims[layer + 1]}, true);
            if (mlp || key)
                buffers.bias[layer] =
                    make({map.dtype, 0, {map.bias_stride[layer]}}, {p.num_code_heads, dims[layer + 1]}, true);
        }
        return buffers;
    }

    struct Free {
        void operator()(void *memory) const { std::free(memory); }
    };

    std::mt19937 random_;
    std::normal_distribution<float> normal_;
    int64_t slots_, pages_;
    std::vector<std::unique_ptr<std::vector<uint8_t>>> blocks_;
    std::unique_ptr<void, Free> workspace_;
};

#endif
