/* SPDX-License-Identifier: Apache-2.0
 * What a plan fixes and what a run adds, as kernels take it by value: read by the host's compiler and by every driver's. The host
 * puts it in front of each .cl file.
 */
#ifndef HATTN_KERNELS_OPENCL_PARAMS_H
#define HATTN_KERNELS_OPENCL_PARAMS_H

#ifdef __OPENCL_VERSION__
typedef int cl_int;
typedef long cl_long;
typedef ulong cl_ulong;
typedef float cl_float;
#else
#include <CL/cl.h>
#endif

/* The strides are hattn_problem's, in elements. No arrays of arrays, and no bytes behind the last field: rusticl (Mesa 22.3) takes
 * both for smaller than they are. */
typedef struct hattn_opencl_map {
    cl_long weight[3], weight_row[3], bias[3]; /* of layers: from a head to the next, from a row */
    cl_int num_outputs[3], num_layers;
} hattn_opencl_map;

/* What encoding reads beside the map. */
typedef struct hattn_opencl_encoding {
    cl_long x[3];            /* of the vectors: {row, head}, or the K cache's {page, slot, head} */
    cl_long to[3], norms[3]; /* keys: of codes and norms; queries: `to` of weights, {row, head} */
    cl_long steps[2], slope; /* queries, likewise */
    cl_long head_weights[2], head_steps[2], head_slope;  /* of query heads by themselves */
    cl_int x_dtype, head_dim, num_heads, num_code_heads; /* num_heads: those that x has */
    cl_int code_bits, num_slots;                         /* of a page: codes without pages have max_length */
    cl_int group, weight_bits;                           /* queries; weight_bits 0: hamming */
    cl_int has_head_scales;
    cl_int width, num_sums; /* floats in local memory, of a vector and of all partial sums */
    cl_float step_unit;     /* queries: of a slope of 1 and a largest sum of 1 (hamming: of a slope of 1) */
} hattn_opencl_encoding;

/* Rows of a run and where their keys are. */
typedef struct hattn_opencl_rows {
    cl_long table_stride;
    cl_int num_rows, num_sequences, q_len, max_length;
    cl_int page_size, page_shift; /* page_size 0: none; page_shift -1: no power of two */
} hattn_opencl_rows;

typedef struct hattn_opencl_selection {
    cl_long codes[3], norms[3], weights[2], scores[2], indices[2], counts[2], budgets[2];
    cl_int num_heads, num_code_heads, code_bits, k, num_sink, num_recent;
    cl_int num_chunks;  /* that the keys of a row and head are cut into */
    cl_int num_buckets; /* scores there can be; 0: too many to count each */
    cl_int num_planes;  /* of weights, as score.cl counts them */
    cl_int reserved;
} hattn_opencl_selection;

/* Where scores promise probabilities: floors, and tails. */
typedef struct hattn_opencl_floor {
    cl_long steps[2], shares[2], rests[2];
    cl_ulong tau; /* of core/floor.h; 0: no floor */
    cl_int min_k, reserved;
} hattn_opencl_floor;

typedef struct hattn_opencl_attention {
    cl_long q[2], k_cache[3], v_cache[3], indices[2], counts[2], out[2], lse[2];
    cl_int q_dtype, out_dtype, head_dim_qk, head_dim_v, num_q_heads, num_kv_heads;
    cl_int group;      /* query heads that share rows of K and V */
    cl_int num_blocks; /* of heads, of such a group */
    cl_int num_splits, has_head_scales;
    cl_float scale, soft_cap;
} hattn_opencl_attention;

/* Scores per query head: candidates of a row and selection head are a list, forced positions around them. */
typedef struct hattn_opencl_heads {
    cl_long head_steps[2];
    cl_int group, stride; /* of a selection; positions from a list to the next one */
} hattn_opencl_heads;

/* What a tail adds to an attention. */
typedef struct hattn_opencl_tail {
    cl_long shares[2], rests[2], value_sums[2], value_lengths[2];
    cl_float factor;
    cl_int has_head_shares; /* shares and rests are of query heads */
    cl_float least;         /* weight of all heads of a selection together whose value is read */
    cl_int stride;          /* of logits, from head to head */
} hattn_opencl_tail;

typedef struct hattn_opencl_join {
    cl_long partial_out[3], partial_lse[3], out[2], lse[2];
    cl_int out_dtype, head_dim_v, num_q_heads, num_parts;
} hattn_opencl_join;

#endif
