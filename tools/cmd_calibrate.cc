/* SPDX-License-Identifier: Apache-2.0
 * hattn calibrate: what a floor of probability has to know of a trace's maps, put into the trace.
 */
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>

#include "core/dtype.h"
#include "tools/args.h"
#include "tools/contract.h"
#include "tools/lane.h"
#include "tools/report.h"
#include "tools/slopes.h"
#include "tools/text.h"
#include "tools/truth.h"

namespace {

/* A map with one kind of score, on the reference backend: the same numbers everywhere. */
struct Candidate {
    const TraceMap *map;
    int32_t score_kind;
    bool by_heads; /* each query head by itself */
    std::unique_ptr<Lane> lane;
    Lane *codes;                                   /* the map's lane that has encoded the keys */
    std::vector<std::vector<ScoreLevels>> queries; /* [Hs, query] */
    std::vector<FittedSlope> heads;
};

/* The attention of a selection head's group: its query heads' mean. */
std::vector<double> mean_attention(const Truth &truth, int s, int group)
{
    std::vector<double> mean(truth.length());
    for (int h = s * group; h < (s + 1) * group; h++)
        for (int32_t j = 0; j < truth.length(); j++)
            mean[j] += std::exp(truth.logit(h, j) - truth.lse(h)) / group;
    return mean;
}

ScoreLevels levels_of(const uint16_t *scores, const std::vector<double> &attention, double sum_of_weights, double unit)
{
    std::map<uint16_t, ScoreLevel> levels;
    for (size_t j = 0; j < attention.size(); j++) {
        ScoreLevel &level = levels[scores[j]];
        level.count++;
        level.mass += attention[j];
    }
    ScoreLevels list;
    for (auto &[score, level] : levels) {
        level.x = unit * (2.0 * score - sum_of_weights);
        list.push_back(level);
    }
    return list;
}

void add_query(const TruthSource &source, const Truth &truth, int query, Candidate *candidate)
{
    Lane &lane = *candidate->lane;
    const hattn_problem &problem = lane.problem();
    const std::vector<int8_t> weights = lane.encode_query(query).weights;
    const std::vector<uint16_t> scores = lane.score(query, weights, *candidate->codes).contents<uint16_t>();
    for (int s = 0; s < problem.num_selection_heads; s++) {
        double sum_of_weights = 0;
        for (int r = 0; r < problem.code_bits; r++)
            sum_of_weights += std::abs(weights[size_t(s) * problem.code_bits + r]);
        const double unit = group_projection(source, query, s, lane).unit(problem);
        candidate->queries[s].push_back(levels_of(
            &scores[size_t(s) * problem.scores.stride[1]],
            mean_attention(truth, s, problem.num_q_heads / problem.num_selection_heads), sum_of_weights, unit));
    }
}

std::vector<Candidate> make_candidates(const LaneDevice &device, const Trace &trace)
{
    std::vector<Candidate> list;
    Progress progress("encoding keys:", int(trace.maps.size()));
    for (const TraceMap &map : trace.maps) {
        progress.step(map.name);
        Lane *codes = nullptr;
        const bool has_groups = map.num_heads < trace.num_q_heads;
        for (int kind = 0; kind < 2 + has_groups; kind++) {
            const int32_t score_kind = kind ? HATTN_SCORE_WEIGHTED : HATTN_SCORE_HAMMING;
            const bool by_heads = kind == 2;
            LaneSettings settings;
            settings.score_kind = score_kind;
            settings.num_selection_heads = by_heads ? trace.num_q_heads : map.num_heads;
            settings.bits = map.bits;
            settings.topk = 1;
            try {
                list.push_back(
                    {&map, score_kind, by_heads, std::make_unique<Lane>(device, trace, map, settings), codes, {}, {}});
            } catch (const UsageError &error) {
                throw UsageError("map " + printable(map.name, 80) + ": " + error.what());
            }
            if (!codes) {
                codes = list.back().codes = list.back().lane.get();
                codes->encode_keys();
            }
            list.back().queries.resize(size_t(settings.num_selection_heads));
        }
    }
    return list;
}

std::vector<Candidate> fit(const Trace &trace)
{
    const TruthSource source(trace);
    const LaneDevice device("reference", "", 0, trace);
    std::vector<Candidate> list = make_candidates(device, trace);
    Progress progress("scoring: query", trace.num_queries);
    for (int query = 0; query < trace.num_queries; query++) {
        progress.step("");
        const Truth truth(source, query);
        for (Candidate &candidate : list)
            add_query(source, truth, query, &candidate);
    }
    for (Candidate &candidate : list) {
        for (const auto &queries : candidate.queries)
            candidate.heads.push_back(fit_slope(queries));
        candidate.lane.reset(); // the device goes
    }
    return list;
}

/* The file with all that it has, but for slopes of before. */
std::string with_slopes(const std::string &path, const std::vector<Candidate> &list)
{
    const Safetensors file = Safetensors::open(path);
    SafetensorsWriter writer;
    std::map<std::string, std::vector<float>> slopes;
    for (const Candidate &candidate : list)
        for (const FittedSlope &head : candidate.heads)
            slopes[candidate.by_heads ? head_slopes_name(candidate.map->name)
                                      : slopes_name(candidate.map->name, candidate.score_kind)]
                .push_back(float(head.slope));
    for (const auto &[name, value] : file.metadata())
        writer.metadata(name, value);
    for (const auto &[name, tensor] : file.tensors())
        if (!slopes.count(name))
            writer.add(name, tensor.dtype, tensor.shape, file.read(tensor).data());
    for (const auto &[name, values] : slopes)
        writer.add(name, Dtype::F32, {int64_t(values.size())}, values.data());
    return writer.bytes();
}

std::string table_of(const std::vector<Candidate> &list)
{
    Table table({"<map", "<score", "head", "slope", "uniform", "fitted"});
    for (const Candidate &candidate : list)
        for (size_t s = 0; s < candidate.heads.size(); s++) {
            const FittedSlope &head = candidate.heads[s];
            table.row({printable(candidate.map->name, 80),
                       candidate.by_heads ? "of head" : score_name(candidate.score_kind), std::to_string(s),
                       format("%.6g", head.slope), format("%.4f", head.uniform), format("%.4f", head.fitted)});
        }
    return table.str();
}

} // namespace

int cmd_calibrate(Args &args)
{
    std::string path, out;
    args.about(
        "Fits what a floor of probability needs (hattn decode --floor): for each map of a trace, each kind of score "
        "and each head\nthat selects, the slope with which scores estimate attention best, and writes the trace with "
        "them. Columns:\ncross entropy in nats of all keys alike, and of the estimate, against exact attention, mean "
        "over queries. Slopes that the\ntrace had are replaced.");
    args.text("trace", "FILE", "the trace", &path, Args::REQUIRED);
    args.text("out", "FILE", "where the trace with its slopes goes; -: stdout, and no table", &out, Args::REQUIRED);
    if (!args.parse())
        return EXIT_OK;
    const Output output("--out", out);
    Output::check_apart({&output}, {{"--trace", path}});
    const Trace trace = load_trace(path);
    const std::vector<Candidate> list = fit(trace);
    output.write(with_slopes(path, list));
    if (!output.is_stdout())
        std::printf("%s", table_of(list).c_str());
    return EXIT_OK;
}
