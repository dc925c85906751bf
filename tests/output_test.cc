/* SPDX-License-Identifier: Apache-2.0
 * Where the hattn command's results go: nothing is lost without a word, no file is destroyed.
 */
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <set>
#include <thread>

#include "tests/run_hattn.h"
#include "tools/safetensors.h"

namespace {

class OutputTest : public testing::Test
{
protected:
    const Directory directory_;
    std::string at(const std::string &name) const { return directory_.at(name); }
    std::set<std::string> names() const { return directory_.names(); }
};

Words verify(const Words &more)
{
    Words words = {"verify", "--backend", "reference", "--filter", "group_3/topk"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

TEST(Stdout, ThatCannotBeWrittenIsAFailure)
{
    int broken[2];
    ASSERT_EQ(pipe(broken), 0);
    close(broken[0]);
    const int full = open("/dev/full", O_WRONLY), readable = open("/dev/null", O_RDONLY);
    const std::pair<int, std::string> outputs[] = {
        {full, "cannot write to stdout: No space left on device"},
        {-1, "cannot write to stdout: Bad file descriptor"},
        {broken[1], "cannot write to stdout: Broken pipe"},
        {readable, "cannot write to stdout: Bad file descriptor"},
    };
    const Words commands[] = {
        {"--help"},
        {"--version"},
        {"info"},
        {"info", "--json"},
        {"info", "--help"},
        {"decode", "--help"},
        {"verify", "--help"},
        {"bench", "--help"},
        decode(TRACE, {}),
        decode(TRACE, {"--json", "-"}),
        verify({}),
        verify({"--junit", "-"}),
        {"bench", "--shape", "S1", "--rounds", "1", "--threads", "1"},
    };
    for (const auto &[output, text] : outputs)
        for (const Words &words : commands) {
            if (words.size() > 2 && words[0] == "bench" && output != full)
                continue; // takes a while
            SCOPED_TRACE(command_line(words));
            expect_refused(run_hattn_onto(output, words), text);
        }
    for (const int descriptor : {broken[1], full, readable})
        close(descriptor);
}

/* What is opened later must not become stdout. */
TEST_F(OutputTest, AClosedStdoutIsNoFileOfOurs)
{
    expect_refused(run_hattn_onto(-1, decode(TRACE, {"--json", at("out")})), "cannot write to stdout");
    parse_json(read_file(at("out")));
    EXPECT_EQ(run_hattn_onto(-1, {"info", "--json", at("info")}).exit_code, 0); // had nothing to say there
}

TEST_F(OutputTest, ADashIsStdout)
{
    const Ran junit = run_hattn(verify({"--junit", "-"}));
    EXPECT_EQ(junit.exit_code, 0) << junit.err;
    EXPECT_EQ(junit.out.compare(0, 5, "<?xml"), 0) << junit.out;
    EXPECT_EQ(junit.out.substr(junit.out.size() - 13), "</testsuite>\n") << junit.out;
    const Ran golden = run_hattn(verify({"--write", "-"}));
    EXPECT_EQ(golden.exit_code, 0) << golden.err;
    EXPECT_FALSE(Safetensors::parse(golden.out.data(), golden.out.size(), "stdout").tensors().empty());
    EXPECT_NE(access("-", F_OK), 0);

    expect_refusal(verify({"--json", "-", "--junit", "-"}), "--json and --junit cannot both write to stdout");
    expect_refusal(verify({"--json", "/dev/stdout", "--write", "-"}), "--json and --write cannot both write to stdout");
    expect_refusal(verify({"--json", at("x"), "--junit", at("x")}), "--json and --junit name one file");
    ASSERT_EQ(symlink("x", at("link").c_str()), 0);
    expect_refusal(verify({"--json", at("x"), "--write", at("link")}), "--json and --write name one file");
    EXPECT_EQ(names(), std::set<std::string>({"link"}));
}

TEST_F(OutputTest, NamesOfStdoutAreStdout)
{
    for (const std::string path : {"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}) {
        const Ran ran = run_hattn({"info", "--json", path});
        EXPECT_EQ(ran.exit_code, 0) << ran.err;
        parse_json(ran.out);
    }
    /* Appended to what was there, and once. */
    write_file(at("log"), "before\n");
    const int log = open(at("log").c_str(), O_WRONLY | O_APPEND);
    EXPECT_EQ(run_hattn_onto(log, decode(TRACE, {"--json", at("log")})).exit_code, 0);
    close(log);
    const std::string text = read_file(at("log"));
    EXPECT_EQ(text.compare(0, 8, "before\n{"), 0) << text;
    parse_json(text.substr(7));
    expect_refusal({"info", "--json", "/dev/fd/99"}, "cannot write /dev/fd/99: Bad file descriptor");
}

TEST_F(OutputTest, AFailedRunLeavesNothing)
{
    write_file(at("old"), "precious");
    for (const std::string name : {"old", "new"}) {
        expect_refusal(decode("/nonexistent", {"--json", at(name)}), "cannot read /nonexistent");
        expect_refusal(decode(TRACE, {"--json", at(name), "--topk", "5000"}), "--topk 5000");
        expect_refusal(verify({"--against", "/nonexistent", "--json", at(name)}), "cannot read /nonexistent");
        expect_refusal({"verify", "--filter", "no such problem", "--write", at(name)}, "no problem or operation has");
        expect_refusal({"bench", "--shape", "nothing", "--json", at(name)}, "no shape 'nothing'");
    }
    EXPECT_EQ(read_file(at("old")), "precious");
    EXPECT_EQ(names(), std::set<std::string>({"old"}));
}

/* The disk is full while a file is written aside; here it is a limit on its size. */
TEST_F(OutputTest, AnOldFileOutlivesAFailedWrite)
{
    write_file(at("old"), "precious");
    rlimit before, small;
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 300; // more than a refusal, less than a report
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const Ran refused = run_hattn({"info", "--json", at("old")}), cut = run_hattn({"info"});
    setrlimit(RLIMIT_FSIZE, &before);
    expect_refused(refused, "old: File too large");
    expect_refused(cut, "cannot write to stdout: File too large");
    EXPECT_EQ(read_file(at("old")), "precious");
    EXPECT_EQ(names(), std::set<std::string>({"old"}));
}

TEST(Stdout, ATerminalGetsNoBinaryData)
{
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    ASSERT_TRUE(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    const int side = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    expect_refused(run_hattn_onto(side, verify({"--write", "-"})), "--write: golden values are not for a terminal");
    close(side);
    close(terminal);
}

/* Golden values of none of the chosen problems are no result. */
TEST_F(OutputTest, NothingComparedIsNothingWritten)
{
    ASSERT_EQ(run_hattn(verify({"--write", at("golden")})).exit_code, 0);
    expect_refusal({"verify", "--backend", "reference", "--filter", "group_3/score", "--against", at("golden"),
                    "--json", at("json"), "--junit", at("junit")},
                   "has values of none of the chosen problems");
    EXPECT_EQ(names(), std::set<std::string>({"golden"}));
}

/* Before any work: the trace is not there either. */
TEST_F(OutputTest, WhereNothingCanBeWritten)
{
    write_file(at("file"), "");
    const std::pair<std::string, std::string> bad[] = {
        {"/nonexistent/x", "No such file or directory"},
        {directory_.path(), "Is a directory"},
        {at("file") + "/x", "Not a directory"},
        {"/proc/x", "cannot write /proc/x: "},
        {at(std::string(300, 'x')), "File name too long"},
    };
    for (const auto &[path, text] : bad) {
        expect_refusal(decode("/nonexistent", {"--json", path}), text);
        expect_refusal({"info", "--json", path}, text);
        expect_refusal({"bench", "--json", path}, text);
        for (const std::string option : {"--json", "--junit", "--write"})
            expect_refusal(verify({option, path}), text);
    }
    EXPECT_EQ(names(), std::set<std::string>({"file"}));
}

TEST_F(OutputTest, AnInputIsNeverWrittenOver)
{
    const std::string bytes = read_file(TRACE);
    write_file(at("trace"), bytes);
    ASSERT_EQ(symlink("trace", at("soft").c_str()), 0);
    ASSERT_EQ(link(at("trace").c_str(), at("hard").c_str()), 0);
    for (const std::string name : {"trace", "soft", "hard"}) {
        expect_refusal(decode(at("trace"), {"--json", at(name)}), "--json would write over the file of --trace");
        expect_refusal(decode(at(name), {"--json", at("trace")}), "--json would write over the file of --trace");
    }
    EXPECT_EQ(read_file(at("trace")), bytes);

    ASSERT_EQ(run_hattn(verify({"--write", at("golden")})).exit_code, 0);
    const std::string golden = read_file(at("golden"));
    for (const std::string option : {"--json", "--junit"})
        expect_refusal(verify({"--against", at("golden"), option, at("golden")}),
                       option + " would write over the file of --against");
    EXPECT_EQ(read_file(at("golden")), golden);
    EXPECT_EQ(run_hattn(verify({"--against", at("golden")})).exit_code, 0);
}

TEST_F(OutputTest, ReplacesAFileAndKeepsItsModeAndLinks)
{
    write_file(at("old"), "precious");
    ASSERT_EQ(chmod(at("old").c_str(), 0604), 0);
    ASSERT_EQ(symlink("old", at("link").c_str()), 0);
    ASSERT_EQ(symlink("new", at("dangling").c_str()), 0);
    const mode_t mask = umask(027);
    for (const std::string name : {"link", "dangling"})
        EXPECT_EQ(run_hattn({"info", "--json", at(name)}).exit_code, 0);
    umask(mask);
    parse_json(read_file(at("old")));
    parse_json(read_file(at("new")));
    struct stat status;
    ASSERT_EQ(stat(at("old").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0604u);
    ASSERT_EQ(stat(at("new").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0640u);
    EXPECT_EQ(names(), std::set<std::string>({"dangling", "link", "new", "old"}));
}

TEST_F(OutputTest, APipeIsWrittenOnce)
{
    ASSERT_EQ(mkfifo(at("pipe").c_str(), 0600), 0);
    const Words commands[] = {{"info", "--json", at("pipe")},
                              decode(TRACE, {"--json", at("pipe")}),
                              verify({"--junit", at("pipe")}),
                              verify({"--write", at("pipe")})};
    for (const Words &words : commands) {
        SCOPED_TRACE(command_line(words));
        std::string read;
        std::thread reader([&] { read = read_file(at("pipe")); });
        const Ran ran = run_hattn(words);
        EXPECT_EQ(ran.exit_code, 0) << ran.err;
        /* A reader that got nothing would wait for ever. */
        if (ran.exit_code)
            close(open(at("pipe").c_str(), O_WRONLY | O_NONBLOCK));
        reader.join();
        EXPECT_GT(read.size(), 100u);
    }
    EXPECT_EQ(names(), std::set<std::string>({"pipe"}));
    EXPECT_EQ(run_hattn({"info", "--json", "/dev/null"}).exit_code, 0);
    expect_refusal({"info", "--json", "/dev/full"}, "cannot write /dev/full: No space left on device");
}

} // namespace
