/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/key_codes.h"

#include "devices/random_word.h"
#include "problems/sampled_keys.h"

namespace {

using devices::random_word;
using problems::Codes;

/* In 128ths: of a key in its run, and of a trace's key each time that it comes again. */
enum { RUN_FLIPS = 7, REPEAT_FLIPS = 4 };

/* Bits that are set with a probability of `in_128` 128ths: each step of a binary fraction, from the last digit, halves what
 * there is and adds a half where the digit is 1. */
uint32_t rare_bits(uint64_t seed, uint64_t word, int in_128)
{
    uint32_t bits = 0;
    for (int digit = 0; digit < 7; digit++) {
        const uint32_t draw = uint32_t(random_word(seed, word * 7 + uint64_t(digit)));
        bits = in_128 >> digit & 1 ? bits | draw : bits & draw;
    }
    return bits;
}

/* Which key of a trace is key `j` of a head. The trace is taken again and again until the sequence is full: within one pass
 * neighbours stay neighbours, and a pass matches a query as well as the trace does. Each pass starts somewhere else, so that
 * no spacing of a sample meets the same keys in every pass, and so does each head. */
int64_t trace_key(const TraceKeys &trace, uint64_t seed, int64_t head, int64_t j)
{
    const int64_t pass = j / trace.num_keys;
    const uint64_t start = random_word(seed, uint64_t(head)) % uint64_t(trace.num_keys);
    return (j + int64_t(start) + pass * 2741) % trace.num_keys;
}

} // namespace

std::vector<uint32_t> key_codes(const problems::Problem &problem, const CodeExtents &extents, const TraceKeys *trace,
                                uint64_t seed)
{
    const int64_t heads = int64_t(extents.num_sequences) * extents.num_heads, keys = extents.num_keys;
    const int words = extents.num_words;
    const uint64_t first_seed = 2 * seed, flip_seed = 2 * seed + 1;
    const int flips = problem.codes == Codes::TRACE ? REPEAT_FLIPS : problem.codes == Codes::EQUAL ? 0 : RUN_FLIPS;
    std::vector<uint32_t> codes(size_t(heads * keys * words));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < heads * keys; i++) {
        const int64_t head = i / keys, j = i % keys;
        /* Which code this key's is like. */
        const int64_t run = problem.codes == Codes::RUNS ? j / problem.run_length : 0;
        const bool is_alone = problem.codes == Codes::SAMPLED_APART && problems::is_sampled(j, keys);
        const uint32_t *real = nullptr;
        if (problem.codes == Codes::TRACE)
            real = trace->codes.data() + (head % extents.num_heads % trace->num_heads * trace->num_keys +
                                          trace_key(*trace, first_seed, head, j)) *
                                             trace->num_words;
        for (int w = 0; w < words; w++) {
            const uint64_t at = uint64_t(i * words + w);
            uint32_t word = uint32_t(random_word(flip_seed, at));
            if (!is_alone) {
                word = real ? real[w] : uint32_t(random_word(first_seed, uint64_t((head * keys + run) * words + w)));
                word ^= rare_bits(flip_seed, at, flips);
            }
            codes[size_t(at)] = word;
        }
    }
    return codes;
}
