/* SPDX-License-Identifier: Apache-2.0
 * A whole model in one graph: its own kernels advance the lengths and write queries, K and V between the calls of the library.
 */
#include <stdexcept>

#include "core/sized.h"
#include "devices/model.h"
#include "tests/device_contract.h"

namespace conformance {
namespace {

const int NUM_LAYERS = 64, NUM_STEPS = 1000, NUM_KEYS = 4096, HQ = 32, HKV = 8, DIM = 128, BITS = 128;

/* All layers' memory, the same contents whenever it is made. */
class LayeredModel
{
public:
    LayeredModel(const devices::Memory *memory, const devices::Streams *streams, const devices::Model *model,
                 hattn_device *device, int num_sequences, bool starts_next_early)
        : streams_(streams), model_(model), num_sequences_(num_sequences), starts_next_early_(starts_next_early),
          stream_(streams)
    {
        hattn_problem problem = sized<hattn_problem>();
        problem.num_q_heads = HQ;
        problem.num_kv_heads = HKV;
        problem.head_dim_qk = DIM;
        problem.code_bits = BITS;
        problem.max_sequences = num_sequences;
        problem.max_length = NUM_KEYS;
        problem.k = 256;
        problem.q.dtype = problem.k_cache.dtype = HATTN_F16;
        plan_ = make_plan(device, problem);
        workspace_ = std::make_unique<DeviceWorkspace>(memory, device, hattn_plan_workspace_size(plan_.get()));

        const uint64_t halves = 0x83ff83ff83ff83ff, of_half = 0x3800380038003800; /* +-0.5 to 1 */
        const auto make = [&](uint64_t size, uint64_t keep, uint64_t set) {
            devices::Buffer buffer(*memory, size);
            memory->fill(buffer.data(), size, keep, set, ++seed_);
            return buffer;
        };
        const uint64_t cache = uint64_t(num_sequences) * HKV * NUM_KEYS;
        for (int layer = 0; layer < NUM_LAYERS; layer++) {
            k_.push_back(make(cache * DIM * 2, halves, of_half));
            v_.push_back(make(cache * DIM * 2, halves, of_half));
            codes_.push_back(make(cache * BITS / 8, ~uint64_t(0), 0));
        }
        map_ = make(uint64_t(HKV) * DIM * BITS * 2, halves, of_half);
        q_ = make(uint64_t(num_sequences) * HQ * DIM * 2, 0, 0);
        out_ = make(uint64_t(num_sequences) * HQ * DIM * 2, 0, 0);
        trace_ = make(uint64_t(NUM_KEYS + 1) * NUM_LAYERS * uint64_t(num_sequences) * 4, 0, 0);
        std::vector<int32_t> lengths;
        for (int b = 0; b < num_sequences; b++)
            lengths.push_back(NUM_KEYS - NUM_STEPS - 397 * b);
        lengths_ = devices::buffer_of(*memory, lengths);
        memory->synchronize();
    }

    /* One step of the model in one graph, replayed without a stop. */
    std::vector<uint32_t> by_graph()
    {
        streams_->begin_capture(stream_.get());
        std::string wrong;
        for (int layer = 0; layer < NUM_LAYERS && wrong.empty(); layer++)
            wrong = run(layer, [] {});
        const auto graph = streams_->end_capture(stream_.get());
        if (!wrong.empty())
            throw std::runtime_error(wrong);
        for (int step = 0; step < NUM_STEPS; step++)
            graph->replay(stream_.get());
        stream_.wait();
        return trace_.contents<uint32_t>();
    }

    /* Each kernel of the model and each call done before the next is made. */
    std::vector<uint32_t> one_by_one()
    {
        for (int step = 0; step < NUM_STEPS; step++)
            for (int layer = 0; layer < NUM_LAYERS; layer++) {
                const std::string wrong = run(layer, [this] { stream_.wait(); });
                if (!wrong.empty())
                    throw std::runtime_error(wrong);
            }
        return trace_.contents<uint32_t>();
    }

private:
    template <typename Between>
    std::string run(int layer, Between between)
    {
        const auto halves = [](const devices::Buffer &buffer) { return reinterpret_cast<uint16_t *>(buffer.data()); };
        devices::ModelLayer own = {};
        own.num_sequences = num_sequences_;
        own.num_q_heads = HQ;
        own.num_kv_heads = HKV;
        own.head_dim = DIM;
        own.layer = layer;
        own.num_layers = NUM_LAYERS;
        own.starts_next_early = starts_next_early_;
        own.seq_len = reinterpret_cast<int32_t *>(lengths_.data());
        own.previous_out = halves(out_);
        own.q = halves(q_);
        own.k = halves(k_[layer]);
        own.v = halves(v_[layer]);
        own.head_stride = int64_t(NUM_KEYS) * DIM;
        own.sequence_stride = HKV * own.head_stride;
        own.trace = reinterpret_cast<uint32_t *>(trace_.data());
        model_->run(own, stream_.get());
        between();

        hattn_decode_args args = sized<hattn_decode_args>();
        args.append = 1;
        args.batch.num_sequences = args.batch.num_rows = num_sequences_;
        args.batch.q_len = 1;
        args.batch.seq_len = lengths_.at();
        args.q = q_.at();
        args.k_cache = k_[layer].at();
        args.v_cache = v_[layer].at();
        args.codes = codes_[layer].at();
        args.key_map.weight[0] = args.query_map.weight[0] = map_.at();
        args.out = out_.at();
        const hattn_exec exec = workspace_->exec(stream_.get());
        hattn_error error = {};
        const hattn_status status = hattn_decode(plan_.get(), &args, &exec, &error);
        between();
        return status ? error.text : "";
    }

    const devices::Streams *streams_;
    const devices::Model *model_;
    const int num_sequences_;
    const bool starts_next_early_;
    uint64_t seed_ = 0;
    OwnStream stream_;
    Plan plan_;
    std::unique_ptr<DeviceWorkspace> workspace_;
    std::vector<devices::Buffer> k_, v_, codes_;
    devices::Buffer map_, q_, out_, lengths_, trace_;
};

class DeviceModel : public DeviceContract
{
protected:
    /* Whether a layer's output differs anywhere: all later ones then do, too. */
    void expect_graph_is_separate_calls(int num_sequences, bool starts_next_early)
    {
        if (!streams->has_graphs())
            GTEST_SKIP() << GetParam() << " has no graphs";
        const devices::Model *model = devices::model_of(GetParam());
        ASSERT_NE(model, nullptr);
        const auto make = [&](bool early) {
            return std::make_unique<LayeredModel>(memory, streams, model, session->device, num_sequences, early);
        };
        const std::vector<uint32_t> expected = make(false)->one_by_one(), got = make(starts_next_early)->by_graph();
        ASSERT_EQ(expected.size(), got.size());
        uint32_t seen = 0;
        for (size_t i = 0; i < got.size(); i++) {
            seen += expected[i] != 0;
            ASSERT_EQ(expected[i], got[i])
                << "output before layer " << i / num_sequences % NUM_LAYERS << " of sequence " << i % num_sequences
                << " of length " << i / num_sequences / NUM_LAYERS;
        }
        EXPECT_GE(seen, uint32_t(NUM_STEPS * NUM_LAYERS * num_sequences) * 99 / 100);
    }
};

TEST_P(DeviceModel, OneSequenceInOneGraph) { expect_graph_is_separate_calls(1, false); }

TEST_P(DeviceModel, SequencesInOneGraph) { expect_graph_is_separate_calls(4, false); }

/* A kernel of the model's lets ours start before it has written anything. */
TEST_P(DeviceModel, KernelsThatLetTheNextStartEarly)
{
    expect_graph_is_separate_calls(1, true);
    expect_graph_is_separate_calls(4, true);
}

FOR_DEVICE_BACKENDS(DeviceModel);

} // namespace
} // namespace conformance
