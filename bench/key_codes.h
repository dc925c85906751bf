/* SPDX-License-Identifier: Apache-2.0
 * Codes of keys that are not independent of each other, as those of text are not.
 */
#ifndef HATTN_BENCH_KEY_CODES_H
#define HATTN_BENCH_KEY_CODES_H

#include <cstdint>
#include <vector>

#include "problems/problems.h"

/* Keys of a trace as its map encodes them, and what finds them. */
struct TraceKeys {
    int num_heads = 0, num_keys = 0, num_words = 0; /* KV heads; keys and words of a head */
    std::vector<uint32_t> codes;                    /* [head][key][word] */
    int num_queries = 0, group = 0, head_dim = 0;
    std::vector<uint16_t> q;         /* fp16 [query][head * group][head_dim] */
    std::vector<uint16_t> query_map; /* fp16 [head][head_dim][32 * num_words], linear */
};

/* What a code layer of contiguous sequences is made of. */
struct CodeExtents {
    int num_sequences, num_heads, num_keys, num_words;
};

/* The codes [sequence][head][key][word] of one layer, other ones for each `seed`, of problem.codes other than RANDOM. `trace`
 * may be null unless they are Codes::TRACE. By all processors; about 50 million words a second of each. */
std::vector<uint32_t> key_codes(const problems::Problem &problem, const CodeExtents &extents, const TraceKeys *trace,
                                uint64_t seed);

#endif
