/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/rules.h"
#include "reference/reference.h"

namespace conformance {
namespace {

std::string check_attend(const Context &context, bool sparse)
{
    const Instance &instance = context.instance;
    Positions positions = sparse ? listed_positions(instance.indices, instance.counts) : all_positions(instance);
    Output out(context, "out", &hattn_problem::out), lse(context, "lse", &hattn_problem::lse);
    const bool has_tail = sparse && instance.shape.tail > 0;
    set_attention_rules(context, positions, has_tail ? listed_tails(instance.shares, instance.rests) : Tails(), &out,
                        &lse);
    lse.optional = true;
    auto args = [&](Tensor Output::*side) {
        hattn_attend_args made = instance.attend_args(sparse);
        made.out = out.buffer(side);
        made.lse = lse.buffer(side);
        return made;
    };

    PoisonedCache poisoned(instance, [&](PoisonedCache *cache) {
        for (int row = 0; row < static_cast<int>(instance.rows.size()); row++) {
            if (has_tail)
                keep_unsummed(instance, row, cache);
            keep_attended(instance, positions, has_tail, row, cache);
        }
    });

    Case checked;
    checked.run = [&](const hattn_exec *exec, hattn_error *error) {
        hattn_attend_args a = args(&Output::actual);
        return context.session.runner.attend(context.plan, &a, exec, error);
    };
    checked.reference = [&] {
        hattn_attend_args a = args(&Output::expected);
        hattn_reference_attend(&instance.shape, &a);
    };
    checked.outputs = {&out, &lse};
    return check_case(context, checked);
}

} // namespace

std::string check_attend_sparse(const Context &context) { return check_attend(context, true); }

std::string check_attend_dense(const Context &context) { return check_attend(context, false); }

std::string check_sum_values(const Context &context)
{
    const Instance &instance = context.instance;
    Output sums(context, "value_sums", &hattn_problem::value_sums),
        lengths(context, "value_lengths", &hattn_problem::value_lengths);
    prepare_values(instance, &sums, &lengths);
    auto args = [&](Tensor Output::*side) {
        hattn_sum_values_args made = instance.sum_values_args();
        made.value_sums = sums.buffer(side);
        made.value_lengths = lengths.buffer(side);
        return made;
    };
    PoisonedCache poisoned(instance, [&](PoisonedCache *cache) { keep_summed(instance, cache); });

    Case checked;
    checked.run = [&](const hattn_exec *exec, hattn_error *error) {
        hattn_sum_values_args a = args(&Output::actual);
        return context.session.runner.sum_values(context.plan, &a, exec, error);
    };
    checked.reference = [&] {
        hattn_sum_values_args a = args(&Output::expected);
        hattn_reference_sum_values(&instance.shape, &a);
    };
    checked.outputs = {&sums, &lengths};
    return check_case(context, checked);
}

std::string check_merge(const Context &context)
{
    const Instance &instance = context.instance;
    Output out(context, "out", &hattn_problem::out), lse(context, "lse", &hattn_problem::lse);
    set_merge_rules(context, &out, &lse);
    lse.optional = true;
    auto args = [&](Tensor Output::*side) {
        hattn_merge_args made = instance.merge_args();
        made.out = out.buffer(side);
        made.lse = lse.buffer(side);
        return made;
    };

    Case checked;
    checked.run = [&](const hattn_exec *exec, hattn_error *error) {
        hattn_merge_args a = args(&Output::actual);
        return context.session.runner.merge(context.plan, &a, exec, error);
    };
    checked.reference = [&] {
        hattn_merge_args a = args(&Output::expected);
        hattn_reference_merge(&instance.shape, &a);
    };
    checked.outputs = {&out, &lse};
    return check_case(context, checked);
}

} // namespace conformance
