/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels_opencl/sources.h"

#include "core/floor.h"

#define TEXT_OF(...) #__VA_ARGS__
#define TEXT(...) TEXT_OF(__VA_ARGS__)

static const char params[] = {
#include "kernels_opencl/params.h.inc"
};
static const char elements[] = {
#include "kernels_opencl/elements.cl.inc"
};
static const char chunks[] = {
#include "kernels_opencl/chunks.cl.inc"
};
static const char factors[] = "__constant uint floor_factors[] = " TEXT(HATTN_FLOOR_TABLE) ";\n";
static const char floor_cl[] = {
#include "kernels_opencl/floor.cl.inc"
};
static const char encode[] = {
#include "kernels_opencl/encode.cl.inc"
};
static const char score[] = {
#include "kernels_opencl/score.cl.inc"
};
static const char select[] = {
#include "kernels_opencl/select.cl.inc"
};
static const char heads[] = {
#include "kernels_opencl/heads.cl.inc"
};
static const char skip[] = {
#include "kernels_opencl/skip.cl.inc"
};
static const char attend[] = {
#include "kernels_opencl/attend.cl.inc"
};
static const char join[] = {
#include "kernels_opencl/join.cl.inc"
};
static const char values[] = {
#include "kernels_opencl/values.cl.inc"
};
static const char merge[] = {
#include "kernels_opencl/merge.cl.inc"
};

const hattn_opencl_source hattn_opencl_sources[HATTN_OPENCL_NUM_SOURCES] = {
    {"params.h", params, sizeof(params)},     {"elements.cl", elements, sizeof(elements)},
    {"chunks.cl", chunks, sizeof(chunks)},    {"factors", factors, sizeof(factors) - 1},
    {"floor.cl", floor_cl, sizeof(floor_cl)}, {"encode.cl", encode, sizeof(encode)},
    {"score.cl", score, sizeof(score)},       {"select.cl", select, sizeof(select)},
    {"heads.cl", heads, sizeof(heads)},       {"skip.cl", skip, sizeof(skip)},
    {"attend.cl", attend, sizeof(attend)},    {"join.cl", join, sizeof(join)},
    {"values.cl", values, sizeof(values)},    {"merge.cl", merge, sizeof(merge)},
};
