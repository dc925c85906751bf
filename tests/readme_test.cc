/* SPDX-License-Identifier: Apache-2.0
 * The README's C block is part of examples/decode.c, which example_test compiles and runs; its count of problems is the list's.
 */
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "problems/problems.h"

static std::string read_file(const std::string &path)
{
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
}

TEST(Readme, ShowsTheExampleAsItStands)
{
    const std::string readme = read_file("README.md"), example = read_file("examples/decode.c");
    const size_t fence = readme.find("\n```c\n");
    ASSERT_NE(fence, std::string::npos) << "README.md has no ```c block";
    const std::string block = readme.substr(fence + 6, readme.find("```", fence + 6) - fence - 6);
    EXPECT_NE(block.find("hattn_decode("), std::string::npos) << "the block is not the decode step";
    EXPECT_NE(example.find(block), std::string::npos) << "README.md's block is not in examples/decode.c as it stands:\n"
                                                      << block;
}

TEST(Readme, CountsTheProblems)
{
    int count = 0;
    for (const problems::Problem &problem : problems::all_problems())
        count += problem.tag != problems::Tag::BENCH;
    const std::string words = "the reference on " + std::to_string(count) + " problems";
    EXPECT_NE(read_file("README.md").find(words), std::string::npos) << "README.md does not say: " << words;
}
