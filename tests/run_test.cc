/* SPDX-License-Identifier: Apache-2.0
 * Every refusal of the run calls, each leaving all memory as it was.
 */
#include "tests/run_fixture.h"

namespace {

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
