/* SPDX-License-Identifier: Apache-2.0
 * What the problems have in common: every value of every feature is in the list, and every pair of values that can be is in the list or among the
 * random problems that random_test runs. This is what breaks when either shrinks.
 */
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <set>

#include "problems/problems.h"
#include "problems/shape.h"

namespace problems {
namespace {

/* As many as random_test runs without options. */
const int NUM_RANDOM = 100, NUM_SMALL = 1000;

struct Feature {
    const char *name;
    std::vector<std::string> values;
    std::function<std::string(const Problem &)> of;
};

std::string yes(bool value) { return value ? "yes" : "no"; }

std::string dtype(int32_t value)
{
    return value == HATTN_F32 ? "f32" : value == HATTN_F16 ? "f16" : value == HATTN_BF16 ? "bf16" : "f8";
}

std::string k_class(const Problem &p)
{
    const int selected = std::min(p.k, longest_length(p));
    return selected > 256 ? ">256" : selected > 64 ? "65-256" : "<=64";
}

std::string pages(const Problem &p)
{
    const bool is_power = (p.page_size & (p.page_size - 1)) == 0;
    return !p.page_size ? "none" : p.page_size == 1 ? "one" : is_power ? "2^n" : "odd";
}

std::string pattern(const Problem &p)
{
    /* Those behind them are about single numbers: numeric_problems.cc has each with what it needs. */
    const std::vector<std::string> names = {"random",    "zero",    "equal",    "alternating",
                                            "clustered", "by time", "overflow", "nan"};
    return size_t(p.pattern) < names.size() ? names[size_t(p.pattern)] : names[0];
}

std::string strides(const Problem &p)
{
    const char *names[] = {"compact", "padded", "odd", "token", "head", "broadcast"};
    return names[static_cast<int>(p.strides)];
}

std::string dims(const Problem &p)
{
    const int v = p.head_dim_v ? p.head_dim_v : p.head_dim_qk;
    return p.v_inside_k ? "v in k" : v != p.head_dim_qk ? "differ" : p.head_dim_qk % 16 ? "d odd" : "same";
}

std::string forced(const Problem &p)
{
    return p.num_sink && p.num_recent ? "both" : p.num_sink ? "sinks" : p.num_recent ? "recents" : "none";
}

std::string budgets(const Problem &p)
{
    const char *names[] = {"none", "each", "sequence", "head", "one"};
    return names[static_cast<int>(p.budgets)];
}

std::string scores(const Problem &p)
{
    return p.score_kind == HATTN_SCORE_HAMMING ? "hamming"
           : p.weight_bits < 4                 ? "2-3"
           : p.weight_bits < 6                 ? "4-5"
                                               : "6-8";
}

std::string rows(const Problem &p)
{
    return p.padding_rows ? "padded" : !p.q_lens.empty() ? "ragged" : p.q_len > 1 ? "several" : "one";
}

std::string scales(const Problem &p)
{
    return p.kv_scales == Scales::NONE ? "none" : p.kv_scales == Scales::ONE ? "one" : "per head";
}

const std::vector<Feature> features = {
    {"q", {"f32", "f16", "bf16"}, [](const Problem &p) { return dtype(p.q_dtype); }},
    {"kv", {"f32", "f16", "bf16", "f8"}, [](const Problem &p) { return dtype(p.kv_dtype); }},
    {"out",
     {"wider", "as q"},
     [](const Problem &p) { return p.out_dtype && p.out_dtype != p.q_dtype ? "wider" : "as q"; }},
    {"map",
     {"mlp", "own dtype", "linear"},
     [](const Problem &p) { return p.map_kind == HATTN_MAP_MLP ? "mlp"
                                   : p.map_dtype               ? "own dtype"
                                                               : "linear"; }},
    {"group", {"1", "even", "odd"}, [](const Problem &p) { return p.group == 1  ? "1"
                                                                  : p.group % 2 ? "odd"
                                                                                : "even"; }},
    {"heads",
     {"shared", "selections", "codes"},
     [](const Problem &p) {
         return p.codes_per_query_head ? "codes" : p.selections_per_query_head ? "selections" : "shared";
     }},
    {"k", {"<=64", "65-256", ">256"}, k_class},
    {"pages", {"none", "one", "2^n", "odd"}, pages},
    {"strides", {"compact", "padded", "odd", "token", "head", "broadcast"}, strides},
    {"pattern", {"random", "zero", "equal", "alternating", "clustered", "by time", "overflow", "nan"}, pattern},
    {"dims", {"same", "differ", "v in k", "d odd"}, dims},
    {"words",
     {"2^n", "other"},
     [](const Problem &p) {
         const int words = (p.code_bits + 31) / 32;
         return words & (words - 1) || p.code_bits % 32 ? "other" : "2^n";
     }},
    {"scores", {"hamming", "2-3", "4-5", "6-8"}, scores},
    {"norms", {"yes", "no"}, [](const Problem &p) { return yes(p.key_norms); }},
    {"floor", {"yes", "no"}, [](const Problem &p) { return yes(p.min_probability > 0); }},
    {"tail", {"yes", "no"}, [](const Problem &p) { return yes(p.tail > 0); }},
    {"values skipped", {"yes", "no"}, [](const Problem &p) { return yes(p.min_value_weight > 0); }},
    {"candidates", {"yes", "no"}, [](const Problem &p) { return yes(p.num_candidates > 0); }},
    {"bias", {"yes", "no"}, [](const Problem &p) { return yes(p.key_bias); }},
    {"rows", {"one", "several", "ragged", "padded"}, rows},
    {"append", {"yes", "no"}, [](const Problem &p) { return yes(p.append); }},
    {"forced", {"none", "sinks", "recents", "both"}, forced},
    {"budgets", {"none", "each", "sequence", "head", "one"}, budgets},
    {"soft cap", {"yes", "no"}, [](const Problem &p) { return yes(p.soft_cap > 0); }},
    {"sink logits", {"yes", "no"}, [](const Problem &p) { return yes(p.sink_logits); }},
    {"scales", {"none", "one", "per head"}, scales},
    {"host", {"yes", "no"}, [](const Problem &p) { return yes(p.kv_on_host); }},
};

using Value = std::pair<int, int>; /* feature, value */
using Pair = std::pair<Value, Value>;

std::vector<Value> values_of(const Problem &problem)
{
    std::vector<Value> values;
    for (int f = 0; f < static_cast<int>(features.size()); f++) {
        const std::string value = features[f].of(problem);
        const auto found = std::find(features[f].values.begin(), features[f].values.end(), value);
        if (found == features[f].values.end())
            throw std::logic_error(std::string(features[f].name) + " has no value " + value);
        values.push_back({f, int(found - features[f].values.begin())});
    }
    return values;
}

std::string text(const Value &value)
{
    return std::string(features[value.first].name) + " " + features[value.first].values[value.second];
}

/* Scales are fp8's alone, groups of one have no heads of their own to select for, an output that is fp32 as q is cannot be wider, and scores with
 * norms are no probabilities; nor have single query heads any but weighted scores. Where values are skipped a tail has
 * their mean. */
bool is_impossible(const Pair &pair)
{
    const std::string a = text(pair.first), b = text(pair.second);
    const bool scaled = b == "scales one" || b == "scales per head";
    return (scaled && (a == "kv f32" || a == "kv f16" || a == "kv bf16")) || (a == "q f32" && b == "out wider") ||
           (a == "norms yes" &&
            (b == "floor yes" || b == "tail yes" || b == "candidates yes" || b == "values skipped yes")) ||
           (a == "tail no" && b == "values skipped yes") || (a == "scores hamming" && b == "candidates yes");
}

std::vector<Problem> listed_problems()
{
    std::vector<Problem> listed;
    for (const Problem &problem : all_problems())
        if (problem.tag != Tag::BENCH)
            listed.push_back(problem);
    return listed;
}

TEST(Coverage, EveryValueIsListed)
{
    const std::vector<Problem> listed = listed_problems();
    EXPECT_GE(listed.size(), 270u) << "problems are lost";
    std::map<Value, int> count;
    std::map<std::string, int> names;
    for (const Problem &problem : listed) {
        EXPECT_EQ(names[problem.name]++, 0) << problem.name << " is there twice";
        for (const Value &value : values_of(problem))
            count[value]++;
    }
    for (int f = 0; f < static_cast<int>(features.size()); f++)
        for (int v = 0; v < static_cast<int>(features[f].values.size()); v++)
            EXPECT_GT(count[(Value{f, v})], 0) << text({f, v}) << " is in no problem of the list";
}

TEST(Coverage, EveryPairIsThere)
{
    std::vector<Problem> all = listed_problems();
    for (int seed = 1; seed <= NUM_RANDOM; seed++)
        all.push_back(random_problem(seed));
    for (int seed = 1; seed <= NUM_SMALL; seed++)
        all.push_back(small_problem(seed));
    std::set<Pair> seen;
    for (const Problem &problem : all) {
        const std::vector<Value> values = values_of(problem);
        for (size_t i = 0; i < values.size(); i++)
            for (size_t j = i + 1; j < values.size(); j++)
                seen.insert({values[i], values[j]});
    }
    int possible = 0;
    std::string missing;
    for (int f = 0; f < static_cast<int>(features.size()); f++)
        for (int v = 0; v < static_cast<int>(features[f].values.size()); v++)
            for (int g = f + 1; g < static_cast<int>(features.size()); g++)
                for (int w = 0; w < static_cast<int>(features[g].values.size()); w++) {
                    const Pair pair = {{f, v}, {g, w}};
                    if (is_impossible(pair)) {
                        EXPECT_EQ(seen.count(pair), 0u) << text({f, v}) << " with " << text({g, w}) << " is possible";
                        continue;
                    }
                    possible++;
                    if (!seen.count(pair))
                        missing += "  " + text({f, v}) + " with " + text({g, w}) + "\n";
                }
    printf("%zu problems, %d possible pairs\n", all.size(), possible);
    EXPECT_EQ(missing, "") << "no problem has these together: add one to the list";
}

} // namespace
} // namespace problems
