/* SPDX-License-Identifier: Apache-2.0
 * The shapes that the README's figures are of, S1 to S7, on every instruction set of the CPU: whole calls, of which a few sequences and KV heads
 * are looked at, as the reference would take minutes for all. Caches of gigabytes are some megabytes of memory, mapped again and again.
 */
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

#include "conformance/session.h"
#include "conformance/tensor.h"
#include "contract/attention.h"
#include "contract/flips.h"
#include "core/arguments.h"
#include "problems/rng.h"
#include "problems/shape.h"
#include "reference/reference.h"

namespace conformance {
namespace {

/* Sums in fp32, and logits of 128 products whose sizes add up to 16 at most; per unit of |v|. */
const double NEAR = contract::sum_error(contract::Sums::F32) + 2 * contract::logit_error(128, 16, 0);

/* Read-only memory of any size that repeats itself. */
class Repeated
{
public:
    /* A prime number of pages: no stride of heads, pages or sequences is a multiple of it. */
    static constexpr size_t PERIOD = size_t(1021) * 4096;

    template <class Fill>
    Repeated(size_t size, Fill fill) : size_((size + PERIOD - 1) / PERIOD * PERIOD)
    {
        const int file = memfd_create("repeated", 0);
        void *space = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (file < 0 || space == MAP_FAILED || ftruncate(file, PERIOD))
            throw std::bad_alloc();
        data_ = static_cast<uint8_t *>(space);
        for (size_t at = 0; at < size_; at += PERIOD)
            if (mmap(data_ + at, PERIOD, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
                throw std::bad_alloc();
        close(file);
        fill(data_);
        mprotect(data_, size_, PROT_READ);
    }
    ~Repeated() { munmap(data_, size_); }
    Repeated(const Repeated &) = delete;
    Repeated &operator=(const Repeated &) = delete;

    hattn_buffer buffer() const { return {data_, 0}; }

private:
    size_t size_;
    uint8_t *data_;
};

/* fp16 values of variance 1, or random bits for codes. */
auto normals(uint64_t seed)
{
    return [seed](uint8_t *data) {
        Rng rng(seed);
        std::vector<uint16_t> table(4096);
        for (size_t i = 0; i < table.size(); i++)
            hattn_reference_store(table.data(), HATTN_F16, static_cast<int64_t>(i), rng.normal());
        for (size_t i = 0; i < Repeated::PERIOD / 2; i++)
            memcpy(data + 2 * i, &table[rng.next() >> 52], 2);
    };
}

auto bits(uint64_t seed)
{
    return [seed](uint8_t *data) {
        Rng rng(seed);
        for (size_t i = 0; i < Repeated::PERIOD / 8; i++) {
            const uint64_t word = rng.next();
            memcpy(data + 8 * i, &word, 8);
        }
    };
}

template <class T>
hattn_buffer at(std::vector<T> &elements)
{
    return {elements.data(), 0};
}

hattn_buffer moved(hattn_buffer buffer, int64_t elements, int32_t dtype)
{
    buffer.byte_offset += static_cast<uint64_t>(elements) * dtype_size(dtype);
    return buffer;
}

int64_t span(const hattn_tensor &tensor, const std::vector<int64_t> &extents)
{
    int64_t last = extents.back();
    for (size_t i = 0; i + 1 < extents.size(); i++)
        last += (extents[i] - 1) * tensor.stride[i];
    return last;
}

const int NUM_TOKENS = 512;

/* A shape with all its tensors. */
struct World {
    explicit World(const Problem &problem)
        : p(make_shape(problem, static_cast<int>(problem.lengths.size()))),
          sequences(static_cast<int>(problem.lengths.size())),
          caches(span(p.k_cache, {sequences, p.max_length, p.num_kv_heads, p.head_dim_qk})), k(2 * caches, normals(1)),
          v(2 * caches, normals(2)),
          codes(4 * span(p.codes, {sequences, p.max_length, p.num_code_heads, p.code_bits / 32}), bits(3)),
          q(2 * span(p.q, {p.max_rows, p.num_q_heads, p.head_dim_qk}), normals(4)),
          map(2 * p.num_code_heads * (p.key_map.weight_stride[0][0] + 1), normals(5)),
          lengths(problem.lengths.begin(), problem.lengths.end()),
          weights(span(p.weights, {p.max_rows, p.num_selection_heads, p.code_bits})),
          scores(span(p.scores, {p.max_rows, p.num_selection_heads, p.max_length})),
          indices(span(p.indices, {p.max_rows, p.num_selection_heads, p.k})),
          counts(span(p.counts, {p.max_rows, p.num_selection_heads, 1})),
          out(span(p.out, {p.max_rows, p.num_q_heads, p.head_dim_v})), lse(span(p.lse, {p.max_rows, p.num_q_heads, 1})),
          new_codes(span(p.codes, {1, p.max_length, p.num_code_heads, p.code_bits / 32}))
    {
    }

    Arguments arguments()
    {
        Arguments all;
        all.batch.num_sequences = sequences;
        all.batch.num_rows = p.max_rows;
        all.batch.q_len = p.max_rows / sequences;
        all.batch.seq_len = at(lengths);
        all.q = q.buffer();
        all.k_cache = k.buffer();
        all.v_cache = v.buffer();
        all.codes = codes.buffer();
        all.query_map.weight[0] = map.buffer();
        all.weights = at(weights);
        all.scores = at(scores);
        all.indices = at(indices);
        all.counts = at(counts);
        all.out = at(out);
        all.lse = at(lse);
        return all;
    }
    /* The first tokens of K, into codes of their own. */
    hattn_encode_keys_args encode_keys_args()
    {
        Arguments keys;
        keys.num_tokens = NUM_TOKENS;
        keys.k_new = k.buffer();
        keys.key_map.weight[0] = map.buffer();
        keys.codes = at(new_codes);
        return keys.encode_keys_args();
    }

    const hattn_problem p;
    const int sequences;
    const int64_t caches;
    const Repeated k, v, codes, q, map;
    std::vector<int32_t> lengths;
    std::vector<int8_t> weights;
    std::vector<uint16_t> scores;
    std::vector<int32_t> indices, counts;
    std::vector<uint16_t> out;
    std::vector<float> lse;
    std::vector<uint32_t> new_codes;
};

/* One sequence and KV head of a world as a problem of its own, and what the reference makes of it. */
class Part
{
public:
    Part(World &world, int sequence, int kv_head) : world_(world), p_(world.p), b_(sequence), g_(kv_head)
    {
        p_.num_q_heads /= p_.num_kv_heads;
        p_.num_kv_heads = p_.num_code_heads = p_.num_selection_heads = 1;
        group_ = p_.num_q_heads;
        indices_.resize(p_.k);
        scores_.resize(p_.max_length);
        weights_.resize(p_.code_bits);
        out_.resize(span(p_.out, {1, group_, p_.head_dim_v}));
        lse_.resize(span(p_.lse, {1, group_, 1}));
    }

    void expect_weights()
    {
        const hattn_encode_queries_args args = arguments().encode_queries_args();
        hattn_reference_encode_queries(&p_, &args);
        int differ = 0;
        for (int r = 0; r < p_.code_bits; r++) {
            const int difference = std::abs(actual_weights()[r] - weights_[r]);
            differ += difference > 0;
            EXPECT_LE(difference, 1) << "weight " << r; /* one query's bit, halved, or a tie */
        }
        EXPECT_LE(differ, 1 + contract::MAX_WEIGHT_FLIPS * p_.code_bits);
    }

    /* All scores of the reference for the actual weights. */
    void expect_scores()
    {
        make_scores();
        const uint16_t *actual = world_.scores.data() + b_ * p_.scores.stride[0] + g_ * p_.scores.stride[1];
        for (int32_t j = 0; j < p_.max_length; j++)
            ASSERT_EQ(actual[j], scores_[j]) << "position " << j;
    }

    void expect_selection()
    {
        make_scores();
        int32_t count = 0;
        hattn_topk_args args = arguments().topk_args();
        args.counts = {&count, 0};
        hattn_reference_topk(&p_, &args);
        ASSERT_EQ(world_.counts[b_ * p_.counts.stride[0] + g_ * p_.counts.stride[1]], count);
        for (int i = 0; i < p_.k; i++)
            ASSERT_EQ(actual_indices()[i], indices_[i]) << "index " << i;
    }

    /* Attention to what was selected, or to everything. */
    void expect_attention(bool sparse)
    {
        hattn_attend_args args = arguments().attend_args(false);
        int32_t count = p_.k;
        if (sparse) {
            args.indices = {actual_indices(), 0};
            args.counts = {&count, 0};
        }
        hattn_reference_attend(&p_, &args);
        for (int h = 0; h < group_; h++) {
            for (int i = 0; i < p_.head_dim_v; i++) {
                const int64_t at = h * p_.out.stride[1] + i;
                const double want = hattn_reference_load(out_.data(), HATTN_F16, at),
                             got = hattn_reference_load(world_.out.data(), HATTN_F16, first(p_.out) + at);
                /* The largest of so many normal values is above 4, that of the scaled scores above 3. */
                ASSERT_LE(std::fabs(got - want), 4 * NEAR + 2 * contract::rounding(HATTN_F16, want))
                    << "head " << h << " element " << i;
            }
            const float want = lse_[h * p_.lse.stride[1]], got = world_.lse[first(p_.lse) + h * p_.lse.stride[1]];
            ASSERT_LE(std::fabs(got - want), 12 * NEAR) << "lse of head " << h;
        }
    }

    /* Codes of every 37th token. */
    void expect_codes()
    {
        hattn_map_buffers map = {};
        map.weight[0] = world_.map.buffer();
        for (int64_t t = 0; t < NUM_TOKENS; t += 37) {
            double x[576], z[512], bound[512];
            for (int i = 0; i < p_.head_dim_qk; i++)
                x[i] = hattn_reference_load(world_.k.buffer().data, HATTN_F16,
                                            t * p_.k_new.stride[0] + g_ * p_.k_new.stride[1] + i);
            hattn_reference_project(&world_.p, &world_.p.key_map, &map, x, g_, z, bound);
            const uint32_t *code = world_.new_codes.data() + t * p_.codes.stride[1] + g_ * p_.codes.stride[2];
            for (int r = 0; r < p_.code_bits; r++) {
                if (std::fabs(z[r]) > bound[r]) {
                    ASSERT_EQ(code[r / 32] >> r % 32 & 1, z[r] > 0) << "token " << t << " bit " << r;
                }
            }
        }
    }

private:
    int64_t first(const hattn_tensor &tensor) const
    {
        return b_ * tensor.stride[0] + static_cast<int64_t>(g_) * group_ * tensor.stride[1];
    }
    int64_t cache(const hattn_tensor &tensor) const { return b_ * tensor.stride[0] + g_ * tensor.stride[2]; }
    hattn_buffer q() const { return moved(world_.q.buffer(), first(p_.q), HATTN_F16); }
    int8_t *actual_weights() const
    {
        return world_.weights.data() + b_ * p_.weights.stride[0] + g_ * p_.weights.stride[1];
    }
    int32_t *actual_indices() const
    {
        return world_.indices.data() + b_ * p_.indices.stride[0] + g_ * p_.indices.stride[1];
    }
    Arguments arguments()
    {
        Arguments all;
        all.batch.num_sequences = all.batch.num_rows = all.batch.q_len = 1;
        all.batch.seq_len = {&world_.lengths[b_], 0};
        all.q = q();
        all.k_cache = moved(world_.k.buffer(), cache(p_.k_cache), HATTN_F16);
        all.v_cache = moved(world_.v.buffer(), cache(p_.v_cache), HATTN_F16);
        all.codes = moved(world_.codes.buffer(), cache(p_.codes), HATTN_U32);
        all.query_map.weight[0] = moved(world_.map.buffer(), g_ * p_.query_map.weight_stride[0][0], HATTN_F16);
        all.weights = at(weights_);
        all.scores = at(scores_);
        all.indices = at(indices_);
        all.out = at(out_);
        all.lse = at(lse_);
        return all;
    }
    void make_scores()
    {
        std::vector<int8_t> weights(actual_weights(), actual_weights() + p_.code_bits);
        if (scored_ == weights)
            return;
        scored_ = weights;
        hattn_score_args args = arguments().score_args();
        args.weights = at(weights);
        hattn_reference_score(&p_, &args);
    }

    World &world_;
    hattn_problem p_;
    const int b_, g_;
    int group_;
    std::vector<int8_t> weights_, scored_;
    std::vector<uint16_t> scores_;
    std::vector<int32_t> indices_;
    std::vector<uint16_t> out_;
    std::vector<float> lse_;
};

class BenchShapes : public testing::TestWithParam<std::string>
{
protected:
    /* As a caller who leaves the number of threads to the library. */
    template <class Args>
    static void run(const Session &session, const hattn_problem &shape,
                    hattn_status (*call)(const hattn_plan *, const Args *, const hattn_exec *, hattn_error *),
                    const Args &args)
    {
        hattn_error error = {};
        hattn_plan *plan = nullptr;
        ASSERT_EQ(hattn_plan_create(session.device, &shape, &plan, &error), HATTN_OK) << error.text;
        Workspace workspace(session, hattn_plan_workspace_size(plan));
        hattn_exec exec = sized<hattn_exec>();
        exec.workspace = workspace.buffer();
        exec.workspace_size = workspace.size();
        EXPECT_EQ(call(plan, &args, &exec, &error), HATTN_OK) << error.text;
        EXPECT_EQ(workspace.check(), "");
        hattn_plan_destroy(plan);
    }

    template <class T>
    static void fill(std::vector<T> &elements)
    {
        memset(elements.data(), 0xAA, elements.size() * sizeof(T));
    }

    static void check(const Session &session, World &world, std::vector<Part> &parts, bool dense)
    {
        fill(world.weights), fill(world.scores), fill(world.indices), fill(world.counts), fill(world.out),
            fill(world.lse);
        run(session, world.p, hattn_decode, world.arguments().decode_args(false));
        run(session, world.p, hattn_score, world.arguments().score_args());
        run(session, world.p, hattn_encode_keys, world.encode_keys_args());
        for (Part &part : parts) {
            part.expect_weights();
            part.expect_scores();
            part.expect_selection();
            part.expect_attention(true);
            part.expect_codes();
        }
        if (!dense)
            return;
        fill(world.out), fill(world.lse);
        run(session, world.p, hattn_attend, world.arguments().attend_args(false));
        parts[0].expect_attention(false);
    }
};

TEST_P(BenchShapes, AreWhatTheReferenceSays)
{
    const std::vector<Problem> shapes = bench_problems();
    const auto found =
        std::find_if(shapes.begin(), shapes.end(), [](const Problem &p) { return p.name == GetParam(); });
    ASSERT_NE(found, shapes.end());
    World world(*found);
    Rng rng(7, found->name);
    std::vector<Part> parts;
    for (int i = 0; i < 2; i++)
        parts.emplace_back(world, static_cast<int>(rng.below(world.sequences)),
                           static_cast<int>(rng.below(world.p.num_kv_heads)));
    int done = 0;
    for (const Target &target : all_targets()) {
        if (target.backend != "cpu")
            continue;
        const Session session(target);
        if (!session.skipped.empty())
            continue;
        SCOPED_TRACE(found->name + " on " + target.text());
        /* Dense attention to every key of eight sequences is the slow one, and S1 to a scalar kernel the same as S3. */
        check(session, world, parts, world.sequences == 1 && (target.isa != "scalar" || found->name == "S1"));
        done++;
    }
    EXPECT_GT(done, 0);
}

INSTANTIATE_TEST_SUITE_P(All, BenchShapes, testing::Values("S1", "S2", "S3", "S4", "S5", "S6", "S7"),
                         [](const testing::TestParamInfo<std::string> &info) { return info.param; });

} // namespace
} // namespace conformance
