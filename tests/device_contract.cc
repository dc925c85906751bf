/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/device_contract.h"
#include "core/sized.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "tools/verify_command.h"

namespace conformance {
namespace {

void check(hattn_status status, const hattn_error &error)
{
    if (status)
        throw std::runtime_error(std::string(hattn_status_string(status)) + ": " + error.text);
}

} // namespace

std::vector<std::string> device_backends()
{
    std::vector<std::string> names;
    for (const Target &target : all_targets())
        if (target.backend != "cpu" && target.backend != "reference")
            names.push_back(target.backend);
    return names;
}

void DeviceContract::SetUp()
{
    session = std::make_unique<Session>(Target{GetParam(), ""});
    if (!session->skipped.empty())
        GTEST_SKIP() << session->skipped;
    memory = devices::memory_of(GetParam());
    pinned = devices::pinned_memory_of(GetParam());
    streams = devices::streams_of(GetParam());
    ASSERT_TRUE(memory && pinned && streams) << "devices/ has nothing for " << GetParam();
}

void DeviceContract::expect_passes(const Problem &problem, uint64_t seed, const std::string &filter)
{
    int passed = 0;
    for (const Outcome &outcome : check_problem(*session, problem, seed, filter, nullptr)) {
        passed += outcome.status == Status::PASSED;
        EXPECT_EQ(outcome.status, Status::PASSED) << outcome.text(verify_command);
    }
    EXPECT_GT(passed, 0) << problem.name;
}

Problem listed_problem(const std::string &name)
{
    const std::vector<Problem> &all = all_problems();
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Problem &problem) { return problem.name == name; });
    if (found == all.end())
        throw std::runtime_error("no problem is called " + name);
    return *found;
}

Plan make_plan(hattn_device *device, const hattn_problem &shape)
{
    hattn_plan *plan = nullptr;
    hattn_error error = {};
    check(hattn_plan_create(device, &shape, &plan, &error), error);
    return Plan(plan);
}

DeviceWorkspace::DeviceWorkspace(const devices::Memory *memory, hattn_device *device, uint64_t size)
    : memory_(memory), bytes_(devices::buffer_of(*memory, std::vector<uint8_t>(size, 0xAA)))
{
    memory->synchronize();
    hattn_error error = {};
    check(hattn_workspace_init(device, bytes_.at(), size, memory->stream(), &error), error);
    memory->synchronize();
    const std::vector<uint8_t> bytes = bytes_.contents<uint8_t>();
    while (control_size_ < size && bytes[control_size_] == 0)
        control_size_++;
}

hattn_exec DeviceWorkspace::exec(void *stream) const
{
    hattn_exec exec = sized<hattn_exec>();
    exec.workspace = bytes_.at();
    exec.workspace_size = bytes_.size();
    exec.stream = stream ? stream : memory_->stream();
    return exec;
}

bool DeviceWorkspace::control_is_zero() const
{
    std::vector<uint8_t> control(control_size_);
    memory_->synchronize();
    memory_->read(control.data(), bytes_.data(), control_size_);
    return std::all_of(control.begin(), control.end(), [](uint8_t byte) { return byte == 0; });
}

DeviceDecode::DeviceDecode(const devices::Memory *memory, const devices::Memory *pinned, hattn_device *device,
                           const Problem &problem, uint64_t seed)
    : instance(problem, seed), plan(make_plan(device, instance.given)), memory_(memory), mirror_(*memory, pinned)
{
    const auto output = [&](const char *name, Field field) { return instance.output(name, field, 0xAA); };
    out = output("out", &hattn_problem::out);
    lse = output("lse", &hattn_problem::lse);
    weights = output("weights", &hattn_problem::weights);
    indices = output("indices", &hattn_problem::indices);
    counts = output("counts", &hattn_problem::counts);
    outputs_ = {&out, &lse, &weights, &indices, &counts};
    hattn_decode_args here = instance.decode_args(problem.append);
    /* What append writes to: a copy that may be written. */
    const auto appended = [&](const Tensor &given, Tensor *own, hattn_buffer *buffer) {
        if (!given)
            return;
        *own = given.twin(".appended", 0);
        memcpy(own->memory->begin(), given.memory->begin(), given.memory->accessible());
        *buffer = own->buffer();
        outputs_.push_back(own);
    };
    if (problem.append) {
        appended(instance.codes, &codes, &here.codes);
        appended(instance.norms, &norms, &here.norms);
        appended(instance.value_sums, &value_sums, &here.value_sums);
        appended(instance.value_lengths, &value_lengths, &here.value_lengths);
    }
    here.out = out.buffer();
    here.lse = lse.buffer();
    here.weights = weights.buffer();
    here.indices = indices.buffer();
    here.counts = counts.buffer();
    args = mirror_.there_all(here);
    for (const Tensor *output : outputs_)
        before_.emplace_back(output->memory->begin(), output->memory->end());
    memory->synchronize();
}

void DeviceDecode::forget()
{
    for (size_t i = 0; i < outputs_.size(); i++) {
        std::copy(before_[i].begin(), before_[i].end(), outputs_[i]->memory->begin());
        mirror_.refresh(outputs_[i]->buffer());
    }
    memory_->synchronize();
}

std::string DeviceDecode::enqueue(const hattn_exec &exec, const hattn_plan *other_plan) const
{
    hattn_error error = {};
    return hattn_decode(other_plan ? other_plan : plan.get(), &args, &exec, &error) ? error.text : "";
}

std::vector<std::vector<uint8_t>> DeviceDecode::results()
{
    const std::string wrong = mirror_.bring_back();
    if (!wrong.empty())
        throw std::runtime_error(wrong);
    std::vector<std::vector<uint8_t>> all;
    for (const Tensor *tensor : outputs_)
        all.emplace_back(tensor->memory->begin(), tensor->memory->end());
    return all;
}

} // namespace conformance
