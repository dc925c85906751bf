/* SPDX-License-Identifier: Apache-2.0 */
#include "devices/opencl_context.h"

#include <sys/mman.h>

#include <new>
#include <stdexcept>
#include <vector>

#include "devices/memory.h"

namespace devices {
namespace {

const char KERNELS[] = {
#include "devices/opencl_kernels.cl.inc"
};

const hattn_opencl_functions &functions()
{
    const char *missing = nullptr;
    const hattn_opencl_functions *cl = hattn_opencl_load(&missing);
    if (!cl)
        throw std::runtime_error(std::string("OpenCL: no ") + missing);
    return *cl;
}

const size_t PAGE = 4096;

void CL_CALLBACK release_own(cl_mem, void *own) { host_memory().release(own); }

} // namespace

void check(cl_int code, const char *what)
{
    if (code != CL_SUCCESS)
        throw std::runtime_error(std::string(what) + ": " + hattn_opencl_error_text(code));
}

OpenclContext &OpenclContext::get()
{
    static OpenclContext &context = *new OpenclContext; /* outlives everything: drivers have threads */
    return context;
}

OpenclContext::OpenclContext() : cl(functions())
{
    if (!hattn_opencl_find_device(&cl, 0, &device))
        throw std::runtime_error("OpenCL: no device");
    cl_int code;
    context = cl.clCreateContext(nullptr, 1, &device, nullptr, nullptr, &code);
    check(code, "clCreateContext");
    queue = cl.clCreateCommandQueue(context, device, CL_QUEUE_PROFILING_ENABLE, &code);
    check(code, "clCreateCommandQueue");
    is_cpu_ = info<cl_device_type>(CL_DEVICE_TYPE) & CL_DEVICE_TYPE_CPU;
}

void *OpenclContext::allocate(size_t size, cl_mem_flags flags)
{
    const size_t rounded = (size + PAGE) / PAGE * PAGE; /* the end is an address of its own */
    /* A processor's buffers lie in memory like the cpu backend's, whose pages may be huge. */
    void *own = is_cpu_ && !flags ? host_memory().allocate(size) : nullptr;
    cl_int code;
    const cl_mem memory = cl.clCreateBuffer(context, CL_MEM_READ_WRITE | (own ? CL_MEM_USE_HOST_PTR : flags),
                                            size ? size : 1, own, &code);
    /* Runs that are queued keep the buffer when we have let it go: the last user frees what it lies in. */
    if (own && (code || (code = cl.clSetMemObjectDestructorCallback(memory, release_own, own))))
        host_memory().release(own);
    void *address =
        code ? MAP_FAILED : mmap(nullptr, rounded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) {
        if (memory)
            cl.clReleaseMemObject(memory);
        check(code, "clCreateBuffer");
        throw std::bad_alloc();
    }
    const std::lock_guard<std::mutex> guard(lock_);
    ranges_[uintptr_t(address)] = {rounded, memory};
    return address;
}

void OpenclContext::release(void *address)
{
    const std::lock_guard<std::mutex> guard(lock_);
    const auto found = ranges_.find(uintptr_t(address));
    if (found == ranges_.end())
        return;
    cl.clReleaseMemObject(found->second.memory);
    munmap(address, found->second.size);
    ranges_.erase(found);
}

hattn_buffer OpenclContext::buffer(const void *address, uint64_t byte_offset)
{
    const uintptr_t at = uintptr_t(address) + byte_offset;
    const std::lock_guard<std::mutex> guard(lock_);
    const auto after = ranges_.upper_bound(at);
    if (after == ranges_.begin() || at - std::prev(after)->first > std::prev(after)->second.size)
        throw std::runtime_error("OpenCL: an address of no buffer");
    return {std::prev(after)->second.memory, at - std::prev(after)->first};
}

cl_kernel OpenclContext::kernel(const char *name)
{
    cl_int code;
    if (!program_) {
        const char *text = KERNELS;
        const size_t size = sizeof(KERNELS);
        program_ = cl.clCreateProgramWithSource(context, 1, &text, &size, &code);
        check(code, "clCreateProgramWithSource");
        check(cl.clBuildProgram(program_, 1, &device, "-cl-std=CL1.2", nullptr, nullptr), "clBuildProgram");
    }
    cl_kernel &found = kernels_[name];
    if (!found) {
        found = cl.clCreateKernel(program_, name, &code);
        check(code, name);
    }
    return found;
}

void OpenclContext::put(cl_kernel kernel, cl_uint index, const void *address)
{
    const hattn_buffer at = buffer(address, 0);
    const cl_ulong offset = at.byte_offset;
    check(cl.clSetKernelArg(kernel, index, sizeof(at.data), &at.data), "clSetKernelArg");
    check(cl.clSetKernelArg(kernel, index + 1, sizeof(offset), &offset), "clSetKernelArg");
}

void OpenclContext::enqueue(cl_command_queue on, cl_kernel kernel, size_t local, size_t groups)
{
    const size_t global = local * groups;
    check(cl.clEnqueueNDRangeKernel(on, kernel, 1, nullptr, &global, &local, 0, nullptr, nullptr),
          "clEnqueueNDRangeKernel");
}

std::string OpenclContext::text(cl_device_info name) const
{
    size_t size = 0;
    check(cl.clGetDeviceInfo(device, name, 0, nullptr, &size), "clGetDeviceInfo");
    std::vector<char> text(size + 1);
    check(cl.clGetDeviceInfo(device, name, size, text.data(), nullptr), "clGetDeviceInfo");
    return text.data();
}

} // namespace devices

#ifdef __SANITIZE_ADDRESS__
/* PoCL 3.1, and LLVM in it, keep some of what they make of a kernel. */
extern "C" __attribute__((visibility("default"))) const char *__lsan_default_suppressions();
const char *__lsan_default_suppressions() { return "leak:libpocl\nleak:libLLVM"; }
#endif
