/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/trace.h"

#include <cmath>
#include <cstring>
#include <set>

#include "api/hattn.h"
#include "tools/args.h"
#include "tools/text.h"

const TraceMap *Trace::find(const std::string &name) const
{
    for (const TraceMap &map : maps)
        if (map.name == name)
            return &map;
    return nullptr;
}

std::string Trace::map_names() const
{
    std::string list;
    for (const TraceMap &map : maps)
        list += (list.empty() ? "" : ", ") + map.name;
    return list;
}

const std::vector<float> &TraceMap::slopes_of(int32_t score_kind) const
{
    return slopes[score_kind == HATTN_SCORE_WEIGHTED];
}

const char *score_name(int32_t score_kind) { return score_kind == HATTN_SCORE_WEIGHTED ? "weighted" : "hamming"; }

std::string slopes_name(const std::string &map, int32_t score_kind) { return map + ".slope." + score_name(score_kind); }

std::string head_slopes_name(const std::string &map) { return map + ".slope.head"; }

namespace {

std::string shape_text(const std::vector<int64_t> &shape)
{
    std::string text;
    for (size_t i = 0; i < shape.size() && i < 8; i++)
        text += (i ? ", " : "") + std::to_string(shape[i]);
    return "[" + text + (shape.size() > 8 ? ", ...]" : "]");
}

/* Infinity and NaN have all exponent bits set; e4m3 has no infinity, its NaN is 0x7f and 0xff. */
bool is_finite(const uint8_t *data, Dtype dtype)
{
    uint32_t bits = 0;
    std::memcpy(&bits, data, dtype_size(dtype));
    switch (dtype) {
    case Dtype::F32: return (bits & 0x7f800000) != 0x7f800000;
    case Dtype::F16: return (bits & 0x7c00) != 0x7c00;
    case Dtype::BF16: return (bits & 0x7f80) != 0x7f80;
    default: return (bits & 0x7f) != 0x7f;
    }
}

std::vector<float> to_f32(const std::vector<uint8_t> &bytes)
{
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
}

class Loader
{
public:
    explicit Loader(const std::string &path) : file_(Safetensors::open(path)) { trace_.path = path; }
    Trace load();

private:
    [[noreturn]] void refuse(const std::string &name, const std::string &why) const
    {
        throw UsageError(file_.path() + ": tensor " + quoted(name) + " " + why);
    }

    const Safetensors::Tensor &tensor(const std::string &name, size_t rank);
    void check_shape(const Safetensors::Tensor &tensor, const std::vector<int64_t> &shape) const;
    std::vector<uint8_t> floats(const Safetensors::Tensor &tensor, bool fp8_too, int32_t *dtype) const;
    void load_scale();
    void load_attention();
    void load_layer(const std::string &weight, const std::string &bias, bool need_bias, int32_t heads, int32_t inputs,
                    int32_t outputs, int layer, TraceMapSide *side);
    void load_linear(const std::string &name);
    void load_mlp_side(const std::string &name, const char *letter, TraceMap *map, TraceMapSide *side);
    std::vector<float> load_slopes(const std::string &name, int32_t num_heads);
    void add_map(TraceMap map);

    Safetensors file_;
    Trace trace_;
    std::set<std::string> used_;
};

/* Sizes that fit the library's int32 fields; none is 0. */
const Safetensors::Tensor &Loader::tensor(const std::string &name, size_t rank)
{
    const Safetensors::Tensor &found = file_.get(name);
    used_.insert(name);
    if (found.shape.size() != rank)
        refuse(name, "has shape " + shape_text(found.shape) + ", must have " + std::to_string(rank) + " dimensions");
    for (int64_t size : found.shape)
        if (size < 1 || size > INT32_MAX)
            refuse(name, "has shape " + shape_text(found.shape) + ": a size outside 1.." + std::to_string(INT32_MAX));
    return found;
}

void Loader::check_shape(const Safetensors::Tensor &tensor, const std::vector<int64_t> &shape) const
{
    if (tensor.shape != shape)
        refuse(tensor.name, "has shape " + shape_text(tensor.shape) + ", must be " + shape_text(shape));
}

std::vector<uint8_t> Loader::floats(const Safetensors::Tensor &tensor, bool fp8_too, int32_t *dtype) const
{
    Dtype have = tensor.dtype;
    if (have != Dtype::F32 && have != Dtype::F16 && have != Dtype::BF16 && !(fp8_too && have == Dtype::F8_E4M3))
        refuse(tensor.name, std::string("is ") + dtype_name(have) + ", must be F32, F16" +
                                (fp8_too ? ", BF16 or F8_E4M3" : " or BF16"));
    if (*dtype && *dtype != dtype_of_library(have))
        refuse(tensor.name, std::string("is ") + dtype_name(have) + ", not of the dtype of the tensors beside it");
    *dtype = dtype_of_library(have);
    std::vector<uint8_t> data = file_.read(tensor);
    for (uint64_t i = 0; i < tensor.num_elements; i++)
        if (!is_finite(data.data() + i * dtype_size(have), have))
            refuse(tensor.name, "is not finite at element " + std::to_string(i));
    return data;
}

void Loader::load_scale()
{
    auto at = file_.metadata().find("softmax_scale");
    double scale = 1 / std::sqrt(double(trace_.head_dim_qk));
    if (at != file_.metadata().end() && (!parse_real(at->second, &scale) || scale < 1e-6 || scale > 1e6))
        throw UsageError(file_.path() + ": metadata softmax_scale is no number from 1e-6 to 1e6");
    trace_.scale = float(scale);
}

void Loader::load_attention()
{
    const Safetensors::Tensor &q = tensor("q", 3), &k = tensor("k", 3), &v = tensor("v", 3), &pos = tensor("q_pos", 1);
    trace_.num_queries = int32_t(q.shape[0]);
    trace_.num_q_heads = int32_t(q.shape[1]);
    trace_.head_dim_qk = int32_t(q.shape[2]);
    trace_.num_keys = int32_t(k.shape[0]);
    trace_.num_kv_heads = int32_t(k.shape[1]);
    trace_.head_dim_v = int32_t(v.shape[2]);
    check_shape(k, {k.shape[0], k.shape[1], q.shape[2]});
    check_shape(v, {k.shape[0], k.shape[1], v.shape[2]});
    check_shape(pos, {q.shape[0]});
    if (trace_.num_q_heads % trace_.num_kv_heads)
        refuse("q", "has " + std::to_string(trace_.num_q_heads) + " heads, no multiple of the " +
                        std::to_string(trace_.num_kv_heads) + " of k");
    trace_.q = floats(q, false, &trace_.q_dtype);
    trace_.k = floats(k, true, &trace_.kv_dtype);
    trace_.v = floats(v, true, &trace_.kv_dtype);
    if (pos.dtype != Dtype::I32)
        refuse("q_pos", std::string("is ") + dtype_name(pos.dtype) + ", must be I32");
    trace_.q_pos.resize(pos.num_elements);
    std::memcpy(trace_.q_pos.data(), file_.read(pos).data(), pos.num_bytes);
    for (size_t i = 0; i < trace_.q_pos.size(); i++)
        if (trace_.q_pos[i] < 0 || trace_.q_pos[i] >= trace_.num_keys)
            refuse("q_pos", "is " + std::to_string(trace_.q_pos[i]) + " at element " + std::to_string(i) +
                                ", must be in 0.." + std::to_string(trace_.num_keys - 1));
}

void Loader::load_layer(const std::string &weight, const std::string &bias, bool need_bias, int32_t heads,
                        int32_t inputs, int32_t outputs, int layer, TraceMapSide *side)
{
    const Safetensors::Tensor &matrix = tensor(weight, 3);
    check_shape(matrix, {heads, inputs, outputs});
    side->weight[layer] = floats(matrix, false, &side->dtype);
    if (!need_bias && (bias.empty() || !file_.find(bias)))
        return;
    const Safetensors::Tensor &vector = tensor(bias, 2);
    check_shape(vector, {heads, outputs});
    side->bias[layer] = floats(vector, false, &side->dtype);
}

void Loader::load_linear(const std::string &name)
{
    TraceMap map;
    map.name = name;
    map.kind = HATTN_MAP_LINEAR;
    const Safetensors::Tensor &weight = tensor(name + ".wk", 3);
    map.num_heads = weight.shape[0] == trace_.num_q_heads ? trace_.num_q_heads : trace_.num_kv_heads;
    map.bits = int32_t(weight.shape[2]);
    load_layer(name + ".wk", name + ".bias", false, map.num_heads, trace_.head_dim_qk, map.bits, 0, &map.key);
    const std::string query = file_.find(name + ".wq") ? name + ".wq" : name + ".wk";
    load_layer(query, "", false, map.num_heads, trace_.head_dim_qk, map.bits, 0, &map.query);
    add_map(std::move(map));
}

void Loader::load_mlp_side(const std::string &name, const char *letter, TraceMap *map, TraceMapSide *side)
{
    const std::string prefix = name + "." + letter + ".";
    const int32_t sizes[4] = {trace_.head_dim_qk, map->hidden[0], map->hidden[1], map->bits};
    for (int layer = 0; layer < 3; layer++) {
        const std::string number = std::to_string(layer + 1);
        load_layer(prefix + "w" + number, prefix + "b" + number, true, map->num_heads, sizes[layer], sizes[layer + 1],
                   layer, side);
    }
}

std::vector<float> Loader::load_slopes(const std::string &name, int32_t num_heads)
{
    if (!file_.find(name))
        return {};
    const Safetensors::Tensor &slopes = tensor(name, 1);
    check_shape(slopes, {num_heads});
    if (slopes.dtype != Dtype::F32)
        refuse(name, std::string("is ") + dtype_name(slopes.dtype) + ", must be F32");
    int32_t dtype = HATTN_F32;
    return to_f32(floats(slopes, false, &dtype));
}

/* With its slopes. */
void Loader::add_map(TraceMap map)
{
    for (const int32_t score_kind : {HATTN_SCORE_HAMMING, HATTN_SCORE_WEIGHTED})
        map.slopes[score_kind == HATTN_SCORE_WEIGHTED] = load_slopes(slopes_name(map.name, score_kind), map.num_heads);
    if (map.num_heads == trace_.num_kv_heads && map.num_heads < trace_.num_q_heads)
        map.head_slopes = load_slopes(head_slopes_name(map.name), trace_.num_q_heads);
    trace_.maps.push_back(std::move(map));
}

bool ends_with(const std::string &text, const std::string &end)
{
    return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Trace Loader::load()
{
    load_attention();
    load_scale();
    for (const auto &[name, unused] : file_.tensors()) {
        if (ends_with(name, ".wk"))
            load_linear(name.substr(0, name.size() - 3));
        if (!ends_with(name, ".k.w1"))
            continue;
        TraceMap map;
        map.name = name.substr(0, name.size() - 5);
        map.kind = HATTN_MAP_MLP;
        map.num_heads = trace_.num_q_heads;
        if (file_.find(map.name + ".wk"))
            refuse(name, "makes an MLP map of the name of a linear one");
        for (int i = 0; i < 2; i++)
            map.hidden[i] = int32_t(tensor(map.name + ".k.w" + std::to_string(i + 1), 3).shape[2]);
        map.bits = int32_t(tensor(map.name + ".k.w3", 3).shape[2]);
        load_mlp_side(map.name, "k", &map, &map.key);
        load_mlp_side(map.name, "q", &map, &map.query);
        add_map(std::move(map));
    }
    for (const auto &[name, unused] : file_.tensors())
        if (!used_.count(name))
            refuse(name, "belongs to no part of a trace");
    if (trace_.maps.empty())
        throw UsageError(file_.path() + ": has no hash map (NAME.wk or NAME.k.w1)");
    return std::move(trace_);
}

} // namespace

Trace load_trace(const std::string &path) { return Loader(path).load(); }
