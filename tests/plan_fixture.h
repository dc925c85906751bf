/* SPDX-License-Identifier: Apache-2.0
 * hattn_plan_create on one backend: refused by name, or accepted.
 */
#ifndef HATTN_TESTS_PLAN_FIXTURE_H
#define HATTN_TESTS_PLAN_FIXTURE_H

#include <string>

#include "tests/api_job.h"

/* A stride that no tensor may have. */
constexpr int64_t FAR = (static_cast<int64_t>(1) << 46) + 1;

/* By backend. */
class PlanTest : public testing::TestWithParam<const char *>
{
protected:
    void expect_refused(const std::string &name, hattn_status status, const hattn_problem &problem)
    {
        SCOPED_TRACE(name);
        hattn_plan *const untouched = reinterpret_cast<hattn_plan *>(this), *plan = untouched;
        hattn_error error = fresh_error();
        EXPECT_EQ(status, hattn_plan_create(device_.get(), &problem, &plan, &error));
        EXPECT_EQ(status, error.status);
        EXPECT_NE(std::string::npos, std::string(error.text).find(name)) << error.text;
        EXPECT_EQ(std::string::npos, std::string(error.text).find('\n'));
        EXPECT_EQ(status, hattn_plan_create(device_.get(), &problem, &plan, nullptr));
        EXPECT_EQ(untouched, plan);
    }

    void expect_accepted(const hattn_problem &problem)
    {
        hattn_error error = fresh_error();
        hattn_plan *plan = nullptr;
        ASSERT_EQ(HATTN_OK, hattn_plan_create(device_.get(), &problem, &plan, &error)) << error.text;
        EXPECT_STREQ("untouched", error.text);
        EXPECT_GT(hattn_plan_workspace_size(plan), 0u);
        hattn_plan_destroy(plan);
    }

    Device device_{GetParam()};
};

#endif
