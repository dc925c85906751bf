/* SPDX-License-Identifier: Apache-2.0
 * The dispatch table: what a backend is. api/ checks arguments, then makes one call through this table.
 */
#ifndef HATTN_BACKENDS_BACKEND_H
#define HATTN_BACKENDS_BACKEND_H

#include <stdbool.h>

#include "api/hattn.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hattn_backend hattn_backend;

/* Each backend's device and plan structs start with these; the backend allocates and frees them. */
struct hattn_device {
    const hattn_backend *backend;
    hattn_device_info info; /* filled by open */
};

struct hattn_plan {
    const hattn_backend *backend;
    hattn_device *device;
    hattn_problem problem;           /* validated copy */
    uint64_t workspace_size;         /* set by the backend's plan; grown for a composed decode */
    uint64_t backend_workspace_size; /* what the backend itself asked for */
    uint64_t rescored_offset; /* of HATTN_COUNTER_RESCORED in a workspace; 0: not counted. Set by the backend's plan */
    int32_t
        is_composed; /* decode goes through backends/compose.c: set by the backend's plan, or because it has no decode */
};

/* Arguments reach a slot checked: no nulls, sizes within the plan's maxima, workspace large enough and aligned.
 * Run slots enqueue on exec->stream; they do not allocate, wait, or read device memory on the host. */
struct hattn_backend {
    const char *name;
    uint32_t pointer_alignment; /* of tensors, in bytes; 1: that of the element */
    bool has_handles;           /* hattn_buffer.data is a handle, not an address: only the offset is aligned */
    bool is_host; /* works on the calling thread, in host memory: workspaces start with a hattn_host_control */
    bool
        shares_runs; /* a team's ranks may all call a run; else, on hosts, api/ lets one of them in, without its team */

    /* 0 devices: why (NUL-terminated, `size` bytes) says the reason. Never prints, never fails. */
    int (*device_count)(char *why, size_t size);
    /* Optional: whether callers who name no backend are given this one, if it has a device. NULL: yes. */
    bool (*is_default)(void);
    /* NULL: not built; device_count says so, and no other slot is there. */
    hattn_status (*open)(const hattn_device_options *options, hattn_device **device, hattn_error *error);
    void (*close)(hattn_device *device);

    /* The only yes or no after api/validate.c, which has checked everything that holds for all backends.
     * On yes: a plan of the backend's own, workspace_size set; api/ fills the base. On no: status and text. */
    hattn_status (*plan)(hattn_device *device, const hattn_problem *problem, hattn_plan **plan, hattn_error *error);
    void (*plan_destroy)(hattn_plan *plan);
    __typeof__(hattn_workspace_init) *workspace_init;

    /* Typed by the public functions, so that neither can change alone. */
    __typeof__(hattn_encode_keys) *encode_keys;
    __typeof__(hattn_encode_queries) *encode_queries;
    __typeof__(hattn_score) *score;
    __typeof__(hattn_topk) *topk;
    __typeof__(hattn_attend) *attend;
    __typeof__(hattn_merge) *merge;
    /* NULL where plans have no tails. */
    __typeof__(hattn_sum_values) *sum_values;

    /* Optional: NULL, or a plan with is_composed, gives backends/compose.c, which calls append, sum_values, encode_queries, score,
     * topk and attend of this table. */
    __typeof__(hattn_decode) *decode;
    /* Encode the rows' own keys out of the K cache; needed by the composed decode only. */
    __typeof__(hattn_decode) *append;
};

/* Always there: where one is not built, its table is that of backends/absent/, which has no device. */
extern const hattn_backend hattn_cuda_backend, hattn_hip_backend, hattn_opencl_backend, hattn_cpu_backend,
    hattn_reference_backend;

/* Every known backend, in the order of preference. */
extern const hattn_backend *const hattn_backends[];
extern const int hattn_num_backends;

/* The default decode, and the workspace that it needs beyond the backend's own. */
uint64_t hattn_compose_workspace_size(const hattn_problem *problem);
hattn_status hattn_compose_decode(const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                                  hattn_error *error);

#ifdef __cplusplus
}
#endif
#endif
