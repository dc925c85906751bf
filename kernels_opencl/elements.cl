/* SPDX-License-Identifier: Apache-2.0
 * Elements of tensors as fp32 and back, rows and pages: in front of each kernel. Nothing here needs an extension. The host defines
 * LOCAL, the work-items of a group, and HATTN_F32 ... as in api/hattn.h.
 */
typedef __global const uchar *bytes_in;
typedef __global uchar *bytes_out;

float bf16_value(ushort bits) { return as_float((uint)bits << 16); }

/* OCP: every exponent is a number's, all ones is NaN. Numbers below the least exponent are made by arithmetic, for devices that
 * have no subnormal ones. */
float8 f8_values(uchar8 bits)
{
    const uint8 magnitude = convert_uint8(bits) & 0x7f;
    float8 value = as_float8((magnitude << 20) + (120u << 23));
    value = select(value, convert_float8(magnitude) * 0x1p-9f, as_int8(magnitude < 8));
    value = select(value, (float8)(NAN), as_int8(magnitude == 0x7f));
    return as_float8(as_uint8(value) | (convert_uint8(bits) & 0x80) << 24);
}

float f8_value(uchar bits) { return f8_values((uchar8)(bits)).s0; }

float load_element(bytes_in base, int dtype, long i)
{
    switch (dtype) {
    case HATTN_F32: return ((__global const float *)base)[i];
    case HATTN_F16: return vload_half(i, (__global const half *)base);
    case HATTN_BF16: return bf16_value(((__global const ushort *)base)[i]);
    default: return f8_value(base[i]);
    }
}

/* To the nearest, ties to even; a mantissa that rounds up carries into the exponent, at the end to infinity. */
void store_element(bytes_out base, int dtype, long i, float value)
{
    if (dtype == HATTN_F32) {
        ((__global float *)base)[i] = value;
    } else if (dtype == HATTN_F16) {
        vstore_half_rte(value, i, (__global half *)base);
    } else {
        const uint bits = as_uint(value), rounded = bits + 0x7fff + (bits >> 16 & 1);
        ((__global ushort *)base)[i] = (ushort)(isnan(value) ? bits >> 16 | 0x40 : rounded >> 16);
    }
}

/* Of a row that will be read: on processors, whose kernels wait for memory. IS_POCL: a compiler that is known to take clang's own
 * functions; others abort the process. */
#ifdef IS_POCL
#define FETCH(row, bytes)                      \
    for (int line = 0; line < (bytes); line += 64) \
    __builtin_prefetch((__global const char *)(row) + line)
#else
#define FETCH(row, bytes)
#endif

#if defined(IS_POCL) && defined(__F16C__)
float8 halves8(bytes_in base, const int is_aligned, long i)
{
    __global const ushort *from = (__global const ushort *)base + i;
    return __builtin_ia32_vcvtph2ps256(as_short8(is_aligned ? *(__global const ushort8 *)from : vload8(0, from)));
}
#elif defined(IS_CPU)
/* For drivers of CPUs whose vload_half is a call for each element; these have subnormal numbers. */
float8 halves8(bytes_in base, const int is_aligned, long i)
{
    __global const ushort *from = (__global const ushort *)base + i;
    const uint8 bits = convert_uint8(is_aligned ? *(__global const ushort8 *)from : vload8(0, from));
    const uint8 magnitude = (bits & 0x7fff) << 13;
    const float8 value = as_float8(magnitude) * 0x1p112f;
    const uint8 special = magnitude | 0x7f800000;
    return as_float8(select(as_uint8(value), special, magnitude >= (uint8)(0x7c00u << 13)) | (bits & 0x8000) << 16);
}
#else
/* One load for all: a GPU's compiler makes of vloada_half8 as many as there are halves. */
float8 halves8(bytes_in base, const int is_aligned, long i)
{
    __global const half *from = (__global const half *)base + i;
    if (!is_aligned)
        return vload_half8(0, from);
    const ushort8 bits = as_ushort8(*(__global const uint4 *)from);
    return vload_half8(0, (const __private half *)&bits);
}

float4 halves4(bytes_in base, const int is_aligned, long i)
{
    __global const half *from = (__global const half *)base + i;
    if (!is_aligned)
        return vload_half4(0, from);
    const ushort4 bits = as_ushort4(*(__global const uint2 *)from);
    return vload_half4(0, (const __private half *)&bits);
}
#endif

/* Eight neighbours of a row. is_aligned, a constant: rows start at 16 bytes (fp8: at 8). */
float8 load8(bytes_in base, const int dtype, const int is_aligned, long i)
{
    if (dtype == HATTN_F32) {
        if (!is_aligned)
            return vload8(0, (__global const float *)base + i);
        __global const float4 *from = (__global const float4 *)((__global const float *)base + i);
        return (float8)(from[0], from[1]);
    }
    if (dtype == HATTN_F8_E4M3)
        return f8_values(is_aligned ? *(__global const uchar8 *)(base + i) : vload8(0, base + i));
    if (dtype == HATTN_F16)
        return halves8(base, is_aligned, i);
    __global const ushort *from = (__global const ushort *)base + i;
    return as_float8(convert_uint8(is_aligned ? *(__global const ushort8 *)from : vload8(0, from)) << 16);
}

#ifndef IS_CPU
/* Four likewise. */
float4 load4(bytes_in base, const int dtype, const int is_aligned, long i)
{
    if (dtype == HATTN_F32) {
        __global const float *from = (__global const float *)base + i;
        return is_aligned ? *(__global const float4 *)from : vload4(0, from);
    }
    if (dtype == HATTN_F8_E4M3)
        return f8_values((uchar8)(is_aligned ? *(__global const uchar4 *)(base + i) : vload4(0, base + i), (uchar4)(0))).lo;
    if (dtype == HATTN_F16)
        return halves4(base, is_aligned, i);
    __global const ushort *from = (__global const ushort *)base + i;
    return as_float4(convert_uint4(is_aligned ? *(__global const ushort4 *)from : vload4(0, from)) << 16);
}
#endif

float sum8(float8 x)
{
    const float4 a = x.lo + x.hi;
    const float2 b = a.lo + a.hi;
    return b.x + b.y;
}

/* The larger; NaN stays. */
float larger(float a, float b) { return b > a || b != b ? b : a; }

/* Whose row it is; as hattn_resolve_row of core/rows.h. */
typedef struct row_place {
    int sequence, length; /* -1, 0: padding */
    long position;        /* of the row's own token, not clamped */
} row_place;

row_place place_row(const hattn_opencl_rows *rows, __global const int *q_start, __global const int *seq_len, int row)
{
    row_place place = {-1, 0, -1};
    if (!rows->num_sequences || (q_start && row >= q_start[rows->num_sequences]))
        return place;
    int low = 0, high = rows->num_sequences, end; /* q_start[low] <= row < q_start[high] */
    if (q_start) {
        while (high - low > 1) {
            const int middle = low + (high - low) / 2;
            if (q_start[middle] <= row)
                low = middle;
            else
                high = middle;
        }
        end = q_start[low + 1];
    } else {
        low = row / rows->q_len;
        end = (low + 1) * rows->q_len;
    }
    place.sequence = low;
    place.position = (long)seq_len[low] - (end - row);
    place.length = (int)clamp(place.position + 1, 0L, (long)rows->max_length);
    return place;
}

/* The page of a position, and its slot there. Where it counts a plan gives PAGE_SIZE, so that no branch is between loads, which a
 * GPU then sends out together. */
#ifdef PAGE_SIZE
#define PAGE_INDEX(position) ((uint)(position) / (PAGE_SIZE ? PAGE_SIZE : 1))
#else
#define PAGE_SIZE rows->page_size
#define PAGE_INDEX(position) (rows->page_shift >= 0 ? (position) >> rows->page_shift : (position) / rows->page_size)
#endif
long page_of(const hattn_opencl_rows *rows, __global const int *table, int sequence, int position, int *slot)
{
    if (!PAGE_SIZE) {
        *slot = position;
        return sequence;
    }
    const int index = PAGE_INDEX(position);
    *slot = position - index * PAGE_SIZE;
    return table[sequence * rows->table_stride + index];
}

#define AT(type, buffer, offset) ((__global type *)((buffer) ? (buffer) + (offset) : 0))

/* The end of a head's softmax: what its sums are multiplied with and divided by, and the lse. */
typedef struct head_end {
    float decay, sum, lse;
    int is_empty;
} head_end;

/* weight: of all keys, in `unit`, for logits less `top`. sink: -inf for none. */
head_end end_head(float top, float weight, float sink, float unit)
{
    head_end end;
    const float largest = larger(top, sink);
    end.is_empty = top == -INFINITY && !isnan(sink) && sink != INFINITY;
    end.decay = top == -INFINITY ? 0 : exp(top - largest);
    end.sum = weight * end.decay + (sink == -INFINITY ? 0 : exp(sink - largest) * unit);
    end.lse = largest == -INFINITY ? largest : largest + log(end.sum / unit);
    return end;
}

/* Sums of values near the largest number of their type stay finite: fp16 and fp8 values cannot overflow them. */
#define WEIGHT_UNIT (DTYPE == HATTN_F32 || DTYPE == HATTN_BF16 ? 0x1p-30f : 1.0f)

/* What a group has of a head: largest logit, sum of weights in WEIGHT_UNIT, with a tail also those of anchors and of all with
 * shares, where not all values are read of those that are not, and of weighted values. */
#ifdef SKIP
#define PART_SUMS 5
#elif TAIL
#define PART_SUMS 4
#else
#define PART_SUMS 2
#endif
#define PART_FLOATS(head_dim_v) ((head_dim_v) + PART_SUMS)

/* Of what all work-items give; LOCAL is a power of 2. */
#ifdef IS_CPU /* the first item does it: each barrier is a loop over the items, which a processor's compiler unrolls */
#define REDUCTION(name, a, b, joined)                      \
    ulong name(__local ulong *space, ulong value)          \
    {                                                      \
        barrier(CLK_LOCAL_MEM_FENCE);                      \
        space[get_local_id(0)] = value;                    \
        barrier(CLK_LOCAL_MEM_FENCE);                      \
        for (int i = 1; get_local_id(0) == 0 && i < LOCAL; i++) { \
            const ulong a = space[0], b = space[i];        \
            space[0] = joined;                             \
        }                                                  \
        barrier(CLK_LOCAL_MEM_FENCE);                      \
        return space[0];                                   \
    }
#else
#define REDUCTION(name, a, b, joined)                      \
    ulong name(__local ulong *space, ulong value)          \
    {                                                      \
        const int item = get_local_id(0);                  \
        barrier(CLK_LOCAL_MEM_FENCE);                      \
        space[item] = value;                               \
        for (int half_way = LOCAL / 2; half_way; half_way /= 2) { \
            barrier(CLK_LOCAL_MEM_FENCE);                  \
            if (item < half_way) {                         \
                const ulong a = space[item], b = space[item + half_way]; \
                space[item] = joined;                      \
            }                                              \
        }                                                  \
        barrier(CLK_LOCAL_MEM_FENCE);                      \
        return space[0];                                   \
    }
#endif
REDUCTION(sum_of_all, a, b, a + b)

#define SHARE_ANCHOR 0x80000000u /* HATTN_SHARE_ANCHOR */

/* A value in 2^-24, to nearest even; as hattn_fixed_value of core/tail.h. */
long fixed_value(float value)
{
    return isnan(value) ? 0 : convert_long(rint(clamp(value, -65536.0f, 65536.0f) * 0x1p24f));
}
