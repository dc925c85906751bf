/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/opencl.h"
#include "devices/opencl_context.h"

namespace devices {
namespace {

OpenclContext &context() { return OpenclContext::get(); }

class Event
{
public:
    Event() = default;
    ~Event()
    {
        if (event_)
            context().cl.clReleaseEvent(event_);
    }
    Event(const Event &) = delete;
    Event &operator=(const Event &) = delete;
    cl_event *put() { return &event_; }
    cl_event get() const { return event_; }

    /* CL_PROFILING_COMMAND_START or _END. */
    double ns(cl_profiling_info which) const
    {
        cl_ulong ns = 0;
        check(context().cl.clGetEventProfilingInfo(event_, which, sizeof(ns), &ns, nullptr), "clGetEventProfilingInfo");
        return double(ns);
    }

private:
    cl_event event_ = nullptr;
};

/* OpenCL 1.2 has no graphs: the calls are made again, all of them before the first may start. Between two kernels that
 * do nothing: what a marker's times are is up to the driver. */
class OpenclRecording : public Recording
{
public:
    OpenclRecording(cl_command_queue queue, const std::function<void()> &calls) : queue_(queue), calls_(calls) {}

    double replay() override
    {
        Event gate, start, stop;
        cl_int code;
        *gate.put() = context().cl.clCreateUserEvent(context().context, &code);
        check(code, "clCreateUserEvent");
        const cl_event waited = gate.get();
        mark(1, &waited, start.put());
        try {
            calls_();
        } catch (...) {
            context().cl.clSetUserEventStatus(gate.get(), CL_COMPLETE);
            context().cl.clFinish(queue_);
            throw;
        }
        mark(0, nullptr, stop.put());
        check(context().cl.clFlush(queue_), "clFlush");
        check(context().cl.clSetUserEventStatus(gate.get(), CL_COMPLETE), "clSetUserEventStatus");
        check(context().cl.clFinish(queue_), "clFinish");
        return (stop.ns(CL_PROFILING_COMMAND_START) - start.ns(CL_PROFILING_COMMAND_END)) * 1e-3;
    }

private:
    void mark(cl_uint num_waited, const cl_event *waited, cl_event *event) const
    {
        const size_t one = 1;
        check(context().cl.clEnqueueNDRangeKernel(queue_, context().kernel("do_nothing"), 1, nullptr, &one, &one,
                                                  num_waited, waited, event),
              "clEnqueueNDRangeKernel");
    }

    cl_command_queue queue_;
    std::function<void()> calls_;
};

class OpenclStopwatch : public Stopwatch
{
public:
    void *stream() const override { return context().queue; }
    std::unique_ptr<Recording> record(const std::function<void()> &calls) override
    {
        return std::make_unique<OpenclRecording>(context().queue, calls);
    }
};

} // namespace

std::unique_ptr<Stopwatch> opencl_stopwatch() { return std::make_unique<OpenclStopwatch>(); }

} // namespace devices
