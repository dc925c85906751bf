/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/golden.h"

#include <algorithm>
#include <sstream>

#include "conformance/instance.h"
#include "tools/args.h"
#include "tools/device.h"
#include "tools/sha256.h"
#include "tools/text.h"

using conformance::Comparison;
using conformance::Instance;
using conformance::Tensor;

namespace {

const std::string FORMAT = "hattn golden ", VERSION = "1";

/* All that a problem is but its data: the fields of its hattn_problem that are not 0, strides aside. */
std::string describe(const hattn_problem &p)
{
    std::string text;
    const auto add = [&](const char *name, const std::string &value) {
        text += (text.empty() ? "" : " ") + std::string(name) + "=" + value;
    };
    const std::pair<const char *, int32_t> numbers[] = {
        {"num_q_heads", p.num_q_heads},
        {"num_kv_heads", p.num_kv_heads},
        {"num_code_heads", p.num_code_heads},
        {"num_selection_heads", p.num_selection_heads},
        {"head_dim_qk", p.head_dim_qk},
        {"head_dim_v", p.head_dim_v},
        {"code_bits", p.code_bits},
        {"map_kind", p.map_kind},
        {"score_kind", p.score_kind},
        {"weight_bits", p.weight_bits},
        {"key_norms", p.key_norms},
        {"page_size", p.page_size},
        {"max_sequences", p.max_sequences},
        {"max_rows", p.max_rows},
        {"max_q_len", p.max_q_len},
        {"max_length", p.max_length},
        {"k", p.k},
        {"num_sink", p.num_sink},
        {"num_recent", p.num_recent},
        {"min_k", p.min_k},
        {"num_candidates", p.num_candidates},
        {"hidden", p.key_map.hidden[0]},
        {"hidden_1", p.key_map.hidden[1]},
        {"query_hidden", p.query_map.hidden[0]},
        {"query_hidden_1", p.query_map.hidden[1]},
        {"per_head_kv_scales", p.per_head_kv_scales},
    };
    for (const auto &[name, value] : numbers)
        if (value)
            add(name, std::to_string(value));
    const std::pair<const char *, float> reals[] = {{"scale", p.scale},
                                                    {"soft_cap", p.soft_cap},
                                                    {"min_probability", p.min_probability},
                                                    {"tail", p.tail},
                                                    {"min_value_weight", p.min_value_weight}};
    for (const auto &[name, value] : reals)
        if (value != 0)
            add(name, format("%.9g", value));
    const std::pair<const char *, const hattn_tensor *> tensors[] = {
        {"q", &p.q}, {"k_cache", &p.k_cache}, {"v_cache", &p.v_cache}, {"scores", &p.scores}, {"out", &p.out}};
    for (const auto &[name, tensor] : tensors)
        add(name, conformance::dtype_name(tensor->dtype));
    add("key_map", conformance::dtype_name(p.key_map.dtype));
    add("query_map", conformance::dtype_name(p.query_map.dtype));
    return text;
}

/* Of all that the operations read, element by element: strides and what lies between rows do not matter. */
std::string digest_of_inputs(const Instance &instance)
{
    Sha256 digest;
    const auto add = [&](const Tensor &tensor) {
        if (!tensor)
            return;
        std::string head = tensor.name + " " + conformance::dtype_name(tensor.dtype);
        for (int i = 0; i < tensor.rank; i++)
            head += " " + std::to_string(tensor.extent[i]);
        digest.add(head.data(), head.size() + 1);
        tensor.for_each([&](const conformance::Index &index) {
            digest.add(tensor.at(index), conformance::dtype_size(tensor.dtype));
        });
    };
    const Instance &i = instance;
    for (const Tensor *tensor :
         {&i.q,           &i.k_new,       &i.k_cache, &i.v_cache,    &i.codes,         &i.norms,
          &i.weights,     &i.scores,      &i.indices, &i.counts,     &i.partial_out,   &i.partial_lse,
          &i.block_table, &i.budgets,     &i.q_start, &i.seq_len,    &i.slot_mapping,  &i.k_scale,
          &i.v_scale,     &i.sink_logits, &i.slopes,  &i.steps,      &i.head_weights,  &i.head_slopes,
          &i.head_steps,  &i.shares,      &i.rests,   &i.value_sums, &i.value_lengths, &i.value_slots})
        add(*tensor);
    for (const conformance::Map *map : {&i.key_map, &i.query_map})
        for (int layer = 0; layer < 3; layer++) {
            add(map->weight[layer]);
            add(map->bias[layer]);
        }
    return digest.digits();
}

const std::string DIGEST_KEY = "\"digest\":\"", NO_DIGEST(64, '0');

} // namespace

GoldenFile::GoldenFile(const std::string &path) : file_(Safetensors::open(path))
{
    const auto found = file_.metadata().find("format");
    if (found == file_.metadata().end() || found->second.compare(0, FORMAT.size(), FORMAT))
        throw UsageError(path + ": no golden values: hattn verify --write makes such files");
    const std::string version = found->second.substr(FORMAT.size());
    if (version != VERSION)
        throw UsageError(path + ": golden values of version " + quoted(version) + ", this build reads " + VERSION);
    check_digest();
    if (!parse_number(member("seed"), &seed_))
        throw UsageError(path + ": the seed is " + quoted(member("seed")));
    std::istringstream names(member("problems"));
    for (std::string name; std::getline(names, name, ',');)
        problems_.push_back(name);
}

const std::string &GoldenFile::member(const std::string &name) const
{
    const auto found = file_.metadata().find(name);
    if (found == file_.metadata().end())
        throw UsageError(file_.path() + ": the metadata have no " + name);
    return found->second;
}

/* The digest is of the whole file, with zeros in its place. */
void GoldenFile::check_digest() const
{
    const std::string stated = member("digest");
    Sha256 digest;
    bool is_first = true;
    file_.for_each_chunk([&](std::vector<uint8_t> *chunk) {
        if (is_first) { /* the whole header */
            const std::string text = DIGEST_KEY + stated + "\"";
            const auto at = std::search(chunk->begin(), chunk->end(), text.begin(), text.end());
            if (at != chunk->end() && stated.size() == NO_DIGEST.size())
                std::copy(NO_DIGEST.begin(), NO_DIGEST.end(), at + int64_t(DIGEST_KEY.size()));
        }
        is_first = false;
        digest.add(chunk->data(), chunk->size());
    });
    if (digest.digits() != stated)
        throw UsageError(file_.path() + ": the digest is not that of the file: something in it has changed");
}

std::string GoldenFile::begin(const Instance &instance)
{
    const auto found = file_.metadata().find("inputs/" + instance.problem.name);
    if (found == file_.metadata().end())
        return "the file has none of problem " + instance.problem.name;
    return found->second == digest_of_inputs(instance)
               ? ""
               : "they are of other inputs: this build makes " + instance.problem.name + " otherwise than " +
                     file_.path() + " says";
}

bool GoldenFile::get(const std::string &key, std::vector<uint8_t> *elements)
{
    const Safetensors::Tensor *tensor = file_.find(key);
    if (!tensor)
        return false;
    *elements = file_.read(*tensor);
    return true;
}

void GoldenFile::compared(const Comparison &comparison)
{
    compared_++;
    Stage &stage = stages_[{comparison.target.text(), comparison.op, comparison.tensor}];
    stage.problems++;
    stage.elements += comparison.elements;
    stage.different += comparison.different;
    stage.wrong += comparison.wrong;
    stage.share = std::max(stage.share, comparison.share);
}

std::string GoldenFile::Stage::verdict() const { return wrong ? "wrong" : different ? "allowed" : "equal"; }

std::string GoldenFile::table() const
{
    Table table({"<backend", "<operation", "<output", "problems", "values", "differ", "nearest", "<verdict"});
    for (const auto &[name, stage] : stages_)
        table.row({name[0], name[1], name[2], std::to_string(stage.problems), std::to_string(stage.elements),
                   std::to_string(stage.different), stage.different ? format("%.3f", stage.share) : "",
                   stage.wrong ? stage.verdict() + " in " + std::to_string(stage.wrong) : stage.verdict()});
    return table.str();
}

Json GoldenFile::json() const
{
    Json list(json_array());
    for (const auto &[name, stage] : stages_) {
        json_t *entry = json_object();
        json_array_append_new(list.get(), entry);
        json_put(entry, "target", json_text(name[0]));
        json_put(entry, "op", json_text(name[1]));
        json_put(entry, "output", json_text(name[2]));
        json_put(entry, "problems", json_integer(stage.problems));
        json_put(entry, "values", json_integer(stage.elements));
        json_put(entry, "different", json_integer(stage.different));
        json_put(entry, "share", json_number(stage.share));
        json_put(entry, "verdict", json_text(stage.verdict()));
    }
    return list;
}

std::string GoldenWriter::begin(const Instance &instance)
{
    const std::string &name = instance.problem.name;
    problems_ += (problems_.empty() ? "" : ",") + name;
    writer_.metadata("problem/" + name, describe(instance.shape));
    writer_.metadata("inputs/" + name, digest_of_inputs(instance));
    return "";
}

void GoldenWriter::put(const std::string &key, int32_t dtype, const std::vector<int64_t> &extents,
                       const std::vector<uint8_t> &elements)
{
    writer_.add(key, dtype_from_library(dtype), extents, elements.data());
}

void GoldenWriter::write(const Output &output, const conformance::Session &session, int64_t seed,
                         const std::string &commit)
{
    const int version = hattn_version();
    const std::pair<const char *, std::string> metadata[] = {
        {"format", FORMAT + VERSION},
        {"seed", std::to_string(seed)},
        {"problems", problems_},
        {"backend", session.info.backend},
        {"isa", session.info.isa},
        {"device", session.info.name},
        {"driver", driver_of(session.info.backend)},
        {"version", format("%d.%d.%d", version / 10000, version / 100 % 100, version % 100)},
        {"commit", commit.empty() ? "unknown" : commit},
        {"compiler", __VERSION__},
        {"flags", std::string("bazel -c ") + HATTN_BUILD_MODE},
        {"digest", NO_DIGEST},
    };
    for (const auto &[name, value] : metadata)
        writer_.metadata(name, valid_utf8(value));
    std::string bytes = writer_.bytes();
    const size_t at = bytes.find(DIGEST_KEY + NO_DIGEST);
    Sha256 digest;
    digest.add(bytes.data(), bytes.size());
    bytes.replace(at + DIGEST_KEY.size(), NO_DIGEST.size(), digest.digits());
    output.write(bytes);
}
