/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "core/opencl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static hattn_opencl_functions functions;
static const char *missing;

static void find(void *library, const char *name, void *to)
{
    void *address = dlsym(library, name);
    memcpy(to, &address, sizeof(address)); /* ISO C knows no cast from it to a function */
    if (!address && !missing)
        missing = name;
}

static void load(void)
{
    if (!getauxval(AT_BASE)) { /* what a static program opens has a C library of its own, and crashes */
        missing = "a dynamic linker, in a static program,";
        return;
    }
    /* PoCL looks there for processors and memory, and ends a process that has no /sys. */
    if (access("/sys/devices/system/cpu", F_OK)) {
        missing = "/sys/devices/system/cpu, which drivers read,";
        return;
    }
    void *library = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        missing = "libOpenCL.so.1";
        return;
    }
#define FIND(name) find(library, #name, &functions.name);
    HATTN_OPENCL_FUNCTIONS(FIND)
#undef FIND
}

const hattn_opencl_functions *hattn_opencl_load(const char **why)
{
    pthread_once(&once, load);
    *why = missing;
    return missing ? NULL : &functions;
}

enum { MAX_PLATFORMS = 16, MAX_DEVICES = 64 };

/* Devices that are processors, or all others, from `first` of the list on; returns how many there are then. */
static int list_devices(const hattn_opencl_functions *cl, bool processors, cl_device_id *devices, int first)
{
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_uint num_platforms = 0;
    if (cl->clGetPlatformIDs(MAX_PLATFORMS, platforms, &num_platforms) != CL_SUCCESS)
        return first;
    for (cl_uint i = 0; i < num_platforms && i < MAX_PLATFORMS; i++) {
        cl_device_id found[MAX_DEVICES];
        cl_uint count = 0;
        const cl_device_type types = CL_DEVICE_TYPE_GPU | CL_DEVICE_TYPE_ACCELERATOR | CL_DEVICE_TYPE_CPU;
        if (cl->clGetDeviceIDs(platforms[i], types, MAX_DEVICES, found, &count) != CL_SUCCESS)
            continue;
        for (cl_uint j = 0; j < count && j < MAX_DEVICES && first < MAX_DEVICES; j++) {
            cl_device_type type = 0; /* one may be of several: Oclgrind's is of all */
            cl->clGetDeviceInfo(found[j], CL_DEVICE_TYPE, sizeof(type), &type, NULL);
            if (!(type & CL_DEVICE_TYPE_CPU) == !processors)
                devices[first++] = found[j];
        }
    }
    return first;
}

static int list_all(const hattn_opencl_functions *cl, cl_device_id *devices)
{
    return list_devices(cl, true, devices, list_devices(cl, false, devices, 0));
}

bool hattn_opencl_find_device(const hattn_opencl_functions *cl, int index, cl_device_id *device)
{
    cl_device_id devices[MAX_DEVICES];
    if (index < 0 || index >= list_all(cl, devices))
        return false;
    *device = devices[index];
    return true;
}

int hattn_opencl_count_devices(const hattn_opencl_functions *cl)
{
    cl_device_id devices[MAX_DEVICES];
    return list_all(cl, devices);
}

const char *hattn_opencl_error_text(cl_int code)
{
    switch (code) {
    case CL_DEVICE_NOT_AVAILABLE: return "CL_DEVICE_NOT_AVAILABLE";
    case CL_COMPILER_NOT_AVAILABLE: return "CL_COMPILER_NOT_AVAILABLE";
    case CL_MEM_OBJECT_ALLOCATION_FAILURE: return "CL_MEM_OBJECT_ALLOCATION_FAILURE";
    case CL_OUT_OF_RESOURCES: return "CL_OUT_OF_RESOURCES";
    case CL_OUT_OF_HOST_MEMORY: return "CL_OUT_OF_HOST_MEMORY";
    case CL_BUILD_PROGRAM_FAILURE: return "CL_BUILD_PROGRAM_FAILURE";
    case CL_INVALID_VALUE: return "CL_INVALID_VALUE";
    case CL_INVALID_DEVICE: return "CL_INVALID_DEVICE";
    case CL_INVALID_CONTEXT: return "CL_INVALID_CONTEXT";
    case CL_INVALID_COMMAND_QUEUE: return "CL_INVALID_COMMAND_QUEUE";
    case CL_INVALID_MEM_OBJECT: return "CL_INVALID_MEM_OBJECT";
    case CL_INVALID_BUILD_OPTIONS: return "CL_INVALID_BUILD_OPTIONS";
    case CL_INVALID_KERNEL_NAME: return "CL_INVALID_KERNEL_NAME";
    case CL_INVALID_ARG_INDEX: return "CL_INVALID_ARG_INDEX";
    case CL_INVALID_ARG_VALUE: return "CL_INVALID_ARG_VALUE";
    case CL_INVALID_ARG_SIZE: return "CL_INVALID_ARG_SIZE";
    case CL_INVALID_KERNEL_ARGS: return "CL_INVALID_KERNEL_ARGS";
    case CL_INVALID_WORK_GROUP_SIZE: return "CL_INVALID_WORK_GROUP_SIZE";
    case CL_INVALID_WORK_ITEM_SIZE: return "CL_INVALID_WORK_ITEM_SIZE";
    case CL_INVALID_BUFFER_SIZE: return "CL_INVALID_BUFFER_SIZE";
    case CL_INVALID_GLOBAL_WORK_SIZE: return "CL_INVALID_GLOBAL_WORK_SIZE";
    default: return "an OpenCL error without a name here";
    }
}
