/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fake_cuda.h"

#include <cstring>
#include <vector>

extern "C" {
#include "reference/reference.h"
}

FakeCuda fake_cuda;

namespace {

int launch()
{
    fake_cuda.launches++;
    fake_cuda.launched_on = fake_cuda.current;
    return fake_cuda.launch_code;
}

/* 0 and the reference's results where kernels compute; else as any launch. */
template <class Call>
int compute(const char *operation, hattn_buffer output, Call call)
{
    const int code = launch();
    if (code || !fake_cuda.computes)
        return code;
    call();
    if (!std::strcmp(operation, fake_cuda.wrong))
        static_cast<uint8_t *>(output.data)[output.byte_offset + 3] ^= 64;
    return 0;
}

/* Not more than what the known answer asks: all outputs are there, scores are integers. */
void decode(const hattn_problem &p, const hattn_decode_args &a)
{
    std::vector<uint16_t> scores(static_cast<size_t>(p.max_length));
    hattn_encode_queries_args encode = {};
    encode.num_rows = a.batch.num_rows, encode.q = a.q, encode.query_map = a.query_map, encode.weights = a.weights;
    hattn_reference_encode_queries(&p, &encode);
    hattn_score_args score = {};
    score.batch = a.batch, score.weights = a.weights, score.codes = a.codes, score.scores = {scores.data(), 0};
    hattn_reference_score(&p, &score);
    hattn_topk_args topk = {};
    topk.batch = a.batch, topk.scores = score.scores, topk.indices = a.indices, topk.counts = a.counts;
    hattn_reference_topk(&p, &topk);
    hattn_attend_args attend = {};
    attend.batch = a.batch, attend.q = a.q, attend.k_cache = a.k_cache, attend.v_cache = a.v_cache;
    attend.indices = a.indices, attend.counts = a.counts, attend.out = a.out, attend.lse = a.lse;
    hattn_reference_attend(&p, &attend);
}

const hattn_cuda_scratch scratch = {
    [](void **stream) {
        *stream = &fake_cuda;
        fake_cuda.streams += !fake_cuda.launch_code;
        return fake_cuda.launch_code;
    },
    [](void *) { fake_cuda.streams--; },
    [](uint64_t size, void *, void **address) {
        if (fake_cuda.allocate_code)
            return fake_cuda.allocate_code;
        *address = std::aligned_alloc(256, (size + 255) / 256 * 256);
        fake_cuda.allocations++;
        return 0;
    },
    [](void *address, void *) {
        std::free(address);
        fake_cuda.allocations--;
    },
    [](void *to, const void *from, uint64_t size, void *) {
        std::memcpy(to, from, size);
        return 0;
    },
};

} // namespace

extern "C" const hattn_cuda_kernels *hattn_cuda_kernels_by_nvcc()
{
    static const hattn_cuda_kernels kernels = {
        "sm_80 or later",
        [](int code) { return code == 7 ? "out of luck" : "another error"; },
        [](int *count) {
            *count = fake_cuda.count;
            return 0;
        },
        [](int, hattn_cuda_properties *properties) {
            *properties = fake_cuda.properties;
            return 0;
        },
        [](int index, hattn_cuda_caller *caller) {
            *caller = {fake_cuda.current, 0};
            fake_cuda.current = index;
            return 0;
        },
        [](const hattn_cuda_caller *caller) { fake_cuda.current = caller->device; },
        [](void *, uint64_t bytes, void *) {
            fake_cuda.zeroed += bytes;
            return launch();
        },
        [](hattn_cuda_params *) { return launch(); },
        [](const hattn_cuda_params *, const hattn_decode_args *, void *) { return launch(); },
        [](const hattn_cuda_params *p, const hattn_encode_keys_args *a, void *) {
            return compute("encode_keys", a->codes, [&] { hattn_reference_encode_keys(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_encode_queries_args *a, void *) {
            return compute("encode_queries", a->weights, [&] { hattn_reference_encode_queries(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_score_args *a, void *) {
            return compute("score", a->scores, [&] { hattn_reference_score(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_topk_args *a, hattn_buffer, void *) {
            return compute("topk", a->counts, [&] { hattn_reference_topk(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_attend_args *a, hattn_buffer, void *) {
            return compute("attend", a->out, [&] { hattn_reference_attend(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_merge_args *a, void *) {
            return compute("merge", a->out, [&] { hattn_reference_merge(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_sum_values_args *a, hattn_buffer, void *) {
            return compute("sum_values", a->value_sums, [&] { hattn_reference_sum_values(&p->problem, a); });
        },
        [](const hattn_cuda_params *p, const hattn_decode_args *a, hattn_buffer, void *) {
            return compute("decode", a->lse, [&] { decode(p->problem, *a); });
        },
        &scratch,
    };
    return &kernels;
}
