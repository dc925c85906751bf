/* SPDX-License-Identifier: Apache-2.0 */
#include <map>

#include "conformance/rules.h"
#include "reference/reference.h"

namespace conformance {

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
    return check_case(context, checked);
}

std::string check_encode_queries(const Context &context)
{
    const Instance &instance = context.instance;
    Output weights(context, "weights", &hattn_problem::weights);
    weights.rule = weight_rule(instance, context.flips());
    weights.golden_rule = weight_rule(instance, nullptr);
    auto args = [&](Tensor Output::*side) {
        hattn_encode_queries_args made = instance.encode_queries_args();
        made.weights = weights.buffer(side);
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
    if (context.flips())
        context.flips()->weights += weights.actual.num_elements();
    return check_case(context, checked);
}

} // namespace conformance
