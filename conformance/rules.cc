/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/rules.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include "contract/attention.h"
#include "contract/flips.h"
#include "contract/projection.h"
#include "reference/reference.h"

namespace conformance {
namespace {

const int MAX_DIM = 576;

std::string number(const char *what, double value)
{
    char text[64];
    snprintf(text, sizeof(text), "%s %.6g", what, value);
    return text;
}

/* What out and lse of one head of a row are in double. */
struct Truth {
    contract::Attention attention;
    contract::Columns columns;
};

/* The mean of a row's values, scaled. */
void mean_value(const Instance &instance, int row, int g, double *mean)
{
    const int length = instance.rows[row].length;
    const double scale = instance.kv_scale(instance.v_scale, g);
    std::vector<int64_t> sums(instance.shape.head_dim_v);
    const int first = instance.first_unsummed(instance.rows[row].sequence, g, length);
    for (int i = 0; first && i < instance.shape.head_dim_v; i++)
        sums[i] = instance.value_sums.value<int64_t>({instance.state_of(instance.rows[row].sequence), g, i});
    for (int j = first; j < length; j++) {
        double x[MAX_DIM];
        load_scaled(instance.v_cache, instance.cache_index(instance.rows[row].sequence, j, g), 1, x);
        for (int i = 0; i < instance.shape.head_dim_v; i++)
            sums[i] += std::isnan(x[i]) ? 0 : std::llrint(std::clamp(x[i], -65536.0, 65536.0) * 0x1p24);
    }
    for (int i = 0; i < instance.shape.head_dim_v; i++)
        mean[i] = static_cast<double>(sums[i]) * 0x1p-24 / length * scale;
}

std::vector<contract::Logit> logits_of(const Instance &instance, const std::vector<int> &positions, int row, int h)
{
    const hattn_problem &shape = instance.shape;
    const int g = instance.kv_head_of_query(h), sequence = instance.rows[row].sequence;
    double q[MAX_DIM], x[MAX_DIM];
    load_scaled(instance.q, {row, h}, shape.scale, q);
    std::vector<contract::Logit> logits;
    for (int j : positions) {
        load_scaled(instance.k_cache, instance.cache_index(sequence, j, g), instance.kv_scale(instance.k_scale, g), x);
        double dot = 0, magnitude = 0;
        for (int i = 0; i < shape.head_dim_qk; i++) {
            dot += q[i] * x[i];
            magnitude += std::fabs(q[i] * x[i]);
        }
        const bool capped = shape.soft_cap > 0;
        dot = capped ? shape.soft_cap * std::tanh(dot / shape.soft_cap) : dot;
        logits.push_back({dot, contract::logit_error(shape.head_dim_qk, magnitude, capped ? std::fabs(dot) : 0)});
    }
    return logits;
}

double sink_of(const Instance &instance, int h)
{
    return instance.sink_logits ? instance.sink_logits.load({h}) : -INFINITY;
}

Truth attend(const Instance &instance, const std::vector<int> &positions, const Tails &tails, int row, int h)
{
    const hattn_problem &shape = instance.shape;
    const int g = instance.kv_head_of_query(h), sequence = instance.rows[row].sequence;
    double x[MAX_DIM], mean[MAX_DIM];
    std::vector<contract::Logit> logits = logits_of(instance, positions, row, h);
    std::vector<contract::Read> reads(positions.size());
    if (tails && !positions.empty()) {
        mean_value(instance, row, g, mean);
        reads = value_reads(instance, positions, row, instance.selection_head_of_query(h));
        const contract::Logit tail =
            tail_logit(logits, tails(row, shape.num_candidates ? h : instance.selection_head_of_query(h)), shape.tail);
        if (tail.value != -INFINITY)
            logits.push_back(tail);
    }
    contract::Attention attention(logits, sink_of(instance, h));
    auto of_cache = [&](size_t j) -> const double * {
        const Index index = instance.cache_index(sequence, positions[j], g);
        load_scaled(instance.v_cache, index, instance.kv_scale(instance.v_scale, g), x);
        return x;
    };
    auto value = [&](size_t j) { return j < positions.size() && reads[j].is_read ? of_cache(j) : mean; };
    auto other = [&](size_t j) -> const double * {
        if (j == positions.size() || !reads[j].may_turn)
            return nullptr;
        return reads[j].is_read ? mean : of_cache(j);
    };
    return {attention, attention.columns(shape.head_dim_v, value, other)};
}

Truth merge(const Instance &instance, int row, int h)
{
    double x[MAX_DIM];
    std::vector<contract::Logit> logits;
    std::vector<int> parts; /* that are not empty: out of others is no number */
    for (int part = 0; part < instance.problem.num_parts; part++) {
        const double lse = instance.partial_lse.load({part, row, h});
        if (lse == -INFINITY)
            continue;
        logits.push_back({lse, 0});
        parts.push_back(part);
    }
    contract::Attention attention(logits);
    auto columns = attention.columns(instance.shape.head_dim_v, [&](size_t j) {
        load_scaled(instance.partial_out, {parts[j], row, h}, 1, x);
        return x;
    });
    return {attention, columns};
}

bool judge(double got, double want, double exact, double got_tolerance, double want_tolerance, int32_t dtype,
           Verdict *verdict)
{
    verdict->why = number("exactly", exact) + number(", tolerance", got_tolerance);
    const double share = std::fabs(got - exact) / got_tolerance;
    verdict->share = std::isfinite(share) ? share : 0;
    return contract::within(got, exact, got_tolerance, dtype) && contract::within(want, exact, want_tolerance, dtype);
}

void set_rules(const Instance &instance, std::function<Truth(int row, int h)> make, contract::Sums own,
               contract::Sums golden, Output *out, Output *lse)
{
    auto known = std::make_shared<std::map<std::pair<int64_t, int64_t>, Truth>>(); /* a row has many elements */
    auto truth = [known, make](const Index &index) -> const Truth & {
        auto found = known->find({index[0], index[1]});
        if (found == known->end())
            found = known
                        ->emplace(std::make_pair(index[0], index[1]),
                                  make(static_cast<int>(index[0]), static_cast<int>(index[1])))
                        .first;
        return found->second;
    };
    const int32_t dtype = instance.shape.out.dtype;
    auto out_rule = [truth, own, dtype](contract::Sums want_sums) -> Rule {
        return [=](const Index &index, const uint8_t *got, const uint8_t *want, Verdict *verdict) {
            const contract::Columns &columns = truth(index).columns;
            const int i = static_cast<int>(index[2]);
            return judge(hattn_reference_load(got, dtype, 0), hattn_reference_load(want, dtype, 0), columns.exact(i),
                         columns.tolerance(i, own, dtype), columns.tolerance(i, want_sums, dtype), dtype, verdict);
        };
    };
    auto lse_rule = [truth, own](contract::Sums want_sums) -> Rule {
        return [=](const Index &index, const uint8_t *got, const uint8_t *want, Verdict *verdict) {
            const contract::Attention &attention = truth(index).attention;
            return judge(hattn_reference_load(got, HATTN_F32, 0), hattn_reference_load(want, HATTN_F32, 0),
                         attention.lse(), attention.lse_tolerance(own), attention.lse_tolerance(want_sums), HATTN_F32,
                         verdict);
        };
    };
    out->rule = out_rule(contract::Sums::DOUBLE), out->golden_rule = out_rule(golden);
    lse->rule = lse_rule(contract::Sums::DOUBLE), lse->golden_rule = lse_rule(golden);
}

} // namespace

void load_scaled(const Tensor &tensor, Index index, double scale, double *x)
{
    index[tensor.rank - 1] = 0;
    const uint8_t *row = tensor.at(index);
    for (int64_t i = 0; i < tensor.extent[tensor.rank - 1]; i++)
        x[i] = hattn_reference_load(row, tensor.dtype, i) * scale;
}

contract::GroupProjection project_group(const Instance &instance, int row, int head, Heads heads)
{
    const hattn_problem &shape = instance.shape;
    contract::GroupProjection group(shape.code_bits);
    hattn_map_buffers map = instance.query_map.buffers();
    for (int h = 0; h < shape.num_q_heads; h++) {
        if ((heads == Heads::QUERIES ? h : instance.selection_head_of_query(h)) != head)
            continue;
        double x[MAX_DIM];
        load_scaled(instance.q, {row, h}, 1, x);
        const contract::Projection projected =
            contract::project(shape, shape.query_map, map, x, instance.code_head_of_query(h));
        group.add(projected.z.data(), projected.bound.data());
    }
    return group;
}

Rule code_rule(const Instance &instance, KeySource keys, Flips *flips, OnFlip on_flip)
{
    return [&instance, keys, flips, on_flip](const Index &index, const uint8_t *got, const uint8_t *want,
                                             Verdict *verdict) {
        uint32_t a, b;
        memcpy(&a, got, sizeof(a));
        memcpy(&b, want, sizeof(b));
        const hattn_problem &shape = instance.shape;
        int c = static_cast<int>(index[2]);
        double x[MAX_DIM];
        if (!keys(index[0], index[1], instance.kv_head_of_code(c), x))
            return false;
        const contract::Projection exact = contract::project(shape, shape.key_map, instance.key_map.buffers(), x, c);
        for (int i = 0; i < 32; i++) {
            int r = static_cast<int>(index[3]) * 32 + i;
            if (!((a ^ b) >> i & 1))
                continue;
            if (r >= shape.code_bits) {
                verdict->why = "bits past code_bits";
                return false;
            }
            const double z = exact.z[r], bound = exact.bound[r];
            if (!contract::bit_may_flip(z, bound)) {
                verdict->why = "bit " + std::to_string(r) + number(", z", z) + number(", bound", bound);
                return false;
            }
            verdict->share = std::max(verdict->share, contract::bit_margin(z, bound));
            if (flips)
                flips->bit_flips++;
        }
        if (on_flip)
            on_flip(index);
        return true;
    };
}

Rule norm_rule()
{
    return [](const Index &, const uint8_t *got, const uint8_t *want, Verdict *) {
        uint16_t a, b;
        memcpy(&a, got, sizeof(a));
        memcpy(&b, want, sizeof(b));
        return contract::norm_allowed(a, b);
    };
}

Rule weight_rule(const Instance &instance, Flips *flips, OnFlip on_flip, Heads heads)
{
    return [&instance, flips, on_flip, heads](const Index &index, const uint8_t *got, const uint8_t *want,
                                              Verdict *verdict) {
        const contract::GroupProjection group =
            project_group(instance, static_cast<int>(index[0]), static_cast<int>(index[1]), heads);
        const bool allowed = group.allows(instance.shape, static_cast<int>(index[2]), static_cast<int8_t>(*got),
                                          static_cast<int8_t>(*want), &verdict->why);
        verdict->share = group.margin(instance.shape, static_cast<int>(index[2]));
        if (allowed && flips)
            flips->weight_flips++;
        if (allowed && on_flip)
            on_flip(index);
        return allowed;
    };
}

Rule step_rule(const Instance &instance, OnFlip on_flip, Heads heads)
{
    return [&instance, on_flip, heads](const Index &index, const uint8_t *got, const uint8_t *want, Verdict *verdict) {
        int32_t steps[2];
        memcpy(&steps[0], got, sizeof(steps[0]));
        memcpy(&steps[1], want, sizeof(steps[1]));
        const contract::GroupProjection group =
            project_group(instance, static_cast<int>(index[0]), static_cast<int>(index[1]), heads);
        const Tensor &slopes = heads == Heads::QUERIES ? instance.head_slopes : instance.slopes;
        const bool allowed =
            group.allows_step(instance.shape, slopes.load({index[1]}), steps[0], steps[1], &verdict->why);
        if (allowed && on_flip)
            on_flip(index);
        return allowed;
    };
}

Rule score_rule()
{
    return [](const Index &, const uint8_t *got, const uint8_t *want, Verdict *) {
        float a, b;
        memcpy(&a, got, sizeof(a));
        memcpy(&b, want, sizeof(b));
        return std::isnan(a) && std::isnan(b);
    };
}

Positions listed_positions(const Tensor &indices, const Tensor &counts)
{
    return [indices, counts](int row, int s) {
        std::vector<int> positions(counts.value<int32_t>({row, s}));
        for (size_t i = 0; i < positions.size(); i++)
            positions[i] = indices.value<int32_t>({row, s, static_cast<int64_t>(i)});
        return positions;
    };
}

Positions all_positions(const Instance &instance)
{
    return [&instance](int row, int) {
        std::vector<int> positions(instance.rows[row].length);
        for (size_t j = 0; j < positions.size(); j++)
            positions[j] = static_cast<int>(j);
        return positions;
    };
}

Tails listed_tails(const Tensor &shares, const Tensor &rests)
{
    return [shares, rests](int row, int s) {
        contract::Tail tail = {std::vector<uint32_t>(shares.extent[2]), rests.value<int64_t>({row, s})};
        for (size_t i = 0; i < tail.shares.size(); i++)
            tail.shares[i] = shares.value<uint32_t>({row, s, static_cast<int64_t>(i)});
        return tail;
    };
}

std::vector<contract::Read> value_reads(const Instance &instance, const std::vector<int> &positions, int row, int s)
{
    const hattn_problem &shape = instance.shape;
    if (shape.min_value_weight == 0)
        return std::vector<contract::Read>(positions.size());
    std::vector<contract::Attention> heads;
    for (int h = 0; h < shape.num_q_heads; h++)
        if (instance.selection_head_of_query(h) == s)
            heads.emplace_back(logits_of(instance, positions, row, h), sink_of(instance, h));
    return contract::reads_of(heads, positions.size(), shape.min_value_weight);
}

void keep_attended(const Instance &instance, const Positions &positions, bool has_tail, int row, PoisonedCache *cache)
{
    const int sequence = instance.rows[row].sequence;
    for (int s = 0; s < instance.shape.num_selection_heads; s++) {
        const std::vector<int> listed = positions(row, s);
        const int g = s * instance.shape.num_kv_heads / instance.shape.num_selection_heads;
        for (int j : listed)
            cache->keep_key(sequence, j, g);
        std::vector<contract::Read> reads(listed.size());
        if (has_tail)
            reads = value_reads(instance, listed, row, s);
        for (size_t i = 0; i < listed.size(); i++)
            if (reads[i].is_read || reads[i].may_turn)
                cache->keep_value(sequence, listed[i], g);
    }
}

void set_attention_rules(const Context &context, Positions positions, Tails tails, Output *out, Output *lse)
{
    const Instance &instance = context.instance;
    const int32_t q_dtype = instance.shape.q.dtype;
    auto make = [&instance, positions, tails](int row, int h) {
        return attend(instance, positions(row, instance.selection_head_of_query(h)), tails, row, h);
    };
    set_rules(instance, make, contract::sums_of(context.session.target.backend, q_dtype), contract::sums_of(q_dtype),
              out, lse);
}

void set_merge_rules(const Context &context, Output *out, Output *lse)
{
    const Instance &instance = context.instance;
    auto make = [&instance](int row, int h) { return merge(instance, row, h); };
    /* Parts are fp32 whatever q is. */
    set_rules(instance, make, contract::Sums::F32, contract::Sums::F32, out, lse);
}

} // namespace conformance
