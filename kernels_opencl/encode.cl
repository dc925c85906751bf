/* SPDX-License-Identifier: Apache-2.0
 * Codes and norms of keys, weights of queries: VECTORS vectors through one head's map, whose rows are read eight columns at a
 * time. MAP_DTYPE, IS_ALIGNED: its rows start at 16 bytes; TOGETHER: vectors that a work-item multiplies a piece with.
 */
#define NORM_SHARE 8 /* work-items of a vector's norm */
#ifdef IS_CPU
#define ROWS_TOGETHER 4
#else
#define ROWS_TOGETHER 8 /* of the map, which a GPU waits for */
#endif

/* sums[part][vector][column] of one layer, over as many parts of the inputs as there are work-items; returns the parts. */
int multiply(const hattn_opencl_encoding *e, __local const float *x, __local float *sums, bytes_in weight, long stride,
             int num_inputs, int num_outputs)
{
    const int pieces = num_outputs / 8, teams = VECTORS / TOGETHER, units = pieces * teams;
    const int parts = clamp(min(LOCAL / units, e->num_sums / (VECTORS * num_outputs)), 1, num_inputs / 8);
    for (int u = get_local_id(0); u < units * parts; u += LOCAL) {
        const int piece = u % pieces, team = u / pieces % teams, part = u / units;
        const int begin = num_inputs * part / parts, end = num_inputs * (part + 1) / parts;
        float8 sum[TOGETHER];
#pragma unroll
        for (int v = 0; v < TOGETHER; v++)
            sum[v] = 0;
        __local const float *own = x + team * TOGETHER * e->width;
        for (int i = begin; i < end; i += ROWS_TOGETHER) {
            float8 w[ROWS_TOGETHER];
#pragma unroll
            for (int r = 0; r < ROWS_TOGETHER; r++)
                w[r] = load8(weight, MAP_DTYPE, IS_ALIGNED, min(i + r, end - 1) * stride + piece * 8);
#pragma unroll
            for (int r = 0; r < ROWS_TOGETHER; r++) {
#pragma unroll
                for (int v = 0; i + r < end && v < TOGETHER; v++)
                    sum[v] += own[v * e->width + i + r] * w[r];
            }
        }
#pragma unroll
        for (int v = 0; v < TOGETHER; v++)
            vstore8(sum[v], 0, sums + (part * VECTORS + team * TOGETHER + v) * num_outputs + piece * 8);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return parts;
}

/* An output of a layer, once multiplied. */
float output_of(__local const float *sums, int parts, int num_outputs, int vector, int column, bytes_in bias, long bias_at)
{
    float z = bias ? load_element(bias, MAP_DTYPE, bias_at + column) : 0;
    for (int p = 0; p < parts; p++)
        z += sums[(p * VECTORS + vector) * num_outputs + column];
    return z;
}

#define MAP_ARGUMENTS                                                                                                 \
    const hattn_opencl_map map, bytes_in weight_0, ulong weight_0_at, bytes_in weight_1, ulong weight_1_at,           \
        bytes_in weight_2, ulong weight_2_at, bytes_in bias_0, ulong bias_0_at, bytes_in bias_1, ulong bias_1_at,     \
        bytes_in bias_2, ulong bias_2_at

#define OF_LAYER(name, layer)                                                                                         \
    ((layer) == 0   ? name##_0 + name##_0_at                                                                          \
     : (layer) == 1 ? name##_1 + name##_1_at                                                                          \
                    : name##_2 + name##_2_at)
/* Of values that a kernel takes by value: rusticl (Mesa 22.3) crashes where such are looked up by a variable index. */
#define AT_LAYER(values, layer) ((layer) == 0 ? (values)[0] : (layer) == 1 ? (values)[1] : (values)[2])
#define HAS_BIAS(layer) ((layer) == 0 ? bias_0 != 0 : (layer) == 1 ? bias_1 != 0 : bias_2 != 0)

/* From outputs to the inputs of the next layer; num_outputs 0: there is none. */
void activate(const hattn_opencl_encoding *e, __local float *x, __local const float *sums, int parts, int num_outputs, bytes_in bias, long bias_at)
{
    for (int i = get_local_id(0); i < VECTORS * num_outputs; i += LOCAL) {
        const int vector = i / num_outputs, column = i % num_outputs;
        const float z = output_of(sums, parts, num_outputs, vector, column, bias, bias_at);
        x[vector * e->width + column] = z / (1 + exp(-z));
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* All layers of x; leaves the last one's sums. Sets last_bias of the last one, whose outputs are code_bits. One loop, not three bodies:
 * drivers take long to compile them. */
#define PROJECT(head)                                                                                                 \
    int parts = 0;                                                                                                    \
    bytes_in last_bias = 0;                                                                                           \
    long last_bias_at = 0;                                                                                            \
    for (int layer = 0, inputs = e.head_dim; layer < map.num_layers; layer++) {                                       \
        const int outputs = AT_LAYER(map.num_outputs, layer);                                                         \
        parts = multiply(&e, x, sums, OF_LAYER(weight, layer) + (head) * AT_LAYER(map.weight, layer) * (long)MAP_SIZE,\
                         AT_LAYER(map.weight_row, layer), inputs, outputs);                                           \
        last_bias = HAS_BIAS(layer) ? OF_LAYER(bias, layer) : 0;                                                      \
        last_bias_at = (head) * AT_LAYER(map.bias, layer);                                                            \
        activate(&e, x, sums, parts, layer + 1 < map.num_layers ? outputs : 0, last_bias, last_bias_at);              \
        inputs = outputs;                                                                                             \
    }

/* Codes and norms of the vectors in x, of one code head, to the pages and slots in `places` (slot -1: none). */
#define STORE_KEYS(head)                                                                                              \
    for (int i = item; i < VECTORS * words; i += LOCAL) {                                                             \
        const int vector = i / words, word = i % words;                                                               \
        if (slots[vector] < 0)                                                                                        \
            continue;                                                                                                 \
        uint bits = 0;                                                                                                \
        for (int b = 0; b < 32; b++) {                                                                                \
            const int bit = (b + item) % 32, column = word * 32 + bit; /* not all from one bank */                    \
            if (column < e.code_bits)                                                                                 \
                bits |= (uint)(output_of(sums, parts, e.code_bits, vector, column, last_bias, last_bias_at) > 0)      \
                        << bit;                                                                                       \
        }                                                                                                             \
        AT(uint, codes, codes_at)[pages[vector] * e.to[0] + slots[vector] * e.to[1] + (head) * e.to[2] + word] = bits; \
    }

/* Sums of squares: each work-item's share of a vector's. Before x is activated; where nobody asks for norms, too, as no barrier stands
 * behind a condition (select.cl). */
#define STORE_NORMS(head)                                                                                             \
    for (int i = item; i < VECTORS * NORM_SHARE; i += LOCAL) {                                                        \
        float square = 0;                                                                                             \
        for (int c = i % NORM_SHARE; c < e.head_dim; c += NORM_SHARE)                                                 \
            square += x[i / NORM_SHARE * e.width + c] * x[i / NORM_SHARE * e.width + c];                                  \
        sums[i] = square;                                                                                             \
    }                                                                                                                 \
    barrier(CLK_LOCAL_MEM_FENCE);                                                                                     \
    for (int v = item; v < VECTORS; v += LOCAL) {                                                                     \
        float square = 0;                                                                                             \
        for (int s = 0; s < NORM_SHARE; s++)                                                                          \
            square += sums[v * NORM_SHARE + s];                                                                       \
        if (norms && slots[v] >= 0)                                                                                   \
            vstore_half_rte(sqrt(square), pages[v] * e.norms[0] + slots[v] * e.norms[1] + (head) * e.norms[2],        \
                            AT(half, norms, norms_at));                                                               \
    }                                                                                                                 \
    barrier(CLK_LOCAL_MEM_FENCE);

/* VECTORS * width floats, and num_sums. */
#define ENCODE_SPACE __local float *x, __local float *sums

/* A group for each VECTORS tokens and code head. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    encode_keys(const hattn_opencl_encoding e, MAP_ARGUMENTS, bytes_in k_new, ulong k_new_at, bytes_in k_scale,
                ulong k_scale_at, bytes_in mapping, ulong mapping_at, bytes_out codes, ulong codes_at, bytes_out norms,
                ulong norms_at, int num_tokens, ENCODE_SPACE)
{
    __local long pages[VECTORS];
    __local int slots[VECTORS];
    const int head = get_group_id(0) % e.num_code_heads, first = get_group_id(0) / e.num_code_heads * VECTORS,
              item = get_local_id(0), words = (e.code_bits + 31) / 32,
              kv_head = (long)head * e.num_heads / e.num_code_heads;
    for (int v = item; v < VECTORS; v += LOCAL) {
        const int token = first + v;
        const long slot = token >= num_tokens ? -1 : mapping ? AT(const long, mapping, mapping_at)[token] : token;
        pages[v] = slot / e.num_slots;
        slots[v] = slot < 0 ? -1 : (int)(slot % e.num_slots);
    }
    const float scale = k_scale ? AT(const float, k_scale, k_scale_at)[e.has_head_scales ? kv_head : 0] : 1;
    for (int i = item; i < VECTORS * e.head_dim; i += LOCAL) {
        const int v = i / e.head_dim, c = i % e.head_dim, token = first + v;
        x[v * e.width + c] =
            token < num_tokens
                ? load_element(k_new + k_new_at, e.x_dtype, token * e.x[0] + kv_head * e.x[1] + c) * scale
                : 0;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    STORE_NORMS(head)
    PROJECT(head)
    STORE_KEYS(head)
}

/* The rows' own keys, out of the K cache; likewise. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    append_keys(const hattn_opencl_encoding e, MAP_ARGUMENTS, const hattn_opencl_rows rows, bytes_in q_start,
                ulong q_start_at, bytes_in seq_len, ulong seq_len_at, bytes_in table, ulong table_at, bytes_in k_cache,
                ulong k_cache_at, bytes_in k_scale, ulong k_scale_at, bytes_out codes, ulong codes_at, bytes_out norms,
                ulong norms_at, ENCODE_SPACE)
{
    __local long pages[VECTORS];
    __local int slots[VECTORS];
    const int head = get_group_id(0) % e.num_code_heads, first = get_group_id(0) / e.num_code_heads * VECTORS,
              item = get_local_id(0), words = (e.code_bits + 31) / 32,
              kv_head = (long)head * e.num_heads / e.num_code_heads;
    for (int v = item; v < VECTORS; v += LOCAL) {
        slots[v] = -1;
        if (first + v < rows.num_rows) {
            const row_place place = place_row(&rows, AT(const int, q_start, q_start_at),
                                              AT(const int, seq_len, seq_len_at), first + v);
            if (place.sequence >= 0 && place.position >= 0 && place.position < rows.max_length) {
                int slot;
                pages[v] = page_of(&rows, AT(const int, table, table_at), place.sequence, (int)place.position, &slot);
                slots[v] = slot;
            }
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    const float scale = k_scale ? AT(const float, k_scale, k_scale_at)[e.has_head_scales ? kv_head : 0] : 1;
    for (int i = item; i < VECTORS * e.head_dim; i += LOCAL) {
        const int v = i / e.head_dim, c = i % e.head_dim;
        x[v * e.width + c] = slots[v] >= 0 ? load_element(k_cache + k_cache_at, e.x_dtype,
                                                        pages[v] * e.x[0] + slots[v] * e.x[1] + kv_head * e.x[2] + c) *
                                               scale
                                         : 0;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    STORE_NORMS(head)
    PROJECT(head)
    STORE_KEYS(head)
}

/* As hattn_floor_step of core/floor.h; largest: of the sums, 1 with hamming. NaN gives 0. */
int step_of(float slope, float largest, float unit)
{
    const float step = slope * largest * unit;
    return step > 0 ? (int)rint(min(step, 32768.0f)) : 0;
}

/* The largest magnitude of what `items` work-items give, all or none; 0 where it is not a number to divide by. */
float largest_magnitude(__local float *largest, float own, int items)
{
    barrier(CLK_LOCAL_MEM_FENCE);
    largest[get_local_id(0)] = own;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = 0; i < items; i++)
        own = larger(own, largest[i]);
    return own > 0 && own < INFINITY ? own : 0;
}

char round_weight(float value, float largest, float most) { return largest > 0 ? (char)(int)rint(value / largest * most) : 0; }

#if STEPS
#define STEP_ARGUMENTS , bytes_in slopes, ulong slopes_at, bytes_out steps, ulong steps_at
#define STORE_STEP(largest)                                                         \
    if (item == 0)                                                                  \
        AT(int, steps, steps_at)[row * e.steps[0] + head * e.steps[1]] =            \
            step_of(AT(const float, slopes, slopes_at)[head * e.slope], largest, e.step_unit);
#else
#define STEP_ARGUMENTS
#define STORE_STEP(largest)
#endif

#if BY_HEADS
#define HEAD_ARGUMENTS                                                                                                \
    , bytes_in head_slopes, ulong head_slopes_at, bytes_out head_weights, ulong head_weights_at, bytes_out head_steps, \
        ulong head_steps_at
/* Of query heads `first` and num - 1 behind it, each by itself. */
#define STORE_HEADS                                                                                                   \
    for (int v = 0; v < num; v++) {                                                                                   \
        const int query_head = head * e.group + first + v;                                                            \
        __global char *head_to = AT(char, head_weights, head_weights_at) + row * e.head_weights[0] +                   \
                                 query_head * e.head_weights[1];                                                      \
        float own = 0;                                                                                                \
        for (int r = item; r < e.code_bits; r += LOCAL)                                                               \
            own = larger(own, fabs(output_of(sums, parts, e.code_bits, v, r, last_bias, last_bias_at)));              \
        own = largest_magnitude(largest, own, LOCAL);                                                                 \
        for (int r = item; r < e.code_bits; r += LOCAL)                                                               \
            head_to[r] = round_weight(output_of(sums, parts, e.code_bits, v, r, last_bias, last_bias_at), own, most); \
        if (item == 0)                                                                                                \
            AT(int, head_steps, head_steps_at)[row * e.head_steps[0] + query_head * e.head_steps[1]] =                \
                step_of(AT(const float, head_slopes, head_slopes_at)[query_head * e.head_slope], own, e.step_unit);   \
    }
#else
#define HEAD_ARGUMENTS
#define STORE_HEADS
#endif

/* A group for each row and selection head; the group's query heads go through one map. */
__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void
    encode_queries(const hattn_opencl_encoding e, MAP_ARGUMENTS, bytes_in q, ulong q_at, bytes_out weights,
                   ulong weights_at STEP_ARGUMENTS HEAD_ARGUMENTS, ENCODE_SPACE)
{
    __local float u[512], largest[LOCAL];
    const int num_selections = e.num_heads / e.group, head = get_group_id(0) % num_selections,
              row = get_group_id(0) / num_selections, item = get_local_id(0);
    const long code_head = (long)head * e.num_code_heads / num_selections;
    const float most = e.weight_bits ? (1 << (e.weight_bits - 1)) - 1 : 1;
    for (int r = item; r < e.code_bits; r += LOCAL)
        u[r] = 0;
    for (int first = 0; first < e.group; first += VECTORS) {
        const int num = min(VECTORS, e.group - first);
        for (int i = item; i < VECTORS * e.head_dim; i += LOCAL) {
            const int v = i / e.head_dim, c = i % e.head_dim;
            x[v * e.width + c] = v < num ? load_element(q + q_at, e.x_dtype,
                                                      row * e.x[0] + (head * e.group + first + v) * e.x[1] + c)
                                       : 0;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        PROJECT(code_head)
        for (int r = item; r < e.code_bits; r += LOCAL) {
            for (int v = 0; v < num; v++) {
                const float z = output_of(sums, parts, e.code_bits, v, r, last_bias, last_bias_at);
                u[r] += e.weight_bits ? z : z > 0 ? 1 : -1;
            }
        }
        STORE_HEADS
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    bytes_out to = weights + weights_at + row * e.to[0] + head * e.to[1];
    float own = 0;
    for (int r = item; r < e.code_bits; r += LOCAL)
        own = larger(own, fabs(u[r]));
    own = largest_magnitude(largest, own, e.weight_bits ? LOCAL : 0);
    for (int r = item; r < e.code_bits; r += LOCAL)
        to[r] = (uchar)(e.weight_bits ? round_weight(u[r], own, most) : (char)((int)u[r] / (e.group % 2 ? 1 : 2)));
    STORE_STEP(e.weight_bits ? own : 1)
}
