/* SPDX-License-Identifier: Apache-2.0
 * Ends what attend.cl has left in parts: splits of a row and head are joined, and a tail is added. DTYPE of K and V.
 */
#if TAIL
#define TAIL_ARGUMENTS                                                                                          \
    , const hattn_opencl_tail t, const hattn_opencl_rows rows, bytes_in q_start, ulong q_start_at,              \
        bytes_in seq_len, ulong seq_len_at, bytes_in table, ulong table_at, bytes_in v_cache, ulong v_cache_at, \
        bytes_in counts, ulong counts_at, bytes_in shares, ulong shares_at, bytes_in rests, ulong rests_at,     \
        bytes_in value_sums, ulong value_sums_at, bytes_in lengths, ulong lengths_at, bytes_in slots, ulong slots_at

/* R, as hattn_tail_mass of core/tail.h. */
float tail_mass(float factor, float near, float all, ulong near_shares, ulong all_shares, long rest)
{
    if (near_shares == 0 || rest <= 0)
        return 0;
    const float by_near = factor * near * ((float)rest / (float)near_shares),
                by_all = all * ((float)rest / (float)all_shares);
    return by_near < by_all || isnan(by_near) ? by_near : by_all;
}

/* A row's values, out of its state and of the V cache from `begin` on. */
typedef struct row_values {
    __global const long *sums; /* 0: begin is 0 */
    bytes_in cache;
    __global const int *pages;
    int sequence, begin, length;
    long at; /* of the head */
} row_values;

float mean_value(const hattn_opencl_attention *a, const hattn_opencl_rows *rows, const row_values *v, int column)
{
    long sum = v->sums ? v->sums[column] : 0;
    for (int j = v->begin; j < v->length; j++) {
        int slot;
        const long page = page_of(rows, v->pages, v->sequence, j, &slot);
        sum += fixed_value(
            load_element(v->cache, DTYPE, page * a->v_cache[0] + slot * a->v_cache[1] + v->at + column));
    }
    return (float)sum * 0x1p-24f / (float)v->length;
}
#else
#define TAIL_ARGUMENTS
#endif

/* A group for each row and head. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    join_splits(const hattn_opencl_attention a, bytes_in parts, ulong parts_at, bytes_in v_scale, ulong v_scale_at,
                bytes_in sinks, ulong sinks_at, bytes_out out, ulong out_at, bytes_out lse, ulong lse_at TAIL_ARGUMENTS)
{
    __local float decay[MAX_SPLITS];
    const int head = get_group_id(0) % a.num_q_heads, row = get_group_id(0) / a.num_q_heads, item = get_local_id(0),
              kv_head = (long)head * a.num_kv_heads / a.num_q_heads, dv = a.head_dim_v;
    __global const float *part =
        AT(const float, parts, parts_at) + ((long)row * a.num_q_heads + head) * a.num_splits * PART_FLOATS(dv);
    float top = -INFINITY, weight = 0;
#pragma unroll 8
    for (int s = 0; s < a.num_splits; s++)
        top = larger(top, part[s * PART_FLOATS(dv)]);
    for (int s = item; s < a.num_splits; s += LOCAL) {
        const float largest = part[s * PART_FLOATS(dv)];
        decay[s] = largest == -INFINITY ? 0 : exp(largest - top);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll 8
    for (int s = 0; s < a.num_splits; s++)
        weight += decay[s] * part[s * PART_FLOATS(dv) + 1];
#if TAIL
    __local ulong space[LOCAL];
    float mass = 0, of_mean = 0;
    row_values v = {0, v_cache + v_cache_at, AT(const int, table, table_at), -1, 0, 0, kv_head * a.v_cache[2]};
    const row_place place =
        place_row(&rows, AT(const int, q_start, q_start_at), AT(const int, seq_len, seq_len_at), row);
    /* No barrier behind a condition: see select.cl. */
    const int is_told = shares && place.length, selection_head = head / a.group,
              of = t.has_head_shares ? head : selection_head,
              count = is_told ? AT(const int, counts, counts_at)[row * a.counts[0] + selection_head * a.counts[1]] : 0;
    __global const uint *own_shares = AT(const uint, shares, shares_at) + row * t.shares[0] + of * t.shares[1];
    ulong near_shares = 0, all_shares = 0;
    for (int i = item; i < count; i += LOCAL) {
        const uint share = own_shares[i] & ~SHARE_ANCHOR;
        all_shares += share;
        near_shares += own_shares[i] & SHARE_ANCHOR ? share : 0;
    }
    near_shares = sum_of_all(space, near_shares);
    all_shares = sum_of_all(space, all_shares);
    if (is_told) {
        float near = 0, all = 0;
        for (int s = 0; s < a.num_splits; s++) {
            near += decay[s] == 0 ? 0 : decay[s] * part[s * PART_FLOATS(dv) + 2];
            all += decay[s] == 0 ? 0 : decay[s] * part[s * PART_FLOATS(dv) + 3];
        }
        mass = tail_mass(t.factor, near, all, near_shares, all_shares,
                         AT(const long, rests, rests_at)[row * t.rests[0] + of * t.rests[1]]);
        const long state = slots ? AT(const int, slots, slots_at)[place.sequence] : place.sequence;
        v.sequence = place.sequence;
        v.length = place.length;
        v.begin = AT(const int, lengths, lengths_at)[state * t.value_lengths[0] + kv_head * t.value_lengths[1]];
        if (v.begin > 0 && v.begin <= v.length)
            v.sums = AT(const long, value_sums, value_sums_at) + state * t.value_sums[0] + kv_head * t.value_sums[1];
        else
            v.begin = 0;
        weight += mass;
        of_mean = mass;
#ifdef SKIP
        for (int s = 0; s < a.num_splits; s++)
            of_mean += decay[s] == 0 ? 0 : decay[s] * part[s * PART_FLOATS(dv) + 4];
#endif
    }
#endif
    const float v_unit = v_scale ? AT(const float, v_scale, v_scale_at)[a.has_head_scales ? kv_head : 0] : 1;
    const head_end end =
        end_head(top, weight, sinks ? AT(const float, sinks, sinks_at)[head] : -INFINITY, WEIGHT_UNIT);
    for (int i = item; i < dv; i += LOCAL) {
        float value = 0;
#pragma unroll 8
        for (int s = 0; s < a.num_splits; s++) {
            const float one = part[s * PART_FLOATS(dv) + PART_SUMS + i];
            value += decay[s] == 0 ? 0 : decay[s] * one; /* an empty part counts nothing, whatever V holds; NaN does */
        }
#if TAIL
        if (of_mean != 0)
            value += of_mean * mean_value(&a, &rows, &v, i);
#endif
        store_element(out + out_at, a.out_dtype, row * a.out[0] + head * a.out[1] + i,
                      end.is_empty ? 0 : value * end.decay / end.sum * v_unit);
    }
    if (lse && item == 0)
        AT(float, lse, lse_at)[row * a.lse[0] + head * a.lse[1]] = end.lse;
}
