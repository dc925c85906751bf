/* SPDX-License-Identifier: Apache-2.0
 * What floors, tails and scores per query head add to the run calls, refused where it is missing, and where it is not asked for.
 */
#include "tests/run_fixture.h"

namespace {

using RunTails = RunTest;

/* What a floor reads and writes is needed where there is one, and refused where there is none. */
TEST_P(RunTails, FloorsRefuse)
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

/* Likewise what a tail reads and writes; attend alone may do without. */
TEST_P(RunTails, TailsRefuse)
{
    hattn_problem tailed = plain_problem();
    tailed.tail = 0.5f;
    Job job(device_, completed(tailed)), plain(device_, good_problem());
    const auto encode = job.encode_queries_args();
    check_buffers<hattn_encode_queries_args>(
        job, hattn_encode_queries, encode,
        {{"slopes", &hattn_encode_queries_args::slopes}, {"steps", &hattn_encode_queries_args::steps}}, {});
    expect_runs<hattn_encode_queries_args>(job, hattn_encode_queries, encode);
    const auto topk = job.topk_args();
    check_buffers<hattn_topk_args>(
        job, hattn_topk, topk,
        {{"steps", &hattn_topk_args::steps}, {"shares", &hattn_topk_args::shares}, {"rests", &hattn_topk_args::rests}},
        {});
    expect_runs<hattn_topk_args>(job, hattn_topk, topk);
    auto decode = job.decode_args(true);
    check_buffers<hattn_decode_args>(
        job, hattn_decode, decode,
        {{"slopes", &hattn_decode_args::slopes},
         {"value_sums", &hattn_decode_args::value_sums},
         {"value_lengths", &hattn_decode_args::value_lengths}},
        {{"steps", &hattn_decode_args::steps}, {"value_slots", &hattn_decode_args::value_slots}});
    decode.steps = decode.value_slots = {};
    expect_runs<hattn_decode_args>(job, hattn_decode, decode);

    const hattn_buffer set = plain.lse;
    refuse<hattn_topk_args>(plain, hattn_topk, plain.topk_args(), "shares is set", [&](auto &a) { a.shares = set; });
    refuse<hattn_topk_args>(plain, hattn_topk, plain.topk_args(), "rests is set", [&](auto &a) { a.rests = set; });
    for (hattn_buffer hattn_decode_args::*field :
         {&hattn_decode_args::value_sums, &hattn_decode_args::value_lengths, &hattn_decode_args::value_slots})
        refuse<hattn_decode_args>(plain, hattn_decode, plain.decode_args(false), "is set: the problem has no tail",
                                  [&](auto &a) { a.*field = set; });
}

/* What scores per query head read and write is needed where there are candidates, and refused where there are none; a floor by them alone wants no
 * slopes of the group. */
TEST_P(RunTails, CandidatesRefuse)
{
    using Encode = hattn_encode_queries_args;
    using Topk = hattn_topk_args;
    using Decode = hattn_decode_args;
    hattn_problem with_heads = plain_problem();
    with_heads.score_kind = HATTN_SCORE_WEIGHTED;
    with_heads.num_candidates = 40;
    with_heads.min_probability = 0.1f;
    Job job(device_, completed(with_heads)), plain(device_, good_problem());
    with_heads.tail = 0.5f;
    Job tailed(device_, completed(with_heads));
    for (Job *heads : {&job, &tailed}) {
        const bool has_tail = heads == &tailed;
        SCOPED_TRACE(has_tail);
        const auto encode = heads->encode_queries_args();
        check_buffers<Encode>(*heads, hattn_encode_queries, encode,
                              {{"head_slopes", &Encode::head_slopes},
                               {"head_weights", &Encode::head_weights},
                               {"head_steps", &Encode::head_steps}},
                              {}, {"head_weights"});
        expect_runs<Encode>(*heads, hattn_encode_queries, encode);
        const auto topk = heads->topk_args();
        check_buffers<Topk>(
            *heads, hattn_topk, topk,
            {{"codes", &Topk::codes}, {"head_weights", &Topk::head_weights}, {"head_steps", &Topk::head_steps}}, {},
            {"head_weights"});
        check_batch<Topk>(*heads, hattn_topk, topk, true);
        expect_runs<Topk>(*heads, hattn_topk, topk);
        auto decode = heads->decode_args(true);
        check_buffers<Decode>(*heads, hattn_decode, decode, {{"head_slopes", &Decode::head_slopes}},
                              {{"head_weights", &Decode::head_weights}, {"head_steps", &Decode::head_steps}},
                              {"head_weights"});
        decode.head_weights = decode.head_steps = {};
        expect_runs<Decode>(*heads, hattn_decode, decode);
    }
    check_buffers<Encode>(tailed, hattn_encode_queries, tailed.encode_queries_args(),
                          {{"slopes", &Encode::slopes}, {"steps", &Encode::steps}}, {});
    check_buffers<Topk>(tailed, hattn_topk, tailed.topk_args(), {{"steps", &Topk::steps}}, {});
    check_buffers<Decode>(tailed, hattn_decode, tailed.decode_args(true), {{"slopes", &Decode::slopes}}, {});
    const hattn_buffer set = job.lse;
    refuse<Encode>(job, hattn_encode_queries, job.encode_queries_args(), "slopes is set",
                   [&](auto &a) { a.slopes = set; });
    refuse<Encode>(job, hattn_encode_queries, job.encode_queries_args(), "steps is set",
                   [&](auto &a) { a.steps = set; });
    refuse<Topk>(job, hattn_topk, job.topk_args(), "steps is set", [&](auto &a) { a.steps = set; });
    refuse<Decode>(job, hattn_decode, job.decode_args(true), "slopes is set", [&](auto &a) { a.slopes = set; });
    refuse<Decode>(job, hattn_decode, job.decode_args(true), "steps is set", [&](auto &a) { a.steps = set; });

    const char *const none = "is set: the problem has no num_candidates";
    for (hattn_buffer Encode::*field : {&Encode::head_slopes, &Encode::head_weights, &Encode::head_steps})
        refuse<Encode>(plain, hattn_encode_queries, plain.encode_queries_args(), none,
                       [&](auto &a) { a.*field = plain.lse; });
    for (hattn_buffer Topk::*field : {&Topk::codes, &Topk::head_weights, &Topk::head_steps})
        refuse<Topk>(plain, hattn_topk, plain.topk_args(), none, [&](auto &a) { a.*field = plain.lse; });
    for (hattn_buffer Decode::*field : {&Decode::head_slopes, &Decode::head_weights, &Decode::head_steps})
        refuse<Decode>(plain, hattn_decode, plain.decode_args(true), none, [&](auto &a) { a.*field = plain.lse; });
}

TEST_P(RunTails, AttendWithATailRefuses)
{
    using Args = hattn_attend_args;
    hattn_problem tailed = plain_problem();
    tailed.tail = 0.5f;
    Job job(device_, completed(tailed)), plain(device_, good_problem());
    for (hattn_buffer b : {job.indices, job.counts, job.shares, job.rests})
        std::memset(b.data, 0, job.bytes(b).size());
    const Args good = job.attend_args(true);
    check_buffers<Args>(job, hattn_attend, good,
                        {{"shares", &Args::shares},
                         {"rests", &Args::rests},
                         {"value_sums", &Args::value_sums},
                         {"value_lengths", &Args::value_lengths}},
                        {{"value_slots", &Args::value_slots}});
    expect_runs<Args>(job, hattn_attend, good);
    refuse<Args>(job, hattn_attend, good, "without indices there is no tail",
                 [](Args &a) { a.indices = a.counts = {}; });
    Args without = good;
    without.shares = without.rests = without.value_sums = without.value_lengths = without.value_slots = {};
    expect_runs<Args>(job, hattn_attend, without);
    for (hattn_buffer Args::*field : {&Args::value_sums, &Args::value_lengths, &Args::value_slots})
        refuse<Args>(job, hattn_attend, without, "is set: this call is without a tail",
                     [&](Args &a) { a.*field = good.*field; });
    without.indices = without.counts = {};
    expect_runs<Args>(job, hattn_attend, without);
    for (hattn_buffer Args::*field : {&Args::shares, &Args::value_sums, &Args::value_lengths, &Args::value_slots})
        refuse<Args>(plain, hattn_attend, plain.attend_args(true), "is set: the problem has no tail",
                     [&](Args &a) { a.*field = good.value_sums; });
}

TEST_P(RunTails, SumValuesRefuses)
{
    using Args = hattn_sum_values_args;
    hattn_problem tailed = plain_problem();
    tailed.tail = 0.5f;
    Job job(device_, completed(tailed)), plain(device_, good_problem());
    Args good = job.sum_values_args();
    check_common<Args>(job, hattn_sum_values, good);
    check_reserved<Args>(job, hattn_sum_values, good);
    check_batch<Args>(job, hattn_sum_values, good, true);
    check_buffers<Args>(
        job, hattn_sum_values, good,
        {{"v_cache", &Args::v_cache}, {"value_sums", &Args::value_sums}, {"value_lengths", &Args::value_lengths}},
        {{"value_slots", &Args::value_slots}});
    expect_runs<Args>(job, hattn_sum_values, good);
    good.value_slots = {};
    expect_runs<Args>(job, hattn_sum_values, good);
    expect_refused<Args>(plain, hattn_sum_values, plain.plan.get(), &good, &plain.exec, "the problem has no tail");
}

INSTANTIATE_TEST_SUITE_P(Backends, RunTails, testing::Values("reference", "cpu"),
                         [](const auto &info) { return std::string(info.param); });

} // namespace
