/* SPDX-License-Identifier: Apache-2.0
 * Which values an attention reads (api/hattn.h, min_value_weight), in front of attend.cl, which then runs twice: SKIP is WEIGHS where logits and
 * what they sum to are left in the workspace, READS where these say which keys weigh enough for their row of V.
 */
#define WEIGHS 1
#define READS 2
#define MOST_GROUP 128
#define SKIP_ARGUMENTS , bytes_out logits, ulong logits_at, bytes_out head_sums, ulong head_sums_at

/* Of a split and head: the largest logit, the sum of its weights. */
__global float *split_sums(const hattn_opencl_attention *a, __global float *head_sums, int row, int head, int split)
{
    return head_sums + (((long)row * a->num_q_heads + head) * a->num_splits + split) * 2;
}

/* Of all heads of a selection, before a barrier: the largest logit, and 1 / D, which is 0 without logits. */
void join_head_sums(const hattn_opencl_attention *a, __global float *head_sums, __global const float *sinks, int row,
                    int first_head, __local float *tops, __local float *scales)
{
    for (int h = get_local_id(0); h < a->group; h += LOCAL) {
        __global const float *splits = split_sums(a, head_sums, row, first_head + h, 0);
        const float sink = sinks ? sinks[first_head + h] : -INFINITY;
        float top = sink, sum = 0;
        for (int s = 0; s < a->num_splits; s++)
            top = larger(top, splits[2 * s]);
        top = top == -INFINITY ? 0 : top;
        for (int s = 0; s < a->num_splits; s++)
            sum += splits[2 * s] == -INFINITY ? 0 : exp(splits[2 * s] - top) * splits[2 * s + 1];
        sum = sum / WEIGHT_UNIT + (sink == -INFINITY ? 0 : exp(sink - top));
        tops[h] = top;
        scales[h] = sum == 0 ? 0 : 1 / sum;
    }
}

/* logits: of the selection's first head, at a key; what is no number is below nothing. */
int weighs_enough(const hattn_opencl_attention *a, const hattn_opencl_tail *t, __global const float *logits,
                  __local const float *tops, __local const float *scales)
{
    float weight = 0;
    for (int h = 0; h < a->group; h++)
        weight += exp(logits[(long)h * t->stride] - tops[h]) * scales[h];
    return !(weight < t->least);
}
