/* SPDX-License-Identifier: Apache-2.0
 * hattn decode: every query of a trace is one decode step on every backend with every map; what of the truth it keeps,
 * how long it takes, and whether anything is wrong.
 */
#include <algorithm>
#include <iterator>
#include <memory>
#include <sstream>

#include "bench/timer.h"
#include "tools/args.h"
#include "tools/contract.h"
#include "tools/lane.h"
#include "tools/report.h"
#include "tools/text.h"
#include "tools/truth.h"

namespace {

struct DecodeOptions {
    std::string trace, backend = "all", isa, score, maps, select, json;
    int64_t topk = 512, bits = 0, sink = 0, recent = 0, threads = 0;
    bool norms = false;
};

bool parse_options(Args &args, DecodeOptions *options)
{
    args.about("Decodes each query of a trace (a safetensors file of real q, k, v and hash maps) as one step that sees "
               "the keys\n"
               "0..q_pos, and compares with exact attention. recall: of the true top-k, by softmax summed over the "
               "heads that\n"
               "select together; mass: softmax that the selection keeps; best: that the best selection of this size "
               "would keep;\n"
               "error: ||out - dense|| / ||dense||, mean over queries and heads. wrong counts what the numerics "
               "contract does\n"
               "not allow, and makes the exit code 1.");
    args.text("trace", "FILE", "the trace", &options->trace, Args::REQUIRED);
    args.choice("backend", backend_choices(), "all: each that has a device", &options->backend);
    args.choice("isa", {"scalar", "neon", "avx2", "avx512"}, "cpu backend: nothing above this", &options->isa);
    args.number("topk", "K", "tokens kept, sink and recent included", &options->topk, 1, INT32_MAX);
    args.choice("score", {"hamming", "weighted"}, "default: weighted for maps named weighted*, else hamming",
                &options->score);
    args.text("maps", "NAME[,NAME]", "the hash maps; default: each of the trace", &options->maps);
    args.number("bits", "N", "use the first N bits of the map; 0: all", &options->bits, 0, 512);
    args.choice("select", {"kv", "query"},
                "one selection a KV head or a query head; default: query for MLP maps, else kv", &options->select);
    args.flag("norms", "multiply scores by key norms", &options->norms);
    args.number("sink", "N", "first tokens, always kept", &options->sink, 0, INT32_MAX);
    args.number("recent", "N", "last tokens, always kept", &options->recent, 0, INT32_MAX);
    args.number("threads", "N", "cpu backend; 0: all processors", &options->threads, 0, num_processors());
    args.text("json", "OUT", "write JSON to this file; -: to stdout, instead of the table", &options->json);
    return args.parse();
}

/* More tokens than there are keys are no selection; the default gives way to a short trace. */
void bound_topk(bool given, const Trace &trace, DecodeOptions *options)
{
    if (given && options->topk > trace.num_keys)
        throw UsageError("--topk " + std::to_string(options->topk) + ": the trace has " +
                         std::to_string(trace.num_keys) + " keys");
    options->topk = std::min<int64_t>(options->topk, trace.num_keys);
}

LaneSettings settings_for(const DecodeOptions &options, const Trace &trace, const TraceMap &map)
{
    LaneSettings settings;
    const bool weighted = options.score.empty() ? !map.name.compare(0, 8, "weighted") : options.score == "weighted";
    const bool query = options.select.empty() ? map.num_heads > trace.num_kv_heads : options.select == "query";
    settings.score_kind = weighted ? HATTN_SCORE_WEIGHTED : HATTN_SCORE_HAMMING;
    settings.num_selection_heads = query ? trace.num_q_heads : trace.num_kv_heads;
    if (options.bits > map.bits)
        throw UsageError("--bits " + std::to_string(options.bits) + ": map " + printable(map.name, 80) + " has " +
                         std::to_string(map.bits));
    settings.bits = options.bits ? int32_t(options.bits) : map.bits;
    settings.topk = int32_t(options.topk);
    settings.sink = int32_t(options.sink);
    settings.recent = int32_t(options.recent);
    settings.threads = int32_t(options.threads);
    settings.norms = options.norms;
    return settings;
}

std::vector<const TraceMap *> choose_maps(const Trace &trace, const std::string &names)
{
    std::vector<const TraceMap *> maps;
    if (names.empty())
        for (const TraceMap &map : trace.maps)
            maps.push_back(&map);
    std::istringstream words(names);
    for (std::string name; std::getline(words, name, ',');) {
        const TraceMap *map = trace.find(name);
        if (!map)
            throw UsageError(trace.path + ": no map " + quoted(name) + "; it has " + trace.map_names());
        maps.push_back(map);
    }
    return maps;
}

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
    double recall = 0, mass = 0, error = 0, best_mass = 0, best_error = 0; /* means, once all queries are in */
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

void add_metrics(const Truth &truth, const StepResult &step, const hattn_problem &problem, int num_queries, Row *row)
{
    const int heads = problem.num_selection_heads, group = problem.num_q_heads / heads;
    const double per_selection = 1.0 / num_queries / heads, per_head = per_selection / group;
    for (int s = 0; s < heads; s++) {
        const std::vector<int32_t> best = truth.best(s, heads, problem.k);
        const int32_t *kept = &step.indices[size_t(s) * problem.k];
        const int count = readable(step, s, problem.k, truth.length()) ? step.counts[s] : 0;
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
    void encode();
    void decode(int query);
    Json row_json(const Row &row) const;
    double dense_us(const Row &row) const { return median(dense_[row.device].times); }
    int64_t wrong(const Row &row) const { return row.verdict.wrong + dense_[row.device].verdict.wrong; }

    const Trace &trace_;
    TruthSource source_;
    std::vector<std::unique_ptr<LaneDevice>> devices_; /* the reference's is the first */
    std::vector<Dense> dense_;                         /* of each device */
    std::vector<std::unique_ptr<Lane>> lanes_;
    std::vector<Row> rows_;
};

Race::Race(const DecodeOptions &options, const Trace &trace) : trace_(trace), source_(trace)
{
    const int32_t threads = int32_t(options.threads);
    const std::vector<std::string> backends = choose_backends(options.backend);
    const std::vector<const TraceMap *> maps = choose_maps(trace, options.maps);
    devices_.push_back(std::make_unique<LaneDevice>("reference", "", threads, trace));
    for (const std::string &backend : backends)
        if (backend != "reference")
            devices_.push_back(std::make_unique<LaneDevice>(backend, options.isa, threads, trace));
    dense_.resize(devices_.size());
    const bool reference_too = std::count(backends.begin(), backends.end(), "reference");
    for (const TraceMap *map : maps) {
        const LaneSettings settings = settings_for(options, trace, *map);
        try {
            for (const auto &device : devices_)
                lanes_.push_back(std::make_unique<Lane>(*device, trace, *map, settings));
            const auto lanes = lanes_.end() - ptrdiff_t(devices_.size());
            for (size_t i = 1; i < devices_.size(); i++)
                rows_.push_back(Row(*map, i, *lanes[i], *lanes[0]));
            if (reference_too)
                rows_.push_back(Row(*map, 0, *lanes[0], *lanes[0]));
        } catch (const UsageError &error) {
            throw UsageError("map " + printable(map->name, 80) + ": " + error.what());
        }
    }
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

void Race::decode(int query)
{
    const Truth truth(source_, query);
    for (Row &row : rows_) {
        Dense &dense = dense_[row.device];
        if (row.map == rows_[0].map) {
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

const char *score_name(const hattn_problem &problem)
{
    return problem.score_kind == HATTN_SCORE_WEIGHTED ? "weighted" : "hamming";
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
    json_put(object, "score", json_text(score_name(problem)));
    json_put(object, "select", json_text(select_name(problem)));
    json_put(object, "code_bits", json_integer(problem.code_bits));
    json_put(object, "topk", json_integer(problem.k));
    json_put(object, "sink", json_integer(problem.num_sink));
    json_put(object, "recent", json_integer(problem.num_recent));
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
    Table table({"<backend", "<isa", "<map", "bits", "<score", "<select", "k", "recall", "mass", "best", "error",
                 "step us", "dense us", "speed-up", "flips", "wrong"});
    for (const Row &row : rows_) {
        const hattn_problem &problem = row.lane->problem();
        const hattn_device_info &info = row.lane->device().device().info();
        json_array_append_new(list, row_json(row).release());
        table.row({info.backend, info.isa, printable(row.map->name, 80), std::to_string(problem.code_bits),
                   score_name(problem), select_name(problem), std::to_string(problem.k), format("%.4f", row.recall),
                   format("%.4f", row.mass), format("%.4f", row.best_mass), format("%.4f", row.error),
                   format("%.1f", median(row.times)), format("%.1f", dense_us(row)),
                   format("%.2f", dense_us(row) / median(row.times)), std::to_string(row.verdict.flips),
                   std::to_string(wrong(row))});
    }
    if (output.is_wanted())
        write_json(json.get(), output);
    if (!output.is_stdout())
        std::printf("%s: %d queries, %d keys, %d query heads, %d KV heads\n%s", printable(trace_.path).c_str(),
                    trace_.num_queries, trace_.num_keys, trace_.num_q_heads, trace_.num_kv_heads, table.str().c_str());
}

} // namespace

int cmd_decode(Args &args)
{
    DecodeOptions options;
    if (!parse_options(args, &options))
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
