/* SPDX-License-Identifier: Apache-2.0
 * What a model does between its calls of the library, on the device: a layer's work, whose results the next call reads.
 */
#ifndef HATTN_DEVICES_MODEL_H
#define HATTN_DEVICES_MODEL_H

#include <cstddef>
#include <cstdint>
#include <string>

namespace devices {

/* One layer of sequences with one row each, fp16. From the layer before's output come this layer's queries, and K and V of
 * the sequence's last position. */
struct ModelLayer {
    int32_t num_sequences, num_q_heads, num_kv_heads, head_dim;
    int32_t layer, num_layers;
    bool starts_next_early;       /* lets the next kernel start, waits a little, and only then writes */
    int32_t *seq_len;             /* [sequence]; layer 0 adds 1 first */
    const uint16_t *previous_out; /* [sequence, q head, head_dim] */
    uint16_t *q;                  /* the same */
    uint16_t *k, *v;              /* caches of this layer, [sequence, kv head, slot, head_dim] */
    int64_t sequence_stride, head_stride;
    uint32_t *trace; /* [length, layer, sequence]: a checksum of previous_out */
};

class Model
{
public:
    virtual ~Model() = default;
    /* Enqueues one kernel. Throws std::runtime_error. */
    virtual void run(const ModelLayer &layer, void *stream) const = 0;
};

/* NULL: the backend has no device of its own. */
const Model *model_of(const std::string &backend);

} // namespace devices
#endif
