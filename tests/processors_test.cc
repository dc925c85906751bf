/* SPDX-License-Identifier: Apache-2.0
 * Quotas of control groups, as the kernel writes them, in made-up hierarchies.
 */
#include "backends/cpu/processors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <string>

namespace {

class Quota : public testing::Test
{
protected:
    void SetUp() override { ASSERT_NE(mkdtemp(mount_.data()), nullptr); }
    void TearDown() override { EXPECT_EQ(0, std::system(("rm -r " + mount_).c_str())); }

    void write(const std::string &path, const std::string &text)
    {
        for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1))
            mkdir((mount_ + path.substr(0, slash)).c_str(), 0755);
        std::ofstream(mount_ + path) << text;
    }
    int quota(const std::string &groups) { return hattn_cpu_quota(groups.c_str(), mount_.c_str()); }

    std::string mount_ = testing::TempDir() + "/hattn_quota_XXXXXX";
};

TEST_F(Quota, NoneWhereNothingIsSaid)
{
    EXPECT_EQ(0, quota(""));
    EXPECT_EQ(0, quota("0::/\n"));
    EXPECT_EQ(0, quota("nonsense\n:\n::\n"));
    write("/a/cpu.max", "max 100000\n");
    EXPECT_EQ(0, quota("0::/a\n"));
}

TEST_F(Quota, VersionTwo)
{
    write("/a/b/cpu.max", "250000 100000\n");
    EXPECT_EQ(2, quota("0::/a/b\n"));
    EXPECT_EQ(2, quota("0::/a/b")); /* no newline */
    write("/a/b/cpu.max", "50000 100000\n");
    EXPECT_EQ(1, quota("0::/a/b\n"));
    /* The groups above count, too, and one that does not exist here is passed over. */
    write("/a/b/cpu.max", "max 100000\n");
    write("/a/cpu.max", "300000 100000\n");
    EXPECT_EQ(3, quota("0::/a/b\n"));
    EXPECT_EQ(3, quota("0::/a/none/below\n"));
    write("/cpu.max", "200000 100000\n"); /* a container's own root */
    EXPECT_EQ(2, quota("0::/a/b\n"));
    EXPECT_EQ(2, quota("0::/\n"));
}

TEST_F(Quota, VersionOne)
{
    write("/cpu,cpuacct/a/cpu.cfs_quota_us", "400000\n");
    write("/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(4, quota("5:memory:/a\n4:cpu,cpuacct:/a\n1:cpuset:/a\n"));
    write("/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
    EXPECT_EQ(0, quota("4:cpu,cpuacct:/a\n"));
    write("/cpu/cpu.cfs_quota_us", "700000\n");
    write("/cpu/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(7, quota("4:cpu,cpuacct:/a\n"));
    EXPECT_EQ(0, quota("1:cpuset:/a\n"));
}

TEST(Processors, ThereIsOne) { EXPECT_GE(hattn_cpu_processors(), 1); }

} // namespace
