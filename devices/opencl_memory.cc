/* SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>

#include "devices/opencl.h"
#include "devices/opencl_context.h"

namespace devices {
namespace {

OpenclContext &context() { return OpenclContext::get(); }

class OpenclMemory : public Memory
{
public:
    explicit OpenclMemory(cl_mem_flags flags) : flags_(flags) {}

    void *allocate(size_t size) const override { return context().allocate(size, flags_); }
    void release(void *address) const override { context().release(address); }

    void write(void *to_device, const void *from_host, size_t size) const override
    {
        const hattn_buffer to = context().buffer(to_device, 0);
        if (size)
            check(context().cl.clEnqueueWriteBuffer(context().queue, cl_mem(to.data), CL_TRUE, to.byte_offset, size,
                                                    from_host, 0, nullptr, nullptr),
                  "clEnqueueWriteBuffer");
    }

    void read(void *to_host, const void *from_device, size_t size) const override
    {
        const hattn_buffer from = context().buffer(from_device, 0);
        if (size)
            check(context().cl.clEnqueueReadBuffer(context().queue, cl_mem(from.data), CL_TRUE, from.byte_offset, size,
                                                   to_host, 0, nullptr, nullptr),
                  "clEnqueueReadBuffer");
    }

    void fill(void *data, size_t size, uint64_t keep, uint64_t set, uint64_t seed) const override
    {
        const cl_kernel kernel = context().kernel("fill_words");
        context().put(kernel, 0, data);
        const cl_ulong values[] = {size, keep, set, seed};
        for (cl_uint i = 0; i < 4; i++)
            check(context().cl.clSetKernelArg(kernel, 2 + i, sizeof(cl_ulong), &values[i]), "clSetKernelArg");
        context().enqueue(context().queue, kernel, 64, 16 * context().info<cl_uint>(CL_DEVICE_MAX_COMPUTE_UNITS));
        synchronize();
    }

    void synchronize() const override { check(context().cl.clFinish(context().queue), "clFinish"); }

    Properties properties() const override
    {
        const size_t total = context().info<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE),
                     largest = context().info<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE);
        /* Nobody says what is free: of processors the host does; no buffer can be larger than `largest`. */
        const bool is_cpu = context().info<cl_device_type>(CL_DEVICE_TYPE) & CL_DEVICE_TYPE_CPU;
        const size_t available = is_cpu ? host_memory().properties().available : total / 10 * 9;
        /* A GPU's driver may tell of less than its last level: what is timed cold should be. */
        const size_t told = context().info<cl_ulong>(CL_DEVICE_GLOBAL_MEM_CACHE_SIZE), usual = size_t(128) << 20;
        return {total, std::min(available, largest), is_cpu ? told : std::max(told, usual),
                context().text(CL_DRIVER_VERSION), context().text(CL_DEVICE_VERSION)};
    }

    hattn_buffer buffer(void *address, uint64_t byte_offset) const override
    {
        return context().buffer(address, byte_offset);
    }

    void *stream() const override { return context().queue; }

    void choose(hattn_device_options *options) const override
    {
        const char *missing;
        const hattn_opencl_functions *cl = hattn_opencl_load(&missing);
        if (options->index || !cl || !hattn_opencl_count_devices(cl))
            return; /* the library says why there is none */
        options->native_context = context().context;
        options->native_device = context().device;
    }

private:
    cl_mem_flags flags_;
};

} // namespace

const Memory *opencl_memory()
{
    static const OpenclMemory memory(0);
    return &memory;
}

const Memory *opencl_pinned_memory()
{
    static const OpenclMemory memory(CL_MEM_ALLOC_HOST_PTR);
    return &memory;
}

} // namespace devices
