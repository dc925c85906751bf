/* SPDX-License-Identifier: Apache-2.0
 * Tensors whose elements lie beyond 2^31 of them: the same bits as where they lie close together.
 */
#include <algorithm>
#include <functional>
#include <stdexcept>

#include "tests/device_contract.h"

namespace conformance {
namespace {

/* One tensor of a decode that is laid out anew, in memory of its own. */
struct FarTensor {
    Field field;
    int dimension;  /* whose stride it is */
    int64_t stride; /* in elements */
    std::function<hattn_buffer *(hattn_decode_args &)> buffer;
    std::function<Tensor(const DeviceDecode &)> before, after; /* contents; null: none, or not written */
};

#define BUFFER(name) [](hattn_decode_args &args) { return &args.name; }
#define BEFORE(name) [](const DeviceDecode &job) { return job.instance.name; }
#define AFTER(name) [](const DeviceDecode &job) { return job.name; }
#define INPUT(name, dimension, stride)                                               \
    {                                                                                \
        &hattn_problem::name, dimension, stride, BUFFER(name), BEFORE(name), nullptr \
    }
#define OUTPUT(name, dimension, stride)                                             \
    {                                                                               \
        &hattn_problem::name, dimension, stride, BUFFER(name), nullptr, AFTER(name) \
    }

const int64_t FAR = (static_cast<int64_t>(1) << 31) + 64;
/* Bytes around a row that must stay as they were. */
const int64_t MARGIN = 64;

/* The elements of a tensor with other strides; around them NaN, or what outputs are filled with. */
class Placed
{
public:
    Placed(const FarTensor &far, const hattn_problem &shape, const DeviceDecode &job, const devices::Memory *memory)
        : memory_(memory), tensor_((far.after ? far.after : far.before)(job)), fill_(far.after ? 0xAA : 0xFF),
          element_(dtype_size(tensor_.dtype)), row_bytes_(tensor_.extent[tensor_.rank - 1] * element_)
    {
        std::copy_n((shape.*far.field).stride, 3, strides_);
        int64_t last = 0;
        for_each_row([&](const Index &, int64_t offset) { last = std::max(last, offset); });
        const size_t size = static_cast<size_t>(last + row_bytes_ + 2 * MARGIN);
        bytes_ = devices::Buffer(*memory, size);
        memory->fill(bytes_.data(), size, 0, fill_ * 0x0101010101010101, 0);
        if (!far.before)
            return;
        const Tensor before = far.before(job);
        for_each_row(
            [&](const Index &index, int64_t offset) { memory_->write(at(offset), before.at(index), row_bytes_); });
    }

    hattn_buffer buffer() const { return memory_->buffer(at(0), 0); }

    /* "" or where it differs from the tensor. */
    std::string compare() const
    {
        bool is_apart = true; /* rows have nobody close to them */
        for (int i = 0; i + 1 < tensor_.rank; i++)
            is_apart = is_apart && (tensor_.extent[i] == 1 || strides_[i] * element_ >= row_bytes_ + 2 * MARGIN);
        std::string wrong;
        std::vector<uint8_t> row(row_bytes_ + 2 * MARGIN);
        for_each_row([&](const Index &index, int64_t offset) {
            memory_->read(row.data(), at(offset) - MARGIN, row.size());
            if (!std::equal(row.begin() + MARGIN, row.end() - MARGIN, tensor_.at(index)))
                wrong = tensor_.element_name(index) + ": another row";
            for (int64_t i = 0; is_apart && i < MARGIN; i++)
                if (row[i] != fill_ || row[row.size() - 1 - i] != fill_)
                    wrong = tensor_.element_name(index) + ": wrote around the row";
        });
        return wrong;
    }

private:
    template <class Fn>
    void for_each_row(Fn fn) const
    {
        tensor_.for_each([&](const Index &index) {
            if (index[tensor_.rank - 1])
                return;
            int64_t offset = 0;
            for (int i = 0; i + 1 < tensor_.rank; i++)
                offset += index[i] * strides_[i];
            fn(index, offset * element_);
        });
    }
    uint8_t *at(int64_t byte_offset) const { return bytes_.data() + MARGIN + byte_offset; }

    const devices::Memory *memory_;
    Tensor tensor_;
    uint8_t fill_;
    int64_t element_, row_bytes_, strides_[3];
    devices::Buffer bytes_;
};

class DeviceFar : public DeviceContract
{
protected:
    void expect_same_bits(const std::string &name, const Problem &problem, const std::vector<FarTensor> &tensors)
    {
        SCOPED_TRACE(name);
        DeviceDecode job(memory, pinned, session->device, problem, 70);
        DeviceWorkspace near_workspace(memory, session->device, job.workspace_size());
        ASSERT_EQ(job.enqueue(near_workspace.exec(nullptr)), "");
        const auto expected = job.results();

        hattn_problem shape = job.instance.shape;
        size_t needed = static_cast<size_t>(1) << 30;
        for (const FarTensor &far : tensors) {
            const Tensor near = (far.after ? far.after : far.before)(job);
            (shape.*far.field).stride[far.dimension] = far.stride;
            needed += static_cast<size_t>(far.stride) * (near.extent[far.dimension] - 1) * dtype_size(near.dtype);
        }
        if (memory->properties().available < needed)
            GTEST_SKIP() << "needs " << (needed >> 30) << " GiB of the device's memory";
        const Plan plan = make_plan(session->device, shape);
        std::vector<std::unique_ptr<Placed>> placed;
        for (const FarTensor &far : tensors) {
            placed.push_back(std::make_unique<Placed>(far, shape, job, memory));
            *far.buffer(job.args) = placed.back()->buffer();
        }
        DeviceWorkspace workspace(memory, session->device, hattn_plan_workspace_size(plan.get()));
        ASSERT_EQ(job.enqueue(workspace.exec(nullptr), plan.get()), "");
        memory->synchronize();
        for (size_t i = 0; i < tensors.size(); i++)
            if (tensors[i].after) {
                EXPECT_EQ(placed[i]->compare(), "");
            }
        EXPECT_TRUE(workspace.control_is_zero());
        /* What is close by in both is the same too. */
        EXPECT_TRUE(job.results() == expected);
    }

    static Problem paged(bool append)
    {
        Problem p;
        p.name = "far";
        p.page_size = 64;
        p.head_dim_qk = 128;
        p.append = append;
        return p;
    }
};

/* With 8 pages, 5 of which are used: one of these is past 2^31 elements. */
const int64_t FAR_PAGE = (static_cast<int64_t>(1) << 29) + 64;

TEST_P(DeviceFar, PagesOfKeysAndValues)
{
    for (const bool append : {false, true})
        expect_same_bits("pages", paged(append), {INPUT(k_cache, 0, FAR_PAGE), INPUT(v_cache, 0, FAR_PAGE)});
    Problem f8 = paged(true);
    f8.kv_dtype = HATTN_F8_E4M3;
    expect_same_bits("f8", f8, {INPUT(k_cache, 0, FAR_PAGE), INPUT(v_cache, 0, FAR_PAGE)});
}

TEST_P(DeviceFar, HeadsOfKeysAndValues)
{
    Problem problem = paged(false);
    problem.page_size = 0;
    expect_same_bits("heads", problem, {INPUT(k_cache, 2, FAR), INPUT(v_cache, 2, FAR)});
}

TEST_P(DeviceFar, SlotsOfKeysAndValues)
{
    Problem problem = paged(false);
    problem.page_size = 0;
    problem.lengths = {129};
    problem.k = 100;
    problem.num_kv_heads = 1;
    /* Slots outermost. */
    const int64_t stride = (static_cast<int64_t>(1) << 24) + 64;
    expect_same_bits("slots", problem, {INPUT(k_cache, 1, stride), INPUT(v_cache, 1, stride)});
}

TEST_P(DeviceFar, PagesOfCodes)
{
    expect_same_bits("codes", paged(false), {INPUT(codes, 0, FAR_PAGE)});
    expect_same_bits("appended codes", paged(true),
                     {{&hattn_problem::codes, 0, FAR_PAGE, BUFFER(codes), BEFORE(codes), AFTER(codes)}});
    Problem norms = paged(false);
    norms.key_norms = true;
    expect_same_bits("norms", norms, {INPUT(norms, 0, FAR_PAGE)});
}

TEST_P(DeviceFar, RowsOfQueriesAndOutputs)
{
    expect_same_bits("q", paged(true), {INPUT(q, 0, FAR), OUTPUT(out, 0, FAR), OUTPUT(weights, 0, FAR)});
    expect_same_bits("indices", paged(true), {OUTPUT(indices, 0, FAR), OUTPUT(counts, 0, FAR), OUTPUT(lse, 0, FAR)});
}

TEST_P(DeviceFar, RowsOfTables)
{
    Problem problem = paged(true);
    problem.budgets = Budgets::EACH;
    expect_same_bits("tables", problem,
                     {{&hattn_problem::block_table, 0, FAR, BUFFER(batch.block_table), BEFORE(block_table), nullptr},
                      INPUT(budgets, 0, FAR)});
}

FOR_DEVICE_BACKENDS(DeviceFar);

} // namespace
} // namespace conformance
