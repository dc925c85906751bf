/* SPDX-License-Identifier: Apache-2.0
 * What a serving engine asks of a backend whose device has memory of its own. Each test runs for every such backend, and
 * skips with the reason where there is no device.
 */
#ifndef HATTN_TESTS_DEVICE_CONTRACT_H
#define HATTN_TESTS_DEVICE_CONTRACT_H

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "conformance/checks.h"
#include "conformance/device_runner.h"
#include "conformance/instance.h"
#include "conformance/mirror.h"
#include "devices/buffer.h"
#include "devices/streams.h"

namespace conformance {

class DeviceContract : public testing::TestWithParam<std::string>
{
protected:
    void SetUp() override;

    /* All operations of the problem that have `filter` in "PROBLEM/OPERATION" agree with the reference; at least one. */
    void expect_passes(const Problem &problem, uint64_t seed, const std::string &filter);

    std::unique_ptr<Session> session;
    const devices::Memory *memory = nullptr, *pinned = nullptr;
    const devices::Streams *streams = nullptr;
};

/* The backends that have no host memory to work on, with a device or without. */
std::vector<std::string> device_backends();

inline std::string backend_name(const testing::TestParamInfo<std::string> &info) { return info.param; }

#define FOR_DEVICE_BACKENDS(suite) \
    INSTANTIATE_TEST_SUITE_P(Backends, suite, testing::ValuesIn(device_backends()), backend_name)

/* A problem whose list name is this one. */
Problem listed_problem(const std::string &name);

/* A stream of its own. */
class OwnStream
{
public:
    explicit OwnStream(const devices::Streams *streams) : streams_(streams), stream_(streams->make()) {}
    ~OwnStream() { streams_->release(stream_); }
    OwnStream(const OwnStream &) = delete;
    OwnStream &operator=(const OwnStream &) = delete;
    void *get() const { return stream_; }
    void wait() const { streams_->wait(stream_); }

private:
    const devices::Streams *streams_;
    void *stream_;
};

struct FreePlan {
    void operator()(hattn_plan *plan) const { hattn_plan_destroy(plan); }
};
using Plan = std::unique_ptr<hattn_plan, FreePlan>;
/* Throws std::runtime_error. */
Plan make_plan(hattn_device *device, const hattn_problem &shape);

/* Bytes of 0xAA, then initialised. */
class DeviceWorkspace
{
public:
    /* Throws std::runtime_error. */
    DeviceWorkspace(const devices::Memory *memory, hattn_device *device, uint64_t size);
    hattn_exec exec(void *stream) const;
    bool control_is_zero() const;

private:
    const devices::Memory *memory_;
    devices::Buffer bytes_;
    uint64_t control_size_ = 0;
};

/* A decode that stays on the device: inputs are there, outputs are fetched when asked for. */
class DeviceDecode
{
public:
    DeviceDecode(const devices::Memory *memory, const devices::Memory *pinned, hattn_device *device,
                 const Problem &problem, uint64_t seed);

    uint64_t workspace_size() const { return hattn_plan_workspace_size(plan.get()); }
    /* "" or the library's words. other_plan: another plan of the same shape, instead of its own. */
    std::string enqueue(const hattn_exec &exec, const hattn_plan *other_plan = nullptr) const;
    /* What a run writes is as before the first run. Waits for the device. */
    void forget();
    /* Waits for the device. All memory that may have been written, a tensor after the other. */
    std::vector<std::vector<uint8_t>> results();

    const Instance instance;
    Plan plan;
    Tensor codes, norms, value_sums, value_lengths, out, lse, weights, indices, counts; /* on the host */
    hattn_decode_args args = {};                                                        /* on the device */

private:
    const devices::Memory *memory_;
    Mirror mirror_;
    std::vector<const Tensor *> outputs_;
    std::vector<std::vector<uint8_t>> before_; /* contents of each */
};

} // namespace conformance
#endif
