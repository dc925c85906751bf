/* SPDX-License-Identifier: Apache-2.0
 * Selections are batch invariant: a row keeps the same list of positions alone, among others, beside padding, in other pages and under larger
 * plans, on every backend.
 */
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "conformance/instance.h"
#include "conformance/session.h"

namespace conformance {
namespace {

const int LENGTH = 2500;

/* The row's own problem: one sequence of LENGTH keys. */
struct Kind {
    const char *name;
    void (*change)(Problem &);
};
const Kind kinds[] = {
    {"hamming", [](Problem &) {}},
    {"weighted", [](Problem &p) { p.score_kind = HATTN_SCORE_WEIGHTED; }},
    {"eight_bits", [](Problem &p) { p.score_kind = HATTN_SCORE_WEIGHTED, p.weight_bits = 8; }},
    {"norms", [](Problem &p) { p.key_norms = true; }},
    {"forced", [](Problem &p) { p.num_sink = 4, p.num_recent = 60; }},
    {"per_query_head", [](Problem &p) { p.codes_per_query_head = p.selections_per_query_head = true; }},
    {"budgets", [](Problem &p) { p.budgets = Budgets::EACH; }},
    {"ties", [](Problem &p) { p.pattern = Pattern::EQUAL; }},
};

/* Where the row is: sequence `sequence` of a batch. */
struct Surroundings {
    const char *name;
    int sequence;
    void (*change)(Problem &, hattn_problem *shape); /* the shape is that of the changed problem; first null */
};
const Surroundings all_surroundings[] = {
    {"among 64", 37,
     [](Problem &p, hattn_problem *) {
         p.lengths.clear();
         for (int b = 0; b < 64; b++)
             p.lengths.push_back(b * 131 % 700);
         p.lengths[37] = LENGTH;
     }},
    {"last of three, with padded rows", 2,
     [](Problem &p, hattn_problem *) {
         p.lengths = {40, 3100, LENGTH};
         p.q_lens = {2, 1, 1};
         p.padding_rows = 5;
     }},
    {"contiguous", 0, [](Problem &p, hattn_problem *) { p.page_size = 0; }},
    {"pages of one", 0, [](Problem &p, hattn_problem *) { p.page_size = 1; }},
    {"pages of 129, in order", 1,
     [](Problem &p, hattn_problem *) {
         p.page_size = 129;
         p.ordered_pages = true;
         p.lengths = {900, LENGTH};
     }},
    {"token-major", 0, [](Problem &p, hattn_problem *) { p.strides = Strides::TOKEN_MAJOR; }},
    {"odd strides", 0, [](Problem &p, hattn_problem *) { p.strides = Strides::ODD; }},
    {"a longest length of 40000", 0, [](Problem &p, hattn_problem *) { p.max_length = 40000; }},
    {"a plan for 3000 rows", 0,
     [](Problem &, hattn_problem *shape) {
         if (shape)
             shape->max_rows = 3000, shape->max_sequences = 1000;
     }},
};

Problem make_problem(const Kind &kind)
{
    Problem p;
    p.name = std::string("row_") + kind.name;
    p.lengths = {LENGTH};
    p.head_dim_qk = 32;
    p.code_bits = 64;
    p.k = 300;
    p.budget_values = {211, 77, 300, 5};
    p.num_tokens = 0;
    kind.change(p);
    return p;
}

/* The same codes, norms, queries, maps and budgets of another instance's only row. */
void put_row(const Instance &from, const Instance &to, int sequence, int row)
{
    to.protect(true);
    const hattn_problem &shape = to.shape;
    auto copy = [](const Tensor &a, const Index &at, const Tensor &b, const Index &bt) {
        memcpy(b.at(bt), a.at(at), a.extent[a.rank - 1] * dtype_size(a.dtype));
    };
    for (int j = 0; j < LENGTH; j++) {
        for (int c = 0; c < shape.num_code_heads; c++) {
            copy(from.codes, from.cache_index(0, j, c), to.codes, to.cache_index(sequence, j, c));
            if (to.norms)
                copy(from.norms, from.cache_index(0, j, c), to.norms, to.cache_index(sequence, j, c));
        }
    }
    for (int h = 0; h < shape.num_q_heads; h++)
        copy(from.q, {0, h}, to.q, {row, h});
    for (int s = 0; s < shape.num_selection_heads; s++) {
        copy(from.weights, {0, s}, to.weights, {row, s});
        if (to.budgets)
            copy(from.budgets, {0, s}, to.budgets, {sequence, s});
    }
    for (int c = 0; c < shape.num_code_heads; c++)
        for (int i = 0; i < shape.head_dim_qk; i++)
            copy(from.query_map.weight[0], {c, i}, to.query_map.weight[0], {c, i});
    to.protect(false);
}

/* A row's lists, one a selection head; with the weights that decode made. */
struct Lists {
    std::vector<std::vector<int32_t>> positions;
    std::vector<std::vector<int8_t>> weights;
};

std::string run_plan(const Session &session, const hattn_problem &shape,
                     const std::function<hattn_status(const hattn_plan *, const hattn_exec *, hattn_error *)> &call)
{
    hattn_error error = {};
    hattn_plan *plan = nullptr;
    if (hattn_plan_create(session.device, &shape, &plan, &error))
        return error.text;
    std::string wrong;
    {
        Workspace workspace(session, hattn_plan_workspace_size(plan));
        wrong = run_in_manner({false, std::min(2, session.info.max_threads), false, false}, workspace, "a row",
                              [&](const hattn_exec *exec, hattn_error *failure) { return call(plan, exec, failure); });
    }
    hattn_plan_destroy(plan);
    return wrong;
}

/* Of score and top-k, or of decode. */
Lists select(const Session &session, const Instance &instance, const hattn_problem &shape, int row, bool decode)
{
    const Tensor scores = instance.output("scores", &hattn_problem::scores, 0xAA),
                 weights = instance.output("weights", &hattn_problem::weights, 0xAA),
                 indices = instance.output("indices", &hattn_problem::indices, 0xAA),
                 counts = instance.output("counts", &hattn_problem::counts, 0xAA),
                 out = instance.output("out", &hattn_problem::out, 0xAA);
    EXPECT_EQ(run_plan(session, shape,
                       [&](const hattn_plan *plan, const hattn_exec *exec, hattn_error *error) {
                           if (decode) {
                               hattn_decode_args args = instance.decode_args(false);
                               args.weights = weights.buffer();
                               args.indices = indices.buffer();
                               args.counts = counts.buffer();
                               args.out = out.buffer();
                               return session.runner.decode(plan, &args, exec, error);
                           }
                           hattn_score_args score = instance.score_args();
                           score.scores = scores.buffer();
                           if (hattn_status status = session.runner.score(plan, &score, exec, error))
                               return status;
                           hattn_topk_args topk = instance.topk_args();
                           topk.scores = scores.buffer();
                           topk.indices = indices.buffer();
                           topk.counts = counts.buffer();
                           return session.runner.topk(plan, &topk, exec, error);
                       }),
              "");
    Lists lists;
    for (int s = 0; s < shape.num_selection_heads; s++) {
        const int32_t *first = &indices.value<int32_t>({row, s});
        lists.positions.emplace_back(first, first + shape.k);
        lists.positions.back().push_back(counts.value<int32_t>({row, s}));
        const int8_t *weight = &weights.value<int8_t>({row, s});
        lists.weights.emplace_back(weight, weight + shape.code_bits);
    }
    return lists;
}

using Param = std::tuple<Target, Kind>;

class BatchInvariance : public testing::TestWithParam<Param>
{
};

TEST_P(BatchInvariance, ARowKeepsItsList)
{
    const auto &[target, kind] = GetParam();
    const Session session(target);
    if (!session.skipped.empty())
        GTEST_SKIP() << session.skipped;
    const Instance alone(make_problem(kind), 11);
    for (bool decode : {false, true}) {
        const Lists expected = select(session, alone, alone.shape, 0, decode);
        /* One list for all backends, whatever runs first. */
        static std::map<std::string, std::vector<std::vector<int32_t>>> first_seen;
        if (!decode) {
            EXPECT_EQ(first_seen.emplace(kind.name, expected.positions).first->second, expected.positions)
                << "another list than another backend's";
        }
        int compared = 0;
        for (const Surroundings &around : all_surroundings) {
            SCOPED_TRACE(std::string(kind.name) + (decode ? ", decode, " : ", score and topk, ") + around.name);
            Problem problem = make_problem(kind);
            around.change(problem, nullptr);
            problem.budget_values = {99, 300, 12}; /* the others' */
            const Instance instance(problem, 12);
            hattn_problem shape = instance.shape;
            around.change(problem, &shape);
            int row = 0;
            while (instance.rows[row].sequence != around.sequence)
                row++;
            put_row(alone, instance, around.sequence, row);
            const Lists lists = select(session, instance, shape, row, decode);
            for (size_t s = 0; s < lists.positions.size(); s++) {
                if (decode && lists.weights[s] != expected.weights[s])
                    continue; /* a projection that rounds otherwise: of the same weights the contract speaks */
                EXPECT_EQ(lists.positions[s], expected.positions[s]) << "selection head " << s;
                compared++;
            }
        }
        EXPECT_GT(compared, 10);
    }
}

INSTANTIATE_TEST_SUITE_P(All, BatchInvariance,
                         testing::Combine(testing::ValuesIn(all_targets()), testing::ValuesIn(kinds)),
                         [](const testing::TestParamInfo<Param> &info) {
                             const Target &target = std::get<0>(info.param);
                             return target.backend + (target.isa.empty() ? "" : "_" + target.isa) + "_" +
                                    std::get<1>(info.param).name;
                         });

} // namespace
} // namespace conformance
