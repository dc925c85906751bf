/* SPDX-License-Identifier: Apache-2.0 */
#include "backends/opencl/queue.h"

hattn_cl_run hattn_cl_begin(const hattn_plan *base, const hattn_exec *exec)
{
    const hattn_opencl_plan *plan = (const hattn_opencl_plan *)base;
    const hattn_opencl_device *device = (const hattn_opencl_device *)base->device;
    pthread_mutex_lock((pthread_mutex_t *)&plan->lock);
    return (hattn_cl_run){.plan = plan,
                          .cl = device->cl,
                          .queue = exec->stream ? (cl_command_queue)exec->stream : device->queue,
                          .workspace = exec->workspace};
}

hattn_status hattn_cl_end(const hattn_cl_run *r, hattn_error *error)
{
    pthread_mutex_unlock((pthread_mutex_t *)&r->plan->lock);
    return hattn_opencl_from_code(r->code, r->what, error);
}

static void note(hattn_cl_run *r, cl_int code, const char *what)
{
    if (!r->code && code) {
        r->code = code;
        r->what = what;
    }
}

void hattn_cl_start(hattn_cl_run *r, int kernel)
{
    r->kernel = &r->plan->kernels[kernel];
    r->num_arguments = 0;
}

void hattn_cl_put(hattn_cl_run *r, const void *value, size_t size)
{
    note(r, r->cl->clSetKernelArg(r->kernel->kernel, r->num_arguments++, size, value), "clSetKernelArg");
}

void hattn_cl_put_buffer(hattn_cl_run *r, hattn_buffer buffer)
{
    const cl_mem memory = (cl_mem)buffer.data;
    const cl_ulong offset = buffer.data ? buffer.byte_offset : 0;
    hattn_cl_put(r, buffer.data ? &memory : NULL, sizeof(memory));
    hattn_cl_put(r, &offset, sizeof(offset));
}

void hattn_cl_put_buffers(hattn_cl_run *r, const hattn_buffer *buffers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        hattn_cl_put_buffer(r, buffers[i]);
}

void hattn_cl_put_local(hattn_cl_run *r, int64_t elements, size_t size)
{
    hattn_cl_put(r, NULL, (size_t)elements * size);
}

void hattn_cl_put_batch(hattn_cl_run *r, const hattn_batch *batch)
{
    hattn_opencl_rows rows = r->plan->rows;
    rows.num_rows = batch->num_rows;
    rows.num_sequences = batch->num_sequences;
    rows.q_len = batch->q_len;
    hattn_cl_put(r, &rows, sizeof(rows));
    hattn_cl_put_buffer(r, batch->q_start);
    hattn_cl_put_buffer(r, batch->seq_len);
}

void hattn_cl_enqueue(hattn_cl_run *r, int64_t groups)
{
    const size_t local = (size_t)r->kernel->local, global = (size_t)groups * local;
    if (groups > 0 && !r->code)
        note(r, r->cl->clEnqueueNDRangeKernel(r->queue, r->kernel->kernel, 1, NULL, &global, &local, 0, NULL, NULL),
             "clEnqueueNDRangeKernel");
}

hattn_buffer hattn_cl_in_workspace(const hattn_cl_run *r, uint64_t offset)
{
    return (hattn_buffer){r->workspace.data, r->workspace.byte_offset + offset};
}
