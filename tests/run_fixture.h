/* SPDX-License-Identifier: Apache-2.0
 * The run calls on one backend: refused in words, all memory as it was, or done.
 */
#ifndef HATTN_TESTS_RUN_FIXTURE_H
#define HATTN_TESTS_RUN_FIXTURE_H

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/sized.h"
#include "tests/api_job.h"

template <typename Args>
using Call = hattn_status (*)(const hattn_plan *, const Args *, const hattn_exec *, hattn_error *);

inline hattn_buffer shifted(hattn_buffer b) { return {b.data, b.byte_offset + 1}; }

class RunTest : public testing::TestWithParam<const char *>
{
protected:
    template <typename Args>
    void expect_refused(Job &job, Call<Args> call, const hattn_plan *plan, const Args *args, const hattn_exec *exec,
                        const std::string &text, hattn_status status = HATTN_INVALID_ARGUMENT)
    {
        SCOPED_TRACE(text);
        auto before = job.snapshot();
        hattn_error error = fresh_error();
        EXPECT_EQ(status, call(plan, args, exec, &error));
        EXPECT_EQ(status, error.status);
        EXPECT_NE(std::string::npos, std::string(error.text).find(text)) << error.text;
        EXPECT_EQ(status, call(plan, args, exec, nullptr));
        EXPECT_TRUE(before == job.snapshot());
    }

    template <typename Args>
    void expect_runs(Job &job, Call<Args> call, const Args &args)
    {
        hattn_error error = fresh_error();
        EXPECT_EQ(HATTN_OK, call(job.plan.get(), &args, &job.exec, &error)) << error.text;
        EXPECT_STREQ("untouched", error.text);
        EXPECT_TRUE(job.workspace_guard_intact());
    }

    /* What all calls refuse alike. */
    template <typename Args>
    void check_common(Job &job, Call<Args> call, const Args &good)
    {
        const hattn_plan *plan = job.plan.get();
        expect_refused<Args>(job, call, nullptr, &good, &job.exec, "plan is null");
        expect_refused<Args>(job, call, plan, nullptr, &job.exec, "args is null");
        expect_refused<Args>(job, call, plan, &good, nullptr, "exec is null");
        Args args = good;
        for (uint32_t size : {0u, 4u, UINT32_MAX}) {
            args.struct_size = size;
            expect_refused<Args>(job, call, plan, &args, &job.exec, "args.struct_size");
        }
        /* A longer struct of a later header: refused only if it asks for something. */
        struct {
            Args args;
            uint8_t later[24];
        } longer = {good, {}};
        longer.args.struct_size = sizeof(longer);
        longer.later[23] = 1;
        expect_refused<Args>(job, call, plan, &longer.args, &job.exec, "args.struct_size");
        auto refuse_exec = [&](const char *text, const std::function<void(hattn_exec &)> &change,
                               hattn_status status = HATTN_INVALID_ARGUMENT) {
            hattn_exec exec = job.exec;
            change(exec);
            expect_refused<Args>(job, call, plan, &good, &exec, text, status);
        };
        refuse_exec("exec.struct_size", [](hattn_exec &e) { e.struct_size = 0; });
        refuse_exec("exec.num_threads", [](hattn_exec &e) { e.num_threads = -1; });
        refuse_exec("exec.workspace is null", [](hattn_exec &e) { e.workspace.data = nullptr; });
        refuse_exec("exec.workspace is not aligned", [](hattn_exec &e) { e.workspace.byte_offset = 128; });
        refuse_exec("exec.workspace is not aligned",
                    [](hattn_exec &e) { e.workspace.data = static_cast<char *>(e.workspace.data) + 1; });
        refuse_exec(
            "exec.workspace_size", [](hattn_exec &e) { e.workspace_size--; }, HATTN_WORKSPACE_TOO_SMALL);
        refuse_exec(
            "exec.workspace_size", [](hattn_exec &e) { e.workspace_size = 0; }, HATTN_WORKSPACE_TOO_SMALL);
        const hattn_team teams[] = {
            {0, 0, nullptr, nullptr}, {2, 0, nullptr, nullptr}, {1, 1, nullptr, nullptr}, {1, -1, nullptr, nullptr}};
        for (const hattn_team &team : teams)
            refuse_exec("exec.team", [&](hattn_exec &e) { e.team = &team; });
    }

    /* A needed buffer may be neither null nor off its element's alignment; one that may be null, only the latter. */
    template <typename Args>
    void check_buffers(Job &job, Call<Args> call, const Args &good,
                       const std::vector<std::pair<const char *, hattn_buffer Args::*>> &needed,
                       const std::vector<std::pair<const char *, hattn_buffer Args::*>> &optional,
                       const std::vector<const char *> &bytes = {})
    {
        auto refuse = [&](const char *name, hattn_buffer Args::*field, hattn_buffer buffer) {
            Args args = good;
            args.*field = buffer;
            expect_refused<Args>(job, call, job.plan.get(), &args, &job.exec, name);
        };
        auto is_bytes = [&](const char *name) {
            return std::find(bytes.begin(), bytes.end(), std::string(name)) != bytes.end();
        };
        for (auto [name, field] : needed) {
            refuse(name, field, {});
            if (!is_bytes(name))
                refuse(name, field, shifted(good.*field));
        }
        for (auto [name, field] : optional)
            if (!is_bytes(name))
                refuse(name, field, shifted(good.*field));
    }

    template <typename Args>
    void check_reserved(Job &job, Call<Args> call, const Args &good)
    {
        Args args = good;
        args.reserved = 0xdead;
        expect_refused<Args>(job, call, job.plan.get(), &args, &job.exec, "args.reserved");
    }

    template <typename Args>
    void check_batch(Job &job, Call<Args> call, const Args &good, bool needs_pages)
    {
        auto refuse = [&](const char *text, const std::function<void(hattn_batch &)> &change) {
            Args args = good;
            change(args.batch);
            expect_refused<Args>(job, call, job.plan.get(), &args, &job.exec, text);
        };
        refuse("batch.reserved", [](hattn_batch &b) { b.reserved = 1; });
        refuse("batch.num_sequences", [](hattn_batch &b) { b.num_sequences = -1; });
        refuse("batch.num_sequences", [](hattn_batch &b) { b.num_sequences++; });
        refuse("num_rows", [](hattn_batch &b) { b.num_rows = -1; });
        refuse("num_rows", [](hattn_batch &b) { b.num_rows++; });
        refuse("batch.q_len", [](hattn_batch &b) { b.q_start = {}, b.q_len = -1; });
        refuse("batch.q_len", [](hattn_batch &b) { b.q_start = {}, b.q_len = 3; });
        refuse("num_rows", [](hattn_batch &b) { b.q_start = {}, b.q_len = 1; });
        refuse("batch.q_start", [](hattn_batch &b) { b.q_start = shifted(b.q_start); });
        refuse("batch.seq_len", [](hattn_batch &b) { b.seq_len = {}; });
        refuse("batch.seq_len", [](hattn_batch &b) { b.seq_len = shifted(b.seq_len); });
        if (needs_pages) {
            refuse("batch.block_table", [](hattn_batch &b) { b.block_table = {}; });
            refuse("batch.block_table", [](hattn_batch &b) { b.block_table = shifted(b.block_table); });
        }
        Args args = good;
        args.batch = {};
        expect_runs<Args>(job, call, args); /* no rows */
        args = good;
        args.batch.q_start = {};
        args.batch.q_len = 2;
        expect_runs<Args>(job, call, args);
    }

    template <typename Args>
    void check_map(Job &job, Call<Args> call, const Args &good, hattn_map_buffers Args::*map, const std::string &name)
    {
        bool mlp = job.p.map_kind == HATTN_MAP_MLP;
        auto refuse = [&](const std::string &text, const std::function<void(hattn_map_buffers &)> &change) {
            Args args = good;
            change(args.*map);
            expect_refused<Args>(job, call, job.plan.get(), &args, &job.exec, text);
        };
        for (int layer = 0; layer < (mlp ? 3 : 1); layer++) {
            refuse(name + ".weight", [&](hattn_map_buffers &m) { m.weight[layer] = {}; });
            refuse(name + ".weight", [&](hattn_map_buffers &m) { m.weight[layer] = shifted(m.weight[layer]); });
            if (mlp)
                refuse(name + ".bias", [&](hattn_map_buffers &m) { m.bias[layer] = {}; });
            if (mlp || name == "key_map")
                refuse(name + ".bias", [&](hattn_map_buffers &m) { m.bias[layer] = shifted(m.bias[layer]); });
        }
        if (!mlp && name == "query_map")
            refuse("query_map.bias", [&](hattn_map_buffers &m) { m.bias[0] = m.weight[0]; });
    }

    template <typename Args>
    void refuse(Job &job, Call<Args> call, const Args &good, const char *text,
                const std::function<void(Args &)> &change)
    {
        Args args = good;
        change(args);
        expect_refused<Args>(job, call, job.plan.get(), &args, &job.exec, text);
    }

    Device device_{GetParam()};
};

#endif
