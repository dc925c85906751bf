/* SPDX-License-Identifier: Apache-2.0
 * Large numbers on the CPU, with little memory: tensors whose elements lie beyond 2^31 of them, positions beyond 16 bits, more equal rows than
 * fp32 can sum up. Devices have tests/device_contract_far_test.cc.
 */
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include <sys/mman.h>

#include "conformance/checks.h"
#include "conformance/instance.h"
#include "contract/attention.h"
#include "core/sized.h"

namespace conformance {
namespace {

const int64_t FAR = (static_cast<int64_t>(1) << 31) + 64;

/* A tensor with one stride made long, in memory that is there only where it is touched. */
class FarTensor
{
public:
    FarTensor(const Tensor &near, int dimension) : tensor_(near)
    {
        tensor_.stride[dimension] = FAR;
        int64_t span = tensor_.extent[tensor_.rank - 1];
        for (int i = 0; i + 1 < tensor_.rank; i++)
            span += (tensor_.extent[i] - 1) * tensor_.stride[i];
        size_ = static_cast<size_t>(span) * dtype_size(tensor_.dtype);
        void *mapping =
            mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapping == MAP_FAILED)
            throw std::bad_alloc();
        data_ = static_cast<uint8_t *>(mapping);
        for_each_row([&](const Index &index, size_t bytes) { memcpy(at(index), near.at(index), bytes); });
    }
    ~FarTensor() { munmap(data_, size_); }
    FarTensor(const FarTensor &) = delete;
    FarTensor &operator=(const FarTensor &) = delete;

    hattn_buffer buffer() const { return {data_, 0}; }

    /* "" or the first row that differs from the same tensor close together. */
    std::string compare(const Tensor &near) const
    {
        std::string wrong;
        for_each_row([&](const Index &index, size_t bytes) {
            if (wrong.empty() && memcmp(at(index), near.at(index), bytes))
                wrong = tensor_.element_name(index) + " starts another row than close together";
        });
        return wrong;
    }

private:
    template <class Fn>
    void for_each_row(Fn fn) const
    {
        const size_t bytes = tensor_.extent[tensor_.rank - 1] * dtype_size(tensor_.dtype);
        tensor_.for_each([&](const Index &index) {
            if (index[tensor_.rank - 1] == 0)
                fn(index, bytes);
        });
    }
    uint8_t *at(const Index &index) const
    {
        return data_ + tensor_.offset(index) * static_cast<int64_t>(dtype_size(tensor_.dtype));
    }

    Tensor tensor_;
    size_t size_;
    uint8_t *data_;
};

/* Everything that the calls take and give. */
struct World {
    explicit World(const Problem &problem)
        : instance(problem, 5), codes(output("codes", &hattn_problem::codes)),
          norms(output("norms", &hattn_problem::norms)), weights(output("weights", &hattn_problem::weights)),
          scores(output("scores", &hattn_problem::scores)), indices(output("indices", &hattn_problem::indices)),
          counts(output("counts", &hattn_problem::counts)), out(output("out", &hattn_problem::out)),
          lse(output("lse", &hattn_problem::lse)), steps(output("steps", &hattn_problem::steps)),
          shares(output("shares", &hattn_problem::shares)), rests(output("rests", &hattn_problem::rests)),
          value_sums(output("value_sums", &hattn_problem::value_sums)),
          value_lengths(output("value_lengths", &hattn_problem::value_lengths)),
          head_weights(output("head_weights", &hattn_problem::head_weights)),
          head_steps(output("head_steps", &hattn_problem::head_steps))
    {
    }

    Tensor output(const std::string &name, Field field) const { return instance.output(name, field, 0xAA); }

    std::vector<const Tensor *> outputs() const
    {
        return {&codes, &norms,  &weights, &scores,     &indices,       &counts,       &out,       &lse,
                &steps, &shares, &rests,   &value_sums, &value_lengths, &head_weights, &head_steps};
    }

    void reset() const
    {
        for (const Tensor *tensor : outputs())
            tensor->memory->fill(0xAA);
        for (const auto &[to, from] : {std::make_pair(&codes, &instance.codes),
                                       {&norms, &instance.norms},
                                       {&value_sums, &instance.value_sums},
                                       {&value_lengths, &instance.value_lengths}})
            if (*from)
                to->for_each([to = to, from = from](const Index &index) {
                    memcpy(to->at(index), from->at(index), dtype_size(to->dtype));
                });
    }

    Instance instance;
    Tensor codes, norms, weights, scores, indices, counts, out, lse, steps, shares, rests, value_sums, value_lengths;
    Tensor head_weights, head_steps;
};

struct Calls {
    explicit Calls(const World &world)
        : encode_keys(world.instance.encode_keys_args()), score(world.instance.score_args()),
          topk(world.instance.topk_args()), attend(world.instance.attend_args(true)),
          merge(world.instance.merge_args()), sum_values(world.instance.sum_values_args()),
          decode(world.instance.decode_args(true))
    {
        encode_keys.codes = world.codes.buffer();
        if (world.instance.norms)
            encode_keys.norms = decode.norms = world.norms.buffer();
        score.scores = world.scores.buffer();
        topk.indices = world.indices.buffer();
        topk.counts = world.counts.buffer();
        attend.out = merge.out = world.out.buffer();
        attend.lse = merge.lse = world.lse.buffer();
        if (world.instance.shape.tail > 0) {
            topk.shares = world.shares.buffer();
            topk.rests = world.rests.buffer();
            sum_values.value_sums = decode.value_sums = world.value_sums.buffer();
            sum_values.value_lengths = decode.value_lengths = world.value_lengths.buffer();
            decode.steps = world.steps.buffer();
        }
        if (world.instance.shape.num_candidates) {
            decode.head_weights = world.head_weights.buffer();
            decode.head_steps = world.head_steps.buffer();
        }
        decode.codes = world.codes.buffer();
        decode.weights = world.weights.buffer();
        decode.indices = world.indices.buffer();
        decode.counts = world.counts.buffer();
        decode.out = world.out.buffer();
        decode.lse = world.lse.buffer();
    }

    hattn_encode_keys_args encode_keys;
    hattn_score_args score;
    hattn_topk_args topk;
    hattn_attend_args attend;
    hattn_merge_args merge;
    hattn_sum_values_args sum_values;
    hattn_decode_args decode;
};

struct FarRow {
    const char *call;
    Field field;
    int dimension;
    const Tensor &(*near)(const World &);
    hattn_buffer &(*buffer)(Calls &);
};

#define INPUT(call, tensor, dimension)                                                                              \
    {                                                                                                               \
#call, &hattn_problem::tensor, dimension,                                                                   \
            [](const World &w)                                                                                      \
                 -> const Tensor & { return w.instance.tensor; }, [](Calls &                                        \
                                                                     c) -> hattn_buffer & { return c.call.tensor; } \
    }
#define OUTPUT(call, tensor, dimension)                                                                               \
    {                                                                                                                 \
#call, &hattn_problem::tensor, dimension,                                                                     \
            [](const World &w) -> const Tensor & { return w.tensor; },                                                \
                                                                    [](Calls &                                        \
                                                                       c) -> hattn_buffer & { return c.call.tensor; } \
    }

const std::vector<FarRow> far_rows = {
    INPUT(encode_keys, k_new, 0),  INPUT(encode_keys, k_new, 1),  OUTPUT(encode_keys, codes, 0),
    OUTPUT(encode_keys, codes, 2), OUTPUT(encode_keys, norms, 1), INPUT(score, codes, 0),
    INPUT(score, codes, 1),        INPUT(score, codes, 2),        INPUT(score, norms, 0),
    INPUT(score, norms, 1),        INPUT(score, weights, 0),      INPUT(score, weights, 1),
    OUTPUT(score, scores, 0),      OUTPUT(score, scores, 1),      INPUT(topk, scores, 0),
    INPUT(topk, scores, 1),        INPUT(topk, budgets, 0),       INPUT(topk, budgets, 1),
    OUTPUT(topk, indices, 0),      OUTPUT(topk, indices, 1),      OUTPUT(topk, counts, 0),
    OUTPUT(topk, counts, 1),       INPUT(merge, partial_out, 0),  INPUT(merge, partial_out, 1),
    INPUT(merge, partial_out, 2),  INPUT(merge, partial_lse, 0),  INPUT(merge, partial_lse, 1),
    OUTPUT(merge, out, 0),         OUTPUT(merge, lse, 1),         INPUT(decode, q, 0),
    INPUT(decode, q, 1),           INPUT(decode, k_cache, 0),     INPUT(decode, k_cache, 1),
    INPUT(decode, k_cache, 2),     INPUT(decode, v_cache, 0),     INPUT(decode, v_cache, 1),
    INPUT(decode, v_cache, 2),     OUTPUT(decode, codes, 0),      OUTPUT(decode, codes, 1),
    OUTPUT(decode, codes, 2),      OUTPUT(decode, norms, 0),      OUTPUT(decode, norms, 2),
    OUTPUT(decode, weights, 0),    OUTPUT(decode, weights, 1),    OUTPUT(decode, indices, 0),
    OUTPUT(decode, indices, 1),    OUTPUT(decode, counts, 0),     OUTPUT(decode, out, 0),
    OUTPUT(decode, out, 1),        OUTPUT(decode, lse, 0),        OUTPUT(decode, lse, 1),
};

const std::vector<FarRow> far_rows_of_tails = {
    INPUT(topk, steps, 0),
    INPUT(topk, steps, 1),
    OUTPUT(topk, shares, 0),
    OUTPUT(topk, shares, 1),
    OUTPUT(topk, rests, 0),
    OUTPUT(topk, rests, 1),
    INPUT(attend, shares, 0),
    INPUT(attend, shares, 1),
    INPUT(attend, rests, 0),
    INPUT(attend, rests, 1),
    INPUT(attend, value_sums, 0),
    INPUT(attend, value_sums, 1),
    INPUT(attend, value_lengths, 0),
    INPUT(attend, value_lengths, 1),
    INPUT(attend, v_cache, 0),
    INPUT(attend, v_cache, 1),
    INPUT(attend, v_cache, 2),
    INPUT(sum_values, v_cache, 0),
    INPUT(sum_values, v_cache, 1),
    INPUT(sum_values, v_cache, 2),
    OUTPUT(sum_values, value_sums, 0),
    OUTPUT(sum_values, value_sums, 1),
    OUTPUT(sum_values, value_lengths, 0),
    OUTPUT(sum_values, value_lengths, 1),
    OUTPUT(decode, value_sums, 0),
    OUTPUT(decode, value_sums, 1),
    OUTPUT(decode, value_lengths, 0),
    OUTPUT(decode, value_lengths, 1),
    OUTPUT(decode, steps, 0),
    OUTPUT(decode, steps, 1),
};

const std::vector<FarRow> far_rows_of_heads = {
    INPUT(topk, codes, 0),           INPUT(topk, codes, 1),         INPUT(topk, codes, 2),
    INPUT(topk, head_weights, 0),    INPUT(topk, head_weights, 1),  INPUT(topk, head_steps, 0),
    INPUT(topk, head_steps, 1),      INPUT(topk, steps, 0),         OUTPUT(topk, shares, 0),
    OUTPUT(topk, shares, 1),         OUTPUT(topk, rests, 0),        OUTPUT(topk, rests, 1),
    INPUT(attend, shares, 0),        INPUT(attend, shares, 1),      INPUT(attend, rests, 0),
    INPUT(attend, rests, 1),         INPUT(decode, head_slopes, 0), OUTPUT(decode, head_weights, 0),
    OUTPUT(decode, head_weights, 1), OUTPUT(decode, head_steps, 0), OUTPUT(decode, head_steps, 1),
};

/* "" or what went wrong. */
std::string run_call(const Session &session, const hattn_problem &shape, const std::string &name, const Calls &calls)
{
    hattn_error error = {};
    hattn_plan *plan = nullptr;
    if (hattn_plan_create(session.device, &shape, &plan, &error))
        return error.text;
    Workspace workspace(session, hattn_plan_workspace_size(plan));
    const std::string wrong =
        run_in_manner(all_manners(session)[0], workspace, name, [&](const hattn_exec *exec, hattn_error *failure) {
            return name == "encode_keys"  ? hattn_encode_keys(plan, &calls.encode_keys, exec, failure)
                   : name == "score"      ? hattn_score(plan, &calls.score, exec, failure)
                   : name == "topk"       ? hattn_topk(plan, &calls.topk, exec, failure)
                   : name == "attend"     ? hattn_attend(plan, &calls.attend, exec, failure)
                   : name == "merge"      ? hattn_merge(plan, &calls.merge, exec, failure)
                   : name == "sum_values" ? hattn_sum_values(plan, &calls.sum_values, exec, failure)
                                          : hattn_decode(plan, &calls.decode, exec, failure);
        });
    hattn_plan_destroy(plan);
    return wrong;
}

class Far : public testing::TestWithParam<Target>
{
protected:
    void SetUp() override
    {
        session = std::make_unique<Session>(GetParam());
        if (!session->skipped.empty())
            GTEST_SKIP() << session->skipped;
    }
    void compare(const Problem &problem, const std::vector<FarRow> &rows);
    std::unique_ptr<Session> session;
};

Problem far_problem(int page_size, bool has_tail)
{
    Problem p;
    p.name = "far";
    p.page_size = page_size;
    p.lengths = {33, 20};
    p.q_len = 2;
    p.k = 12;
    p.num_kv_heads = p.group = 2;
    p.key_norms = !has_tail;
    p.tail = has_tail ? 0.5f : 0;
    p.budgets = Budgets::EACH;
    p.num_tokens = 9;
    return p;
}

void Far::compare(const Problem &problem, const std::vector<FarRow> &rows)
{
    const World world(problem);
    for (const FarRow &row : rows) {
        SCOPED_TRACE(std::string(row.call) + ": " + row.near(world).name + ", stride " + std::to_string(row.dimension) +
                     ", pages of " + std::to_string(problem.page_size));
        Calls calls(world);
        world.reset();
        ASSERT_EQ(run_call(*session, world.instance.shape, row.call, calls), "");
        std::vector<std::vector<uint8_t>> expected;
        for (const Tensor *tensor : world.outputs())
            expected.emplace_back(tensor->memory->begin(), tensor->memory->end());
        const Tensor wanted = row.near(world).twin(".wanted", 0);
        memcpy(wanted.memory->data(), row.near(world).memory->data(), wanted.memory->size());

        world.reset();
        const FarTensor far(row.near(world), row.dimension);
        hattn_problem shape = world.instance.shape;
        (shape.*row.field).stride[row.dimension] = FAR;
        row.buffer(calls) = far.buffer();
        ASSERT_EQ(run_call(*session, shape, row.call, calls), "");
        EXPECT_EQ(far.compare(wanted), "");
        for (size_t i = 0; i < expected.size(); i++) {
            const Tensor &tensor = *world.outputs()[i];
            if (&tensor != &row.near(world)) {
                EXPECT_EQ(memcmp(tensor.memory->begin(), expected[i].data(), expected[i].size()), 0) << tensor.name;
            }
        }
    }
}

TEST_P(Far, ElementsBeyond31BitsAreTheSame)
{
    for (int page_size : {0, 16, 5})
        compare(far_problem(page_size, false), far_rows);
}

TEST_P(Far, ElementsOfTailsBeyond31BitsAreTheSame)
{
    for (int page_size : {0, 16})
        compare(far_problem(page_size, true), far_rows_of_tails);
}

TEST_P(Far, ElementsOfQueryHeadsBeyond31BitsAreTheSame)
{
    for (int page_size : {0, 16}) {
        Problem problem = far_problem(page_size, true);
        problem.score_kind = HATTN_SCORE_WEIGHTED;
        problem.num_candidates = 17;
        compare(problem, far_rows_of_heads);
    }
}

/* A million keys that are one and the same row of memory. Their mean is that row, in parts however long; the fp32 sums of a part of 24000 of
 * them already leave the contract. */
TEST_P(Far, ManyEqualRowsKeepTheContract)
{
    const int n = 1 << 20, dim = 64;
    hattn_problem given = sized<hattn_problem>(), p = given;
    given.num_q_heads = given.num_kv_heads = 1;
    given.head_dim_qk = dim;
    given.code_bits = 32;
    given.max_sequences = 1;
    given.max_length = n;
    given.k = n;
    given.q.dtype = given.k_cache.dtype = HATTN_F32;
    ASSERT_EQ(hattn_problem_complete(&given, &p, nullptr), HATTN_OK);
    p.k_cache.stride[1] = p.v_cache.stride[1] = 0;
    std::vector<float> q(dim), k(dim), v(dim), out(dim, NAN);
    float lse = NAN, largest = 0;
    double logit = 0;
    Rng rng(3);
    for (int i = 0; i < dim; i++) {
        q[i] = static_cast<float>(rng.normal());
        k[i] = static_cast<float>(rng.normal());
        v[i] = static_cast<float>(rng.normal());
        largest = std::fmax(largest, std::fabs(v[i]));
        logit += static_cast<double>(q[i]) * k[i] * p.scale;
    }
    std::vector<int32_t> all(n);
    for (int j = 0; j < n; j++)
        all[j] = j;
    int32_t length = n, count = n;
    hattn_plan *plan = nullptr;
    ASSERT_EQ(hattn_plan_create(session->device, &p, &plan, nullptr), HATTN_OK);
    Workspace workspace(*session, hattn_plan_workspace_size(plan));
    for (bool sparse : {false, true}) {
        hattn_attend_args args = sized<hattn_attend_args>();
        args.batch.num_sequences = args.batch.num_rows = args.batch.q_len = 1;
        args.batch.seq_len.data = &length;
        args.q.data = q.data();
        args.k_cache.data = k.data();
        args.v_cache.data = v.data();
        args.out.data = out.data();
        args.lse.data = &lse;
        args.indices.data = sparse ? all.data() : nullptr;
        args.counts.data = sparse ? &count : nullptr;
        ASSERT_EQ(run_in_manner(all_manners(*session)[0], workspace, "equal rows",
                                [&](const hattn_exec *exec, hattn_error *error) {
                                    return hattn_attend(plan, &args, exec, error);
                                }),
                  "");
        for (int i = 0; i < dim; i++)
            EXPECT_LE(std::fabs(out[i] - v[i]), contract::sum_error(contract::Sums::F32) * largest) << "element " << i;
        EXPECT_LE(std::fabs(lse - (logit + std::log(n))),
                  4 * contract::sum_error(contract::Sums::F32) * std::fmax(1, std::fabs(logit)));
    }
    hattn_plan_destroy(plan);
}

std::vector<Target> cpu_targets()
{
    std::vector<Target> targets;
    for (const Target &target : all_targets())
        if (target.backend == "cpu")
            targets.push_back(target);
    return targets;
}

INSTANTIATE_TEST_SUITE_P(All, Far, testing::ValuesIn(cpu_targets()),
                         [](const testing::TestParamInfo<Target> &info) { return info.param.isa; });

} // namespace
} // namespace conformance
