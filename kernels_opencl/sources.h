/* SPDX-License-Identifier: Apache-2.0
 * The texts of this folder, inside of the library.
 */
#ifndef HATTN_KERNELS_OPENCL_SOURCES_H
#define HATTN_KERNELS_OPENCL_SOURCES_H

#include <stddef.h>

/* params.h, elements.cl and chunks.cl go in front of each other one; factors and floor.cl in front of select.cl where there
 * are floors or tails, and these three in front of heads.cl; skip.cl in front of attend.cl where not all values are read. */
enum {
    HATTN_OPENCL_PARAMS_H,
    HATTN_OPENCL_ELEMENTS_CL,
    HATTN_OPENCL_CHUNKS_CL,
    HATTN_OPENCL_FACTORS,
    HATTN_OPENCL_FLOOR_CL,
    HATTN_OPENCL_ENCODE_CL,
    HATTN_OPENCL_SCORE_CL,
    HATTN_OPENCL_SELECT_CL,
    HATTN_OPENCL_HEADS_CL,
    HATTN_OPENCL_SKIP_CL,
    HATTN_OPENCL_ATTEND_CL,
    HATTN_OPENCL_JOIN_CL,
    HATTN_OPENCL_VALUES_CL,
    HATTN_OPENCL_MERGE_CL,
    HATTN_OPENCL_NUM_SOURCES
};

typedef struct hattn_opencl_source {
    const char *name, *text; /* the text ends without a zero byte */
    size_t size;
} hattn_opencl_source;

extern const hattn_opencl_source hattn_opencl_sources[HATTN_OPENCL_NUM_SOURCES];

#endif
