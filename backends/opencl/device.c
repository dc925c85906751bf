/* SPDX-License-Identifier: Apache-2.0
 * The OpenCL backend's table: devices and plans.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/known_answer.h"
#include "backends/opencl/opencl.h"
#include "core/status.h"

enum { MIN_LOCAL_MEMORY = 32 << 10, MIN_LOCAL = 128 };

static const hattn_opencl_functions *load(char *why, size_t size)
{
    const char *missing;
    const hattn_opencl_functions *cl = hattn_opencl_load(&missing);
    if (!cl)
        snprintf(why, size, "no OpenCL 1.2 loader: %s was not found", missing);
    return cl;
}

static int device_count(char *why, size_t size)
{
    const hattn_opencl_functions *cl = load(why, size);
    const int count = cl ? hattn_opencl_count_devices(cl) : 0;
    if (cl && !count)
        snprintf(why, size, "no OpenCL driver with a device is installed");
    return count;
}

/* A processor is better served by the cpu backend. */
static bool is_default(void)
{
    char why[256];
    const hattn_opencl_functions *cl = load(why, sizeof(why));
    cl_device_id id;
    cl_device_type type = 0;
    return cl && hattn_opencl_find_device(cl, 0, &id) &&
           cl->clGetDeviceInfo(id, CL_DEVICE_TYPE, sizeof(type), &type, NULL) == CL_SUCCESS &&
           !(type & CL_DEVICE_TYPE_CPU);
}

/* What kernels are chosen by, and what a device must have. */
static hattn_status examine(hattn_opencl_device *made, hattn_error *error)
{
    const hattn_opencl_functions *cl = made->cl;
    cl_device_type type = 0;
    cl_uint units = 0;
    cl_ulong memory = 0;
    cl_bool is_little = CL_FALSE, has_compiler = CL_FALSE;
    size_t local = 0;
    char name[256] = "", version[256] = "";
    cl_int code = cl->clGetDeviceInfo(made->id, CL_DEVICE_TYPE, sizeof(type), &type, NULL);
    code = code ? code : cl->clGetDeviceInfo(made->id, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof(units), &units, NULL);
    code = code ? code : cl->clGetDeviceInfo(made->id, CL_DEVICE_LOCAL_MEM_SIZE, sizeof(memory), &memory, NULL);
    code = code ? code : cl->clGetDeviceInfo(made->id, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof(local), &local, NULL);
    code = code ? code : cl->clGetDeviceInfo(made->id, CL_DEVICE_ENDIAN_LITTLE, sizeof(is_little), &is_little, NULL);
    code = code
               ? code
               : cl->clGetDeviceInfo(made->id, CL_DEVICE_COMPILER_AVAILABLE, sizeof(has_compiler), &has_compiler, NULL);
    code = code ? code : cl->clGetDeviceInfo(made->id, CL_DEVICE_NAME, sizeof(name) - 1, name, NULL);
    code = code ? code : cl->clGetDeviceInfo(made->id, CL_DEVICE_OPENCL_C_VERSION, sizeof(version) - 1, version, NULL);
    if (code)
        return hattn_opencl_from_code(code, "clGetDeviceInfo", error);
    if (memory < MIN_LOCAL_MEMORY || local < MIN_LOCAL || !is_little || !has_compiler)
        return hattn_fail(error, HATTN_NO_DEVICE,
                          "opencl: %s has %llu bytes of local memory, groups of %zu, %s-endian, %s compiler: %d, %d, "
                          "little-endian and a compiler are needed",
                          name, (unsigned long long)memory, local, is_little ? "little" : "big",
                          has_compiler ? "a" : "no", MIN_LOCAL_MEMORY, MIN_LOCAL);
    made->is_cpu = type & CL_DEVICE_TYPE_CPU;
    made->num_units = units ? (int32_t)units : 1;
    made->max_local = local > 1024 ? 1024 : (int32_t)local;
    hattn_device_info *info = &made->base.info;
    snprintf(info->backend, sizeof(info->backend), "opencl");
    snprintf(info->name, sizeof(info->name), "%.*s", (int)sizeof(info->name) - 1, name);
    snprintf(info->isa, sizeof(info->isa), "%.*s", (int)sizeof(info->isa) - 1, version);
    return HATTN_OK;
}

static void close_device(hattn_device *base)
{
    hattn_opencl_device *device = (hattn_opencl_device *)base;
    hattn_opencl_release_programs(device);
    if (device->queue)
        device->cl->clReleaseCommandQueue(device->queue);
    if (device->context)
        device->cl->clReleaseContext(device->context);
    pthread_mutex_destroy(&device->lock);
    free(device);
}

/* The caller's context, or one of its own, with a queue. */
static hattn_status connect(const hattn_device_options *options, hattn_opencl_device *made, hattn_error *error)
{
    const hattn_opencl_functions *cl = made->cl;
    cl_int code = CL_SUCCESS;
    if (options->native_context) {
        code = cl->clRetainContext((cl_context)options->native_context);
        if (code)
            return hattn_opencl_from_code(code, "options.native_context", error);
        made->context = (cl_context)options->native_context;
    } else {
        made->context = cl->clCreateContext(NULL, 1, &made->id, NULL, NULL, &code);
        if (code)
            return hattn_opencl_from_code(code, "clCreateContext", error);
    }
    made->queue = cl->clCreateCommandQueue(made->context, made->id, 0, &code);
    if (code)
        return hattn_opencl_from_code(code, "clCreateCommandQueue", error);
    made->base.info.native_context = made->context;
    made->base.info.native_device = made->id;
    made->base.info.native_stream = made->queue;
    return HATTN_OK;
}

/* ---- What the known answer lies in ---- */

static hattn_status allocate(hattn_device *base, uint64_t size, hattn_buffer *buffer, hattn_error *error)
{
    const hattn_opencl_device *device = (const hattn_opencl_device *)base;
    cl_int code;
    const cl_mem memory = device->cl->clCreateBuffer(device->context, CL_MEM_READ_WRITE, size, NULL, &code);
    if (!code)
        *buffer = (hattn_buffer){memory, 0};
    return hattn_opencl_from_code(code, "clCreateBuffer", error);
}

static void release(hattn_device *base, hattn_buffer buffer)
{
    ((const hattn_opencl_device *)base)->cl->clReleaseMemObject((cl_mem)buffer.data);
}

static hattn_status write_buffer(hattn_device *base, hattn_buffer to, const void *from, uint64_t size,
                                 hattn_error *error)
{
    const hattn_opencl_device *device = (const hattn_opencl_device *)base;
    return hattn_opencl_from_code(device->cl->clEnqueueWriteBuffer(device->queue, (cl_mem)to.data, CL_TRUE,
                                                                   to.byte_offset, size, from, 0, NULL, NULL),
                                  "clEnqueueWriteBuffer", error);
}

static hattn_status read_buffer(hattn_device *base, void *to, hattn_buffer from, uint64_t size, hattn_error *error)
{
    const hattn_opencl_device *device = (const hattn_opencl_device *)base;
    return hattn_opencl_from_code(device->cl->clEnqueueReadBuffer(device->queue, (cl_mem)from.data, CL_TRUE,
                                                                  from.byte_offset, size, to, 0, NULL, NULL),
                                  "clEnqueueReadBuffer", error);
}

static hattn_status open_device(const hattn_device_options *options, hattn_device **device, hattn_error *error)
{
    if (options->isa)
        return hattn_fail(error, HATTN_INVALID_ARGUMENT,
                          "opencl: options.isa is '%s', only the cpu backend has a choice", options->isa);
    if (!options->native_context != !options->native_device)
        return hattn_fail(error, HATTN_INVALID_ARGUMENT,
                          "options.native_context and native_device go together: one is null");
    char why[256];
    hattn_opencl_device *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "opencl: no memory for a device");
    pthread_mutex_init(&made->lock, NULL);
    made->base.backend = &hattn_opencl_backend;
    made->cl = load(why, sizeof(why));
    made->id = (cl_device_id)options->native_device;
    hattn_status status = HATTN_OK;
    if (!made->id && !hattn_opencl_find_device(made->cl, options->index, &made->id))
        status = hattn_fail(error, HATTN_NO_DEVICE, "opencl: no device %d any more", options->index);
    status = status ? status : examine(made, error);
    status = status ? status : connect(options, made, error);
    const hattn_known_memory memory = {
        .allocate = allocate, .release = release, .write = write_buffer, .read = read_buffer, .stream = made->queue};
    status = status ? status : hattn_known_answer(&made->base, &memory, error);
    if (status == HATTN_UNSUPPORTED) /* groups too small for any problem */
        status = HATTN_NO_DEVICE;
    if (status) {
        close_device(&made->base);
        return status;
    }
    *device = &made->base;
    return HATTN_OK;
}

static void destroy_plan(hattn_plan *base)
{
    hattn_opencl_plan *plan = (hattn_opencl_plan *)base;
    hattn_opencl_release_kernels(((hattn_opencl_device *)base->device)->cl, plan);
    pthread_mutex_destroy(&plan->lock);
    free(plan);
}

static hattn_status make_plan(hattn_device *base, const hattn_problem *problem, hattn_plan **plan, hattn_error *error)
{
    hattn_opencl_device *device = (hattn_opencl_device *)base;
    hattn_opencl_plan *made = calloc(1, sizeof(*made));
    if (!made)
        return hattn_fail(error, HATTN_OUT_OF_MEMORY, "opencl: no memory for a plan");
    pthread_mutex_init(&made->lock, NULL);
    made->base.device = base;
    hattn_opencl_choose(device, problem, made);
    const hattn_status status = hattn_opencl_build(device, problem, made, error);
    if (status) {
        destroy_plan(&made->base);
        return status;
    }
    made->base.workspace_size = made->layout.size;
    *plan = &made->base;
    return HATTN_OK;
}

/* Groups share nothing between kernels that must be zero: there is no control region. */
static hattn_status init_workspace(hattn_device *device, hattn_buffer workspace, uint64_t size, void *stream,
                                   hattn_error *error)
{
    (void)device;
    (void)workspace;
    (void)size;
    (void)stream;
    (void)error;
    return HATTN_OK;
}

const hattn_backend hattn_opencl_backend = {
    .name = "opencl",
    .pointer_alignment = 16,
    .has_handles = true,
    .device_count = device_count,
    .is_default = is_default,
    .open = open_device,
    .close = close_device,
    .plan = make_plan,
    .plan_destroy = destroy_plan,
    .workspace_init = init_workspace,
    .encode_keys = hattn_opencl_encode_keys,
    .encode_queries = hattn_opencl_encode_queries,
    .score = hattn_opencl_score,
    .topk = hattn_opencl_topk,
    .attend = hattn_opencl_attend,
    .merge = hattn_opencl_merge,
    .sum_values = hattn_opencl_sum_values,
    .decode = hattn_opencl_decode,
};
