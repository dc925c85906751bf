/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/contract.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "reference/reference.h"

static const double GROWTH_F16 = 0x1p9, GROWTH_BF16 = 0x1p12; /* of every tolerance, over that of an fp32 q */

static double tolerance(int32_t q_dtype, double of_f32)
{
    return q_dtype == HATTN_F16 ? of_f32 * GROWTH_F16 : q_dtype == HATTN_BF16 ? of_f32 * GROWTH_BF16 : of_f32;
}

struct Projection {
    std::vector<double> z, bound;
};

static Projection project(const Lane &oracle, const hattn_map &map, const hattn_map_buffers &buffers, const float *x,
                          int code_head)
{
    const hattn_problem &problem = oracle.problem();
    std::vector<double> exact(x, x + problem.head_dim_qk);
    Projection result = {std::vector<double>(problem.code_bits), std::vector<double>(problem.code_bits)};
    hattn_reference_project(&problem, &map, &buffers, exact.data(), code_head, result.z.data(), result.bound.data());
    return result;
}

static void judge_code(const TruthSource &source, const Lane &lane, const Lane &oracle, int head, int64_t key,
                       Verdict *verdict)
{
    const hattn_problem &problem = oracle.problem();
    const uint32_t *have = lane.code(head, key), *want = oracle.code(head, key);
    const int words = (problem.code_bits + 31) / 32;
    if (std::equal(have, have + words, want))
        return;
    const int kv_head = static_cast<int>(static_cast<int64_t>(head) * problem.num_kv_heads / problem.num_code_heads);
    const Projection exact = project(oracle, problem.key_map, oracle.key_map(), source.k(kv_head, key), head);
    for (int bit = 0; bit < words * 32; bit++)
        if ((have[bit / 32] ^ want[bit / 32]) >> bit % 32 & 1) {
            const bool allowed = bit < problem.code_bits && std::fabs(exact.z[bit]) <= exact.bound[bit];
            (allowed ? verdict->flips : verdict->wrong)++;
        }
}

void judge_keys(const TruthSource &source, const Lane &lane, const Lane &oracle, Verdict *verdict)
{
    const hattn_problem &problem = oracle.problem();
    for (int head = 0; head < problem.num_code_heads; head++)
        for (int64_t key = 0; key < problem.max_length; key++) {
            judge_code(source, lane, oracle, head, key, verdict);
            if (!problem.key_norms)
                continue;
            const int ulps = std::abs(static_cast<int>(lane.norm(head, key)) - oracle.norm(head, key));
            verdict->flips += ulps == 1;
            verdict->wrong += ulps > 1;
        }
}

/* A head's sign may differ where its z is nearer to 0 than the bound: each such head moves the weight by one step. */
static bool hamming_allowed(const std::vector<Projection> &heads, int bit, int difference)
{
    const int step = heads.size() % 2 ? 2 : 1;
    int movable = 0;
    for (const Projection &head : heads)
        movable += std::fabs(head.z[bit]) <= head.bound[bit];
    return difference <= movable * step;
}

struct Sums {
    std::vector<double> u, bound;
    double largest = 0, largest_bound = 0;
};

static Sums sum_heads(const std::vector<Projection> &heads)
{
    Sums sums;
    for (size_t bit = 0; bit < heads[0].z.size(); bit++) {
        double u = 0, bound = 0;
        for (const Projection &head : heads) {
            u += head.z[bit];
            bound += head.bound[bit];
        }
        sums.u.push_back(u);
        sums.bound.push_back(bound);
        sums.largest = std::max(sums.largest, std::fabs(u));
        sums.largest_bound = std::max(sums.largest_bound, bound);
    }
    return sums;
}

/* A weight may differ by 1 where the tie between the two is nearer than the roundings of u and of max|u| can move it. */
static bool weighted_allowed(const hattn_problem &problem, const Sums &sums, int bit, int weight, int difference)
{
    const double qmax = (1 << (problem.weight_bits - 1)) - 1;
    const double scaled = sums.u[bit] * qmax / sums.largest;
    const double tie = std::fabs(std::fabs(scaled - std::floor(scaled)) - 0.5);
    const double reach = (sums.bound[bit] * qmax + std::abs(weight) * sums.largest_bound) / sums.largest;
    return difference == 1 && tie <= reach;
}

static void judge_weights(const TruthSource &source, int query, int selection_head, const Lane &oracle,
                          const StepResult &step, const std::vector<int8_t> &expected, Verdict *verdict)
{
    const hattn_problem &problem = oracle.problem();
    const int bits = problem.code_bits, group = problem.num_q_heads / problem.num_selection_heads;
    const int8_t *have = &step.weights[static_cast<size_t>(selection_head) * bits];
    const int8_t *want = &expected[static_cast<size_t>(selection_head) * bits];
    if (std::equal(have, have + bits, want))
        return;
    std::vector<Projection> heads;
    for (int h = selection_head * group; h < (selection_head + 1) * group; h++) {
        const int code_head = static_cast<int>(static_cast<int64_t>(h) * problem.num_code_heads / problem.num_q_heads);
        heads.push_back(project(oracle, problem.query_map, oracle.query_map(), source.q(query, h), code_head));
    }
    const Sums sums = sum_heads(heads);
    for (int bit = 0; bit < bits; bit++) {
        const int difference = std::abs(have[bit] - want[bit]);
        if (!difference)
            continue;
        const bool allowed = problem.score_kind == HATTN_SCORE_WEIGHTED
                                 ? weighted_allowed(problem, sums, bit, want[bit], difference)
                                 : hamming_allowed(heads, bit, difference);
        (allowed ? verdict->flips : verdict->wrong)++;
    }
}

/* True if the head's output and lse are what exact attention over the positions gives; a NaN is not. */
static bool output_allowed(const TruthSource &source, const Truth &truth, int head, const int32_t *positions, int count,
                           const StepResult &step)
{
    const Trace &trace = source.trace();
    double lse = 0;
    const std::vector<double> exact = truth.attend(head, positions, count, &lse);
    const int kv_head = head / (trace.num_q_heads / trace.num_kv_heads);
    const double slack = tolerance(trace.q_dtype, 0x1p-18) * truth.max_value(kv_head, positions, count);
    for (int x = 0; x < trace.head_dim_v; x++)
        if (!(std::fabs(step.out[static_cast<size_t>(head) * trace.head_dim_v + x] - exact[x]) <= slack))
            return false;
    const double lse_slack = tolerance(trace.q_dtype, 0x1p-16) * std::max(1.0, truth.max_logit(head, positions, count));
    return std::fabs(step.lse[head] - lse) <= lse_slack;
}

void judge_step(const TruthSource &source, const Truth &truth, int query, const Lane &lane, const Lane &oracle,
                const StepResult &step, const std::vector<int8_t> &expected, Verdict *verdict)
{
    const hattn_problem &problem = oracle.problem();
    const StepResult selected = oracle.select(query, step.weights, lane);
    const int group = problem.num_q_heads / problem.num_selection_heads;
    for (int s = 0; s < problem.num_selection_heads; s++) {
        judge_weights(source, query, s, oracle, step, expected, verdict);
        const size_t begin = static_cast<size_t>(s) * problem.k;
        const bool same = step.counts[s] == selected.counts[s] &&
                          std::equal(&step.indices[begin], &step.indices[begin] + problem.k, &selected.indices[begin]);
        verdict->wrong += !same;
        for (int h = s * group; same && h < (s + 1) * group; h++)
            verdict->wrong += !output_allowed(source, truth, h, &step.indices[begin], step.counts[s], step);
    }
}

void judge_dense(const TruthSource &source, const Truth &truth, const StepResult &dense, Verdict *verdict)
{
    std::vector<int32_t> all(truth.length());
    std::iota(all.begin(), all.end(), 0);
    for (int h = 0; h < source.trace().num_q_heads; h++)
        verdict->wrong += !output_allowed(source, truth, h, all.data(), truth.length(), dense);
}
