/* SPDX-License-Identifier: Apache-2.0
 * A run: a kernel's arguments, and a place in the queue. A kernel object holds its arguments, so that runs of one plan
 * on several threads take turns; nobody waits for a device.
 */
#ifndef HATTN_BACKENDS_OPENCL_QUEUE_H
#define HATTN_BACKENDS_OPENCL_QUEUE_H

#include "backends/opencl/opencl.h"

/* One run: its queue, and what went wrong first. */
typedef struct hattn_cl_run {
    const hattn_opencl_plan *plan;
    const hattn_opencl_functions *cl;
    cl_command_queue queue;
    hattn_buffer workspace;
    cl_int code;
    const char *what;
    const hattn_opencl_kernel *kernel; /* whose arguments are being set */
    cl_uint num_arguments;
} hattn_cl_run;

/* Takes the plan's lock; end gives it back. */
hattn_cl_run hattn_cl_begin(const hattn_plan *base, const hattn_exec *exec);
hattn_status hattn_cl_end(const hattn_cl_run *r, hattn_error *error);

/* A kernel of the plan, then its arguments in their order, then its groups of work-items. */
void hattn_cl_start(hattn_cl_run *r, int kernel);
void hattn_cl_put(hattn_cl_run *r, const void *value, size_t size);
/* A handle and an offset; NULL: not there. */
void hattn_cl_put_buffer(hattn_cl_run *r, hattn_buffer buffer);
void hattn_cl_put_buffers(hattn_cl_run *r, const hattn_buffer *buffers, size_t count);
void hattn_cl_put_local(hattn_cl_run *r, int64_t elements, size_t size);
void hattn_cl_put_batch(hattn_cl_run *r, const hattn_batch *batch);
void hattn_cl_enqueue(hattn_cl_run *r, int64_t groups);

hattn_buffer hattn_cl_in_workspace(const hattn_cl_run *r, uint64_t offset);

/* encode.c: steps of a decode. e: the plan's, with the strides of what args hold. */
void hattn_opencl_append_keys(hattn_cl_run *r, const hattn_decode_args *args);
void hattn_opencl_weigh_queries(hattn_cl_run *r, const hattn_encode_queries_args *args, const hattn_opencl_encoding *e);

#endif
