/* SPDX-License-Identifier: Apache-2.0
 * Attention over disjoint parts of the keys, joined: a group for each row and head.
 */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    merge(const hattn_opencl_join m, bytes_in partial_out, ulong partial_out_at, bytes_in partial_lse,
          ulong partial_lse_at, bytes_out out, ulong out_at, bytes_out lse, ulong lse_at)
{
    const int head = get_group_id(0) % m.num_q_heads, row = get_group_id(0) / m.num_q_heads, item = get_local_id(0);
    __global const float *logits =
        AT(const float, partial_lse, partial_lse_at) + row * m.partial_lse[1] + head * m.partial_lse[2];
    __global const float *values =
        AT(const float, partial_out, partial_out_at) + row * m.partial_out[1] + head * m.partial_out[2];
    float top = -INFINITY, sum = 0;
    for (int p = 0; p < m.num_parts; p++)
        top = larger(top, logits[p * m.partial_lse[0]]);
    for (int p = 0; p < m.num_parts; p++)
        if (logits[p * m.partial_lse[0]] != -INFINITY)
            sum += exp(logits[p * m.partial_lse[0]] - top) * 0x1p-30f;
    for (int i = item; i < m.head_dim_v; i += LOCAL) {
        float value = 0;
        for (int p = 0; p < m.num_parts; p++)
            if (logits[p * m.partial_lse[0]] != -INFINITY)
                value += exp(logits[p * m.partial_lse[0]] - top) * 0x1p-30f * values[p * m.partial_out[0] + i];
        store_element(out + out_at, m.out_dtype, row * m.out[0] + head * m.out[1] + i,
                      top == -INFINITY ? 0 : value / sum);
    }
    if (lse && item == 0)
        AT(float, lse, lse_at)[row * m.lse[0] + head * m.lse[1]] = top == -INFINITY ? top : top + log(sum * 0x1p30f);
}
