/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/case.h"

#include <algorithm>
#include <cstring>

namespace conformance {
namespace {

/* What outputs hold before runs, in turn: what is the same after both was written. */
const uint8_t FILLS[2] = {0xAA, 0x55};

std::vector<uint8_t> image_of(const Tensor &tensor) { return {tensor.memory->begin(), tensor.memory->end()}; }

std::vector<Expectation> run_reference(const Case &checked)
{
    std::vector<Expectation> expectations(checked.outputs.size());
    for (int fill = 0; fill < 2; fill++) {
        for (Output *output : checked.outputs)
            output->reset(output->expected, FILLS[fill]);
        checked.reference();
        for (size_t i = 0; i < expectations.size(); i++)
            expectations[i].images[fill] = image_of(checked.outputs[i]->expected);
    }
    for (Expectation &e : expectations)
        for (size_t i = 0; i < e.images[0].size(); i++)
            e.written.push_back(e.images[0][i] == e.images[1][i]);
    return expectations;
}

/* What the reference expects, in the expected tensors too. */
const std::vector<Expectation> &expect(const Context &context, const Case &checked)
{
    Answer &answer = context.answers[context.op];
    std::vector<uint8_t> question = checked.question ? checked.question() : std::vector<uint8_t>();
    if (answer.expectations.empty() || answer.question != question)
        answer = {question, run_reference(checked)};
    for (size_t i = 0; i < checked.outputs.size(); i++) {
        const std::vector<uint8_t> &image = answer.expectations[i].images[0];
        std::copy(image.begin(), image.end(), checked.outputs[i]->expected.memory->begin());
    }
    return answer.expectations;
}

/* Another run must write what the first one did, but for what it is not given. */
struct Again {
    Manner manner;
    std::string without,
        alone; /* an optional output: not given; the only one that is. "": all are, or as the manner says */

    bool gives(const Output &output) const
    {
        const std::string &name = output.actual.name;
        return !output.optional || (!manner.bare && name != without && (alone.empty() || name == alone));
    }
    std::string text() const
    {
        return manner.text() + (without.empty() ? "" : ", " + without + " null") +
               (alone.empty() ? "" : ", of the optional outputs only " + alone);
    }
};

std::string run_once(const Context &context, const Case &checked, const Again &again, uint8_t fill)
{
    for (Output *output : checked.outputs) {
        output->reset(output->actual, fill);
        output->given = again.gives(*output);
    }
    const Manner &manner = again.manner;
    const Workspace &workspace =
        manner.shared_workspace ? context.session.shared_workspace(context.workspace.size()) : context.workspace;
    return run_in_manner(manner, workspace, context.name(),
                         [&](const hattn_exec *exec, hattn_error *error) { return checked.run(exec, error); });
}

/* The manners that a problem is run again in; where outputs are optional by themselves, one of them is missing, one is alone. */
std::vector<Again> repetitions(const Context &context, const Case &checked)
{
    std::vector<Manner> manners = all_manners(context.session);
    const Manner plain = manners[0];
    const size_t wanted = context.instance.problem.repetitions;
    Rng rng(context.instance.seed, context.op);
    while (wanted && manners.size() > wanted)
        manners.erase(manners.begin() + rng.below(static_cast<int64_t>(manners.size())));
    std::vector<Again> all;
    for (const Manner &manner : manners)
        all.push_back({manner, "", ""});
    std::vector<std::string> optional;
    for (const Output *output : checked.outputs)
        if (output->optional)
            optional.push_back(output->actual.name);
    if (optional.size() > 1) { /* other ones for other problems */
        Rng which(context.instance.seed, context.instance.problem.name + context.op);
        const auto one = [&] { return optional[which.below(static_cast<int64_t>(optional.size()))]; };
        all.push_back({plain, one(), ""});
        all.push_back({plain, "", one()});
    }
    return all;
}

std::string repeat(const Context &context, const Case &checked, const std::vector<Expectation> &expectations)
{
    std::vector<std::vector<uint8_t>> first;
    for (Output *output : checked.outputs)
        first.push_back(image_of(output->actual));
    const std::vector<Again> all = repetitions(context, checked);
    for (size_t m = 0; m < all.size(); m++) {
        int fill = m % 2 == 0;
        std::string problem = run_once(context, checked, all[m], FILLS[fill]);
        for (size_t i = 0; problem.empty() && i < checked.outputs.size(); i++) {
            if (!checked.outputs[i]->given)
                continue;
            const Expectation &e = expectations[i];
            std::vector<uint8_t> want = e.images[fill];
            for (size_t byte = 0; byte < want.size(); byte++)
                if (e.written[byte])
                    want[byte] = first[i][byte];
            problem = compare(checked.outputs[i]->actual, want, e.written, nullptr);
        }
        if (!problem.empty())
            return "run again (" + all[m].text() + "): " + problem;
    }
    return "";
}

/* Keeps the output as golden values if it is right; "" or how it differs from those that there are. */
std::string exchange_golden(const Context &context, const Output &output, const Expectation &expectation, bool is_right)
{
    const Tensor &tensor = output.actual;
    size_t size = dtype_size(tensor.dtype);
    std::vector<uint8_t> own, golden;
    auto written = [&](const uint8_t *element) { return expectation.written[element - tensor.memory->begin()] != 0; };
    tensor.for_each([&](const Index &index) {
        const uint8_t *element = tensor.at(index);
        if (written(element))
            own.insert(own.end(), element, element + size);
        else
            own.insert(own.end(), size, 0);
    });
    std::string key = context.instance.problem.name + "/" + context.op + "/" + tensor.name;
    if (is_right)
        context.golden->put(key, tensor.dtype, {tensor.extent.begin(), tensor.extent.begin() + tensor.rank}, own);
    if (!context.golden->get(key, &golden))
        return "";
    if (golden.size() != own.size())
        return "against golden values: " + key + " has another size";
    std::vector<uint8_t> want = image_of(tensor);
    const uint8_t *from = golden.data();
    tensor.for_each([&](const Index &index) {
        const uint8_t *element = tensor.at(index);
        if (written(element))
            memcpy(want.data() + (element - tensor.memory->begin()), from, size);
        from += size;
    });
    Comparison comparison = {context.session.target, context.instance.problem.name, context.op, tensor.name};
    comparison.elements = tensor.num_elements();
    std::string problem =
        compare(tensor, want, expectation.written, output.golden_rule ? output.golden_rule : output.rule, &comparison);
    comparison.wrong = !problem.empty();
    context.golden->compared(comparison);
    return problem.empty() ? "" : "against golden values: " + problem;
}

} // namespace

Output::Output(const Context &context, const std::string &name, Field field)
    : actual(context.instance.output(name, field, FILLS[0])), expected(actual.twin(".expected", FILLS[0]))
{
}

hattn_buffer Output::buffer(Tensor Output::*side) const
{
    return side == &Output::actual && !given ? hattn_buffer{} : (this->*side).buffer();
}

void Output::reset(const Tensor &tensor, uint8_t fill) const
{
    tensor.memory->fill(fill);
    if (prepare)
        prepare(tensor);
}

void prepare_values(const Instance &instance, Output *sums, Output *lengths)
{
    const auto copy = [](const Tensor &from) {
        return [&from](const Tensor &to) {
            from.for_each([&](const Index &index) { memcpy(to.at(index), from.at(index), dtype_size(from.dtype)); });
        };
    };
    sums->prepare = copy(instance.value_sums);
    lengths->prepare = copy(instance.value_lengths);
}

std::string compare(const Tensor &tensor, const std::vector<uint8_t> &want, const std::vector<uint8_t> &written,
                    const Rule &rule, Comparison *comparison)
{
    const uint8_t *begin = tensor.memory->begin();
    if (want.empty() || !memcmp(begin, want.data(), want.size()))
        return "";
    std::vector<uint8_t> explained(want.size());
    size_t size = dtype_size(tensor.dtype);
    std::string problem;
    tensor.for_each([&](const Index &index) {
        const uint8_t *got = tensor.at(index);
        size_t at = got - begin;
        std::fill_n(explained.begin() + at, size, 1);
        if (!problem.empty() || !memcmp(got, &want[at], size))
            return;
        Verdict verdict;
        if (!written[at])
            problem = tensor.element_name(index) + " must not be written, got " + tensor.element_text(got);
        else if (!rule || !rule(index, got, &want[at], &verdict))
            problem = tensor.element_name(index) + ": expected " + tensor.element_text(&want[at]) + ", got " +
                      tensor.element_text(got) + (verdict.why.empty() ? "" : " (" + verdict.why + ")");
        if (comparison) {
            comparison->different++;
            comparison->share = std::max(comparison->share, verdict.share);
        }
    });
    for (size_t i = 0; problem.empty() && i < want.size(); i++)
        if (begin[i] != want[i] && !explained[i])
            problem = "wrote outside of " + tensor.name + "'s elements: byte " +
                      std::to_string(begin + i - tensor.memory->data()) + " of " +
                      std::to_string(tensor.memory->size());
    return problem;
}

std::string check_case(const Context &context, const Case &checked)
{
    std::string problem = run_once(context, checked, {all_manners(context.session)[0], "", ""}, FILLS[0]);
    if (!problem.empty())
        return problem;
    const std::vector<Expectation> &expectations = expect(context, checked);
    for (size_t i = 0; i < expectations.size(); i++) {
        const Output &output = *checked.outputs[i];
        problem = compare(output.actual, expectations[i].images[0], expectations[i].written, output.rule);
        if (!problem.empty())
            break;
    }
    const bool is_right = problem.empty();
    for (size_t i = 0; context.golden && i < expectations.size(); i++) {
        const std::string differs = exchange_golden(context, *checked.outputs[i], expectations[i], is_right);
        problem = problem.empty() ? differs : problem;
    }
    if (!problem.empty())
        return problem;
    if (checked.before_again)
        checked.before_again();
    return repeat(context, checked, expectations);
}

} // namespace conformance
