/* SPDX-License-Identifier: Apache-2.0
 * Sums of values, which tails need: a group for each sequence and KV head. DTYPE of V; IS_ALIGNED: its rows start at 16
 * bytes (fp8: 8).
 */

/* Work-items that share a column of eight. */
int lanes_of(int columns) { return max(1, LOCAL / columns); }

/* sums: of each lane, a row of values. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    sum_values(const hattn_opencl_attention a, const hattn_opencl_tail t, const hattn_opencl_rows rows,
               bytes_in q_start, ulong q_start_at, bytes_in seq_len, ulong seq_len_at, bytes_in table, ulong table_at,
               bytes_in v_cache, ulong v_cache_at, bytes_in slots, ulong slots_at, bytes_out value_sums,
               ulong value_sums_at, bytes_out lengths, ulong lengths_at, __local long *sums)
{
    const int sequence = get_group_id(0) / a.num_kv_heads, kv_head = get_group_id(0) % a.num_kv_heads,
              item = get_local_id(0), columns = a.head_dim_v / 8, lanes = lanes_of(columns);
    __global const int *starts = AT(const int, q_start, q_start_at), *pages = AT(const int, table, table_at);
    const int tokens = starts ? starts[sequence + 1] - starts[sequence] : rows.q_len;
    if (tokens <= 0)
        return;
    const int end = (int)clamp((long)AT(const int, seq_len, seq_len_at)[sequence] - tokens, 0L, (long)rows.max_length);
    const long state = slots ? AT(const int, slots, slots_at)[sequence] : sequence;
    __global int *length = AT(int, lengths, lengths_at) + state * t.value_lengths[0] + kv_head * t.value_lengths[1];
    __global long *total = AT(long, value_sums, value_sums_at) + state * t.value_sums[0] + kv_head * t.value_sums[1];
    const int is_kept = *length > 0 && *length <= end, begin = is_kept ? *length : 0;
    for (int u = item; u < columns * lanes; u += LOCAL) {
        const int column = u % columns, lane = u / columns;
        long8 sum = 0;
#pragma unroll 4
        for (int j = begin + lane; j < end; j += lanes) {
            int slot;
            const long page = page_of(&rows, pages, sequence, j, &slot);
            const float8 value = load8(v_cache + v_cache_at, DTYPE, IS_ALIGNED,
                                       page * a.v_cache[0] + slot * a.v_cache[1] + kv_head * a.v_cache[2] + column * 8);
            sum += (long8)(fixed_value(value.s0), fixed_value(value.s1), fixed_value(value.s2), fixed_value(value.s3),
                           fixed_value(value.s4), fixed_value(value.s5), fixed_value(value.s6), fixed_value(value.s7));
        }
        vstore8(sum, u, sums);
    }
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    for (int i = item; i < a.head_dim_v; i += LOCAL) {
        long sum = is_kept ? total[i] : 0;
        for (int lane = 0; lane < lanes; lane++)
            sum += sums[lane * a.head_dim_v + i];
        total[i] = sum;
    }
    if (item == 0)
        *length = end;
}
