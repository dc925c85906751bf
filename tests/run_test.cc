/* SPDX-License-Identifier: Apache-2.0
 * Every refusal of the run calls, each leaving all memory as it was.
 */
#include <algorithm>
#include <functional>

#include "core/sized.h"
#include "tests/api_job.h"

namespace {

template <typename Args>
using Call = hattn_status (*)(const hattn_plan *, const Args *, const hattn_exec *, hattn_error *);

hattn_buffer shifted(hattn_buffer b) { return {b.data, b.byte_offset + 1}; }

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

hattn_problem mlp_problem()
{
    hattn_problem p = plain_problem();
    p.map_kind = HATTN_MAP_MLP;
    p.key_map.hidden[0] = p.query_map.hidden[0] = 16;
    p.key_map.hidden[1] = p.query_map.hidden[1] = 24;
    p.key_norms = 1;
    p = completed(p);
    return p;
}

hattn_problem fp8_problem()
{
    hattn_problem p = plain_problem();
    p.k_cache.dtype = HATTN_F8_E4M3;
    p = completed(p);
    return p;
}

TEST_P(RunTest, EncodeKeysRefuses)
{
    using Args = hattn_encode_keys_args;
    for (const hattn_problem &p : {good_problem(), mlp_problem()}) {
        Job job(device_, p);
        Args good = job.encode_keys_args();
        check_common<Args>(job, hattn_encode_keys, good);
        check_buffers<Args>(job, hattn_encode_keys, good, {{"k_new", &Args::k_new}, {"codes", &Args::codes}},
                            {{"slot_mapping", &Args::slot_mapping}});
        check_map<Args>(job, hattn_encode_keys, good, &Args::key_map, "key_map");
        refuse<Args>(job, hattn_encode_keys, good, "num_tokens", [](Args &a) { a.num_tokens = -1; });
        refuse<Args>(job, hattn_encode_keys, good, "k_scale", [&](Args &a) { a.k_scale = job.scales; });
        if (p.key_norms)
            check_buffers<Args>(job, hattn_encode_keys, good, {{"norms", &Args::norms}}, {});
        else
            refuse<Args>(job, hattn_encode_keys, good, "norms", [](Args &a) { a.norms = a.codes; });
        expect_runs<Args>(job, hattn_encode_keys, good);
        Args args = good;
        args.num_tokens = 0;
        args.k_new = args.codes = {};
        expect_runs<Args>(job, hattn_encode_keys, args);
    }
    Job job(device_, fp8_problem());
    check_buffers<Args>(job, hattn_encode_keys, job.encode_keys_args(), {}, {{"k_scale", &Args::k_scale}});
}

TEST_P(RunTest, EncodeQueriesRefuses)
{
    using Args = hattn_encode_queries_args;
    for (const hattn_problem &p : {good_problem(), mlp_problem()}) {
        Job job(device_, p);
        Args good = job.encode_queries_args();
        check_common<Args>(job, hattn_encode_queries, good);
        check_buffers<Args>(job, hattn_encode_queries, good, {{"q", &Args::q}, {"weights", &Args::weights}}, {},
                            {"weights"});
        check_map<Args>(job, hattn_encode_queries, good, &Args::query_map, "query_map");
        refuse<Args>(job, hattn_encode_queries, good, "num_rows", [](Args &a) { a.num_rows = -1; });
        refuse<Args>(job, hattn_encode_queries, good, "num_rows", [](Args &a) { a.num_rows++; });
        expect_runs<Args>(job, hattn_encode_queries, good);
        Args args = sized<Args>();
        expect_runs<Args>(job, hattn_encode_queries, args);
    }
}

TEST_P(RunTest, ScoreRefuses)
{
    using Args = hattn_score_args;
    for (const hattn_problem &p : {good_problem(), mlp_problem()}) {
        Job job(device_, p);
        Args good = job.score_args();
        std::memset(good.weights.data, 1, job.bytes(good.weights).size());
        check_common<Args>(job, hattn_score, good);
        check_reserved<Args>(job, hattn_score, good);
        check_batch<Args>(job, hattn_score, good, true);
        check_buffers<Args>(job, hattn_score, good,
                            {{"weights", &Args::weights}, {"codes", &Args::codes}, {"scores", &Args::scores}}, {},
                            {"weights"});
        if (p.key_norms)
            check_buffers<Args>(job, hattn_score, good, {{"norms", &Args::norms}}, {});
        else
            refuse<Args>(job, hattn_score, good, "norms", [](Args &a) { a.norms = a.codes; });
    }
}

TEST_P(RunTest, TopkRefuses)
{
    using Args = hattn_topk_args;
    Job job(device_, good_problem());
    Args good = job.topk_args();
    check_common<Args>(job, hattn_topk, good);
    check_reserved<Args>(job, hattn_topk, good);
    check_batch<Args>(job, hattn_topk, good, false);
    check_buffers<Args>(job, hattn_topk, good,
                        {{"scores", &Args::scores}, {"indices", &Args::indices}, {"counts", &Args::counts}},
                        {{"budgets", &Args::budgets}});
    good.budgets = good.batch.block_table = {};
    expect_runs<Args>(job, hattn_topk, good);
}

TEST_P(RunTest, AttendRefuses)
{
    using Args = hattn_attend_args;
    Job job(device_, good_problem());
    std::memset(job.indices.data, 0, job.bytes(job.indices).size());
    std::memset(job.counts.data, 0, job.bytes(job.counts).size());
    Args good = job.attend_args(true);
    check_common<Args>(job, hattn_attend, good);
    check_reserved<Args>(job, hattn_attend, good);
    check_batch<Args>(job, hattn_attend, good, true);
    check_buffers<Args>(
        job, hattn_attend, good,
        {{"q", &Args::q}, {"k_cache", &Args::k_cache}, {"v_cache", &Args::v_cache}, {"out", &Args::out}},
        {{"sink_logits", &Args::sink_logits},
         {"indices", &Args::indices},
         {"counts", &Args::counts},
         {"lse", &Args::lse}});
    refuse<Args>(job, hattn_attend, good, "indices and counts", [](Args &a) { a.indices = {}; });
    refuse<Args>(job, hattn_attend, good, "indices and counts", [](Args &a) { a.counts = {}; });
    refuse<Args>(job, hattn_attend, good, "k_scale", [&](Args &a) { a.k_scale = job.scales; });
    refuse<Args>(job, hattn_attend, good, "v_scale", [&](Args &a) { a.v_scale = job.scales; });
    good.sink_logits = good.indices = good.counts = good.lse = {};
    expect_runs<Args>(job, hattn_attend, good);
    Job fp8(device_, fp8_problem());
    check_buffers<Args>(fp8, hattn_attend, fp8.attend_args(true), {},
                        {{"k_scale", &Args::k_scale}, {"v_scale", &Args::v_scale}});
}

TEST_P(RunTest, MergeRefuses)
{
    using Args = hattn_merge_args;
    Job job(device_, good_problem());
    Args good = job.merge_args();
    check_common<Args>(job, hattn_merge, good);
    check_reserved<Args>(job, hattn_merge, good);
    check_buffers<Args>(job, hattn_merge, good,
                        {{"partial_out", &Args::partial_out}, {"partial_lse", &Args::partial_lse}, {"out", &Args::out}},
                        {{"lse", &Args::lse}});
    refuse<Args>(job, hattn_merge, good, "num_parts", [](Args &a) { a.num_parts = 0; });
    refuse<Args>(job, hattn_merge, good, "num_rows", [](Args &a) { a.num_rows = -1; });
    refuse<Args>(job, hattn_merge, good, "num_rows", [](Args &a) { a.num_rows++; });
    expect_runs<Args>(job, hattn_merge, good);
    good.lse = {};
    expect_runs<Args>(job, hattn_merge, good);
}

TEST_P(RunTest, DecodeRefuses)
{
    using Args = hattn_decode_args;
    for (const hattn_problem &p : {good_problem(), mlp_problem()}) {
        Job job(device_, p);
        Args good = job.decode_args(true);
        check_common<Args>(job, hattn_decode, good);
        check_batch<Args>(job, hattn_decode, good, true);
        check_buffers<Args>(job, hattn_decode, good,
                            {{"q", &Args::q},
                             {"k_cache", &Args::k_cache},
                             {"v_cache", &Args::v_cache},
                             {"codes", &Args::codes},
                             {"out", &Args::out}},
                            {{"sink_logits", &Args::sink_logits},
                             {"budgets", &Args::budgets},
                             {"indices", &Args::indices},
                             {"counts", &Args::counts},
                             {"lse", &Args::lse}});
        check_map<Args>(job, hattn_decode, good, &Args::key_map, "key_map");
        check_map<Args>(job, hattn_decode, good, &Args::query_map, "query_map");
        refuse<Args>(job, hattn_decode, good, "append", [](Args &a) { a.append = 2; });
        refuse<Args>(job, hattn_decode, good, "append", [](Args &a) { a.append = -1; });
        refuse<Args>(job, hattn_decode, good, "k_scale", [&](Args &a) { a.k_scale = job.scales; });
        refuse<Args>(job, hattn_decode, good, "v_scale", [&](Args &a) { a.v_scale = job.scales; });
        if (p.key_norms)
            check_buffers<Args>(job, hattn_decode, good, {{"norms", &Args::norms}}, {});
        else
            refuse<Args>(job, hattn_decode, good, "norms", [](Args &a) { a.norms = a.codes; });
        good.append = 0;
        good.key_map = {}; /* not read */
        good.sink_logits = good.budgets = good.lse = good.weights = good.indices = good.counts = {};
        expect_runs<Args>(job, hattn_decode, good);
    }
}

/* What a floor reads and writes is needed where there is one, and refused where there is none. */
TEST_P(RunTest, FloorsRefuse)
{
    hattn_problem floored = plain_problem();
    floored.min_probability = 0.1f;
    Job job(device_, completed(floored)), plain(device_, good_problem());
    const auto encode = job.encode_queries_args();
    check_buffers<hattn_encode_queries_args>(
        job, hattn_encode_queries, encode,
        {{"slopes", &hattn_encode_queries_args::slopes}, {"steps", &hattn_encode_queries_args::steps}}, {});
    expect_runs<hattn_encode_queries_args>(job, hattn_encode_queries, encode);
    const auto topk = job.topk_args();
    check_buffers<hattn_topk_args>(job, hattn_topk, topk, {{"steps", &hattn_topk_args::steps}}, {});
    expect_runs<hattn_topk_args>(job, hattn_topk, topk);
    auto decode = job.decode_args(false);
    check_buffers<hattn_decode_args>(job, hattn_decode, decode, {{"slopes", &hattn_decode_args::slopes}},
                                     {{"steps", &hattn_decode_args::steps}});
    decode.steps = {};
    expect_runs<hattn_decode_args>(job, hattn_decode, decode);

    const hattn_buffer set = plain.lse;
    refuse<hattn_encode_queries_args>(plain, hattn_encode_queries, plain.encode_queries_args(), "slopes is set",
                                      [&](auto &a) { a.slopes = set; });
    refuse<hattn_encode_queries_args>(plain, hattn_encode_queries, plain.encode_queries_args(), "steps is set",
                                      [&](auto &a) { a.steps = set; });
    refuse<hattn_topk_args>(plain, hattn_topk, plain.topk_args(), "steps is set", [&](auto &a) { a.steps = set; });
    refuse<hattn_decode_args>(plain, hattn_decode, plain.decode_args(false), "slopes is set",
                              [&](auto &a) { a.slopes = set; });
    refuse<hattn_decode_args>(plain, hattn_decode, plain.decode_args(false), "steps is set",
                              [&](auto &a) { a.steps = set; });
}

TEST_P(RunTest, WorkspaceInitRefuses)
{
    Job job(device_, good_problem());
    auto refuse = [&](hattn_device *device, hattn_buffer workspace, uint64_t size, const char *text) {
        auto before = job.snapshot();
        hattn_error error = fresh_error();
        EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_workspace_init(device, workspace, size, nullptr, &error));
        EXPECT_NE(std::string::npos, std::string(error.text).find(text)) << error.text;
        EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_workspace_init(device, workspace, size, nullptr, nullptr));
        EXPECT_TRUE(before == job.snapshot());
    };
    hattn_buffer workspace = job.exec.workspace;
    refuse(nullptr, workspace, job.exec.workspace_size, "device");
    refuse(device_.get(), {}, job.exec.workspace_size, "workspace");
    refuse(device_.get(), shifted(workspace), job.exec.workspace_size, "workspace");
    refuse(device_.get(), workspace, 0, "size");
    EXPECT_EQ(0u, hattn_plan_workspace_size(nullptr));
}

INSTANTIATE_TEST_SUITE_P(Backends, RunTest, testing::Values("reference", "cpu"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
