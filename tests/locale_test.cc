/* SPDX-License-Identifier: Apache-2.0
 * Numbers in texts have a point, whatever the host or the environment has set. glibc's files of the locale are compiled
 * here where the system has none.
 */
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/api_job.h"
#include "tests/run_hattn.h"

namespace {

const char NAME[] = "de_DE.UTF-8";

std::string number()
{
    char text[16];
    snprintf(text, sizeof(text), "%g", -1.5);
    return text;
}

class Locale : public testing::Test
{
protected:
    void SetUp() override
    {
        if (!setlocale(LC_ALL, NAME)) {
            const std::string folder = testing::TempDir() + "/locales";
            const std::string command = "mkdir -p '" + folder + "' && localedef -i de_DE -f UTF-8 '" + folder + "/" +
                                        NAME + "' >/dev/null 2>&1";
            if (system(command.c_str()) == 0)
                setenv("LOCPATH", folder.c_str(), 1);
            if (!setlocale(LC_ALL, NAME))
                GTEST_SKIP() << "no locale " << NAME << ", and localedef cannot make it";
        }
        ASSERT_EQ(number(), "-1,5");
    }
    void TearDown() override
    {
        setlocale(LC_ALL, "C");
        unsetenv("LC_ALL");
    }
};

TEST_F(Locale, OfTheHost)
{
    const Device device("reference");
    hattn_error error = fresh_error();
    hattn_problem problem = good_problem();
    problem.soft_cap = -1.5f;
    hattn_plan *plan = nullptr;
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_plan_create(device.get(), &problem, &plan, &error));
    EXPECT_NE(std::string(error.text).find("soft_cap is -1.5:"), std::string::npos) << error.text;
    EXPECT_EQ(number(), "-1,5") << "the host's locale was changed";
}

TEST_F(Locale, OfTheCommandsEnvironment)
{
    setenv("LC_ALL", NAME, 1);
    const Ran ran = run_hattn({"decode", "--trace", "examples/layer3.safetensors", "--backend", "cpu", "--maps",
                               "weighted64", "--json", "-"});
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    setlocale(LC_ALL, "C"); // of jansson's reader
    const JsonOwner json = parse_json(ran.out);
    const json_t *row = json_array_get(json_object_get(json.get(), "rows"), 0);
    EXPECT_GT(json_real_value(json_object_get(row, "mass")), 0.3);
    const Ran help =
        run_hattn({"decode", "--trace", "examples/layer3.safetensors", "--backend", "cpu", "--maps", "weighted64"});
    EXPECT_NE(help.out.find("  0."), std::string::npos) << help.out;
}

} // namespace
