/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/decode_options.h"

#include <algorithm>
#include <sstream>

#include "tools/device.h"
#include "tools/text.h"

namespace {

/* Of --topk where there is a floor. */
const int64_t USUAL_CAP = 2048;

/* Slopes are of a whole map and of its usual selections. */
void set_floor_and_tail(const DecodeOptions &options, const TraceMap &map, LaneSettings *settings)
{
    const std::string name = printable(map.name, 80), what = options.per_head      ? "--per-head"
                                                             : options.has_floor() ? "a floor"
                                                                                   : "a tail";
    if (options.per_head && map.head_slopes.empty())
        throw UsageError("map " + name +
                         " has no slopes of query heads, which --per-head needs: hattn calibrate adds "
                         "them to maps per KV head");
    if ((options.tail > 0 || !options.per_head) && map.slopes_of(settings->score_kind).empty())
        throw UsageError("map " + name + " has no slopes of " + score_name(settings->score_kind) + " scores, which " +
                         what + " needs: hattn calibrate adds them");
    if (settings->bits != map.bits || settings->num_selection_heads != map.num_heads)
        throw UsageError("map " + name + ": slopes are of all its bits and of a selection for each of its " +
                         std::to_string(map.num_heads) + " heads: " + what + " goes with no other --bits or --select");
    settings->tail = float(options.tail);
    settings->min_value_weight = options.mean_values ? 0.001f : float(options.vskip);
    if (options.per_head)
        settings->num_candidates = int32_t(std::max(options.candidates, int64_t(settings->topk)));
    if (!options.has_floor())
        return;
    settings->min_probability = float(options.floor > 0 ? options.floor : 0.001);
    settings->min_k = int32_t(std::min<int64_t>(options.min_k, settings->topk));
}

} // namespace

bool parse_decode_options(Args &args, DecodeOptions *options)
{
    args.about("Decodes each query of a trace (a safetensors file of real q, k, v and hash maps) as one step that sees "
               "the keys\n"
               "0..q_pos, and compares with exact attention. recall: of the true top-k, by softmax summed over the "
               "heads that\n"
               "select together (with a floor, of as many as are kept); mass: softmax that the selection keeps; best: "
               "that the "
               "best\n"
               "selection of this size would keep; rows: tokens kept, and V rows: those of them whose V is read, mean "
               "over queries and\n"
               "selections;\n"
               "error: ||out - dense|| / ||dense||, mean over queries and heads. wrong counts what the numerics "
               "contract does\n"
               "not allow, and makes the exit code 1.");
    args.text("trace", "FILE", "the trace", &options->trace, Args::REQUIRED);
    args.choice("backend", backend_choices(), "all: each that has a device", &options->backend);
    args.choice("isa", {"scalar", "neon", "avx2", "avx512"}, "cpu backend: nothing above this", &options->isa);
    args.number("topk", "K", "tokens kept, sink and recent included; with a floor the most, usually 2048",
                &options->topk, 1, INT32_MAX);
    args.real("floor", "TAU",
              "keep only tokens of at least this probability, by the trace's slopes (hattn calibrate); 0: "
              "no such floor",
              &options->floor, 0, 0.999);
    args.number("mean-rows", "N", "the floor with which each map keeps so many tokens on average; 0: no such floor",
                &options->mean_rows, 0, INT32_MAX);
    args.number("min-k", "N", "with a floor: so many tokens are kept in any case", &options->min_k, 1, INT32_MAX);
    args.real("tail", "RHO",
              "let the rest count with the mean value: by this factor (usually 0.5) what scores promise of it, by "
              "slopes; 0: no",
              &options->tail, 0, 1);
    args.real("vskip", "WEIGHT",
              "with a tail: do not read V of kept tokens that weigh less, mean of the heads that select together; 0: "
              "read all",
              &options->vskip, 0, 0.999);
    args.number("mean-values", "N", "the --vskip with which each map reads so many rows of V on average; 0: no such",
                &options->mean_values, 0, INT32_MAX);
    args.flag(
        "per-head",
        "of the best by the group's summed weights each query head scores each by weights of its own, and sums of "
        "probabilities decide",
        &options->per_head);
    args.number("candidates", "N", "with --per-head: how many these are; usually 4 times --topk", &options->candidates,
                1, 1 << 20);
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
    if (!args.parse())
        return false;
    if (options->floor > 0 && options->mean_rows > 0)
        throw UsageError("--mean-rows finds a floor: not with --floor");
    if (args.given("min-k") && !options->has_floor())
        throw UsageError("--min-k is for --floor or --mean-rows");
    if (args.given("min-k") && args.given("topk") && options->min_k > options->topk)
        throw UsageError("--min-k " + std::to_string(options->min_k) + " is above --topk " +
                         std::to_string(options->topk));
    if (options->has_floor() && !args.given("topk"))
        options->topk = USUAL_CAP;
    if (options->vskip > 0 && options->mean_values > 0)
        throw UsageError("--mean-values finds a --vskip: not with that");
    if ((options->vskip > 0 || options->mean_values > 0) && options->tail == 0)
        throw UsageError("--vskip and --mean-values are for --tail");
    if (args.given("candidates") && !options->per_head)
        throw UsageError("--candidates is for --per-head");
    if (options->per_head && options->score == "hamming")
        throw UsageError("--per-head is for weighted scores");
    if (!args.given("candidates"))
        options->candidates = std::min<int64_t>(4 * options->topk, 1 << 20);
    else if (args.given("topk") && options->candidates < options->topk)
        throw UsageError("--candidates " + std::to_string(options->candidates) + " is below --topk " +
                         std::to_string(options->topk));
    return true;
}

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
    const bool weighted = options.per_head        ? true
                          : options.score.empty() ? !map.name.compare(0, 8, "weighted")
                                                  : options.score == "weighted";
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
    if (options.needs_slopes())
        set_floor_and_tail(options, map, &settings);
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
