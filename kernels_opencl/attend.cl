/* SPDX-License-Identifier: Apache-2.0
 * Softmax attention, over tiles of TILE keys with running maxima. A group serves HEADS query heads that share rows of K and V, and
 * one split of the row's positions. LANES neighbouring work-items share a key's products, of PASSES keys of a tile; then each has
 * COLUMNS of V of every few rows. DTYPE of K and V; HEAD_DIM_QK and HEAD_DIM_V; IS_ALIGNED: their rows start at 16 bytes (fp8: 8).
 */
#ifndef SKIP /* 0, or as in skip.cl */
#define SKIP 0
#define WEIGHS 1
#define READS 2
#define SKIP_ARGUMENTS
#endif
#if SKIP == READS
#define IS_READ(i) is_read[turn][i]
#else
#define IS_READ(i) 1
#endif

#ifdef IS_CPU
#define PASSES 1
#define KEYS_TOGETHER 1
#define ROWS_TOGETHER 1
#define MAX_SHARE 16
#define COLUMNS 8
#else
/* A GPU waits for memory: keys and rows of V that a work-item loads together, as far as registers are for three groups a
 * compute unit of NVIDIA's. Tiles of eight heads are smaller, for 32 KiB of local memory. */
#define PASSES (HEADS > 4 ? 2 : 4)
#define KEYS_TOGETHER 2
#define MAX_SHARE 32
#if HEAD_DIM_V > 4 * LOCAL
#define COLUMNS 8
#define ROWS_TOGETHER 2
#else
#define COLUMNS 4
#define ROWS_TOGETHER (HEADS > 4 ? 4 : 16)
#endif
#endif
#define STEP (LOCAL / LANES) /* keys of a pass */
#define TILE (STEP * PASSES)
/* Work-items that share a head's softmax. */
#define SHARE (LOCAL / HEADS < MAX_SHARE ? LOCAL / HEADS : MAX_SHARE)
#define SCRATCH (HEADS * TILE * LANES > LOCAL * COLUMNS ? HEADS * TILE * LANES : LOCAL * COLUMNS)

#if COLUMNS == 8
typedef float8 columns_of_v;
#define LOAD_COLUMNS load8
#define STORE_COLUMNS vstore8
#else
typedef float4 columns_of_v;
#define LOAD_COLUMNS load4
#define STORE_COLUMNS vstore4
#endif

/* A processor adds in vectors and takes exponentials of vectors; a GPU's work-item in fewer registers, and reads the weights of all
 * heads of a key together. */
#ifdef IS_CPU
typedef float8 partial_product;
#define ADD_PRODUCT(sum, piece, query) sum += (piece) * (query)
#define SUM_OF(product) sum8(product)
#define QUERY_AT(i) vload8(0, (__local const float *)queries + (i))
#define WEIGHT(head, i) weights[(head) * TILE + (i)]
#else
typedef float partial_product;
#define ADD_PRODUCT(sum, piece, query) sum += dot((piece).lo, (query).lo) + dot((piece).hi, (query).hi)
#define SUM_OF(product) (product)
#define QUERY_AT(i) ((float8)(queries[(i) / 4], queries[(i) / 4 + 1]))
#define WEIGHT(head, i) weights[(i) * HEADS + (head)]
#endif

typedef struct head_place {
    int row, kv_head, first_head, num_heads, selection_head, split;
} head_place;

head_place place_heads(const hattn_opencl_attention *a, int group)
{
    head_place place;
    place.split = group % a->num_splits;
    group /= a->num_splits;
    const int block = group % a->num_blocks;
    group /= a->num_blocks;
    const int num_groups = a->num_q_heads / a->group;
    place.selection_head = group % num_groups;
    place.row = group / num_groups;
    place.first_head = place.selection_head * a->group + block * HEADS;
    place.num_heads = min(HEADS, a->group - block * HEADS);
    place.kv_head = (long)place.first_head * a->num_kv_heads / a->num_q_heads;
    return place;
}

/* Constants give a GPU's compiler loops without ends, whose loads go out together; a processor's takes longer for them. */
#ifdef IS_CPU
#define DIM_QK a.head_dim_qk
#define DIM_V a.head_dim_v
#else
#define DIM_QK HEAD_DIM_QK
#define DIM_V HEAD_DIM_V
#endif

#define SIZE (DTYPE == HATTN_F32 ? 4 : DTYPE == HATTN_F8_E4M3 ? 1 : 2)

/* A tile ahead: K and V of a position. */
void fetch_rows(const hattn_opencl_attention *a, const hattn_opencl_rows *rows, __global const int *pages, int sequence,
                int kv_head, bytes_in keys, bytes_in values, int position)
{
#ifdef IS_CPU
    int slot;
    const long page = page_of(rows, pages, sequence, position, &slot);
#if SKIP != READS
    FETCH(keys + (page * a->k_cache[0] + slot * a->k_cache[1] + kv_head * a->k_cache[2]) * SIZE, a->head_dim_qk * SIZE);
#endif
#if SKIP != WEIGHS
    FETCH(values + (page * a->v_cache[0] + slot * a->v_cache[1] + kv_head * a->v_cache[2]) * SIZE, a->head_dim_v * SIZE);
#endif
#endif
}

float cap(float logit, float soft_cap) { return soft_cap > 0 ? soft_cap * tanh(logit / soft_cap) : logit; }

/* Sums of the weights of anchors, and of all that have shares. There are always parts, which join_splits ends. */
#if TAIL
#define TAIL_ARGUMENTS , const hattn_opencl_tail t, bytes_in shares, ulong shares_at
#define ENDS_HERE 0
#else
#define TAIL_ARGUMENTS
#define ENDS_HERE (a.num_splits == 1)
#endif

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    attend(const hattn_opencl_attention a, const hattn_opencl_rows rows, bytes_in q_start, ulong q_start_at,
           bytes_in seq_len, ulong seq_len_at, bytes_in table, ulong table_at, bytes_in q, ulong q_at, bytes_in k_cache,
           ulong k_cache_at, bytes_in v_cache, ulong v_cache_at, bytes_in k_scale, ulong k_scale_at, bytes_in v_scale,
           ulong v_scale_at, bytes_in sinks, ulong sinks_at, bytes_in indices, ulong indices_at, bytes_in counts,
           ulong counts_at, bytes_out out, ulong out_at, bytes_out lse, ulong lse_at, bytes_out parts,
           ulong parts_at TAIL_ARGUMENTS SKIP_ARGUMENTS, __local float4 *queries)
{
    __local float scratch[SCRATCH] __attribute__((aligned(16))), weights[HEADS * TILE] __attribute__((aligned(16))),
        maxima[HEADS * SHARE] __attribute__((aligned(16))), decay[HEADS], sums[HEADS * SHARE];
#if TAIL
    __local float near_sums[HEADS * SHARE], all_sums[HEADS * SHARE];
#endif
#if SKIP == READS
    __local float left_sums[HEADS * SHARE], tops[MOST_GROUP], scales[MOST_GROUP];
    __local int is_read[2][TILE];
#endif
    __local long values_at[2][TILE];
    const head_place place = place_heads(&a, get_group_id(0));
    const row_place owner =
        place_row(&rows, AT(const int, q_start, q_start_at), AT(const int, seq_len, seq_len_at), place.row);
    const int item = get_local_id(0), d = DIM_QK, dv = DIM_V;
    __global const int *list = 0;
    int count = owner.length;
    if (indices) {
        list = AT(const int, indices, indices_at) + place.row * a.indices[0] + place.selection_head * a.indices[1];
        count = owner.length ? AT(const int, counts, counts_at)[place.row * a.counts[0] +
                                                                place.selection_head * a.counts[1]]
                             : 0;
    }
#if SKIP
    count = min(count, t.stride); /* there is room for no more logits */
#endif
    const int begin = (long)count * place.split / a.num_splits, end = (long)count * (place.split + 1) / a.num_splits;

#if SKIP == READS
    join_head_sums(&a, AT(float, head_sums, head_sums_at), sinks ? AT(const float, sinks, sinks_at) : 0, place.row,
                   place.selection_head * a.group, tops, scales);
#endif
    for (int i = item; SKIP != READS && i < HEADS * d; i += LOCAL) {
        const int h = i / d;
        ((__local float *)queries)[i] =
            h < place.num_heads
                ? load_element(q + q_at, a.q_dtype, place.row * a.q[0] + (place.first_head + h) * a.q[1] + i % d)
                : 0;
    }
    const float scale =
        a.scale * (k_scale ? AT(const float, k_scale, k_scale_at)[a.has_head_scales ? place.kv_head : 0] : 1);
    bytes_in keys = k_cache + k_cache_at, values = v_cache + v_cache_at;
    __global const int *pages = AT(const int, table, table_at);

    /* This work-item's part of the products, of the softmax, and of the values. */
    const int own_key = item / LANES, lane = item % LANES;
    const int own_head = item / SHARE, share = item % SHARE;
    const int columns = dv / COLUMNS, num_rows = LOCAL / columns, own_row = item / columns, column = item % columns;
    float largest = -INFINITY, sum = 0;
    columns_of_v values_sum[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++)
        values_sum[h] = 0;
#if TAIL
    __global const uint *own_shares = 0;
    float near = 0, all = 0;
    if (shares && own_head < place.num_heads)
        own_shares = AT(const uint, shares, shares_at) + place.row * t.shares[0] +
                     (t.has_head_shares ? place.first_head + own_head : place.selection_head) * t.shares[1];
#endif
#if SKIP
    __global float *selection_logits = AT(float, logits, logits_at) +
                                       ((long)place.row * a.num_q_heads + place.selection_head * a.group) * t.stride,
                   *own_logits = selection_logits +
                                 (long)(place.first_head + own_head - place.selection_head * a.group) * t.stride;
    float left = 0;
#endif
    if (SKIP != READS && list && begin + own_key < end)
        fetch_rows(&a, &rows, pages, owner.sequence, place.kv_head, keys, values, list[begin + own_key]);
    barrier(CLK_LOCAL_MEM_FENCE);

    for (int tile = begin, turn = 0; tile < end; tile += TILE, turn ^= 1) {
        const int num_keys = min(TILE, end - tile);
        if (SKIP != READS && list && tile + TILE + own_key < end)
            fetch_rows(&a, &rows, pages, owner.sequence, place.kv_head, keys, values, list[tile + TILE + own_key]);
        long page[PASSES];
        int slot[PASSES];
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) { /* behind the last one: that one again, which nobody counts */
            const int i = min(tile + pass * STEP + own_key, end - 1);
            page[pass] = page_of(&rows, pages, owner.sequence, list ? list[i] : i, &slot[pass]);
        }
#pragma unroll
        for (int pass = 0; lane == 0 && pass < PASSES; pass++)
            values_at[turn][pass * STEP + own_key] =
                page[pass] * a.v_cache[0] + slot[pass] * a.v_cache[1] + place.kv_head * a.v_cache[2];
#if SKIP == READS
        for (int i = item; i < num_keys; i += LOCAL) {
            IS_READ(i) = !shares || weighs_enough(&a, &t, selection_logits + tile + i, tops, scales);
            if (IS_READ(i) && list)
                fetch_rows(&a, &rows, pages, owner.sequence, place.kv_head, keys, values, list[tile + i]);
        }
#else
#pragma unroll
        for (int pass = 0; (PASSES > 1 || own_key < num_keys) && pass < PASSES; pass += KEYS_TOGETHER) {
            partial_product product[KEYS_TOGETHER][HEADS];
#pragma unroll
            for (int t = 0; t < KEYS_TOGETHER; t++)
#pragma unroll
                for (int h = 0; h < HEADS; h++)
                    product[t][h] = 0;
#ifndef IS_CPU
#pragma unroll
#endif
            for (int i = 0; i < d; i += LANES * 8) {
                const int at = i + lane * 8;
                if (d % (LANES * 8) && at >= d)
                    continue;
                float8 piece[KEYS_TOGETHER];
#pragma unroll
                for (int t = 0; t < KEYS_TOGETHER; t++)
                    piece[t] = load8(keys, DTYPE, IS_ALIGNED,
                                     page[pass + t] * a.k_cache[0] + slot[pass + t] * a.k_cache[1] +
                                         place.kv_head * a.k_cache[2] + at);
#pragma unroll
                for (int h = 0; h < HEADS; h++) {
                    const float8 query = QUERY_AT(h * d + at);
#pragma unroll
                    for (int t = 0; t < KEYS_TOGETHER; t++)
                        ADD_PRODUCT(product[t][h], piece[t], query);
                }
            }
#pragma unroll
            for (int t = 0; t < KEYS_TOGETHER; t++)
#pragma unroll
                for (int h = 0; h < HEADS; h++)
                    scratch[h * TILE * LANES + (pass + t) * LOCAL + item] = SUM_OF(product[t][h]);
        }
#endif
        barrier(CLK_LOCAL_MEM_FENCE);

        if (own_head < HEADS) {
            float own = -INFINITY;
#ifndef IS_CPU
#pragma unroll
#endif
            for (int i = share; i < TILE; i += SHARE) {
#if SKIP == READS
                const float logit = i < num_keys && own_head < place.num_heads ? own_logits[tile + i] : -INFINITY;
#else
                float logit = 0;
                for (int l = 0; l < LANES; l++)
                    logit += scratch[(own_head * TILE + i) * LANES + l];
                logit = i < num_keys ? cap(logit * scale, a.soft_cap) : -INFINITY;
#endif
#if SKIP == WEIGHS
                if (i < num_keys && own_head < place.num_heads)
                    own_logits[tile + i] = logit;
#endif
                WEIGHT(own_head, i) = logit;
                own = larger(own, logit);
            }
            maxima[own_head * SHARE + share] = own;
        }
        barrier(CLK_LOCAL_MEM_FENCE);

        if (own_head < HEADS) {
            float next = largest;
            for (int i = 0; i < SHARE; i++)
                next = larger(next, maxima[own_head * SHARE + i]);
            /* A largest logit of -inf: no weight yet, and nothing to decay. */
            const float kept = largest == -INFINITY ? 0 : largest == next ? 1 : exp(largest - next);
            float added = 0;
#ifdef IS_CPU
            for (int i = share; i < TILE / 8; i += SHARE) { /* a vector's exponentials cost as much as one */
                const float8 logit = vload8(i, weights + own_head * TILE);
                const float8 weight =
                    select(exp(logit - next) * WEIGHT_UNIT, (float8)(0), as_int8(logit == -INFINITY));
                vstore8(weight, i, weights + own_head * TILE);
                added += sum8(weight);
            }
#else
#pragma unroll
            for (int i = share; i < TILE; i += SHARE) {
                const float logit = WEIGHT(own_head, i);
                const float weight = logit == -INFINITY ? 0 : exp(logit - next) * WEIGHT_UNIT;
                WEIGHT(own_head, i) = weight;
                added += weight;
            }
#endif
            sum = sum * kept + added;
            largest = next;
            if (share == 0)
                decay[own_head] = kept;
        }
        barrier(CLK_LOCAL_MEM_FENCE);

#if TAIL
        if (own_shares) {
            near *= decay[own_head];
            all *= decay[own_head];
            for (int i = share; i < num_keys; i += SHARE) {
                const uint one = own_shares[tile + i];
                near += one & SHARE_ANCHOR ? WEIGHT(own_head, i) : 0;
                all += one ? WEIGHT(own_head, i) : 0;
            }
#if SKIP == READS
            left *= decay[own_head];
            for (int i = share; i < num_keys; i += SHARE)
                left += IS_READ(i) ? 0 : WEIGHT(own_head, i);
#endif
        }
#endif
        if (SKIP != WEIGHS && own_row < num_rows) {
            columns_of_v added[HEADS];
#pragma unroll
            for (int h = 0; h < HEADS; h++)
                added[h] = 0;
            for (int i = own_row; i < num_keys; i += ROWS_TOGETHER * num_rows) {
                columns_of_v piece[ROWS_TOGETHER];
#pragma unroll
                for (int r = 0; r < ROWS_TOGETHER; r++)
                    if (IS_READ(min(i + r * num_rows, num_keys - 1)))
                        piece[r] =
                            LOAD_COLUMNS(values, DTYPE, IS_ALIGNED,
                                         values_at[turn][min(i + r * num_rows, num_keys - 1)] + column * COLUMNS);
#pragma unroll
                for (int r = 0; r < ROWS_TOGETHER; r++) {
                    if (i + r * num_rows >= num_keys || !IS_READ(i + r * num_rows))
                        continue;
#pragma unroll
                    for (int h = 0; h < HEADS; h++)
                        added[h] += WEIGHT(h, i + r * num_rows) * piece[r];
                }
            }
#pragma unroll
            for (int h = 0; h < HEADS; h++)
                values_sum[h] = values_sum[h] * decay[h] + added[h];
        }
    }

    if (own_head < HEADS) {
        sums[own_head * SHARE + share] = sum;
#if TAIL
        near_sums[own_head * SHARE + share] = near;
        all_sums[own_head * SHARE + share] = all;
#endif
#if SKIP == READS
        left_sums[own_head * SHARE + share] = left;
#endif
        if (share == 0)
            maxima[own_head * SHARE] = largest;
    }
    const float v_unit = v_scale ? AT(const float, v_scale, v_scale_at)[a.has_head_scales ? place.kv_head : 0] : 1;
#ifndef IS_CPU /* registers have no index; a processor's driver takes seconds for HEADS bodies */
#pragma unroll
#else
#pragma unroll 1
#endif
    for (int h = 0; h < HEADS; h++) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (own_row < num_rows)
            STORE_COLUMNS(values_sum[h], item, scratch);
        barrier(CLK_LOCAL_MEM_FENCE);
        if (h < place.num_heads) {
            const int head = place.first_head + h;
            float weight = 0;
            const float top = maxima[h * SHARE];
            for (int i = 0; i < SHARE; i++)
                weight += sums[h * SHARE + i];
#if SKIP == WEIGHS
            if (item == 0) {
                __global float *told = split_sums(&a, AT(float, head_sums, head_sums_at), place.row, head, place.split);
                told[0] = top;
                told[1] = weight;
            }
            continue;
#endif
            if (ENDS_HERE) {
                const float sink = sinks ? AT(const float, sinks, sinks_at)[head] : -INFINITY;
                const head_end end = end_head(top, weight, sink, WEIGHT_UNIT);
                for (int i = item; i < dv; i += LOCAL) {
                    float value = 0;
                    for (int r = 0; r < num_rows; r++)
                        value += scratch[r * dv + i];
                    store_element(out + out_at, a.out_dtype, place.row * a.out[0] + head * a.out[1] + i,
                                  end.is_empty ? 0 : value * end.decay / end.sum * v_unit);
                }
                if (lse && item == 0)
                    AT(float, lse, lse_at)[place.row * a.lse[0] + head * a.lse[1]] = end.lse;
            } else {
                __global float *part =
                    AT(float, parts, parts_at) +
                    (((long)place.row * a.num_q_heads + head) * a.num_splits + place.split) * PART_FLOATS(dv);
                for (int i = item; i < dv; i += LOCAL) {
                    float value = 0;
                    for (int r = 0; r < num_rows; r++)
                        value += scratch[r * dv + i];
                    part[i + PART_SUMS] = value;
                }
                if (item == 0) {
                    part[0] = top;
                    part[1] = weight;
#if TAIL
                    near = all = 0;
                    for (int i = 0; i < SHARE; i++) {
                        near += near_sums[h * SHARE + i];
                        all += all_sums[h * SHARE + i];
                    }
                    part[2] = near;
                    part[3] = all;
#endif
#if SKIP == READS
                    left = 0;
                    for (int i = 0; i < SHARE; i++)
                        left += left_sums[h * SHARE + i];
                    part[4] = left;
#endif
                }
            }
        }
    }
}
