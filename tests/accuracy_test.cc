/* SPDX-License-Identifier: Apache-2.0
 * hattn decode on the real traces gives the figures of examples/ACCURACY.tsv, on every backend that has a device.
 */
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/run_hattn.h"

struct Expected {
    std::string trace, map, score, select;
    int bits = 0, topk = 0, sink = 0, recent = 0, candidates = 0, mean_rows = 0, mean_values = 0;
    double floor = 0, tail = 0, recall = 0, mass = 0, error = 0, best_mass = 0, best_error = 0;
};

static double number(const std::string &word) { return word == "nan" ? NAN : std::stod(word); }

static std::vector<Expected> read_expected()
{
    std::ifstream in("examples/ACCURACY.tsv");
    std::vector<Expected> list;
    std::string line;
    bool header = true;
    while (std::getline(in, line)) {
        if (line.empty() || line[0] == '#')
            continue;
        if (!header) {
            std::istringstream words(line);
            Expected e;
            std::string figures[5];
            words >> e.trace >> e.map >> e.score >> e.select >> e.bits >> e.topk >> e.sink >> e.recent >>
                e.candidates >> e.mean_rows >> e.floor >> e.tail >> e.mean_values;
            for (std::string &figure : figures)
                words >> figure;
            e.recall = number(figures[0]);
            e.mass = number(figures[1]);
            e.error = number(figures[2]);
            e.best_mass = number(figures[3]);
            e.best_error = number(figures[4]);
            list.push_back(e);
        }
        header = false;
    }
    return list;
}

static std::string number_name(double number)
{
    std::ostringstream text;
    text << number;
    return text.str();
}

/* Rows that one run of the command gives. */
static std::vector<std::vector<Expected>> runs()
{
    std::map<std::string, std::vector<Expected>> groups;
    for (const Expected &e : read_expected())
        groups[e.trace + "_" + std::to_string(e.topk) + "_" + std::to_string(e.sink) + "_" +
               std::to_string(e.candidates) + "_" + std::to_string(e.mean_rows) + "_" + number_name(e.floor) + "_" +
               std::to_string(e.tail) + "_" + std::to_string(e.mean_values)]
            .push_back(e);
    std::vector<std::vector<Expected>> list;
    for (const auto &[name, group] : groups)
        list.push_back(group);
    return list;
}

static void PrintTo(const Expected &e, std::ostream *out)
{
    *out << e.trace << " " << e.map << " k " << e.topk << " candidates " << e.candidates << " rows " << e.mean_rows
         << " tail " << e.tail << " values " << e.mean_values;
}

class Accuracy : public testing::TestWithParam<std::vector<Expected>>
{
};

static double real(const json_t *row, const char *name)
{
    const json_t *value = json_object_get(row, name);
    EXPECT_TRUE(json_is_number(value)) << name;
    return json_number_value(value);
}

static std::string text(const json_t *row, const char *name)
{
    const char *value = json_string_value(json_object_get(row, name));
    EXPECT_NE(value, nullptr) << name;
    return value ? value : "";
}

static void check_row(const json_t *row, const Expected &e)
{
    const double close = 0.002;
    EXPECT_EQ(text(row, "maps"), e.map);
    EXPECT_EQ(text(row, "score"), e.score);
    EXPECT_EQ(text(row, "select"), e.select);
    EXPECT_EQ(real(row, "code_bits"), e.bits);
    EXPECT_EQ(real(row, "topk"), e.topk);
    EXPECT_EQ(real(row, "floor") > 0, e.mean_rows > 0);
    EXPECT_EQ(real(row, "tail"), e.tail);
    if (e.mean_rows) {
        EXPECT_NEAR(real(row, "mean_rows"), e.mean_rows, 2); // one score more or less is many tokens
    }
    EXPECT_EQ(real(row, "vskip") > 0, e.mean_values > 0);
    EXPECT_NEAR(real(row, "mean_values"), e.mean_values ? e.mean_values : real(row, "mean_rows"), 0.1);
    EXPECT_NEAR(real(row, "recall"), e.recall, close);
    EXPECT_NEAR(real(row, "mass"), e.mass, close);
    EXPECT_NEAR(real(row, "output_error"), e.error, close);
    if (!std::isnan(e.best_mass)) {
        EXPECT_NEAR(real(row, "best_mass"), e.best_mass, close);
        EXPECT_NEAR(real(row, "best_output_error"), e.best_error, close);
    }
    EXPECT_EQ(real(row, "wrong"), 0);
    EXPECT_GT(real(row, "step_us"), 0);
    EXPECT_GT(real(row, "dense_us"), 0);
    EXPECT_NEAR(real(row, "speedup"), real(row, "dense_us") / real(row, "step_us"), 1e-6 * real(row, "speedup"));
}

/* Score and selection are left to the command's defaults: they are what the file says. */
static void check_backends(const std::vector<Expected> &group, const std::vector<std::string> &backends,
                           const std::string &option)
{
    std::string maps;
    for (const Expected &e : group)
        maps += (maps.empty() ? "" : ",") + e.map;
    const Expected &first = group[0];
    std::vector<std::string> args = {"decode",
                                     "--trace",
                                     "examples/" + first.trace + ".safetensors",
                                     "--maps",
                                     maps,
                                     "--topk",
                                     std::to_string(first.topk),
                                     "--sink",
                                     std::to_string(first.sink),
                                     first.floor > 0 ? "--floor" : "--mean-rows",
                                     first.floor > 0 ? number_name(first.floor) : std::to_string(first.mean_rows),
                                     "--tail",
                                     std::to_string(first.tail),
                                     "--mean-values",
                                     std::to_string(first.mean_values),
                                     "--recent",
                                     std::to_string(first.recent),
                                     "--threads",
                                     "1",
                                     "--backend",
                                     option,
                                     "--json",
                                     "-"};
    if (first.candidates)
        args.insert(args.end(), {"--per-head", "--candidates", std::to_string(first.candidates)});
    const Ran ran = run_hattn(args);
    EXPECT_EQ(ran.exit_code, 0);
    EXPECT_EQ(ran.err, "");
    JsonOwner json = parse_json(ran.out);
    const json_t *rows = json_object_get(json.get(), "rows");
    for (const std::string &backend : backends)
        for (const Expected &e : group) {
            SCOPED_TRACE(backend + " " + e.map);
            const json_t *found = nullptr;
            for (size_t i = 0; i < json_array_size(rows); i++) {
                const json_t *row = json_array_get(rows, i);
                if (text(row, "backend") == backend && text(row, "maps") == e.map)
                    found = row;
            }
            ASSERT_NE(found, nullptr);
            check_row(found, e);
        }
}

/* One run for all backends, as their devices, queues and memory meet in a user's. */
TEST_P(Accuracy, AsPublished)
{
    std::vector<std::string> backends = {"cpu", "reference"};
    for (const char *name : {"cuda", "opencl"})
        if (why_no_device(name).empty())
            backends.push_back(name);
    check_backends(GetParam(), backends, "all");
}

TEST(AccuracyFile, HasEveryMapAndBudget)
{
    EXPECT_EQ(read_expected().size(), 69u);
    EXPECT_EQ(runs().size(), 37u);
}

INSTANTIATE_TEST_SUITE_P(Traces, Accuracy, testing::ValuesIn(runs()), [](const auto &info) {
    const Expected &e = info.param[0];
    return e.trace + "_k" + std::to_string(e.topk) + "_sink" + std::to_string(e.sink) + "_rows" +
           std::to_string(e.mean_rows) + (e.tail > 0 ? "_tail" : "") + (e.candidates ? "_heads" : "") +
           (e.mean_values ? "_values" + std::to_string(e.mean_values) : "");
});
