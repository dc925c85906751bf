/* SPDX-License-Identifier: Apache-2.0
 * Where the hattn command's results go: nothing is lost without a word, no file is destroyed, no name from outside reaches
 * a terminal or JSON as it is.
 */
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <thread>

#include "tests/run_hattn.h"
#include "tools/args.h"
#include "tools/output.h"
#include "tools/safetensors.h"
#include "tools/text.h"

namespace {

using Words = std::vector<std::string>;

const std::string TRACE = "examples/layer3.safetensors";

std::string read_file(const std::string &path)
{
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
}

void write_file(const std::string &path, const std::string &bytes) { std::ofstream(path, std::ios::binary) << bytes; }

/* An empty directory for a test. */
class OutputTest : public testing::Test
{
protected:
    void SetUp() override
    {
        std::string name = testing::TempDir() + "/output-XXXXXX";
        ASSERT_NE(mkdtemp(name.data()), nullptr);
        directory_ = name;
    }
    void TearDown() override
    {
        for (const std::string &name : names())
            unlink(at(name).c_str());
        rmdir(directory_.c_str());
    }

    std::string at(const std::string &name) const { return directory_ + "/" + name; }

    std::set<std::string> names() const
    {
        std::set<std::string> found;
        DIR *directory = opendir(directory_.c_str());
        while (const dirent *entry = readdir(directory))
            if (entry->d_name != std::string(".") && entry->d_name != std::string(".."))
                found.insert(entry->d_name);
        closedir(directory);
        return found;
    }

    std::string directory_;
};

std::string shown(const Words &words)
{
    std::string text = "hattn";
    for (const std::string &word : words)
        text += " '" + printable(word) + "'";
    return text;
}

void expect_one_line(const Ran &ran, const std::string &text)
{
    EXPECT_EQ(ran.exit_code, 2);
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
    EXPECT_EQ(ran.err.compare(0, 5, "hattn"), 0) << ran.err;
    EXPECT_NE(ran.err.find(text), std::string::npos) << ran.err;
}

void expect_refusal(const Words &words, const std::string &text)
{
    SCOPED_TRACE(shown(words));
    const Ran ran = run_hattn(words);
    EXPECT_EQ(ran.out, "");
    expect_one_line(ran, text);
}

Words decode(const std::string &trace, const Words &more)
{
    Words words = {"decode", "--trace", trace, "--backend", "cpu", "--maps", "weighted64"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

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
            SCOPED_TRACE(shown(words));
            expect_one_line(run_hattn_onto(output, words), text);
        }
    for (const int descriptor : {broken[1], full, readable})
        close(descriptor);
}

/* What is opened later must not become stdout. */
TEST_F(OutputTest, AClosedStdoutIsNoFileOfOurs)
{
    expect_one_line(run_hattn_onto(-1, decode(TRACE, {"--json", at("out")})), "cannot write to stdout");
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
        expect_refusal({"verify", "--filter", "nothing", "--write", at(name)}, "no problem or operation has");
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
    expect_one_line(refused, "old: File too large");
    expect_one_line(cut, "cannot write to stdout: File too large");
    EXPECT_EQ(read_file(at("old")), "precious");
    EXPECT_EQ(names(), std::set<std::string>({"old"}));
}

TEST(Stdout, ATerminalGetsNoBinaryData)
{
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    ASSERT_TRUE(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    const int side = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    expect_one_line(run_hattn_onto(side, verify({"--write", "-"})), "--write: golden values are not for a terminal");
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
        {directory_, "Is a directory"},
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
        SCOPED_TRACE(shown(words));
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

TEST_F(OutputTest, PathsThatAreNotUtf8)
{
    const std::string trace = at("caf\xe9.safetensors"), out = at("\xff\xfe.json");
    write_file(trace, read_file(TRACE));
    const Ran ran = run_hattn(decode(trace, {"--json", out}));
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    EXPECT_NE(ran.out.find("caf?.safetensors"), std::string::npos) << ran.out;
    const JsonOwner json = parse_json(read_file(out));
    EXPECT_STREQ(json_string_value(json_object_get(json.get(), "trace")), at("caf\xef\xbf\xbd.safetensors").c_str());
    expect_refusal({"decode", "--trace", at("no\xe9")}, "no?: No such file");
}

/* A valid trace with a map of this name. */
std::string trace_with_map(const std::string &name)
{
    SafetensorsWriter writer;
    const std::string zeros(4096, '\0');
    writer.add("q", Dtype::F16, {1, 2, 32}, zeros.data());
    writer.add("q_pos", Dtype::I32, {1}, zeros.data());
    writer.add("k", Dtype::F16, {6, 1, 32}, zeros.data());
    writer.add("v", Dtype::F16, {6, 1, 32}, zeros.data());
    writer.add(name + ".wk", Dtype::F16, {1, 32, 32}, zeros.data());
    return writer.bytes();
}

TEST_F(OutputTest, NamesFromFilesAreMadePrintable)
{
    const std::string hostile = "evil\x1b[2J\r\n\xc2\x9b"
                                "31m\xe2\x80\xae";
    write_file(at("trace"), trace_with_map(hostile));
    const Ran ran = run_hattn({"decode", "--trace", at("trace"), "--backend", "cpu", "--json", at("json")});
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 3) << ran.out;
    EXPECT_NE(ran.out.find("evil?[2J???31m?"), std::string::npos) << ran.out;
    const JsonOwner json = parse_json(read_file(at("json")));
    const json_t *row = json_array_get(json_object_get(json.get(), "rows"), 0);
    EXPECT_STREQ(json_string_value(json_object_get(row, "maps")), hostile.c_str());

    for (const Words &more :
         {Words{"--maps", "x\x1b[2J"}, Words{"--bits", "512"}, Words{"--topk", "4", "--sink", "5"}}) {
        Words words = {"decode", "--trace", at("trace")};
        words.insert(words.end(), more.begin(), more.end());
        const Ran refused = run_hattn(words);
        expect_one_line(refused, "evil?[2J");
        EXPECT_TRUE(std::all_of(refused.err.begin(), refused.err.end() - 1, [](unsigned char c) {
            return c >= ' ' && c < 0x7f;
        })) << refused.err;
    }
    expect_refusal({"\x1b[2J"}, "unknown command '?[2J'");
    expect_refusal({"info", "\n"}, "unexpected '?'");

    /* Wide names do not shift the columns, long ones are cut. */
    const Ran plain = (write_file(at("trace"), trace_with_map("aeu")),
                       run_hattn({"decode", "--trace", at("trace"), "--backend", "cpu"}));
    const Ran accents = (write_file(at("trace"), trace_with_map("\xc3\xa4\xc3\xab\xc3\xbc")),
                         run_hattn({"decode", "--trace", at("trace"), "--backend", "cpu"}));
    const size_t heading = plain.out.find("\nbackend");
    ASSERT_NE(heading, std::string::npos) << plain.out;
    EXPECT_EQ(plain.out.substr(heading, 40), accents.out.substr(heading, 40));
    write_file(at("trace"), trace_with_map(std::string(100000, 'x')));
    EXPECT_LT(run_hattn({"decode", "--trace", at("trace"), "--backend", "cpu"}).out.size(), 2000u);
}

TEST_F(OutputTest, NumbersAreBoundedByWhatThereIs)
{
    expect_refusal(decode(TRACE, {"--topk", "1000000000"}), "--topk 1000000000: the trace has 4096 keys");
    expect_refusal(decode(TRACE, {"--topk", "4097"}), "--topk 4097: the trace has 4096 keys");
    for (const std::string option : {"--sink", "--recent"})
        expect_refusal(decode(TRACE, {option, "2147483647"}), "forced tokens count toward k (512)");
    expect_refusal(decode(TRACE, {"--threads", "1000"}), "--threads is a whole number from 0 to ");
    expect_refusal({"bench", "--rounds", "1000000000"}, "--rounds is a whole number from 1 to 1000");
    /* The default is no demand. */
    write_file(at("trace"), trace_with_map("one"));
    const Ran ran = run_hattn({"decode", "--trace", at("trace"), "--backend", "cpu", "--json", "-"});
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    const JsonOwner json = parse_json(ran.out);
    const json_t *row = json_array_get(json_object_get(json.get(), "rows"), 0);
    EXPECT_EQ(json_integer_value(json_object_get(row, "topk")), 6);
}

TEST_F(OutputTest, AnUnknownInstructionSetIsRefusedByEveryCommand)
{
    const char *before = getenv("HATTN_CPU_DISABLE");
    const std::string kept = before ? before : "";
    setenv("HATTN_CPU_DISABLE", "avx512, avx-2", 1);
    const std::string text = "HATTN_CPU_DISABLE has 'avx-2', it knows scalar, neon, avx2 and avx512";
    expect_refusal({"info"}, text);
    expect_refusal(decode(TRACE, {}), text);
    expect_refusal({"verify", "--backend", "cpu"}, text);
    expect_refusal({"bench"}, text);
    setenv("HATTN_CPU_DISABLE", "AVX512 , avx2,neon", 1);
    EXPECT_NE(run_hattn({"info"}).out.find("scalar"), std::string::npos);
    if (before)
        setenv("HATTN_CPU_DISABLE", kept.c_str(), 1);
    else
        unsetenv("HATTN_CPU_DISABLE");
}

TEST(Text, Utf8)
{
    const std::string good = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80";
    EXPECT_EQ(valid_utf8(good), good);
    EXPECT_EQ(printable(good), good);
    EXPECT_EQ(num_characters(good), 4u);
    EXPECT_EQ(printable(good, 2), "a\xc3\xa9...");
    EXPECT_EQ(printable(good, 4), good);
    /* Cut short, not the shortest form, surrogates, past the last character, lone continuations. */
    for (const std::string bad : {"\xc3", "\xe2\x82", "\xc0\x80", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                  "\x80", "\xfe", "\xf8\x88\x80\x80\x80"}) {
        EXPECT_EQ(printable(bad), std::string(bad.size(), '?'));
        EXPECT_EQ(valid_utf8(bad).size(), 3 * bad.size());
        json_t *json = json_string(valid_utf8("<" + bad + ">").c_str());
        EXPECT_NE(json, nullptr);
        json_decref(json);
    }
}

} // namespace
