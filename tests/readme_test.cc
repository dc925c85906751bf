/* SPDX-License-Identifier: Apache-2.0
 * The README's C example is examples/decode.c, which example_test compiles and runs.
 */
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

static std::string read_file(const std::string &path)
{
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
}

TEST(Readme, ShowsTheExampleAsItIs)
{
    const std::string readme = read_file("README.md"), example = read_file("examples/decode.c");
    const size_t fence = readme.find("\n```c\n");
    ASSERT_NE(fence, std::string::npos) << "README.md has no ```c block";
    const size_t begin = fence + 6, end = readme.find("```", begin);
    const size_t code = example.find("#include"); // without the file's head
    ASSERT_NE(code, std::string::npos);
    EXPECT_EQ(readme.substr(begin, end - begin), example.substr(code));
}
