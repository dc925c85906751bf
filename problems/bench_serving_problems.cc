/* SPDX-License-Identifier: Apache-2.0
 * What a server has and the shapes of bench_problems.cc have not: keys that are like their neighbours, and plans that are
 * larger than what they run at the moment.
 */
#include <algorithm>
#include <cmath>

#include "problems/problems.h"

namespace problems {
namespace {

const int MAX_LENGTH = 131072;
/* K and V of 34 GiB at 8 heads of fp16, d 128: more sequences of full length share pages, which no cache holds all the same. */
const int64_t POOL_KEYS = int64_t(64) * MAX_LENGTH;

/* The reference holds until the next one is added. */
Problem &add_key_problem(std::vector<Problem> *all, const std::string &base, const std::string &suffix)
{
    Problem problem = *std::find_if(all->begin(), all->end(), [&](const Problem &p) { return p.name == base; });
    problem.name += suffix;
    problem.set = "keys";
    problem.baseline = base;
    all->push_back(problem);
    return all->back();
}

Problem plan_problem(const std::string &name, int max_sequences, const std::vector<int> &lengths)
{
    Problem p;
    p.name = name;
    p.tag = Tag::BENCH;
    p.set = "plans";
    p.num_kv_heads = 8;
    p.group = 4;
    p.head_dim_qk = 128;
    p.page_size = 64;
    p.k = 2048;
    p.num_tokens = 4096;
    p.slot_mapping = false;
    p.lengths = lengths;
    p.max_sequences = max_sequences;
    p.max_length = MAX_LENGTH;
    p.pool_keys = POOL_KEYS;
    return p;
}

/* All rows of the plan are launched, those that are not there as sequences of length 0. */
Problem padded(Problem p)
{
    p.name += "_padded";
    p.lengths.resize(size_t(p.max_sequences), 0);
    return p;
}

/* Given by q_start; the plan's other rows are launched behind it. */
Problem ragged(Problem p)
{
    p.name += "_ragged";
    p.q_lens.assign(p.lengths.size(), 1);
    p.padding_rows = p.max_sequences - int(p.lengths.size());
    return p;
}

/* Log-uniform from 1K to 128K: the middles of equal parts, in an order that does not rise. */
std::vector<int> mixed_lengths(int num)
{
    std::vector<int> lengths;
    for (int i = 0; i < num; i++)
        lengths.push_back(int(std::lround(1024 * std::pow(128, (i * 37 % num + 0.5) / num))));
    return lengths;
}

std::string kib(int length) { return std::to_string(length / 1024) + "k"; }

} // namespace

void add_key_problems(std::vector<Problem> *all)
{
    for (const char *base : {"S2", "S3", "S4", "S6"}) {
        for (int run_length : {4, 16, 64, 256}) {
            Problem &p = add_key_problem(all, base, "_runs" + std::to_string(run_length));
            p.codes = Codes::RUNS;
            p.run_length = run_length;
        }
        for (const char *layer : {"3", "5"}) {
            Problem &p = add_key_problem(all, base, std::string("_trace") + layer);
            p.codes = Codes::TRACE;
            p.trace = std::string("layer") + layer;
        }
    }
    for (bool first_alone : {false, true}) {
        const std::string suffix = first_alone ? "_first_alone" : "";
        Problem &apart = add_key_problem(all, "S4", "_sampled_apart" + suffix);
        apart.codes = Codes::SAMPLED_APART;
        apart.first_alone = first_alone;
        Problem &ties = add_key_problem(all, "S4", "_ties" + suffix);
        ties.codes = Codes::EQUAL;
        ties.first_alone = first_alone;
    }
    add_key_problem(all, "S4_weighted", "_nan").nan_query = true; /* weights of 0, so that all scores tie */
    add_key_problem(all, "S4_weighted", "_norms").key_norms = true;
    add_key_problem(all, "S4_weighted_norms", "_outlier").outlier_norm = true;
    add_key_problem(all, "S4_weighted_norms", "_ties").codes = Codes::EQUAL;
    add_key_problem(all, "S4_weighted_norms", "_nan").nan_query = true;
}

void add_plan_problems(std::vector<Problem> *all)
{
    for (int length : {1024, 8192, 32768, MAX_LENGTH})
        for (int rows : {1, 4, 8, 64, 256}) {
            const std::vector<int> lengths(size_t(rows), length);
            const std::string work = "rows" + std::to_string(rows) + "_" + kib(length);
            Problem exact = plan_problem("exact_" + work, rows, lengths);
            exact.max_length = length;
            all->push_back(exact);
            for (int plan : {8, 64, 256}) {
                if (rows != 1 && rows != 4 && rows != plan)
                    continue;
                Problem p = plan_problem("plan" + std::to_string(plan) + "_" + work, plan, lengths);
                p.baseline = exact.name;
                all->push_back(p);
                if (rows < plan)
                    all->push_back(padded(p));
                if (rows == 4)
                    all->push_back(ragged(p));
            }
        }
    const Problem mixed = plan_problem("plan64_mixed", 64, mixed_lengths(64));
    Problem larger = mixed;
    larger.name = "plan256_mixed";
    larger.max_sequences = 256;
    larger.baseline = mixed.name;
    Problem by_start = ragged(mixed);
    by_start.baseline = mixed.name;
    all->insert(all->end(), {mixed, by_start, larger, padded(larger), ragged(larger)});
}

} // namespace problems
