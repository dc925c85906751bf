/* SPDX-License-Identifier: Apache-2.0
 * Sums of values, which tails need: a group for each sequence, KV head and part of the positions that are new. DTYPE of V;
 * IS_ALIGNED: its rows start at 16 bytes (fp8: 8).
 */

/* Work-items that share a column of eight. */
int lanes_of(int columns) { return max(1, LOCAL / columns); }

/* Of a sequence and KV head: what is there, and positions that are not in it yet. */
typedef struct kept_sums {
    __global long *total;
    __global int *length;
    int is_any, is_kept, begin, end; /* is_any 0: the sequence has no row */
} kept_sums;

kept_sums find_sums(const hattn_opencl_tail *t, const hattn_opencl_rows *rows, __global const int *starts,
                    __global const int *seq_len, __global const int *slots, __global long *value_sums,
                    __global int *lengths, int sequence, int kv_head)
{
    const int tokens = starts ? starts[sequence + 1] - starts[sequence] : rows->q_len;
    const long state = slots ? slots[sequence] : sequence;
    kept_sums k;
    k.total = value_sums + state * t->value_sums[0] + kv_head * t->value_sums[1];
    k.length = lengths + state * t->value_lengths[0] + kv_head * t->value_lengths[1];
    k.is_any = tokens > 0;
    k.end = (int)clamp((long)seq_len[sequence] - tokens, 0L, (long)rows->max_length);
    const int length = tokens > 0 ? *k.length : 0;
    k.is_kept = length > 0 && length <= k.end;
    k.begin = k.is_kept ? length : 0;
    return k;
}

#define SUMS_ARGUMENTS                                                                                             \
    const hattn_opencl_attention a, const hattn_opencl_tail t, const hattn_opencl_rows rows, bytes_in q_start,     \
        ulong q_start_at, bytes_in seq_len, ulong seq_len_at, bytes_in slots, ulong slots_at, bytes_out value_sums, \
        ulong value_sums_at, bytes_out lengths, ulong lengths_at, bytes_out parts, ulong parts_at, int num_parts

#define FIND_SUMS(task)                                                                                          \
    const int sequence = (task) / a.num_kv_heads, kv_head = (task) % a.num_kv_heads, item = get_local_id(0);     \
    const kept_sums k = find_sums(&t, &rows, AT(const int, q_start, q_start_at), AT(const int, seq_len, seq_len_at), \
                                  AT(const int, slots, slots_at), AT(long, value_sums, value_sums_at),           \
                                  AT(int, lengths, lengths_at), sequence, kv_head);                              \
    if (!k.is_any)                                                                                               \
        return;

/* One part ends what it sums; of more, each leaves its sums in `parts` for join_values. sums: of each lane, a row of values. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    sum_values(SUMS_ARGUMENTS, bytes_in table, ulong table_at, bytes_in v_cache, ulong v_cache_at, __local long *sums)
{
    const int task = get_group_id(0) / num_parts, part = get_group_id(0) % num_parts, columns = a.head_dim_v / 8,
              lanes = lanes_of(columns);
    FIND_SUMS(task)
    __global const int *pages = AT(const int, table, table_at);
    const int begin = k.begin + (int)((long)(k.end - k.begin) * part / num_parts),
              end = k.begin + (int)((long)(k.end - k.begin) * (part + 1) / num_parts);
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
    __global long *to =
        num_parts == 1 ? k.total : AT(long, parts, parts_at) + ((long)task * num_parts + part) * a.head_dim_v;
    for (int i = item; i < a.head_dim_v; i += LOCAL) {
        long sum = num_parts == 1 && k.is_kept ? to[i] : 0;
        for (int lane = 0; lane < lanes; lane++)
            sum += sums[lane * a.head_dim_v + i];
        to[i] = sum;
    }
    if (num_parts == 1 && item == 0)
        *k.length = k.end;
}

/* A group for each sequence and KV head. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void join_values(SUMS_ARGUMENTS)
{
    const int task = get_group_id(0);
    FIND_SUMS(task)
    __global const long *from = AT(const long, parts, parts_at) + (long)task * num_parts * a.head_dim_v;
    barrier(CLK_GLOBAL_MEM_FENCE); /* all have read the length */
    for (int i = item; i < a.head_dim_v; i += LOCAL) {
        long sum = k.is_kept ? k.total[i] : 0;
#pragma unroll 8
        for (int part = 0; part < num_parts; part++)
            sum += from[(long)part * a.head_dim_v + i];
        k.total[i] = sum;
    }
    if (item == 0)
        *k.length = k.end;
}
