/* SPDX-License-Identifier: Apache-2.0
 * One context for all OpenCL memory, streams and clocks of a process, and addresses for its buffers.
 */
#ifndef HATTN_DEVICES_OPENCL_CONTEXT_H
#define HATTN_DEVICES_OPENCL_CONTEXT_H

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "api/hattn.h"
#include "core/opencl.h"

namespace devices {

/* Throws std::runtime_error with the name of the code, unless it is CL_SUCCESS. */
void check(cl_int code, const char *what);

/* OpenCL's memory has handles; programs here do arithmetic on addresses. Each buffer therefore gets a range of addresses that
 * nothing can read or write, and an address inside of it means that byte of the buffer. */
class OpenclContext
{
public:
    /* Made when it is first asked for, never freed. Throws std::runtime_error where there is no device. */
    static OpenclContext &get();

    void *allocate(size_t size, cl_mem_flags flags);
    void release(void *address);
    hattn_buffer buffer(const void *address, uint64_t byte_offset);
    /* Kernels of the programs around the library: devices/opencl_kernels.cl. Not for several threads at once. */
    cl_kernel kernel(const char *name);
    /* Puts a buffer and an offset into two arguments. */
    void put(cl_kernel kernel, cl_uint index, const void *address);
    void enqueue(cl_command_queue queue, cl_kernel kernel, size_t local, size_t groups);
    template <class Value>
    Value info(cl_device_info name) const
    {
        Value value = {};
        check(cl.clGetDeviceInfo(device, name, sizeof(value), &value, nullptr), "clGetDeviceInfo");
        return value;
    }
    std::string text(cl_device_info name) const;

    const hattn_opencl_functions &cl;
    cl_device_id device = nullptr;
    cl_context context = nullptr;
    /* Of copies and of the stopwatch: one, so that they are in order. It measures. */
    cl_command_queue queue = nullptr;

private:
    OpenclContext();
    struct Range {
        size_t size;
        cl_mem memory;
    };
    std::mutex lock_;
    std::map<uintptr_t, Range> ranges_; /* by their first address */
    std::map<std::string, cl_kernel> kernels_;
    cl_program program_ = nullptr;
    bool is_cpu_ = false;
};

} // namespace devices
#endif
