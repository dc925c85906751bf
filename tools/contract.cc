/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/contract.h"

#include <algorithm>
#include <numeric>

#include "contract/attention.h"
#include "contract/projection.h"

static contract::Projection project(const Lane &oracle, const hattn_map &map, const hattn_map_buffers &buffers,
                                    const float *x, int code_head)
{
    const hattn_problem &problem = oracle.problem();
    const std::vector<double> exact(x, x + problem.head_dim_qk);
    return contract::project(problem, map, buffers, exact.data(), code_head);
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
    const contract::Projection exact = project(oracle, problem.key_map, oracle.key_map(), source.k(kv_head, key), head);
    for (int bit = 0; bit < words * 32; bit++)
        if ((have[bit / 32] ^ want[bit / 32]) >> bit % 32 & 1) {
            const bool allowed = bit < problem.code_bits && contract::bit_may_flip(exact.z[bit], exact.bound[bit]);
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
            const uint16_t have = lane.norm(head, key), want = oracle.norm(head, key);
            const bool allowed = contract::norm_allowed(have, want);
            verdict->flips += allowed && have != want;
            verdict->wrong += !allowed;
        }
}

/* Query heads first..end, together. */
static contract::GroupProjection project_heads(const TruthSource &source, int query, int first, int end,
                                               const Lane &oracle)
{
    const hattn_problem &problem = oracle.problem();
    contract::GroupProjection projection(problem.code_bits);
    for (int h = first; h < end; h++) {
        const int code_head = static_cast<int>(static_cast<int64_t>(h) * problem.num_code_heads / problem.num_q_heads);
        const contract::Projection head =
            project(oracle, problem.query_map, oracle.query_map(), source.q(query, h), code_head);
        projection.add(head.z.data(), head.bound.data());
    }
    return projection;
}

contract::GroupProjection group_projection(const TruthSource &source, int query, int selection_head, const Lane &oracle)
{
    const int group = oracle.problem().num_q_heads / oracle.problem().num_selection_heads;
    return project_heads(source, query, selection_head * group, (selection_head + 1) * group, oracle);
}

/* Weights of a query head by itself, and its step. */
static void judge_head(const TruthSource &source, int query, int head, const Lane &oracle, const EncodedQuery &encoded,
                       const EncodedQuery &expected, Verdict *verdict)
{
    const hattn_problem &problem = oracle.problem();
    const int bits = problem.code_bits;
    const int8_t *have = &encoded.head_weights[static_cast<size_t>(head) * bits],
                 *want = &expected.head_weights[static_cast<size_t>(head) * bits];
    const bool steps_differ = encoded.head_steps[head] != expected.head_steps[head];
    if (std::equal(have, have + bits, want) && !steps_differ)
        return;
    const contract::GroupProjection projection = project_heads(source, query, head, head + 1, oracle);
    std::string why;
    for (int bit = 0; bit < bits; bit++)
        if (have[bit] != want[bit])
            (projection.allows(problem, bit, have[bit], want[bit], &why) ? verdict->flips : verdict->wrong)++;
    if (steps_differ) {
        const bool allowed = projection.allows_step(problem, oracle.head_slope(head), encoded.head_steps[head],
                                                    expected.head_steps[head], &why);
        (allowed ? verdict->flips : verdict->wrong)++;
    }
}

static void judge_query(const TruthSource &source, int query, int selection_head, const Lane &oracle,
                        const EncodedQuery &encoded, const EncodedQuery &expected, Verdict *verdict)
{
    const hattn_problem &problem = oracle.problem();
    const int bits = problem.code_bits;
    const int8_t *have = &encoded.weights[static_cast<size_t>(selection_head) * bits];
    const int8_t *want = &expected.weights[static_cast<size_t>(selection_head) * bits];
    const bool steps_differ =
        !expected.steps.empty() && encoded.steps[selection_head] != expected.steps[selection_head];
    if (std::equal(have, have + bits, want) && !steps_differ)
        return;
    const contract::GroupProjection projection = group_projection(source, query, selection_head, oracle);
    std::string why;
    for (int bit = 0; bit < bits; bit++)
        if (have[bit] != want[bit])
            (projection.allows(problem, bit, have[bit], want[bit], &why) ? verdict->flips : verdict->wrong)++;
    if (steps_differ) {
        const bool allowed = projection.allows_step(
            problem, oracle.slope(selection_head), encoded.steps[selection_head], expected.steps[selection_head], &why);
        (allowed ? verdict->flips : verdict->wrong)++;
    }
}

/* A step's selection head: the positions that were kept, of its query heads the logits, which values are read. */
struct Selection {
    int first_head, num_heads, count;
    const int32_t *positions;
    std::vector<std::vector<contract::Logit>> logits;
    std::vector<contract::Read> reads; /* all, until they are found */

    Selection(const Truth &truth, const hattn_problem &problem, int num_selection_heads, int s,
              const int32_t *positions_, int count_)
        : num_heads(problem.num_q_heads / num_selection_heads), count(count_), positions(positions_)
    {
        first_head = s * num_heads;
        reads.resize(size_t(count));
        for (int h = first_head; h < first_head + num_heads; h++) {
            logits.emplace_back();
            for (int i = 0; i < count; i++)
                logits.back().push_back(
                    {truth.logit(h, positions[i]),
                     contract::logit_error(problem.head_dim_qk, truth.magnitude(h, positions[i]), 0)});
        }
    }

    void find_reads(double min_value_weight)
    {
        std::vector<contract::Attention> heads;
        for (const std::vector<contract::Logit> &of_head : logits)
            heads.emplace_back(of_head);
        reads = contract::reads_of(heads, size_t(count), min_value_weight);
    }
};

/* ln R of a head, from what the reference has selected. */
static contract::Logit tail_of(const hattn_problem &problem, const Selection &selection, int head, int selection_head,
                               const StepResult &selected)
{
    contract::Tail tail;
    const int of = problem.num_candidates ? head : selection_head;
    const auto shares = selected.shares.begin() + static_cast<int64_t>(of) * problem.k;
    tail.shares.assign(shares, shares + selected.counts[selection_head]);
    tail.rest = selected.rests[of];
    return contract::tail_logit(selection.logits[head - selection.first_head], tail, problem.tail);
}

/* True if the head's output and lse are what exact attention over the selection gives, and over a tail, if it is not null; a NaN is not. */
static bool output_allowed(const TruthSource &source, const Truth &truth, const Selection &selection, int head,
                           const contract::Logit *tail, contract::Sums sums, const StepResult &step)
{
    const Trace &trace = source.trace();
    const int kv_head = head / (trace.num_q_heads / trace.num_kv_heads);
    std::vector<contract::Logit> logits = selection.logits[head - selection.first_head];
    if (tail && tail->value != -INFINITY)
        logits.push_back(*tail);
    const contract::Attention attention(logits);
    std::vector<double> values(trace.head_dim_v);
    const double *mean = truth.mean_value(kv_head);
    const auto of_cache = [&](size_t i) -> const double * {
        const float *v = source.v(kv_head, selection.positions[i]);
        std::copy(v, v + trace.head_dim_v, values.begin());
        return values.data();
    };
    const auto value = [&](size_t i) {
        return i < size_t(selection.count) && selection.reads[i].is_read ? of_cache(i) : mean;
    };
    const auto other = [&](size_t i) -> const double * {
        if (i == size_t(selection.count) || !selection.reads[i].may_turn)
            return nullptr;
        return selection.reads[i].is_read ? mean : of_cache(i);
    };
    const contract::Columns exact = attention.columns(trace.head_dim_v, value, other);
    for (int x = 0; x < trace.head_dim_v; x++)
        if (!contract::within(step.out[static_cast<size_t>(head) * trace.head_dim_v + x], exact.exact(x),
                              exact.tolerance(x, sums, HATTN_F32), HATTN_F32))
            return false;
    return contract::within(step.lse[head], attention.lse(), attention.lse_tolerance(sums), HATTN_F32);
}

static contract::Sums sums_of(const Lane &lane)
{
    return contract::sums_of(lane.device().device().info().backend, lane.problem().q.dtype);
}

void judge_step(const TruthSource &source, const Truth &truth, int query, const Lane &lane, const Lane &oracle,
                const StepResult &step, const EncodedQuery &expected, Verdict *verdict)
{
    const hattn_problem &problem = oracle.problem();
    const StepResult selected = oracle.select(query, step.encoded, lane);
    const int group = problem.num_q_heads / problem.num_selection_heads;
    for (int s = 0; s < problem.num_selection_heads; s++) {
        judge_query(source, query, s, oracle, step.encoded, expected, verdict);
        for (int h = s * group; problem.num_candidates && h < (s + 1) * group; h++)
            judge_head(source, query, h, oracle, step.encoded, expected, verdict);
        const size_t begin = static_cast<size_t>(s) * problem.k;
        const bool same = step.counts[s] == selected.counts[s] &&
                          std::equal(&step.indices[begin], &step.indices[begin] + problem.k, &selected.indices[begin]);
        verdict->wrong += !same;
        if (!same)
            continue;
        Selection selection(truth, problem, problem.num_selection_heads, s, &step.indices[begin], step.counts[s]);
        if (problem.min_value_weight > 0)
            selection.find_reads(problem.min_value_weight);
        for (int h = s * group; h < (s + 1) * group; h++) {
            contract::Logit tail = {-INFINITY, 0};
            if (problem.tail > 0)
                tail = tail_of(problem, selection, h, s, selected);
            verdict->wrong += !output_allowed(source, truth, selection, h, &tail, sums_of(lane), step);
        }
    }
}

void judge_dense(const TruthSource &source, const Truth &truth, const Lane &lane, const StepResult &dense,
                 Verdict *verdict)
{
    std::vector<int32_t> all(truth.length());
    std::iota(all.begin(), all.end(), 0);
    for (int h = 0; h < source.trace().num_q_heads; h++) {
        const Selection selection(truth, lane.problem(), source.trace().num_q_heads, h, all.data(), truth.length());
        verdict->wrong += !output_allowed(source, truth, selection, h, nullptr, sums_of(lane), dense);
    }
}
