/* SPDX-License-Identifier: Apache-2.0
 * The hattn command from outside: exit codes, one line for each refusal, help, JSON.
 */
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "tests/run_hattn.h"

TEST(Cli, BadCommandLines)
{
    expect_refusal({}, "a command is needed");
    expect_refusal({"frobnicate"}, "unknown command 'frobnicate'");
    expect_refusal({"--frobnicate"}, "unknown command");
    for (const std::string command : {"info", "decode", "calibrate", "verify", "bench"}) {
        expect_refusal({command, "--frobnicate"}, "hattn " + command + ": unknown option '--frobnicate'");
        expect_refusal({command, "word"}, "unexpected 'word'");
        expect_refusal({command, "-x"}, "unexpected '-x'");
        expect_refusal({command, "--"}, "unexpected '--'");
    }
}

TEST(Cli, BadOptionsOfDecode)
{
    const std::vector<std::string> start = {"decode", "--trace", TRACE};
    const std::vector<std::pair<std::vector<std::string>, std::string>> bad = {
        {{"--topk"}, "--topk needs a value"},
        {{"--topk", "--norms"}, "--topk needs a value"},
        {{"--topk", "0"}, "--topk is a whole number from 1"},
        {{"--topk", "-5"}, "--topk is a whole number"},
        {{"--topk", "12x"}, "not '12x'"},
        {{"--topk", "1e3"}, "not '1e3'"},
        {{"--topk", " 3"}, "not ' 3'"},
        {{"--topk="}, "not ''"},
        {{"--topk", "99999999999999999999"}, "--topk is a whole number"},
        {{"--topk", "512", "--topk", "512"}, "--topk is given twice"},
        {{"--norms=1"}, "--norms takes no value"},
        {{"--score", "cosine"}, "--score is one of hamming|weighted"},
        {{"--select", "all"}, "--select is one of kv|query"},
        {{"--backend", "vulkan"}, "--backend is one of all|"},
        {{"--isa", "sse2"}, "--isa is one of"},
        {{"--maps", "nothing"}, "no map 'nothing'; it has hamming128, hashattention32"},
        {{"--maps", "hata128,nothing"}, "no map 'nothing'"},
        {{"--maps", "hata128", "--bits", "256"}, "map hata128 has 128"},
        {{"--maps", "hata128", "--bits", "33"}, "map hata128: "},
        {{"--maps", "hashattention32", "--select", "kv"}, "map hashattention32: "},
        {{"--topk", "64", "--sink", "40", "--recent", "40"}, "map hamming128: "},
        {{"--floor", "1"}, "--floor is a number from 0 to 0.999"},
        {{"--floor", "-1e-4"}, "--floor is a number from 0"},
        {{"--floor", "nan"}, "--floor is a number from 0"},
        {{"--floor", "1e-4", "--mean-rows", "512"}, "--mean-rows finds a floor: not with --floor"},
        {{"--mean-rows", "-1"}, "--mean-rows is a whole number from 0"},
        {{"--min-k", "64"}, "--min-k is for --floor or --mean-rows"},
        {{"--floor", "1e-4", "--min-k", "0"}, "--min-k is a whole number from 1"},
        {{"--floor", "1e-4", "--topk", "50", "--min-k", "51"}, "--min-k 51 is above --topk 50"},
        {{"--floor", "1e-4", "--maps", "weighted128", "--bits", "64"}, "slopes are of all its bits"},
        {{"--floor", "1e-4", "--maps", "weighted128", "--select", "query"}, "its 2 heads: a floor goes with no other"},
        {{"--floor", "1e-4", "--norms"},
         "map hamming128: reference: unsupported: min_probability is 0.0001 with key_norms"},
        {{"--mean-rows", "600", "--maps", "weighted64", "--topk", "512"},
         "map weighted64: --mean-rows 600: with --topk 512 and --min-k 64 floors keep 64.0 to "},
        {{"--tail", "1.01"}, "--tail is a number from 0 to 1"},
        {{"--tail", "-0.5"}, "--tail is a number from 0"},
        {{"--tail", "nan"}, "--tail is a number from 0"},
        {{"--vskip", "0.01"}, "--vskip and --mean-values are for --tail"},
        {{"--mean-values", "100"}, "--vskip and --mean-values are for --tail"},
        {{"--tail", "0.5", "--vskip", "1"}, "--vskip is a number from 0"},
        {{"--tail", "0.5", "--vskip", "0.01", "--mean-values", "9"}, "--mean-values finds a --vskip: not with that"},
        {{"--tail", "0.5", "--maps", "weighted128", "--backend", "cpu", "--mean-values", "600"},
         "--mean-values 600: the selections keep 482.9 rows a query"},
        {{"--tail", "0.5", "--norms"}, "map hamming128: reference: unsupported: tail is 0.5 with key_norms"},
        {{"--tail", "0.5", "--maps", "weighted128", "--bits", "64"}, "a tail goes with no other --bits or --select"},
        {{"--json", "/nonexistent/x.json"}, "cannot write /nonexistent/x.json"},
    };
    for (const auto &[words, text] : bad) {
        std::vector<std::string> all = start;
        all.insert(all.end(), words.begin(), words.end());
        expect_refusal(all, text);
    }
    expect_refusal({"decode"}, "--trace FILE is needed");
}

TEST(Cli, BadOptionsOfCalibrate)
{
    expect_refusal({"calibrate"}, "--trace FILE is needed");
    expect_refusal({"calibrate", "--trace", TRACE}, "--out FILE is needed");
    expect_refusal({"calibrate", "--trace", "/nonexistent/trace", "--out", "-"}, "No such file or directory");
    expect_refusal({"calibrate", "--trace", TRACE, "--out", "/nonexistent/x"}, "cannot write /nonexistent/x");
    const std::string own = testing::TempDir() + "/" + std::to_string(getpid()) + ".own";
    write_file(own, read_file(TRACE));
    expect_refusal({"calibrate", "--trace", own, "--out", own}, "--out would write over the file of --trace");
}

TEST(Cli, UnreadableTraces)
{
    expect_refusal({"decode", "--trace", "/nonexistent/trace"}, "No such file or directory");
    expect_refusal({"decode", "--trace", "/"}, "not a regular file");
    expect_refusal({"decode", "--trace", "/dev/null"}, "not a regular file");
    const std::string whole = read_file(TRACE), path = testing::TempDir() + "/" + std::to_string(getpid()) + ".damaged";
    std::string lying = whole, wrong_dtype = whole, not_finite = whole, far_query = whole;
    lying[6] = 1;
    wrong_dtype.replace(whole.find("\"F16\""), 5, "\"F12\"");
    not_finite.replace(8 + 3488 + 1386368 + 1000, 2, "\xff\x7f"); // in k
    far_query.replace(8 + 3488, 4, std::string("\x00\x10\x00\x00", 4));
    const std::pair<std::string, std::string> damaged[] = {
        {"", "shorter than 8 bytes"},
        {whole.substr(0, 1000), "cut short"},
        {whole.substr(0, whole.size() - 1), "the file has"},
        {whole + "x", "the file has"},
        {lying, "the header claims"},
        {wrong_dtype, "unknown dtype 'F12'"},
        {not_finite, "'k' is not finite at element 500"},
        {far_query, "'q_pos' is 4096 at element 0"},
    };
    for (const auto &[bytes, text] : damaged) {
        write_file(path, bytes);
        expect_refusal({"decode", "--trace", path}, text);
    }
    std::remove(path.c_str());
}

TEST(Cli, HelpOfEveryCommand)
{
    const Ran all = run_hattn({"--help"});
    EXPECT_EQ(all.exit_code, 0);
    EXPECT_EQ(all.err, "");
    for (const std::string command : {"info", "decode", "calibrate", "verify", "bench"}) {
        EXPECT_NE(all.out.find("  " + command + " "), std::string::npos) << all.out;
        const Ran help = run_hattn({command, "--help"});
        EXPECT_EQ(help.exit_code, 0);
        EXPECT_EQ(help.err, "");
        EXPECT_EQ(help.out.compare(0, 13 + command.size(), "usage: hattn " + command), 0) << help.out;
        EXPECT_EQ(run_hattn({command, "--nonsense", "-h"}).out, help.out); // help before complaints
    }
    const std::string decode = run_hattn({"decode", "--help"}).out;
    for (const char *option :
         {"--trace FILE", "--topk K", "(default 512)", "--score hamming|weighted", "--norms", "--bits N"})
        EXPECT_NE(decode.find(option), std::string::npos) << option;
}

TEST(Cli, Version)
{
    const Ran ran = run_hattn({"--version"});
    EXPECT_EQ(ran.exit_code, 0);
    int major = -1, minor = -1, patch = -1;
    EXPECT_EQ(std::sscanf(ran.out.c_str(), "hattn %d.%d.%d\n", &major, &minor, &patch), 3) << ran.out;
}

TEST(Cli, Info)
{
    const Ran table = run_hattn({"info"});
    EXPECT_EQ(table.exit_code, 0);
    for (const char *name : {"cuda", "hip", "opencl", "cpu", "reference"})
        EXPECT_NE(table.out.find(std::string("\n") + name + " "), std::string::npos) << table.out;

    const Ran ran = run_hattn({"info", "--json"});
    EXPECT_EQ(ran.exit_code, 0);
    JsonOwner json = parse_json(ran.out);
    const json_t *backends = json_object_get(json.get(), "backends");
    ASSERT_EQ(json_array_size(backends), 5u);
    for (size_t i = 0; i < 5; i++) {
        const json_t *backend = json_array_get(backends, i);
        const std::string name = json_string_value(json_object_get(backend, "name"));
        const auto devices = static_cast<size_t>(json_integer_value(json_object_get(backend, "num_devices")));
        EXPECT_EQ(json_array_size(json_object_get(backend, "devices")), devices) << name;
        const std::string why = json_string_value(json_object_get(backend, "text"));
        EXPECT_EQ(why.empty(), devices > 0) << name << ": " << why;
        if (name == "cpu" || name == "reference") {
            EXPECT_TRUE(json_is_true(json_object_get(backend, "built"))) << name;
            EXPECT_EQ(devices, 1u) << name;
        }
    }
    const std::string path = testing::TempDir() + "/" + std::to_string(getpid()) + ".json";
    EXPECT_EQ(run_hattn({"info", "--json", path}).out, "");
    EXPECT_EQ(read_file(path), ran.out);
    std::remove(path.c_str());
}

/* OpenCL's driver PoCL can be told to be too small. */
TEST(Cli, InfoOfADeviceThatIsRefused)
{
    if (run_hattn({"info"}).out.find("PoCL") == std::string::npos)
        GTEST_SKIP() << "no PoCL";
    setenv("POCL_MAX_WORK_GROUP_SIZE", "64", 1);
    const Ran ran = run_hattn({"info"});
    unsetenv("POCL_MAX_WORK_GROUP_SIZE");
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    EXPECT_NE(ran.out.find("groups of 64"), std::string::npos) << ran.out;
    EXPECT_NE(ran.out.find("\ncpu "), std::string::npos) << ran.out;
}

/* What a person sees, and that options reach the step. */
TEST(Cli, DecodeOfBothTraces)
{
    for (const char *trace : {"examples/layer3.safetensors", "examples/layer5.safetensors"}) {
        const Ran ran = run_hattn({"decode", "--trace", trace, "--backend", "cpu", "--maps", "weighted64"});
        EXPECT_EQ(ran.exit_code, 0) << ran.err;
        EXPECT_EQ(ran.err, "");
        EXPECT_NE(ran.out.find("recall"), std::string::npos);
        EXPECT_NE(ran.out.find("\ncpu "), std::string::npos);
        EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 3) << ran.out;
    }
}

/* A backend with memory of its own, or the reason why it is not there. */
class CliDevice : public testing::TestWithParam<std::string>
{
};

TEST_P(CliDevice, DecodesAndIsTimed)
{
    const std::string backend = GetParam();
    const std::vector<std::string> decode = {"decode", "--trace", TRACE, "--backend", backend, "--maps", "weighted64"};
    const std::vector<std::string> bench = {"bench", "--backend", backend, "--shape", "S1", "--rounds", "1"};
    const std::string why = why_no_device(backend);
    if (!why.empty()) {
        expect_refusal(decode, "backend " + backend + " has no device: " + why);
        expect_refusal(bench, "backend " + backend + " has no device: " + why);
        GTEST_SKIP() << why;
    }
    for (const auto &words : {decode, bench}) {
        const Ran ran = run_hattn(words);
        EXPECT_EQ(ran.exit_code, 0) << ran.err;
        EXPECT_NE(ran.out.find(backend + " "), std::string::npos) << ran.out;
    }
}

INSTANTIATE_TEST_SUITE_P(Backends, CliDevice, testing::Values("cuda", "opencl"),
                         [](const auto &info) { return info.param; });

static double real(const json_t *row, const char *name)
{
    const json_t *value = json_object_get(row, name);
    EXPECT_TRUE(json_is_number(value)) << name;
    return json_number_value(value);
}

static JsonOwner decode_json(const Words &more)
{
    Words words = {"decode", "--trace", TRACE, "--threads", "1", "--json", "-"};
    words.insert(words.end(), more.begin(), more.end());
    const Ran ran = run_hattn(words);
    EXPECT_EQ(ran.exit_code, 0) << command_line(words) << "\n" << ran.err;
    return parse_json(ran.out);
}

/* The floor that is found keeps what was asked for, given again it keeps the same, and a higher one less. */
TEST(Cli, FloorsOfDecode)
{
    const Words on_cpu = {"--backend", "cpu", "--maps", "weighted128"};
    const auto with_words = [&](Words words) {
        words.insert(words.end(), on_cpu.begin(), on_cpu.end());
        return decode_json(words);
    };
    const JsonOwner found = with_words({"--mean-rows", "300", "--topk", "1000", "--min-k", "10"});
    const json_t *row = json_array_get(json_object_get(found.get(), "rows"), 0);
    const double floor = real(row, "floor"), error = real(row, "output_error");
    EXPECT_NEAR(real(row, "mean_rows"), 300, 3);
    EXPECT_EQ(real(row, "min_k"), 10);
    EXPECT_EQ(real(row, "topk"), 1000);
    EXPECT_EQ(real(row, "wrong"), 0);
    EXPECT_LT(real(row, "mass"), real(row, "best_mass"));
    char again[40];
    snprintf(again, sizeof(again), "%.9g", floor);
    const JsonOwner given = with_words({"--floor", again, "--topk", "1000", "--min-k", "10"});
    row = json_array_get(json_object_get(given.get(), "rows"), 0);
    EXPECT_EQ(real(row, "floor"), floor);
    EXPECT_EQ(real(row, "output_error"), error);
    const JsonOwner usual = with_words({"--floor", "0.01"});
    row = json_array_get(json_object_get(usual.get(), "rows"), 0);
    EXPECT_EQ(real(row, "topk"), 2048);
    EXPECT_EQ(real(row, "min_k"), 64);
    EXPECT_LT(real(row, "mean_rows"), 100);
    EXPECT_GE(real(row, "mean_rows"), 63); // a query sees fewer keys
    EXPECT_GT(real(row, "output_error"), error);
    const JsonOwner none = with_words({});
    row = json_array_get(json_object_get(none.get(), "rows"), 0);
    EXPECT_EQ(real(row, "floor"), 0);
    EXPECT_GT(real(row, "mean_rows"), 400);
}

/* A tail changes the output alone, and for the better. */
TEST(Cli, TailsOfDecode)
{
    std::vector<JsonOwner> jsons;
    for (const char *tail : {"0", "0.5"})
        jsons.push_back(
            decode_json({"--backend", "cpu", "--maps", "weighted128", "--topk", "128", "--sink", "4", "--tail", tail}));
    const auto figure = [&](int i, const char *name) {
        return real(json_array_get(json_object_get(jsons[i].get(), "rows"), 0), name);
    };
    for (int i = 0; i < 2; i++) {
        EXPECT_EQ(figure(i, "tail"), 0.5 * i);
        EXPECT_EQ(figure(i, "floor"), 0);
        EXPECT_EQ(figure(i, "wrong"), 0);
        for (const char *same : {"recall", "mass", "mean_rows", "best_output_error"})
            EXPECT_EQ(figure(i, same), figure(0, same)) << same;
    }
    EXPECT_LT(figure(1, "output_error"), 0.9 * figure(0, "output_error"));
}

/* Fewer rows of V, of small weight: hardly another output. */
TEST(Cli, SkippedValuesOfDecode)
{
    const Words tail = {"--backend", "cpu", "--maps", "weighted128", "--topk", "512", "--tail", "0.5"};
    std::vector<JsonOwner> jsons;
    for (const Words &more : {Words{}, {"--mean-values", "320"}, {"--vskip", "0.5"}}) {
        Words words = tail;
        words.insert(words.end(), more.begin(), more.end());
        jsons.push_back(decode_json(words));
    }
    const auto figure = [&](int i, const char *name) {
        return real(json_array_get(json_object_get(jsons[i].get(), "rows"), 0), name);
    };
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(figure(i, "wrong"), 0);
        for (const char *same : {"recall", "mass", "mean_rows"})
            EXPECT_EQ(figure(i, same), figure(0, same)) << same;
    }
    EXPECT_EQ(figure(0, "mean_values"), figure(0, "mean_rows"));
    EXPECT_EQ(figure(0, "vskip"), 0);
    EXPECT_NEAR(figure(1, "mean_values"), 320, 0.1);
    EXPECT_NEAR(figure(1, "output_error"), figure(0, "output_error"), 0.02 * figure(0, "output_error"));
    EXPECT_EQ(figure(2, "vskip"), 0.5);
    EXPECT_LT(figure(2, "mean_values"), 1);
    EXPECT_GT(figure(2, "output_error"), 2 * figure(0, "output_error"));
}

/* A backend that has no code for floors, or for tails, or for values that are not read, is left out in words where nobody named it. */
class CliWithout : public testing::TestWithParam<std::vector<std::string>>
{
};

TEST_P(CliWithout, IsLeftOut)
{
    Words words = GetParam();
    words.insert(words.end(), {"--maps", "weighted64"});
    const JsonOwner json = decode_json(words);
    const json_t *rows = json_object_get(json.get(), "rows"), *left_out = json_object_get(json.get(), "left_out");
    EXPECT_GE(json_array_size(rows), 2u);
    for (size_t i = 0; i < json_array_size(rows); i++)
        EXPECT_EQ(real(json_array_get(rows, i), "wrong"), 0);
    for (size_t i = 0; i < json_array_size(left_out); i++) {
        const json_t *one = json_array_get(left_out, i);
        const std::string backend = json_string_value(json_object_get(one, "backend"));
        EXPECT_STREQ(json_string_value(json_object_get(one, "maps")), "weighted64");
        EXPECT_NE(std::string(json_string_value(json_object_get(one, "text"))).find("unsupported"), std::string::npos);
        Words named = {"decode", "--trace", TRACE, "--backend", backend};
        named.insert(named.end(), words.begin(), words.end());
        expect_refusal(named, "map weighted64: " + backend + ": unsupported: ");
    }
}

INSTANTIATE_TEST_SUITE_P(Options, CliWithout,
                         testing::Values(Words{"--floor", "0.001"}, Words{"--tail", "0.5"},
                                         Words{"--tail", "0.5", "--vskip", "0.0001"}));

TEST(Cli, DecodeOptionsReachTheStep)
{
    const Ran ran = run_hattn({"decode",
                               "--trace=examples/layer3.safetensors",
                               "--backend=cpu",
                               "--isa",
                               "scalar",
                               "--maps",
                               "weighted128",
                               "--bits",
                               "64",
                               "--score",
                               "hamming",
                               "--select",
                               "query",
                               "--norms",
                               "--topk",
                               "100",
                               "--sink",
                               "4",
                               "--recent",
                               "8",
                               "--threads",
                               "1",
                               "--json",
                               "-"});
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    JsonOwner json = parse_json(ran.out);
    const json_t *rows = json_object_get(json.get(), "rows");
    ASSERT_EQ(json_array_size(rows), 1u);
    const json_t *row = json_array_get(rows, 0);
    const char *strings[][2] = {
        {"backend", "cpu"}, {"isa", "scalar"}, {"maps", "weighted128"}, {"score", "hamming"}, {"select", "query"}};
    for (const auto &[name, value] : strings)
        EXPECT_STREQ(json_string_value(json_object_get(row, name)), value) << name;
    const std::pair<const char *, int> numbers[] = {{"code_bits", 64}, {"topk", 100},  {"sink", 4},
                                                    {"recent", 8},     {"threads", 1}, {"wrong", 0}};
    for (const auto &[name, value] : numbers)
        EXPECT_EQ(json_integer_value(json_object_get(row, name)), value) << name;
    EXPECT_TRUE(json_is_true(json_object_get(row, "norms")));
    EXPECT_GT(json_real_value(json_object_get(row, "mass")), 0.3);
    EXPECT_LT(json_real_value(json_object_get(row, "mass")), json_real_value(json_object_get(row, "best_mass")));
}
