/* SPDX-License-Identifier: Apache-2.0
 * OpenCL's functions, out of the loader that is there when they are first wanted (libOpenCL.so.1): nothing is linked to. For the
 * library's backend and for the programs around it.
 */
#ifndef HATTN_CORE_OPENCL_H
#define HATTN_CORE_OPENCL_H

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HATTN_OPENCL_FUNCTIONS(F)       \
    F(clGetPlatformIDs)                 \
    F(clGetDeviceIDs)                   \
    F(clGetDeviceInfo)                  \
    F(clCreateContext)                  \
    F(clRetainContext)                  \
    F(clReleaseContext)                 \
    F(clCreateCommandQueue)             \
    F(clReleaseCommandQueue)            \
    F(clCreateProgramWithSource)        \
    F(clBuildProgram)                   \
    F(clGetProgramBuildInfo)            \
    F(clReleaseProgram)                 \
    F(clCreateKernel)                   \
    F(clSetKernelArg)                   \
    F(clGetKernelWorkGroupInfo)         \
    F(clReleaseKernel)                  \
    F(clEnqueueNDRangeKernel)           \
    F(clCreateBuffer)                   \
    F(clSetMemObjectDestructorCallback) \
    F(clReleaseMemObject)               \
    F(clEnqueueReadBuffer)              \
    F(clEnqueueWriteBuffer)             \
    F(clEnqueueCopyBuffer)              \
    F(clEnqueueMarkerWithWaitList)      \
    F(clCreateUserEvent)                \
    F(clSetUserEventStatus)             \
    F(clGetEventProfilingInfo)          \
    F(clReleaseEvent)                   \
    F(clFlush)                          \
    F(clFinish)

#define HATTN_OPENCL_FIELD(name) __typeof__(&name) name;
typedef struct hattn_opencl_functions {
    HATTN_OPENCL_FUNCTIONS(HATTN_OPENCL_FIELD)
} hattn_opencl_functions;
#undef HATTN_OPENCL_FIELD

/* NULL: there is no loader, or it lacks functions of OpenCL 1.2; *why says which. Never unloaded: drivers have threads. */
const hattn_opencl_functions *hattn_opencl_load(const char **why);

/* The device of that index: those of all platforms one after the other, processors behind all others. False: there is none. */
bool hattn_opencl_find_device(const hattn_opencl_functions *cl, int index, cl_device_id *device);
int hattn_opencl_count_devices(const hattn_opencl_functions *cl);

/* "CL_OUT_OF_RESOURCES", ...; static. */
const char *hattn_opencl_error_text(cl_int code);

#ifdef __cplusplus
}
#endif
#endif
