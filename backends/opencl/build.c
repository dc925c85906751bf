/* SPDX-License-Identifier: Apache-2.0
 * Programs from the .cl files inside this library, kept by the device, and a plan's kernels out of them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/opencl/opencl.h"
#include "core/dtype.h"
#include "core/status.h"
#include "kernels_opencl/sources.h"

hattn_status hattn_opencl_from_code(cl_int code, const char *what, hattn_error *error)
{
    if (code == CL_SUCCESS)
        return HATTN_OK;
    return hattn_fail(error, code == CL_OUT_OF_HOST_MEMORY ? HATTN_OUT_OF_MEMORY : HATTN_DEVICE_ERROR,
                      "opencl: %s: %s (%d)", what, hattn_opencl_error_text(code), code);
}

/* In one line, from where it first says "error", so that what a caller sees of it is the cause. */
static hattn_status fail_build(const hattn_opencl_device *device, const hattn_opencl_program *made, cl_int code,
                               hattn_error *error)
{
    char log[8192] = "";
    size_t size = 0;
    char *whole = NULL;
    const hattn_opencl_functions *cl = device->cl;
    const cl_program program = made->program;
    if (!cl->clGetProgramBuildInfo(program, device->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &size) && size > sizeof(log))
        whole = malloc(size + 1);
    char *text = whole ? whole : log;
    cl->clGetProgramBuildInfo(program, device->id, CL_PROGRAM_BUILD_LOG, whole ? size : sizeof(log) - 1, text, NULL);
    text[whole ? size : sizeof(log) - 1] = '\0';
    for (char *c = text; *c; c++)
        if (*c < ' ')
            *c = ' ';
    const char *start = strstr(text, "error");
    if (!start)
        start = strlen(text) > 300 ? text + strlen(text) - 300 : text;
    hattn_fail(error, HATTN_DEVICE_ERROR, "opencl: %s does not compile %s: %s: %s", device->base.info.name,
               hattn_opencl_sources[made->source].name, hattn_opencl_error_text(code), start);
    free(whole);
    return HATTN_DEVICE_ERROR;
}

/* Whether a text is part of a program; they stand in their order. */
static bool has_part(const hattn_opencl_program *made, int32_t source)
{
    switch (source) {
    case HATTN_OPENCL_PARAMS_H:
    case HATTN_OPENCL_ELEMENTS_CL:
    case HATTN_OPENCL_CHUNKS_CL: return true;
    case HATTN_OPENCL_FACTORS:
    case HATTN_OPENCL_FLOOR_CL: return strstr(made->options, "-DFLOOR") != NULL;
    case HATTN_OPENCL_SELECT_CL: return made->source == source || made->source == HATTN_OPENCL_HEADS_CL;
    case HATTN_OPENCL_SKIP_CL: return made->source == HATTN_OPENCL_ATTEND_CL && strstr(made->options, "-DSKIP") != NULL;
    default: return made->source == source;
    }
}

static hattn_status build_program(const hattn_opencl_device *device, hattn_opencl_program *made, hattn_error *error)
{
    const hattn_opencl_functions *cl = device->cl;
    const char *texts[HATTN_OPENCL_NUM_SOURCES];
    size_t sizes[HATTN_OPENCL_NUM_SOURCES];
    cl_uint count = 0;
    for (int32_t i = 0; i < HATTN_OPENCL_NUM_SOURCES; i++)
        if (has_part(made, i)) {
            texts[count] = hattn_opencl_sources[i].text;
            sizes[count++] = hattn_opencl_sources[i].size;
        }
    cl_int code;
    made->program = cl->clCreateProgramWithSource(device->context, count, texts, sizes, &code);
    if (code)
        return hattn_opencl_from_code(code, "clCreateProgramWithSource", error);
    code = cl->clBuildProgram(made->program, 1, &device->id, made->options, NULL, NULL);
    if (!code)
        return HATTN_OK;
    const hattn_status status = fail_build(device, made, code, error);
    cl->clReleaseProgram(made->program);
    return status;
}

/* Under the device's lock. */
static hattn_status find_program(hattn_opencl_device *device, int32_t source, const char *options, cl_program *program,
                                 hattn_error *error)
{
    hattn_opencl_program *p = device->programs;
    while (p && (p->source != source || strcmp(p->options, options)))
        p = p->next;
    if (!p) {
        p = calloc(1, sizeof(*p));
        if (!p)
            return hattn_fail(error, HATTN_OUT_OF_MEMORY, "opencl: no memory for a program");
        p->source = source;
        snprintf(p->options, sizeof(p->options), "%s", options);
        const hattn_status status = build_program(device, p, error);
        if (status) {
            free(p);
            return status;
        }
        p->next = device->programs;
        device->programs = p;
    }
    *program = p->program;
    return HATTN_OK;
}

void hattn_opencl_release_programs(hattn_opencl_device *device)
{
    while (device->programs) {
        hattn_opencl_program *p = device->programs;
        device->programs = p->next;
        device->cl->clReleaseProgram(p->program);
        free(p);
    }
}

enum { LEAST_LOCAL = 16 };

/* A kernel's file, its name there, its work-items, and the file's definitions. */
typedef struct recipe {
    int32_t kernel, source;
    const char *name;
    int32_t local;
    char definitions[160];
} recipe;

/* In groups of `local`; *most: the largest that the driver runs it in. */
static hattn_status make_in_groups(hattn_opencl_device *device, hattn_opencl_plan *plan, const recipe *r, int32_t local,
                                   size_t *most, hattn_error *error)
{
    char options[320], pages[32] = "";
    if (!device->is_cpu && (r->source == HATTN_OPENCL_SCORE_CL || r->source == HATTN_OPENCL_ATTEND_CL))
        snprintf(pages, sizeof(pages), " -DPAGE_SIZE=%d", plan->rows.page_size);
    snprintf(options, sizeof(options),
             "-cl-std=CL1.2 -w -DLOCAL=%d -DHATTN_F32=%d -DHATTN_F16=%d -DHATTN_BF16=%d -DHATTN_F8_E4M3=%d%s%s%s",
             local, HATTN_F32, HATTN_F16, HATTN_BF16, HATTN_F8_E4M3,
             !device->is_cpu                         ? ""
             : strstr(device->base.info.isa, "PoCL") ? " -DIS_CPU -DIS_POCL"
                                                     : " -DIS_CPU",
             pages, r->definitions);
    cl_program program = NULL;
    pthread_mutex_lock(&device->lock);
    const hattn_status status = find_program(device, r->source, options, &program, error);
    pthread_mutex_unlock(&device->lock);
    if (status)
        return status;
    cl_int code;
    hattn_opencl_kernel *made = &plan->kernels[r->kernel];
    made->local = local;
    made->kernel = device->cl->clCreateKernel(program, r->name, &code);
    if (code)
        return hattn_opencl_from_code(code, r->name, error);
    code = device->cl->clGetKernelWorkGroupInfo(made->kernel, device->id, CL_KERNEL_WORK_GROUP_SIZE, sizeof(*most),
                                                most, NULL);
    return hattn_opencl_from_code(code, r->name, error);
}

/* A driver may run a kernel in smaller groups than its device, where registers are short: half as many work-items, then, down to
 * those that a row of V needs. */
static hattn_status make_kernel(hattn_opencl_device *device, hattn_opencl_plan *plan, const recipe *r,
                                hattn_error *error)
{
    hattn_opencl_kernel *made = &plan->kernels[r->kernel];
    const int32_t columns = r->source == HATTN_OPENCL_ATTEND_CL ? plan->dense.attention.head_dim_v / 8 : 0;
    size_t most = 0;
    for (int32_t local = r->local;; local /= 2) {
        const hattn_status status = make_in_groups(device, plan, r, local, &most, error);
        if (status || most >= (size_t)local)
            return status;
        if (local / 2 < LEAST_LOCAL || local / 2 < columns)
            return hattn_fail(error, HATTN_UNSUPPORTED, "opencl: %s runs %s in groups of %zu, %d are needed",
                              device->base.info.name, r->name, most, local);
        device->cl->clReleaseKernel(made->kernel);
        made->kernel = NULL;
    }
}

/* Whether all steps are of whole pieces of so many bytes. */
static bool is_aligned(const int64_t *strides, int count, int64_t element, int64_t piece)
{
    for (int i = 0; i < count; i++)
        if (strides[i] * element % piece)
            return false;
    return true;
}

static void add_encoder(const hattn_opencl_encoder *encoder, const hattn_map *map, int32_t local, bool has_steps,
                        bool by_heads, recipe *r)
{
    const int64_t size = hattn_dtype_size(map->dtype);
    bool aligned = true;
    for (int layer = 0; layer < encoder->map.num_layers; layer++)
        aligned = aligned && is_aligned(map->weight_stride[layer], 2, size, 16);
    r->source = HATTN_OPENCL_ENCODE_CL;
    r->local = local;
    snprintf(r->definitions, sizeof(r->definitions),
             " -DMAP_DTYPE=%d -DMAP_SIZE=%d -DIS_ALIGNED=%d -DVECTORS=%d -DTOGETHER=%d -DSTEPS=%d -DBY_HEADS=%d",
             map->dtype, (int)size, aligned, encoder->vectors, encoder->vectors < 4 ? encoder->vectors : 4, has_steps,
             by_heads);
}

/* Words and planes that score.cl is compiled for: few, as a driver may take a second for each. Words 0: any, with up to 7 planes. */
static void choose_scorer(const hattn_problem *p, int32_t most_planes, int32_t *words, int32_t *planes)
{
    *words = (p->code_bits + 31) / 32;
    if (*words != 2 && ((*words != 4 && *words != 8) || !is_aligned(p->codes.stride, 3, 4, 16)))
        *words = 0;
    *planes = !*words || most_planes > 4 ? 7 : most_planes > 1 ? most_planes : 1;
}

/* Whether rows of a cache start at whole pieces of eight elements, of 16 bytes at most. */
static bool has_aligned_rows(const hattn_tensor *cache)
{
    const int64_t size = hattn_dtype_size(cache->dtype), piece = size * 8 < 16 ? size * 8 : 16;
    return is_aligned(cache->stride, 3, size, piece);
}

/* extra: definitions, of a tail. */
static void add_attender(const hattn_problem *p, const hattn_opencl_plan *plan, const hattn_opencl_attender *attender,
                         const char *extra, recipe *r)
{
    const bool aligned = has_aligned_rows(&p->k_cache) && has_aligned_rows(&p->v_cache);
    snprintf(r->definitions, sizeof(r->definitions), " -DDTYPE=%d -DIS_ALIGNED=%d -DHEADS=%d -DLANES=%d%s",
             p->k_cache.dtype, aligned, attender->heads, plan->is_cpu ? 1 : 4, extra);
    const size_t used = strlen(r->definitions);
    if (!plan->is_cpu)
        snprintf(r->definitions + used, sizeof(r->definitions) - used, " -DHEAD_DIM_QK=%d -DHEAD_DIM_V=%d",
                 p->head_dim_qk, p->head_dim_v);
}

hattn_status hattn_opencl_build(hattn_opencl_device *device, const hattn_problem *p, hattn_opencl_plan *plan,
                                hattn_error *error)
{
    const bool is_cpu = device->is_cpu;
    const int32_t wide = device->max_local < 256 ? 128 : 256, encode = is_cpu ? 16 : wide;
    const int32_t score = is_cpu ? 8 : wide, select = is_cpu ? 1 : wide;
    const int32_t attend = is_cpu && p->head_dim_v <= 512 ? 64 : 128, join = is_cpu ? 16 : 128;
    const bool is_narrow = plan->selection.num_buckets > 0, has_tail = plan->has_tail;
    recipe recipes[HATTN_OPENCL_NUM_KERNELS] = {
        {HATTN_OPENCL_ENCODE_KEYS, 0, "encode_keys", 0, ""},
        {HATTN_OPENCL_APPEND_KEYS, 0, "append_keys", 0, ""},
        {HATTN_OPENCL_ENCODE_QUERIES, 0, "encode_queries", 0, ""},
        {HATTN_OPENCL_SCORE, HATTN_OPENCL_SCORE_CL, "score_chunk", score, ""},
        {HATTN_OPENCL_SELECT_NARROW, HATTN_OPENCL_SELECT_CL, is_narrow ? "select_narrow" : NULL, select, ""},
        {HATTN_OPENCL_SELECT_WIDE, HATTN_OPENCL_SELECT_CL, "select_wide", select, ""},
        {HATTN_OPENCL_SCORE_LISTED, HATTN_OPENCL_SCORE_CL, plan->by_heads ? "score_chunk" : NULL, score, ""},
        {HATTN_OPENCL_RANK_HEADS, HATTN_OPENCL_HEADS_CL, plan->by_heads ? "rank_heads" : NULL, select, ""},
        {HATTN_OPENCL_WEIGH, HATTN_OPENCL_ATTEND_CL, plan->skips ? "attend" : NULL, attend, ""},
        {HATTN_OPENCL_ATTEND_SPARSE, HATTN_OPENCL_ATTEND_CL, "attend", attend, ""},
        {HATTN_OPENCL_ATTEND_DENSE, HATTN_OPENCL_ATTEND_CL, "attend", attend, ""},
        {HATTN_OPENCL_JOIN, HATTN_OPENCL_JOIN_CL, "join_splits", attend, ""},
        {HATTN_OPENCL_JOIN_TAIL, HATTN_OPENCL_JOIN_CL, has_tail ? "join_splits" : NULL, attend, ""},
        {HATTN_OPENCL_SUM_VALUES, HATTN_OPENCL_VALUES_CL, has_tail ? "sum_values" : NULL, encode, ""},
        {HATTN_OPENCL_JOIN_VALUES, HATTN_OPENCL_VALUES_CL, has_tail ? "join_values" : NULL, encode, ""},
        {HATTN_OPENCL_MERGE, HATTN_OPENCL_MERGE_CL, "merge", join, ""},
    };
    add_encoder(&plan->keys, &p->key_map, encode, false, false, &recipes[HATTN_OPENCL_ENCODE_KEYS]);
    add_encoder(&plan->append, &p->key_map, encode, false, false, &recipes[HATTN_OPENCL_APPEND_KEYS]);
    add_encoder(&plan->queries, &p->query_map, encode, plan->has_shares, plan->by_heads,
                &recipes[HATTN_OPENCL_ENCODE_QUERIES]);
    int32_t words, planes;
    choose_scorer(p, plan->selection.num_planes, &words, &planes);
    snprintf(recipes[HATTN_OPENCL_SCORE].definitions, sizeof(recipes->definitions),
             " -DWORDS=%d -DPLANES=%d -DWITH_NORMS=%d -DWITH_COUNTS=%d -DHISTOGRAMS=%d", words, planes, p->key_norms,
             is_narrow, plan->histograms);
    for (int i = HATTN_OPENCL_SELECT_NARROW; i <= HATTN_OPENCL_SELECT_WIDE; i++)
        snprintf(recipes[i].definitions, sizeof(recipes->definitions),
                 " -DWITH_NORMS=%d -DWITH_COUNTS=%d -DHISTOGRAMS=%d%s%s", p->key_norms, is_narrow, is_cpu ? 1 : 4,
                 plan->has_shares && !plan->by_heads ? " -DFLOOR" : "", has_tail && !plan->by_heads ? " -DTAIL" : "");
    snprintf(recipes[HATTN_OPENCL_SCORE_LISTED].definitions, sizeof(recipes->definitions),
             " -DWORDS=%d -DPLANES=%d -DWITH_NORMS=0 -DWITH_COUNTS=0 -DHISTOGRAMS=1 -DLISTED", words, planes);
    snprintf(recipes[HATTN_OPENCL_RANK_HEADS].definitions, sizeof(recipes->definitions),
             " -DWITH_NORMS=0 -DWITH_COUNTS=0 -DHISTOGRAMS=%d -DFLOOR -DBY_HEADS -DWITH_SHARES=%d", is_cpu ? 1 : 4,
             has_tail);
    add_attender(p, plan, &plan->sparse, " -DTAIL -DSKIP=1", &recipes[HATTN_OPENCL_WEIGH]);
    add_attender(p, plan, &plan->sparse,
                 plan->skips ? " -DTAIL -DSKIP=2"
                 : has_tail  ? " -DTAIL"
                             : "",
                 &recipes[HATTN_OPENCL_ATTEND_SPARSE]);
    add_attender(p, plan, &plan->dense, "", &recipes[HATTN_OPENCL_ATTEND_DENSE]);
    for (int i = HATTN_OPENCL_JOIN; i <= HATTN_OPENCL_JOIN_TAIL; i++)
        snprintf(recipes[i].definitions, sizeof(recipes->definitions), " -DDTYPE=%d -DMAX_SPLITS=64%s",
                 p->k_cache.dtype,
                 i == HATTN_OPENCL_JOIN ? ""
                 : plan->skips          ? " -DTAIL -DSKIP=2"
                                        : " -DTAIL");
    for (int i = HATTN_OPENCL_SUM_VALUES; i <= HATTN_OPENCL_JOIN_VALUES; i++)
        snprintf(recipes[i].definitions, sizeof(recipes->definitions), " -DDTYPE=%d -DIS_ALIGNED=%d", p->v_cache.dtype,
                 has_aligned_rows(&p->v_cache));
    for (int i = 0; i < HATTN_OPENCL_NUM_KERNELS; i++) {
        const hattn_status status = recipes[i].name ? make_kernel(device, plan, &recipes[i], error) : HATTN_OK;
        if (status)
            return status;
    }
    return HATTN_OK;
}

void hattn_opencl_release_kernels(const hattn_opencl_functions *cl, hattn_opencl_plan *plan)
{
    for (int i = 0; i < HATTN_OPENCL_NUM_KERNELS; i++)
        if (plan->kernels[i].kernel)
            cl->clReleaseKernel(plan->kernels[i].kernel);
}
