/* SPDX-License-Identifier: Apache-2.0
 * Decode: weights as of the separate call, the selection exactly the reference's for these weights and codes, attention
 * within tolerance for this selection. After the first run everything that it did not select is poisoned.
 */
#include <algorithm>
#include <cstring>
#include <set>

#include "conformance/rules.h"
#include "reference/reference.h"

namespace conformance {
namespace {

class DecodeCheck
{
public:
    DecodeCheck(const Context &context, bool append)
        : context_(context), instance_(context.instance), append_(append),
          codes_(context, "codes", &hattn_problem::codes), norms_(context, "norms", &hattn_problem::norms),
          weights_(context, "weights", &hattn_problem::weights), indices_(context, "indices", &hattn_problem::indices),
          counts_(context, "counts", &hattn_problem::counts), out_(context, "out", &hattn_problem::out),
          lse_(context, "lse", &hattn_problem::lse), steps_(context, "steps", &hattn_problem::steps),
          value_sums_(context, "value_sums", &hattn_problem::value_sums),
          value_lengths_(context, "value_lengths", &hattn_problem::value_lengths),
          head_weights_(context, "head_weights", &hattn_problem::head_weights),
          head_steps_(context, "head_steps", &hattn_problem::head_steps),
          separate_head_weights_(head_weights_.actual.twin(".separate", 0xAA)),
          separate_head_steps_(head_steps_.actual.twin(".separate", 0xAA)),
          separate_steps_(steps_.actual.twin(".separate", 0xAA)),
          separate_weights_(weights_.actual.twin(".separate", 0xAA)),
          scores_(instance_.output("scores", &hattn_problem::scores, 0xAA)),
          shares_(instance_.output("shares", &hattn_problem::shares, 0xAA)),
          rests_(instance_.output("rests", &hattn_problem::rests, 0xAA))
    {
        for (Output *output : {&weights_, &steps_, &head_weights_, &head_steps_, &indices_, &counts_, &lse_})
            output->optional = true;
        set_append_rules();
        Positions positions = listed_positions(indices_.expected, counts_.expected);
        set_attention_rules(context, positions, has_tail() ? tails() : Tails(), &out_, &lse_);
        if (has_tail())
            prepare_values(instance_, &value_sums_, &value_lengths_);
        set_golden_rules();
    }

    std::string run()
    {
        std::string problem = run_separate_encode();
        if (!problem.empty())
            return problem;
        Case checked;
        checked.run = [this](const hattn_exec *exec, hattn_error *error) {
            hattn_decode_args args = make_args(&Output::actual);
            return context_.session.runner.decode(context_.plan, &args, exec, error);
        };
        checked.reference = [this] { reference(); };
        checked.question = [this] { return question(); };
        checked.before_again = [this] {
            cache_ = std::make_unique<PoisonedCache>(instance_, [this](PoisonedCache *cache) { keep_selected(cache); });
        };
        if (append_)
            checked.outputs.push_back(&codes_);
        if (append_ && instance_.shape.key_norms)
            checked.outputs.push_back(&norms_);
        if (instance_.has_shares())
            checked.outputs.push_back(&steps_);
        if (by_heads())
            checked.outputs.insert(checked.outputs.end(), {&head_weights_, &head_steps_});
        if (append_ && has_tail())
            checked.outputs.insert(checked.outputs.end(), {&value_sums_, &value_lengths_});
        checked.outputs.insert(checked.outputs.end(), {&weights_, &counts_, &indices_, &out_, &lse_});
        return check_case(context_, checked);
    }

private:
    hattn_decode_args make_args(Tensor Output::*side) const
    {
        hattn_decode_args args = instance_.decode_args(append_);
        if (append_) {
            args.codes = codes_.buffer(side);
            if (instance_.shape.key_norms)
                args.norms = norms_.buffer(side);
        }
        args.out = out_.buffer(side);
        args.lse = lse_.buffer(side);
        args.weights = weights_.buffer(side);
        args.indices = indices_.buffer(side);
        args.counts = counts_.buffer(side);
        if (instance_.has_shares())
            args.steps = steps_.buffer(side);
        if (by_heads()) {
            args.head_weights = head_weights_.buffer(side);
            args.head_steps = head_steps_.buffer(side);
        }
        if (append_ && has_tail()) {
            args.value_sums = value_sums_.buffer(side);
            args.value_lengths = value_lengths_.buffer(side);
        }
        return args;
    }

    bool has_tail() const { return instance_.shape.tail > 0; }

    bool by_heads() const { return instance_.shape.num_candidates > 0; }

    /* Made when they are first asked for: an answer of before does not have them. */
    Tails tails()
    {
        return [this](int row, int s) {
            if (!has_selected_)
                select();
            return listed_tails(shares_, rests_)(row, s);
        };
    }

    int new_tokens(int sequence) const { return query_lengths(instance_.problem)[sequence]; }

    /* Old slots hold what the cache holds; the new tokens' are for decode to write, all others for nobody. */
    void copy_old(const Tensor &from, const Tensor &to) const
    {
        for (int b = 0; b < static_cast<int>(instance_.problem.lengths.size()); b++) {
            int old = std::min(instance_.cached_length(b), instance_.problem.lengths[b] - new_tokens(b));
            for (int j = 0; j < old; j++)
                for (int c = 0; c < instance_.shape.num_code_heads; c++)
                    memcpy(to.at(instance_.cache_index(b, j, c)), from.at(instance_.cache_index(b, j, c)),
                           from.extent[3] * dtype_size(from.dtype));
        }
    }

    /* Rows whose weights or codes differ, allowedly, from the golden ones: their selection may differ too. */
    bool turned(const Index &index) const { return turned_rows_.count(static_cast<int>(index[0])) > 0; }

    void set_append_rules()
    {
        codes_.prepare = [this](const Tensor &tensor) { copy_old(instance_.codes, tensor); };
        norms_.prepare = [this](const Tensor &tensor) { copy_old(instance_.norms, tensor); };
        std::set<std::pair<int64_t, int64_t>> new_slots;
        for (const Row &row : instance_.rows) {
            if (row.sequence < 0 || row.position < 0 || row.position >= instance_.shape.max_length)
                continue;
            Index slot = instance_.cache_index(row.sequence, row.position, 0);
            new_slots.insert({slot[0], slot[1]});
        }
        KeySource keys = [this, new_slots](int64_t page, int64_t slot, int g, double *x) {
            if (!new_slots.count({page, slot}))
                return false;
            load_scaled(instance_.k_cache, {page, slot, g}, instance_.kv_scale(instance_.k_scale, g), x);
            return true;
        };
        codes_.rule = code_rule(instance_, keys, append_ ? context_.flips() : nullptr);
        codes_.golden_rule = code_rule(instance_, keys, nullptr, [this](const Index &) {
            for (int row = 0; row < static_cast<int>(instance_.rows.size()); row++)
                turned_rows_.insert(row);
        });
        norms_.rule = norm_rule();
        norms_.golden_rule = [this, rule = norms_.rule](const Index &index, const uint8_t *got, const uint8_t *want,
                                                        Verdict *verdict) {
            for (int row = 0; row < static_cast<int>(instance_.rows.size()); row++)
                turned_rows_.insert(row);
            return rule(index, got, want, verdict);
        };
        if (append_ && context_.flips())
            context_.flips()->bits += new_slots.size() * instance_.shape.num_code_heads * instance_.shape.code_bits;
    }

    void set_golden_rules()
    {
        head_weights_.golden_rule = weight_rule(
            instance_, nullptr, [this](const Index &index) { turned_rows_.insert(static_cast<int>(index[0])); },
            Heads::QUERIES);
        head_steps_.golden_rule = step_rule(
            instance_, [this](const Index &index) { turned_rows_.insert(static_cast<int>(index[0])); }, Heads::QUERIES);
        weights_.golden_rule = weight_rule(
            instance_, nullptr, [this](const Index &index) { turned_rows_.insert(static_cast<int>(index[0])); });
        steps_.golden_rule =
            step_rule(instance_, [this](const Index &index) { turned_rows_.insert(static_cast<int>(index[0])); });
        auto unless_turned = [this](const Rule &rule) -> Rule {
            return [this, rule](const Index &index, const uint8_t *got, const uint8_t *want, Verdict *verdict) {
                return turned(index) || (rule && rule(index, got, want, verdict));
            };
        };
        for (Output *output : {&indices_, &counts_, &out_, &lse_})
            output->golden_rule = unless_turned(output->golden_rule);
    }

    std::string run_separate_encode()
    {
        hattn_encode_queries_args args = instance_.encode_queries_args();
        args.weights = separate_weights_.buffer();
        if (instance_.has_shares())
            args.steps = separate_steps_.buffer();
        if (by_heads()) {
            args.head_weights = separate_head_weights_.buffer();
            args.head_steps = separate_head_steps_.buffer();
        }
        std::string problem =
            run_in_manner(all_manners(context_.session)[0], context_.workspace, context_.name(),
                          [&](const hattn_exec *exec, hattn_error *error) {
                              return context_.session.runner.encode_queries(context_.plan, &args, exec, error);
                          });
        return problem.empty() ? "" : "separate encode_queries: " + problem;
    }

    void reference()
    {
        const hattn_decode_args expected = make_args(&Output::expected);
        if (append_)
            hattn_reference_append(&instance_.shape, &expected);
        if (append_ && has_tail()) {
            hattn_sum_values_args sums = instance_.sum_values_args();
            sums.value_sums = expected.value_sums;
            sums.value_lengths = expected.value_lengths;
            hattn_reference_sum_values(&instance_.shape, &sums);
        }
        weights_.expected.for_each(
            [&](const Index &index) { *weights_.expected.at(index) = *separate_weights_.at(index); });
        if (instance_.has_shares())
            steps_.expected.for_each([&](const Index &index) {
                steps_.expected.value<int32_t>(index) = separate_steps_.value<int32_t>(index);
            });
        if (by_heads()) {
            head_weights_.expected.for_each(
                [&](const Index &index) { *head_weights_.expected.at(index) = *separate_head_weights_.at(index); });
            head_steps_.expected.for_each([&](const Index &index) {
                head_steps_.expected.value<int32_t>(index) = separate_head_steps_.value<int32_t>(index);
            });
        }

        select();
        hattn_attend_args attend = instance_.attend_args(false);
        attend.indices = expected.indices;
        attend.counts = expected.counts;
        attend.out = expected.out;
        attend.lse = expected.lse;
        if (has_tail()) {
            attend.shares = shares_.buffer();
            attend.rests = rests_.buffer();
            attend.value_sums = expected.value_sums;
            attend.value_lengths = expected.value_lengths;
            attend.value_slots = expected.value_slots;
        }
        hattn_reference_attend(&instance_.shape, &attend);
    }

    /* By the separate weights and steps, and the codes that were written. */
    void select()
    {
        const hattn_decode_args expected = make_args(&Output::expected), actual = make_args(&Output::actual);
        hattn_score_args score = instance_.score_args();
        score.weights = separate_weights_.buffer();
        score.codes = actual.codes;
        score.norms = actual.norms;
        score.scores = scores_.buffer();
        hattn_reference_score(&instance_.shape, &score);

        hattn_topk_args topk = instance_.topk_args();
        topk.scores = scores_.buffer();
        topk.indices = expected.indices;
        topk.counts = expected.counts;
        topk.steps = instance_.has_shares() ? separate_steps_.buffer() : hattn_buffer{};
        if (by_heads()) {
            topk.codes = actual.codes;
            topk.head_weights = separate_head_weights_.buffer();
            topk.head_steps = separate_head_steps_.buffer();
        }
        if (has_tail()) {
            topk.shares = shares_.buffer();
            topk.rests = rests_.buffer();
        }
        hattn_reference_topk(&instance_.shape, &topk);
        has_selected_ = true;
    }

    /* What reference() looks at. */
    std::vector<uint8_t> question() const
    {
        std::vector<uint8_t> bytes(separate_weights_.memory->begin(), separate_weights_.memory->end());
        if (instance_.has_shares())
            bytes.insert(bytes.end(), separate_steps_.memory->begin(), separate_steps_.memory->end());
        if (by_heads())
            for (const Tensor *tensor : {&separate_head_weights_, &separate_head_steps_})
                bytes.insert(bytes.end(), tensor->memory->begin(), tensor->memory->end());
        if (append_)
            for (const Output *output : {&codes_, &norms_})
                if (output->actual)
                    bytes.insert(bytes.end(), output->actual.memory->begin(), output->actual.memory->end());
        return bytes;
    }

    void keep_selected(PoisonedCache *cache) const
    {
        if (append_ && has_tail())
            keep_summed(instance_, cache);
        Positions positions = listed_positions(indices_.expected, counts_.expected);
        for (int row = 0; row < static_cast<int>(instance_.rows.size()); row++) {
            const Row &of = instance_.rows[row];
            if (has_tail())
                keep_unsummed(instance_, row, cache);
            keep_attended(instance_, positions, has_tail(), row, cache);
            for (int g = 0; g < instance_.shape.num_kv_heads; g++)
                if (append_ && of.sequence >= 0 && of.position >= 0 && of.position < instance_.shape.max_length)
                    cache->keep_key(of.sequence, of.position, g);
        }
    }

    const Context &context_;
    const Instance &instance_;
    bool append_;
    Output codes_, norms_, weights_, indices_, counts_, out_, lse_, steps_, value_sums_, value_lengths_, head_weights_,
        head_steps_;
    Tensor separate_head_weights_, separate_head_steps_, separate_steps_, separate_weights_, scores_, shares_, rests_;
    bool has_selected_ = false;
    std::set<int> turned_rows_;
    std::unique_ptr<PoisonedCache> cache_;
};

} // namespace

std::string check_decode(const Context &context) { return DecodeCheck(context, false).run(); }

std::string check_decode_append(const Context &context) { return DecodeCheck(context, true).run(); }

} // namespace conformance
