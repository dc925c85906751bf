/* SPDX-License-Identifier: Apache-2.0
 * hattn decode: every query of a trace is one decode step on every backend with every map; what of the truth it keeps,
 * how long it takes, and whether anything is wrong.
 */
#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <set>

#include "bench/timer.h"
#include "tools/contract.h"
#include "tools/decode_options.h"
#include "tools/floor_search.h"
#include "tools/lane.h"
#include "tools/report.h"
#include "tools/text.h"
#include "tools/truth.h"

namespace {

/* One row of the report: what a backend does with a map. */
struct Row {
    Row(const TraceMap &map_, size_t device_, Lane &lane_, Lane &oracle_)
        : map(&map_), device(device_), lane(&lane_), oracle(&oracle_)
    {
    }

    const TraceMap *map;
    size_t device; /* of Race::devices_ */
    Lane *lane;
    Lane *oracle; /* the reference backend's lane of the map; may be the row's own */
    double rows = 0, values = 0, recall = 0, mass = 0, error = 0, best_mass = 0,
           best_error = 0; /* means, once all queries are in */
    std::vector<double> times;
    Verdict verdict;
};

/* Dense attention knows no map: once a device. */
struct Dense {
    std::vector<double> times;
    Verdict verdict;
};

/* Times of a call that has just run once and took first_us. A very slow one is its own sample; others, whose first run had
 * cold caches and sleeping threads, are run again, the quick ones more often. */
template <typename Call>
void sample(double first_us, Call call, std::vector<double> *times)
{
    double total = 0;
    if (first_us > 50e3)
        times->push_back(total = first_us);
    for (int i = 0; i < 5 && total < 5e3; i++) {
        times->push_back(call().time_us);
        total += times->back();
    }
}

/* Positions that a wrong backend made up must not be followed. */
bool readable(const StepResult &step, int s, int k, int length)
{
    const int count = step.counts[s];
    if (count < 0 || count > std::min(k, length))
        return false;
    const auto begin = step.indices.begin() + int64_t(s) * k;
    return std::all_of(begin, begin + count, [length](int32_t j) { return j >= 0 && j < length; });
}

double values_read(const Truth &truth, int s, int heads, const int32_t *kept, int count, double least)
{
    const std::vector<double> weights = truth.value_weights(s, heads, kept, count);
    return double(std::count_if(weights.begin(), weights.end(), [least](double weight) { return weight >= least; }));
}

void add_metrics(const Truth &truth, const StepResult &step, const hattn_problem &problem, int num_queries, Row *row)
{
    const int heads = problem.num_selection_heads, group = problem.num_q_heads / heads;
    const double per_selection = 1.0 / num_queries / heads, per_head = per_selection / group;
    for (int s = 0; s < heads; s++) {
        const int32_t *kept = &step.indices[size_t(s) * problem.k];
        const int count = readable(step, s, problem.k, truth.length()) ? step.counts[s] : 0;
        const std::vector<int32_t> best =
            truth.best(s, heads, problem.min_probability > 0 && count ? count : problem.k);
        row->rows += per_selection * count;
        row->values += per_selection * (problem.min_value_weight > 0
                                            ? values_read(truth, s, heads, kept, count, problem.min_value_weight)
                                            : count);
        std::vector<int32_t> both;
        std::set_intersection(kept, kept + count, best.begin(), best.end(), std::back_inserter(both));
        row->recall += per_selection * both.size() / best.size();
        for (int h = s * group; h < (s + 1) * group; h++) {
            const float *out = &step.out[size_t(h) * problem.head_dim_v];
            const std::vector<double> have(out, out + problem.head_dim_v);
            double lse = 0;
            row->mass += per_head * truth.mass(h, kept, count);
            row->error += per_head * truth.error(h, have.data());
            row->best_mass += per_head * truth.mass(h, best.data(), int(best.size()));
            row->best_error += per_head * truth.error(h, truth.attend(h, best.data(), int(best.size()), &lse).data());
        }
    }
}

class Race
{
public:
    Race(const DecodeOptions &options, const Trace &trace);
    void run();
    void report(const Output &output) const;
    bool wrong() const;

private:
    void add_map(const TraceMap &map, const LaneSettings &settings, bool may_leave_out);
    void encode();
    void find_for_maps(const char *what, const std::function<float(Lane *)> &find, void (Lane::*set)(float));
    void decode(int query);
    Json row_json(const Row &row) const;
    double dense_us(const Row &row) const { return median(dense_[row.device].times); }
    int64_t wrong(const Row &row) const { return row.verdict.wrong + dense_[row.device].verdict.wrong; }

    const Trace &trace_;
    TruthSource source_;
    std::vector<std::unique_ptr<LaneDevice>> devices_; /* the reference's is the first */
    bool reference_too_ = false;
    std::vector<Dense> dense_; /* of each device */
    std::vector<std::unique_ptr<Lane>> lanes_;
    std::vector<Row> rows_;
    double mean_rows_, mean_values_; /* that floors and least weights of values are to be found for; 0: none */
    struct LeftOut {
        std::string backend, map, why;
    };
    std::vector<LeftOut> left_out_;
};

Race::Race(const DecodeOptions &options, const Trace &trace)
    : trace_(trace), source_(trace), mean_rows_(double(options.mean_rows)), mean_values_(double(options.mean_values))
{
    const int32_t threads = int32_t(options.threads);
    const std::vector<std::string> backends = choose_backends(options.backend);
    const std::vector<const TraceMap *> maps = choose_maps(trace, options.maps);
    devices_.push_back(std::make_unique<LaneDevice>("reference", "", threads, trace));
    for (const std::string &backend : backends)
        if (backend != "reference")
            devices_.push_back(std::make_unique<LaneDevice>(backend, options.isa, threads, trace));
    dense_.resize(devices_.size());
    reference_too_ = std::count(backends.begin(), backends.end(), "reference");
    for (const TraceMap *map : maps) {
        const LaneSettings settings = settings_for(options, trace, *map);
        try {
            add_map(*map, settings, options.backend == "all");
        } catch (const UsageError &error) {
            throw UsageError("map " + printable(map->name, 80) + ": " + error.what());
        }
    }
}

/* A backend that nobody named may say that it has no code for this; the reference has for everything. */
void Race::add_map(const TraceMap &map, const LaneSettings &settings, bool may_leave_out)
{
    lanes_.push_back(std::make_unique<Lane>(*devices_[0], trace_, map, settings));
    Lane &oracle = *lanes_.back();
    for (size_t i = 1; i < devices_.size(); i++)
        try {
            lanes_.push_back(std::make_unique<Lane>(*devices_[i], trace_, map, settings));
            rows_.push_back(Row(map, i, *lanes_.back(), oracle));
        } catch (const UnsupportedError &error) {
            if (!may_leave_out)
                throw;
            left_out_.push_back({devices_[i]->device().info().backend, map.name, error.what()});
        }
    if (reference_too_)
        rows_.push_back(Row(map, 0, oracle, oracle));
}

void Race::encode()
{
    Progress progress("encoding keys:", int(lanes_.size()));
    for (const auto &lane : lanes_) {
        progress.step(lane->device().device().info().backend);
        lane->encode_keys();
    }
    for (Row &row : rows_)
        judge_keys(source_, *row.lane, *row.oracle, &row.verdict);
}

/* One for each map and all backends, by the first backend that was asked for: the reference takes its time. */
void Race::find_for_maps(const char *what, const std::function<float(Lane *)> &find, void (Lane::*set)(float))
{
    Progress progress(what, int(rows_.size()));
    const TraceMap *map = nullptr;
    float found = 0;
    for (Row &row : rows_) {
        progress.step(row.map->name);
        try {
            if (row.map != map)
                found = find(row.lane);
        } catch (const UsageError &error) {
            throw UsageError("map " + printable(row.map->name, 80) + ": " + error.what());
        }
        map = row.map;
        (row.lane->*set)(found);
        (row.oracle->*set)(found);
    }
}

void Race::decode(int query)
{
    const Truth truth(source_, query);
    std::set<size_t> devices_seen;
    for (Row &row : rows_) {
        Dense &dense = dense_[row.device];
        if (devices_seen.insert(row.device).second) {
            const StepResult step = row.lane->attend_dense(query);
            judge_dense(source_, truth, *row.lane, step, &dense.verdict);
            sample(
                step.time_us, [&] { return row.lane->attend_dense(query); }, &dense.times);
        }
        const StepResult step = row.lane->decode(query);
        judge_step(source_, truth, query, *row.lane, *row.oracle, step, row.oracle->encode_query(query), &row.verdict);
        add_metrics(truth, step, row.lane->problem(), trace_.num_queries, &row);
        sample(
            step.time_us, [&] { return row.lane->decode(query); }, &row.times);
    }
}

void Race::run()
{
    encode();
    if (mean_rows_ > 0)
        find_for_maps(
            "finding floors:", [this](Lane *lane) { return find_floor(lane, trace_.num_queries, mean_rows_); },
            &Lane::set_min_probability);
    if (mean_values_ > 0)
        find_for_maps(
            "finding weights of values:", [this](Lane *lane) { return find_value_weight(lane, source_, mean_values_); },
            &Lane::set_min_value_weight);
    Progress progress("decoding: query", trace_.num_queries);
    for (int query = 0; query < trace_.num_queries; query++) {
        progress.step("");
        decode(query);
    }
}

bool Race::wrong() const
{
    return std::any_of(rows_.begin(), rows_.end(), [this](const Row &row) { return wrong(row) != 0; });
}

const char *select_name(const hattn_problem &problem)
{
    return problem.num_selection_heads == problem.num_kv_heads ? "kv" : "query";
}

Json Race::row_json(const Row &row) const
{
    const hattn_problem &problem = row.lane->problem();
    const hattn_device_info &info = row.lane->device().device().info();
    const double step_us = median(row.times);
    Json json(json_object());
    json_t *object = json.get();
    json_put(object, "backend", json_text(info.backend));
    json_put(object, "isa", json_text(info.isa));
    json_put(object, "maps", json_text(row.map->name));
    json_put(object, "score", json_text(score_name(problem.score_kind)));
    json_put(object, "select", json_text(select_name(problem)));
    json_put(object, "code_bits", json_integer(problem.code_bits));
    json_put(object, "topk", json_integer(problem.k));
    json_put(object, "sink", json_integer(problem.num_sink));
    json_put(object, "recent", json_integer(problem.num_recent));
    json_put(object, "floor", json_number(problem.min_probability));
    json_put(object, "min_k", json_integer(problem.min_k));
    json_put(object, "tail", json_number(problem.tail));
    json_put(object, "vskip", json_number(problem.min_value_weight));
    json_put(object, "candidates", json_integer(problem.num_candidates));
    json_put(object, "mean_rows", json_number(row.rows));
    json_put(object, "mean_values", json_number(row.values));
    json_put(object, "norms", json_boolean(problem.key_norms));
    json_put(object, "threads", json_integer(info.max_threads));
    json_put(object, "recall", json_number(row.recall));
    json_put(object, "mass", json_number(row.mass));
    json_put(object, "output_error", json_number(row.error));
    json_put(object, "best_mass", json_number(row.best_mass));
    json_put(object, "best_output_error", json_number(row.best_error));
    json_put(object, "step_us", json_number(step_us));
    json_put(object, "dense_us", json_number(dense_us(row)));
    json_put(object, "speedup", json_number(dense_us(row) / step_us));
    json_put(object, "allowed_flips", json_integer(row.verdict.flips));
    json_put(object, "wrong", json_integer(wrong(row)));
    return json;
}

void Race::report(const Output &output) const
{
    Json json(json_object());
    json_put(json.get(), "trace", json_text(trace_.path));
    json_put(json.get(), "version", json_integer(hattn_version()));
    json_put(json.get(), "num_queries", json_integer(trace_.num_queries));
    json_put(json.get(), "num_keys", json_integer(trace_.num_keys));
    json_put(json.get(), "num_q_heads", json_integer(trace_.num_q_heads));
    json_put(json.get(), "num_kv_heads", json_integer(trace_.num_kv_heads));
    json_t *list = json_array();
    json_put(json.get(), "rows", list);
    json_t *left_out = json_array();
    json_put(json.get(), "left_out", left_out);
    std::string notes;
    for (const LeftOut &one : left_out_) {
        Json object(json_object());
        json_put(object.get(), "backend", json_text(one.backend));
        json_put(object.get(), "maps", json_text(one.map));
        json_put(object.get(), "text", json_text(one.why));
        json_array_append_new(left_out, object.release());
        notes += "left out: " + printable(one.map, 80) + " on " + printable(one.why) + "\n";
    }
    Table table({"<backend", "<isa",  "<map",    "bits",     "<score",   "<select", "k",
                 "floor",    "tail",  "vskip",   "rows",     "V rows",   "recall",  "mass",
                 "best",     "error", "step us", "dense us", "speed-up", "flips",   "wrong"});
    for (const Row &row : rows_) {
        const hattn_problem &problem = row.lane->problem();
        const hattn_device_info &info = row.lane->device().device().info();
        json_array_append_new(list, row_json(row).release());
        table.row({info.backend,
                   info.isa,
                   printable(row.map->name, 80),
                   std::to_string(problem.code_bits),
                   problem.num_candidates ? "per head" : score_name(problem.score_kind),
                   select_name(problem),
                   std::to_string(problem.k),
                   problem.min_probability > 0 ? format("%.4g", problem.min_probability) : "-",
                   problem.tail > 0 ? format("%g", problem.tail) : "-",
                   problem.min_value_weight > 0 ? format("%.4g", problem.min_value_weight) : "-",
                   format("%.1f", row.rows),
                   format("%.1f", row.values),
                   format("%.4f", row.recall),
                   format("%.4f", row.mass),
                   format("%.4f", row.best_mass),
                   format("%.4f", row.error),
                   format("%.1f", median(row.times)),
                   format("%.1f", dense_us(row)),
                   format("%.2f", dense_us(row) / median(row.times)),
                   std::to_string(row.verdict.flips),
                   std::to_string(wrong(row))});
    }
    if (output.is_wanted())
        write_json(json.get(), output);
    if (!output.is_stdout())
        std::printf("%s: %d queries, %d keys, %d query heads, %d KV heads\n%s%s", printable(trace_.path).c_str(),
                    trace_.num_queries, trace_.num_keys, trace_.num_q_heads, trace_.num_kv_heads, table.str().c_str(),
                    notes.c_str());
}

} // namespace

int cmd_decode(Args &args)
{
    DecodeOptions options;
    if (!parse_decode_options(args, &options))
        return EXIT_OK;
    const Output output("--json", options.json);
    Output::check_apart({&output}, {{"--trace", options.trace}});
    const Trace trace = load_trace(options.trace);
    bound_topk(args.given("topk"), trace, &options);
    Race race(options, trace);
    race.run();
    race.report(output);
    return race.wrong() ? EXIT_WRONG : EXIT_OK;
}
