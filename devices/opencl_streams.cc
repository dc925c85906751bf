/* SPDX-License-Identifier: Apache-2.0 */
#include <chrono>
#include <stdexcept>
#include <thread>

#include "devices/opencl.h"
#include "devices/opencl_context.h"

namespace devices {
namespace {

OpenclContext &context() { return OpenclContext::get(); }

void open_gate(const std::atomic<bool> *open, cl_event gate)
{
    const auto start = std::chrono::steady_clock::now();
    while (!*open && std::chrono::steady_clock::now() - start < std::chrono::seconds(10))
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    context().cl.clSetUserEventStatus(gate, CL_COMPLETE);
    context().cl.clReleaseEvent(gate);
}

class OpenclStreams : public Streams
{
public:
    void *make() const override
    {
        cl_int code;
        const cl_command_queue queue = context().cl.clCreateCommandQueue(context().context, context().device, 0, &code);
        check(code, "clCreateCommandQueue");
        return queue;
    }
    void release(void *stream) const override { context().cl.clReleaseCommandQueue(cl_command_queue(stream)); }
    void wait(void *stream) const override { check(context().cl.clFinish(cl_command_queue(stream)), "clFinish"); }
    void hold(void *stream, const std::atomic<bool> *open) const override
    {
        cl_int code;
        const cl_event gate = context().cl.clCreateUserEvent(context().context, &code);
        check(code, "clCreateUserEvent");
        check(context().cl.clEnqueueMarkerWithWaitList(cl_command_queue(stream), 1, &gate, nullptr),
              "clEnqueueMarkerWithWaitList");
        std::thread(open_gate, open, gate).detach();
    }
    bool has_graphs() const override { return false; }
    void begin_capture(void *) const override { throw std::runtime_error("OpenCL 1.2 has no graphs"); }
    std::unique_ptr<Graph> end_capture(void *) const override { throw std::runtime_error("OpenCL 1.2 has no graphs"); }
    /* A thread has no current device: there is the one of the context. */
    int num_devices() const override { return 1; }
    int current_device() const override { return 0; }
    void set_current_device(int) const override {}
};

} // namespace

const Streams *opencl_streams()
{
    static const OpenclStreams streams;
    return &streams;
}

} // namespace devices
