/* SPDX-License-Identifier: Apache-2.0
 * A trace: real queries, keys and values of one attention layer, and hash maps for it, in one safetensors file.
 *   q [num_queries, Hq, d], q_pos i32 [num_queries] (a query sees keys 0..q_pos), k [n, Hkv, d], v [n, Hkv, dv]
 *   linear map NAME: NAME.wk [Hkv, d, bits], optional NAME.wq (absent: wk serves both), optional NAME.bias [Hkv, bits] of keys;
 *   per query head: [Hq, ...]
 *   MLP map NAME, per query head: NAME.k.w1..w3 [Hq, in, out], NAME.k.b1..b3 [Hq, out], NAME.q.* likewise
 *   optional NAME.slope.hamming and NAME.slope.weighted F32 [Hs]: slopes of hattn_encode_queries for the whole map and its usual
 *   selections, which are per query head where the map is, else per KV head; and NAME.slope.head F32 [Hq], of weighted scores of each
 *   query head by itself, for maps per KV head (`hattn calibrate` adds them)
 *   metadata softmax_scale; absent: d^-0.5
 */
#ifndef HATTN_TOOLS_TRACE_H
#define HATTN_TOOLS_TRACE_H

#include <cstdint>
#include <string>
#include <vector>

#include "tools/safetensors.h"

/* One side of a map: up to three layers, each [heads, in, out], contiguous. */
struct TraceMapSide {
    int32_t dtype = 0;                       /* HATTN_F32, F16 or BF16: of weights and biases */
    std::vector<uint8_t> weight[3], bias[3]; /* empty: none */
};

struct TraceMap {
    std::string name;
    int32_t kind = 0;      /* HATTN_MAP_LINEAR or HATTN_MAP_MLP */
    int32_t num_heads = 0; /* code heads: Hkv or Hq */
    int32_t bits = 0;
    int32_t hidden[2] = {0, 0}; /* MLP */
    TraceMapSide key, query;
    std::vector<float> slopes[2];   /* of hamming and weighted scores, [num_heads]; empty: none */
    std::vector<float> head_slopes; /* [Hq]; empty: none */

    /* HATTN_SCORE_... */
    const std::vector<float> &slopes_of(int32_t score_kind) const;
};

/* The tensor of a map's slopes: NAME.slope.weighted. */
std::string slopes_name(const std::string &map, int32_t score_kind);
std::string head_slopes_name(const std::string &map);
const char *score_name(int32_t score_kind);

struct Trace {
    std::string path;
    int32_t num_queries = 0, num_keys = 0;
    int32_t num_q_heads = 0, num_kv_heads = 0, head_dim_qk = 0, head_dim_v = 0;
    int32_t q_dtype = 0, kv_dtype = 0;
    float scale = 0;
    std::vector<int32_t> q_pos;
    std::vector<uint8_t> q, k, v; /* as in the file */
    std::vector<TraceMap> maps;   /* by name */

    /* NULL: none of that name. */
    const TraceMap *find(const std::string &name) const;
    /* "hamming128, hata128, ..." */
    std::string map_names() const;
};

/* Throws UsageError, naming file and tensor, for whatever is missing, misshapen, left over or not finite. */
Trace load_trace(const std::string &path);

#endif
