/* SPDX-License-Identifier: Apache-2.0
 * The OpenCL backend on drivers that are worse than the one that is there: some of its functions are put in front of the driver's.
 */
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "conformance/checks.h"
#include "core/opencl.h"
#include "tools/verify_command.h"

namespace {

using namespace conformance;

const hattn_opencl_functions *loaded()
{
    const char *missing;
    return hattn_opencl_load(&missing);
}

const hattn_opencl_functions driver = loaded() ? *loaded() : hattn_opencl_functions();
size_t most_items;    /* that any kernel's group has, as the driver then says */
size_t largest_group; /* that was enqueued */
std::string broken;   /* programs with this text do not compile */

cl_int CL_API_CALL say_most_items(cl_kernel kernel, cl_device_id device, cl_kernel_work_group_info name, size_t size,
                                  void *value, size_t *size_told)
{
    const cl_int code = driver.clGetKernelWorkGroupInfo(kernel, device, name, size, value, size_told);
    if (name == CL_KERNEL_WORK_GROUP_SIZE)
        *static_cast<size_t *>(value) = std::min(*static_cast<size_t *>(value), most_items);
    return code;
}

cl_int CL_API_CALL note_group(cl_command_queue queue, cl_kernel kernel, cl_uint dims, const size_t *offset,
                              const size_t *global, const size_t *local, cl_uint num_events, const cl_event *events,
                              cl_event *event)
{
    largest_group = std::max(largest_group, *local);
    return driver.clEnqueueNDRangeKernel(queue, kernel, dims, offset, global, local, num_events, events, event);
}

cl_program CL_API_CALL break_program(cl_context context, cl_uint count, const char **texts, const size_t *sizes,
                                     cl_int *code)
{
    std::vector<std::string> all;
    for (cl_uint i = 0; i < count; i++)
        all.emplace_back(texts[i], sizes ? sizes[i] : strlen(texts[i]));
    for (size_t i = 0; i < all.size(); i++)
        if (all[i].find(broken) != std::string::npos)
            all[i] += "\nvoid of_the_test(void) { unknown_to_all; }\n";
    std::vector<const char *> starts;
    std::vector<size_t> lengths;
    for (const std::string &text : all) {
        starts.push_back(text.data());
        lengths.push_back(text.size());
    }
    return driver.clCreateProgramWithSource(context, count, starts.data(), lengths.data(), code);
}

/* With the driver as it is, before and after. */
class OpenclHost : public testing::Test
{
protected:
    OpenclHost() : functions(const_cast<hattn_opencl_functions *>(loaded())) {}
    void SetUp() override
    {
        if (!functions || !hattn_opencl_count_devices(functions))
            GTEST_SKIP() << "no OpenCL device";
    }
    ~OpenclHost() override
    {
        if (functions)
            *functions = driver;
    }

    hattn_opencl_functions *functions;
};

Problem problem_named(const std::string &name)
{
    for (const Problem &problem : all_problems())
        if (problem.name == name)
            return problem;
    ADD_FAILURE() << "no problem " << name;
    return {};
}

std::string why_not_opened()
{
    try {
        return Session({"opencl", ""}).skipped;
    } catch (const std::exception &error) {
        return error.what();
    }
}

TEST_F(OpenclHost, GroupsAreAsSmallAsKernelsNeed)
{
    functions->clGetKernelWorkGroupInfo = say_most_items;
    functions->clEnqueueNDRangeKernel = note_group;
    most_items = 32;
    Session session({"opencl", ""});
    ASSERT_EQ(session.skipped, "");
    largest_group = 0;
    for (const Outcome &outcome : check_problem(session, problem_named("tail_floor"), 1, "/attend", nullptr))
        EXPECT_EQ(outcome.status, Status::PASSED) << outcome.text(verify_command);
    EXPECT_EQ(largest_group, 32u);
}

TEST_F(OpenclHost, GroupsThatARowOfVDoesNotFitAreRefused)
{
    Session session({"opencl", ""});
    ASSERT_EQ(session.skipped, "");
    functions->clGetKernelWorkGroupInfo = say_most_items;
    most_items = 32;
    Problem problem = problem_named("tail_floor");
    problem.head_dim_qk = problem.head_dim_v = 264;
    const std::vector<Outcome> outcomes = check_problem(session, problem, 1, "/encode_keys", nullptr);
    ASSERT_EQ(outcomes.size(), 1u);
    EXPECT_EQ(outcomes[0].status, Status::REFUSED);
    EXPECT_NE(outcomes[0].message.find("runs attend in groups of 32, 64 are needed"), std::string::npos)
        << outcomes[0].message;
}

/* A kernel of each file, which the known answer already compiles or a plan with tails and scores per query head does. */
TEST_F(OpenclHost, WhatDoesNotCompileSaysWhichFileAndWhy)
{
    const std::pair<const char *, const char *> files[] = {
        {"encode_queries(", "encode.cl"}, {"score_chunk(", "score.cl"}, {"select_wide(", "select.cl"},
        {" attend(", "attend.cl"},        {"merge(", "merge.cl"},       {"join_splits(", "join.cl"},
    };
    functions->clCreateProgramWithSource = break_program;
    for (const auto &[text, file] : files) {
        broken = text;
        const std::string why = why_not_opened();
        EXPECT_NE(why.find(std::string("does not compile ") + file + ": CL_BUILD_PROGRAM_FAILURE: error"),
                  std::string::npos)
            << text << ": " << why;
        EXPECT_NE(why.find("unknown_to_all"), std::string::npos) << text << ": " << why;
    }
    broken = "no text has this";
    Session session({"opencl", ""});
    ASSERT_EQ(session.skipped, "");
    const std::pair<const char *, const char *> of_plans[] = {
        {"make_estimate(", "select.cl"}, {"rank_heads(", "heads.cl"}, {"sum_values(", "values.cl"}};
    for (const auto &[text, file] : of_plans) {
        broken = text;
        Problem problem = problem_named(file == std::string("heads.cl") ? "heads_tail" : "tail_floor");
        const std::vector<Outcome> outcomes = check_problem(session, problem, 1, "/encode_keys", nullptr);
        ASSERT_EQ(outcomes.size(), 1u);
        EXPECT_NE(outcomes[0].message.find(std::string("does not compile ") + file), std::string::npos)
            << text << ": " << outcomes[0].message;
        EXPECT_NE(outcomes[0].message.find("unknown_to_all"), std::string::npos) << text << ": " << outcomes[0].message;
    }
}

} // namespace
