/* SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>
#include <map>

#include "conformance/rules.h"
#include "contract/projection.h"
#include "reference/reference.h"

namespace conformance {
namespace {

void put_margins(const Context &context, const std::vector<int64_t> &extents, const std::vector<float> &margins)
{
    std::vector<uint8_t> bytes(margins.size() * sizeof(float));
    std::copy_n(reinterpret_cast<const uint8_t *>(margins.data()), bytes.size(), bytes.begin());
    context.golden->put(context.instance.problem.name + "/" + context.op + "/margins", HATTN_F32, extents, bytes);
}

/* [token, code head, bit] */
void put_key_margins(const Context &context)
{
    const Instance &instance = context.instance;
    const hattn_problem &shape = instance.shape;
    const hattn_map_buffers map = instance.key_map.buffers();
    std::vector<double> x(shape.head_dim_qk);
    std::vector<float> margins;
    for (int64_t t = 0; t < instance.problem.num_tokens; t++)
        for (int c = 0; c < shape.num_code_heads; c++) {
            const int g = instance.kv_head_of_code(c);
            load_scaled(instance.k_new, {t, g}, instance.kv_scale(instance.k_scale, g), x.data());
            const contract::Projection exact = contract::project(shape, shape.key_map, map, x.data(), c);
            for (int r = 0; r < shape.code_bits; r++)
                margins.push_back(static_cast<float>(contract::bit_margin(exact.z[r], exact.bound[r])));
        }
    put_margins(context, {instance.problem.num_tokens, shape.num_code_heads, shape.code_bits}, margins);
}

/* [row, selection head, bit] */
void put_query_margins(const Context &context)
{
    const hattn_problem &shape = context.instance.shape;
    const int rows = static_cast<int>(context.instance.rows.size());
    std::vector<float> margins;
    for (int row = 0; row < rows; row++)
        for (int s = 0; s < shape.num_selection_heads; s++) {
            const contract::GroupProjection group = project_group(context.instance, row, s);
            for (int r = 0; r < shape.code_bits; r++)
                margins.push_back(static_cast<float>(group.margin(shape, r)));
        }
    put_margins(context, {rows, shape.num_selection_heads, shape.code_bits}, margins);
}

} // namespace

std::string check_encode_keys(const Context &context)
{
    const Instance &instance = context.instance;
    Output codes(context, "codes", &hattn_problem::codes), norms(context, "norms", &hattn_problem::norms);
    auto args = [&](Tensor Output::*side) {
        hattn_encode_keys_args made = instance.encode_keys_args();
        made.codes = codes.buffer(side);
        if (instance.shape.key_norms)
            made.norms = norms.buffer(side);
        return made;
    };

    std::map<int64_t, int64_t> token_of_slot;
    for (int64_t t = 0; t < instance.problem.num_tokens; t++) {
        int64_t slot = instance.slot_mapping ? instance.slot_mapping.value<int64_t>({t}) : t;
        if (slot >= 0)
            token_of_slot[slot] = t;
    }
    KeySource keys = [&](int64_t page, int64_t slot, int g, double *x) {
        auto found = token_of_slot.find(page * instance.slots_per_page() + slot);
        if (found == token_of_slot.end())
            return false;
        load_scaled(instance.k_new, {found->second, g}, instance.kv_scale(instance.k_scale, g), x);
        return true;
    };
    codes.rule = code_rule(instance, keys, context.flips());
    codes.golden_rule = code_rule(instance, keys, nullptr);
    norms.rule = norm_rule();

    Case checked;
    checked.run = [&](const hattn_exec *exec, hattn_error *error) {
        hattn_encode_keys_args a = args(&Output::actual);
        return context.session.runner.encode_keys(context.plan, &a, exec, error);
    };
    checked.reference = [&] {
        hattn_encode_keys_args a = args(&Output::expected);
        hattn_reference_encode_keys(&instance.shape, &a);
    };
    checked.outputs = {&codes};
    if (instance.shape.key_norms)
        checked.outputs.push_back(&norms);
    if (context.flips())
        context.flips()->bits += token_of_slot.size() * instance.shape.num_code_heads * instance.shape.code_bits;
    const std::string problem = check_case(context, checked);
    if (context.golden && problem.empty())
        put_key_margins(context);
    return problem;
}

std::string check_encode_queries(const Context &context)
{
    const Instance &instance = context.instance;
    Output weights(context, "weights", &hattn_problem::weights);
    weights.rule = weight_rule(instance, context.flips());
    weights.golden_rule = weight_rule(instance, nullptr);
    Output steps(context, "steps", &hattn_problem::steps);
    steps.rule = step_rule(instance);
    Output head_weights(context, "head_weights", &hattn_problem::head_weights),
        head_steps(context, "head_steps", &hattn_problem::head_steps);
    head_weights.rule = weight_rule(instance, context.flips(), nullptr, Heads::QUERIES);
    head_weights.golden_rule = weight_rule(instance, nullptr, nullptr, Heads::QUERIES);
    head_steps.rule = step_rule(instance, nullptr, Heads::QUERIES);
    auto args = [&](Tensor Output::*side) {
        hattn_encode_queries_args made = instance.encode_queries_args();
        made.weights = weights.buffer(side);
        if (instance.has_shares())
            made.steps = steps.buffer(side);
        if (instance.shape.num_candidates) {
            made.head_weights = head_weights.buffer(side);
            made.head_steps = head_steps.buffer(side);
        }
        return made;
    };

    Case checked;
    checked.run = [&](const hattn_exec *exec, hattn_error *error) {
        hattn_encode_queries_args a = args(&Output::actual);
        return context.session.runner.encode_queries(context.plan, &a, exec, error);
    };
    checked.reference = [&] {
        hattn_encode_queries_args a = args(&Output::expected);
        hattn_reference_encode_queries(&instance.shape, &a);
    };
    checked.outputs = {&weights};
    if (instance.has_shares())
        checked.outputs.push_back(&steps);
    if (instance.shape.num_candidates)
        checked.outputs.insert(checked.outputs.end(), {&head_weights, &head_steps});
    if (context.flips())
        context.flips()->weights +=
            weights.actual.num_elements() + (instance.shape.num_candidates ? head_weights.actual.num_elements() : 0);
    const std::string problem = check_case(context, checked);
    if (context.golden && problem.empty())
        put_query_margins(context);
    return problem;
}

} // namespace conformance
