/* SPDX-License-Identifier: Apache-2.0
 * What comes to the hattn command from outside: names reach neither a terminal nor JSON as they are, numbers are bounded by
 * what there is.
 */
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "tests/run_hattn.h"
#include "tools/safetensors.h"
#include "tools/text.h"

namespace {

TEST(Outside, PathsThatAreNotUtf8)
{
    const Directory directory;
    const std::string trace = directory.at("caf\xe9.safetensors"), out = directory.at("\xff\xfe.json");
    write_file(trace, read_file(TRACE));
    const Ran ran = run_hattn(decode(trace, {"--json", out}));
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    EXPECT_NE(ran.out.find("caf?.safetensors"), std::string::npos) << ran.out;
    const JsonOwner json = parse_json(read_file(out));
    EXPECT_STREQ(json_string_value(json_object_get(json.get(), "trace")),
                 directory.at("caf\xef\xbf\xbd.safetensors").c_str());
    expect_refusal({"decode", "--trace", directory.at("no\xe9")}, "no?: No such file");
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

TEST(Outside, NamesFromFilesAreMadePrintable)
{
    const Directory directory;
    const std::string hostile = "evil\x1b[2J\r\n\xc2\x9b"
                                "31m\xe2\x80\xae";
    write_file(directory.at("trace"), trace_with_map(hostile));
    const Ran ran =
        run_hattn({"decode", "--trace", directory.at("trace"), "--backend", "cpu", "--json", directory.at("json")});
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 3) << ran.out;
    EXPECT_NE(ran.out.find("evil?[2J???31m?"), std::string::npos) << ran.out;
    const JsonOwner json = parse_json(read_file(directory.at("json")));
    const json_t *row = json_array_get(json_object_get(json.get(), "rows"), 0);
    EXPECT_STREQ(json_string_value(json_object_get(row, "maps")), hostile.c_str());

    for (const Words &more :
         {Words{"--maps", "x\x1b[2J"}, Words{"--bits", "512"}, Words{"--topk", "4", "--sink", "5"}}) {
        Words words = {"decode", "--trace", directory.at("trace")};
        words.insert(words.end(), more.begin(), more.end());
        const Ran refused = run_hattn(words);
        expect_refused(refused, "evil?[2J");
        EXPECT_TRUE(std::all_of(refused.err.begin(), refused.err.end() - 1, [](unsigned char c) {
            return c >= ' ' && c < 0x7f;
        })) << refused.err;
    }
    expect_refusal({"\x1b[2J"}, "unknown command '?[2J'");
    expect_refusal({"info", "\n"}, "unexpected '?'");

    /* Wide names do not shift the columns, long ones are cut. */
    const auto table = [&directory](const std::string &name) {
        write_file(directory.at("trace"), trace_with_map(name));
        return run_hattn({"decode", "--trace", directory.at("trace"), "--backend", "cpu"}).out;
    };
    const std::string plain = table("aeu"), accents = table("\xc3\xa4\xc3\xab\xc3\xbc");
    const size_t heading = plain.find("\nbackend");
    ASSERT_NE(heading, std::string::npos) << plain;
    EXPECT_EQ(plain.substr(heading, 40), accents.substr(heading, 40));
    EXPECT_LT(table(std::string(100000, 'x')).size(), 2000u);
}

TEST(Outside, NumbersAreBoundedByWhatThereIs)
{
    const Directory directory;
    expect_refusal(decode(TRACE, {"--topk", "1000000000"}), "--topk 1000000000: the trace has 4096 keys");
    expect_refusal(decode(TRACE, {"--topk", "4097"}), "--topk 4097: the trace has 4096 keys");
    for (const std::string option : {"--sink", "--recent"})
        expect_refusal(decode(TRACE, {option, "2147483647"}), "forced tokens count toward k (512)");
    expect_refusal(decode(TRACE, {"--threads", "1000"}), "--threads is a whole number from 0 to ");
    expect_refusal({"bench", "--rounds", "1000000000"}, "--rounds is a whole number from 1 to 1000");
    /* The default is no demand. */
    write_file(directory.at("trace"), trace_with_map("one"));
    const Ran ran = run_hattn({"decode", "--trace", directory.at("trace"), "--backend", "cpu", "--json", "-"});
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    const JsonOwner json = parse_json(ran.out);
    const json_t *row = json_array_get(json_object_get(json.get(), "rows"), 0);
    EXPECT_EQ(json_integer_value(json_object_get(row, "topk")), 6);
}

TEST(Outside, AnUnknownInstructionSetIsRefusedByEveryCommand)
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

/* A driver of processors reads /sys when it is asked for devices, and ends the process where there is none: it is not asked. */
TEST(Outside, WithoutSysThereIsNoOpenclDevice)
{
    if (why_no_device("opencl").find("not built") != std::string::npos)
        GTEST_SKIP() << "opencl is not built";
    const Directory directory;
    const std::string without = "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none /sys && exec ";
    if (system((without + "true' 2>" + directory.at("err")).c_str()))
        GTEST_SKIP() << "no mounts of one's own: " << read_file(directory.at("err"));
    EXPECT_EQ(system((without + "tools/hattn info' >" + directory.at("out")).c_str()), 0);
    const std::string out = read_file(directory.at("out"));
    EXPECT_NE(out.find("/sys/devices/system/cpu"), std::string::npos) << out;
    EXPECT_NE(out.find("scalar C"), std::string::npos) << out;
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
