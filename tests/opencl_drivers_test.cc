/* SPDX-License-Identifier: Apache-2.0
 * OpenCL drivers that no other test asks for, where their packages are: each is another compiler of the kernels.
 */
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "tests/run_hattn.h"

namespace {

using Variables = std::vector<std::pair<std::string, std::string>>;

/* The command with one driver and no other, whose library is in one of these places. */
class Driver
{
public:
    explicit Driver(const std::vector<std::string> &places)
    {
        for (const std::string &place : places)
            if (library_.empty() && access(place.c_str(), R_OK) == 0)
                library_ = place;
        write_file(files_.at("driver.icd"), library_ + "\n");
    }

    bool is_there() const { return !library_.empty(); }
    std::string at(const std::string &name) const { return files_.at(name); }

    Ran run(const Words &words, Variables variables) const
    {
        variables.push_back(
            {"OCL_ICD_VENDORS", files_.at("driver.icd")}); /* ocl-icd's loader; the other is Khronos's */
        variables.push_back({"OCL_ICD_FILENAMES", library_});
        for (const auto &[name, value] : variables)
            setenv(name.c_str(), value.c_str(), 1);
        Ran ran = run_hattn(words);
        for (const auto &variable : variables)
            unsetenv(variable.first.c_str());
        return ran;
    }

private:
    Directory files_;
    std::string library_;
};

const std::string LIBRARIES = "/usr/lib/x86_64-linux-gnu/";

void expect_all_passed(const Ran &ran)
{
    EXPECT_EQ(ran.exit_code, 0) << ran.out << ran.err;
    EXPECT_NE(ran.out.find(" passed, 0 failed, 0 refused, 0 skipped"), std::string::npos) << ran.out << ran.err;
}

/* A processor as well, with Mesa's compiler. */
TEST(OpenclDrivers, Rusticl)
{
    const Driver driver({LIBRARIES + "libRusticlOpenCL.so.1"});
    if (!driver.is_there())
        GTEST_SKIP() << "no rusticl: Debian's mesa-opencl-icd is not installed";
    expect_all_passed(driver.run({"verify", "--backend", "opencl", "--small", "5", "--filter",
                                  "small-,tail_kv_dtype_3/attend,tail_kv_dtype_3/sum_values,heads_floor_tail/topk"},
                                 {{"RUSTICL_ENABLE", "llvmpipe"}}));
}

/* A simulator that sees accesses outside of buffers, wrong calls, and places that two work-items use with no barrier between. */
TEST(OpenclDrivers, OclgrindFindsNoRaces)
{
    const Driver driver({"/usr/lib/oclgrind/liboclgrind-rt-icd.so"});
    if (!driver.is_there())
        GTEST_SKIP() << "no Oclgrind: Debian's oclgrind is not installed";
    const std::string log = driver.at("log");
    expect_all_passed(driver.run({"verify", "--backend", "opencl", "--small", "3", "--filter", "small-"},
                                 {{"OCLGRIND_DATA_RACES", "1"}, {"OCLGRIND_CHECK_API", "1"}, {"OCLGRIND_LOG", log}}));
    EXPECT_EQ(read_file(log), "");
}

} // namespace
