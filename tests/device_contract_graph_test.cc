/* SPDX-License-Identifier: Apache-2.0
 * Calls inside of stream captures, and graphs that are replayed over other contents.
 */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>

#include "tests/device_contract.h"

namespace conformance {
namespace {

class DeviceGraphs : public DeviceContract
{
protected:
    void SetUp() override
    {
        DeviceContract::SetUp();
        if (streams && !streams->has_graphs())
            GTEST_SKIP() << GetParam() << " has no graphs";
    }

    /* Each call is captured, and replayed twice. */
    void capture_calls()
    {
        DeviceCalls calls{memory, pinned};
        calls.launch = [this](const std::function<hattn_status(void *)> &call) {
            OwnStream stream(streams);
            memory->synchronize();
            streams->begin_capture(stream.get());
            const hattn_status status = call(stream.get());
            const auto graph = streams->end_capture(stream.get());
            if (status)
                return status;
            graph->replay(stream.get());
            graph->replay(stream.get());
            stream.wait();
            return status;
        };
        session->runner = device_runner(calls);
    }

    /* The operation of every small problem that has it. */
    void expect_captured(const std::string &op)
    {
        capture_calls();
        for (const Problem &problem : tested_problems()) {
            const std::vector<std::string> ops = operation_names(problem);
            if (problem.tag == Tag::SMALL && std::count(ops.begin(), ops.end(), op))
                expect_passes(problem, 3, "/" + op);
        }
    }
};

/* Apart, for each takes minutes of a processor. */
TEST_P(DeviceGraphs, EveryEncodeKeysIsCaptured) { expect_captured("encode_keys"); }
TEST_P(DeviceGraphs, EveryEncodeQueriesIsCaptured) { expect_captured("encode_queries"); }
TEST_P(DeviceGraphs, EveryScoreIsCaptured) { expect_captured("score"); }
TEST_P(DeviceGraphs, EveryTopkIsCaptured) { expect_captured("topk"); }
TEST_P(DeviceGraphs, EveryAttendSparseIsCaptured) { expect_captured("attend_sparse"); }
TEST_P(DeviceGraphs, EveryAttendDenseIsCaptured) { expect_captured("attend_dense"); }
TEST_P(DeviceGraphs, EveryDecodeIsCaptured) { expect_captured("decode"); }
TEST_P(DeviceGraphs, EveryMergeIsCaptured) { expect_captured("merge"); }
TEST_P(DeviceGraphs, EverySumValuesIsCaptured) { expect_captured("sum_values"); }

/* Each in a process of its own, which has loaded no kernel before. */
TEST_P(DeviceGraphs, FirstRunOfAProcessIsCaptured)
{
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    capture_calls();
    for (const char *name :
         {"plain_append", "mlp_weighted_group", "norms_contiguous", "tail_floor", "heads_floor_tail"}) {
        Problem problem = listed_problem(name);
        problem.append = true;
        for (const std::string &op : operation_names(problem))
            EXPECT_EXIT(
                {
                    expect_passes(problem, 4, "/" + op);
                    _Exit(HasFailure() ? 1 : 0);
                },
                testing::ExitedWithCode(0), "")
                << name << "/" << op;
    }
}

/* Decode by graphs whose tensors stay where they are on the device. One graph for each set of outputs is captured, the
 * first time that it is asked for. */
class ReplayedDecode
{
public:
    ReplayedDecode(const devices::Memory *memory, const devices::Memory *pinned, const devices::Streams *streams,
                   hattn_device *device, const hattn_problem &shape)
        : memory_(memory), pinned_(pinned), streams_(streams), stream_(streams), plan_(make_plan(device, shape)),
          workspace_(memory, device, hattn_plan_workspace_size(plan_.get()))
    {
    }

    /* Throws std::runtime_error. */
    void run(const hattn_decode_args &here)
    {
        std::map<Region *, int> slot_of;
        std::vector<uintptr_t> key = {static_cast<uintptr_t>(here.append), static_cast<uintptr_t>(here.batch.num_rows)};
        int index = 0;
        hattn_decode_args there = here;
        for_each_buffer(there, [&](hattn_buffer &buffer) {
            if (buffer.data)
                buffer = move(buffer, &slot_of, index);
            key.push_back(reinterpret_cast<uintptr_t>(buffer.data));
            index++;
        });
        memory_->synchronize();
        std::unique_ptr<devices::Graph> &graph = graphs_[key];
        if (!graph)
            graph = capture(there);
        graph->replay(stream_.get());
        num_replays++;
        stream_.wait();
        if (!workspace_.control_is_zero())
            throw std::runtime_error("the workspace's control region is not zero");
        for (const auto &[region, slot] : slot_of)
            bring_back(*region, *slots_[slot]);
    }

    size_t num_graphs() const { return graphs_.size(); }
    int num_replays = 0;

private:
    /* Room for what a later round may need more. */
    struct Slot {
        Slot(const devices::Memory *memory, size_t size)
            : memory(memory), capacity(2 * size + 4096), bytes(*memory, capacity)
        {
        }
        const devices::Memory *memory;
        size_t capacity;
        devices::Buffer bytes;
    };

    hattn_buffer move(hattn_buffer here, std::map<Region *, int> *slot_of, int index)
    {
        const uint8_t *address = static_cast<const uint8_t *>(here.data) + here.byte_offset;
        Region *region = find_region(address);
        const auto [place, is_new] = slot_of->emplace(region, index);
        std::unique_ptr<Slot> &slot = slots_[place->second];
        if (is_new) {
            if (!slot)
                slot = std::make_unique<Slot>(region->on_host() ? pinned_ : memory_, region->size());
            if (region->size() > slot->capacity)
                throw std::runtime_error(region->name() + " has outgrown its place");
            slot->memory->write(slot->bytes.data(), region->data(), region->size());
        }
        return {slot->bytes.data() + (address - region->data()) - here.byte_offset, here.byte_offset};
    }

    std::unique_ptr<devices::Graph> capture(const hattn_decode_args &there)
    {
        const hattn_exec exec = workspace_.exec(stream_.get());
        hattn_error error = {};
        streams_->begin_capture(stream_.get());
        const hattn_status status = hattn_decode(plan_.get(), &there, &exec, &error);
        auto graph = streams_->end_capture(stream_.get());
        if (status)
            throw std::runtime_error(error.text);
        return graph;
    }

    static void bring_back(Region &region, const Slot &slot)
    {
        if (region.writable()) {
            slot.memory->read(region.data(), slot.bytes.data(), region.size());
            return;
        }
        std::vector<uint8_t> bytes(region.size());
        slot.memory->read(bytes.data(), slot.bytes.data(), bytes.size());
        if (memcmp(bytes.data(), region.data(), bytes.size()))
            throw std::runtime_error("wrote to " + region.name() + ", an input");
    }

    const devices::Memory *memory_, *pinned_;
    const devices::Streams *streams_;
    OwnStream stream_;
    Plan plan_;
    DeviceWorkspace workspace_;
    std::map<int, std::unique_ptr<Slot>> slots_; /* by the first buffer that lies in it */
    std::map<std::vector<uintptr_t>, std::unique_ptr<devices::Graph>> graphs_;
};

/* Contents of one problem, round by round; the first needs the most memory. */
std::vector<Problem> rounds_of(Problem base)
{
    const int n = base.max_length, k = base.k;
    const std::vector<std::vector<int>> lengths = {{n, n, n, n},     {1, k, k + 1, n}, {0, k - 1, n / 2, 2},
                                                   {n - 1, 0, 0, k}, {0, 0, 0, 0},     {n / 3, n / 4, 3, n}};
    /* As many rows each time: with q_lens those of some sequences, and padding. */
    const std::vector<std::vector<int>> q_lens = {{3, 1, 1, 2}, {1, 3, 2, 0}, {0, 0, 0, 3},
                                                  {2, 3, 2, 0}, {3, 0, 0, 0}, {1, 1, 1, 3}};
    std::vector<Problem> rounds;
    for (size_t round = 0; round < lengths.size(); round++) {
        Problem problem = base;
        problem.lengths = lengths[round];
        if (!base.q_lens.empty()) {
            problem.q_lens = q_lens[round];
            problem.padding_rows = 7;
            for (const int length : problem.q_lens)
                problem.padding_rows -= length;
        }
        std::rotate(problem.budget_values.begin(), problem.budget_values.begin() + round, problem.budget_values.end());
        rounds.push_back(problem);
    }
    return rounds;
}

std::vector<Problem> replayed_problems()
{
    std::vector<Problem> all;
    for (const char *name : {"plain",
                             "dim_128",
                             "group_weighted_8",
                             "norms",
                             "f8_scale_per_head",
                             "mla",
                             "page_0",
                             "page_1",
                             "page_64",
                             "q_len_3",
                             "q_ragged_padded",
                             "mlp_8",
                             "bits_weighted_512",
                             "select_per_query_head",
                             "codes_per_query_head_weighted",
                             "budgets_each",
                             "kv_on_host",
                             "sink_logits",
                             "clustered",
                             "equal",
                             "floor_weighted",
                             "tail_floor",
                             "tail_dim_128",
                             "heads_floor_tail"}) {
        Problem problem = listed_problem(name);
        problem.max_length = 700;
        problem.append = true;
        problem.num_tokens = 1; /* there may be few slots */
        if (!problem.q_lens.empty())
            problem.padding_rows = 0;
        all.push_back(problem);
    }
    Problem budgets = listed_problem("plain_append");
    budgets.name = "budgets_and_forced";
    budgets.max_length = 700;
    budgets.num_tokens = 1;
    budgets.budgets = Budgets::EACH;
    budgets.num_sink = 3;
    budgets.num_recent = 5;
    all.push_back(budgets);
    Problem rows = listed_problem("plain_append");
    rows.name = "long_rows";
    rows.max_length = 9000;
    rows.k = 512;
    rows.num_tokens = 1;
    all.push_back(rows);
    return all;
}

TEST_P(DeviceGraphs, ReplayReadsWhatTheDeviceHoldsThen)
{
    for (const Problem &base : replayed_problems()) {
        const std::vector<Problem> rounds = rounds_of(base);
        const hattn_problem shape = make_shape(rounds[0], 1);
        ReplayedDecode replayed(memory, pinned, streams, session->device, shape);
        session->runner.decode = [&](const hattn_plan *, const hattn_decode_args *args, const hattn_exec *,
                                     hattn_error *error) {
            try {
                replayed.run(*args);
                return HATTN_OK;
            } catch (const std::runtime_error &failure) {
                snprintf(error->text, sizeof(error->text), "%s", failure.what());
                return HATTN_DEVICE_ERROR;
            }
        };
        for (size_t round = 0; round < rounds.size(); round++) {
            const hattn_problem now = make_shape(rounds[round], 1);
            ASSERT_EQ(memcmp(&now, &shape, sizeof(shape)), 0) << base.name << ": another plan in round " << round;
            SCOPED_TRACE("round " + std::to_string(round));
            expect_passes(rounds[round], 100 + round, "/decode");
        }
        /* With and without append, with and without each of the optional outputs and all of them: kinds of calls, not calls. */
        EXPECT_GE(replayed.num_graphs(), 4u) << base.name;
        EXPECT_LE(replayed.num_graphs(), 20u) << base.name;
        EXPECT_GE(replayed.num_replays, 8 * static_cast<int>(rounds.size())) << base.name;
    }
}

FOR_DEVICE_BACKENDS(DeviceGraphs);

} // namespace
} // namespace conformance
