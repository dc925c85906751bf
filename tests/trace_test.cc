/* SPDX-License-Identifier: Apache-2.0
 * Traces: the real ones as they are, a small one with one thing wrong at a time.
 */
#include "tools/trace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "api/hattn.h"
#include "tools/args.h"
#include "tools/output.h"

struct Part {
    Dtype dtype;
    std::vector<int64_t> shape;
    std::string data;
};
using Parts = std::map<std::string, Part>;

static Part zeros(std::vector<int64_t> shape, Dtype dtype = Dtype::F32)
{
    size_t size = dtype_size(dtype);
    for (int64_t one : shape)
        size *= static_cast<size_t>(one);
    return {dtype, std::move(shape), std::string(size, '\0')};
}

/* 4 query heads on 2 KV heads, d 32, dv 40, 6 keys, 3 queries; a linear map and an MLP map. */
static Parts small_parts()
{
    Parts parts;
    parts["q"] = zeros({3, 4, 32}, Dtype::F16);
    parts["q_pos"] = zeros({3}, Dtype::I32);
    parts["k"] = zeros({6, 2, 32}, Dtype::BF16);
    parts["v"] = zeros({6, 2, 40}, Dtype::BF16);
    parts["one.wk"] = zeros({2, 32, 64});
    parts["one.wq"] = zeros({2, 32, 64}, Dtype::F16);
    parts["one.bias"] = zeros({2, 64});
    for (const std::string side : {"k", "q"}) {
        parts["two." + side + ".w1"] = zeros({4, 32, 16});
        parts["two." + side + ".w2"] = zeros({4, 16, 24});
        parts["two." + side + ".w3"] = zeros({4, 24, 32});
        parts["two." + side + ".b1"] = zeros({4, 16});
        parts["two." + side + ".b2"] = zeros({4, 24});
        parts["two." + side + ".b3"] = zeros({4, 32});
    }
    return parts;
}

static Trace load(const Parts &parts, const std::string &scale = "")
{
    SafetensorsWriter writer;
    if (!scale.empty())
        writer.metadata("softmax_scale", scale);
    for (const auto &[name, part] : parts)
        writer.add(name, part.dtype, part.shape, part.data.data());
    const std::string path = testing::TempDir() + "/" + std::to_string(getpid()) + "trace.safetensors";
    Output("--write", path).write(writer.bytes());
    try {
        Trace trace = load_trace(path);
        unlink(path.c_str());
        return trace;
    } catch (...) {
        unlink(path.c_str());
        throw;
    }
}

TEST(Trace, Small)
{
    Trace trace = load(small_parts());
    EXPECT_EQ(trace.num_queries, 3);
    EXPECT_EQ(trace.num_keys, 6);
    EXPECT_EQ(trace.num_q_heads, 4);
    EXPECT_EQ(trace.num_kv_heads, 2);
    EXPECT_EQ(trace.head_dim_qk, 32);
    EXPECT_EQ(trace.head_dim_v, 40);
    EXPECT_EQ(trace.q_dtype, HATTN_F16);
    EXPECT_EQ(trace.kv_dtype, HATTN_BF16);
    EXPECT_FLOAT_EQ(trace.scale, 1 / std::sqrt(32.0f));
    EXPECT_EQ(trace.map_names(), "one, two");
    const TraceMap &one = *trace.find("one"), &two = *trace.find("two");
    EXPECT_EQ(one.kind, HATTN_MAP_LINEAR);
    EXPECT_EQ(one.num_heads, 2);
    EXPECT_EQ(one.bits, 64);
    EXPECT_EQ(one.key.dtype, HATTN_F32);
    EXPECT_EQ(one.query.dtype, HATTN_F16);
    EXPECT_EQ(one.key.bias[0].size(), 2u * 64 * 4);
    EXPECT_TRUE(one.query.bias[0].empty());
    EXPECT_EQ(two.kind, HATTN_MAP_MLP);
    EXPECT_EQ(two.num_heads, 4);
    EXPECT_EQ(two.bits, 32);
    EXPECT_EQ(two.hidden[0], 16);
    EXPECT_EQ(two.hidden[1], 24);
    EXPECT_EQ(two.query.bias[2].size(), 4u * 32 * 4);
    EXPECT_EQ(trace.find("three"), nullptr);
}

TEST(Trace, ScaleFromMetadata)
{
    EXPECT_EQ(load(small_parts(), "0.25").scale, 0.25f);
    for (const char *bad : {"fast", "0", "-1", "nan", "inf", "1e300", "1 ", "0x1"})
        EXPECT_THROW(load(small_parts(), bad), UsageError) << bad;
}

TEST(Trace, KeyMapServesBothWithoutAQueryMap)
{
    Parts parts = small_parts();
    parts.erase("one.wq");
    parts.erase("one.bias");
    parts["one.wk"].data[5] = 1;
    Trace trace = load(parts);
    EXPECT_EQ(trace.find("one")->query.weight[0], trace.find("one")->key.weight[0]);
    EXPECT_TRUE(trace.find("one")->key.bias[0].empty());
}

struct Wrong {
    const char *text; /* part of the refusal */
    std::function<void(Parts &)> damage;
};

static void put_i32(Part *part, size_t index, int32_t value)
{
    part->data.replace(index * 4, 4, reinterpret_cast<const char *>(&value), 4);
}

TEST(Trace, LinearMapsPerQueryHead)
{
    Parts parts = small_parts();
    parts["own.wk"] = zeros({4, 32, 64});
    EXPECT_EQ(load(parts).find("own")->num_heads, 4);
}

TEST(Trace, Slopes)
{
    Parts parts = small_parts();
    EXPECT_TRUE(load(parts).find("one")->slopes_of(HATTN_SCORE_HAMMING).empty());
    parts["one.slope.hamming"] = zeros({2});
    parts["two.slope.weighted"] = zeros({4});
    put_i32(&parts["one.slope.hamming"], 1, 0x3e800000);
    const Trace trace = load(parts);
    EXPECT_EQ(trace.find("one")->slopes_of(HATTN_SCORE_HAMMING), (std::vector<float>{0, 0.25f}));
    EXPECT_TRUE(trace.find("one")->slopes_of(HATTN_SCORE_WEIGHTED).empty());
    EXPECT_EQ(trace.find("two")->slopes_of(HATTN_SCORE_WEIGHTED).size(), 4u);
    EXPECT_TRUE(trace.find("one")->head_slopes.empty());
    parts["one.slope.head"] = zeros({4});
    EXPECT_EQ(load(parts).find("one")->head_slopes.size(), 4u);
    parts.erase("one.slope.head");
}

TEST(Trace, EachRefusalNamesTheTensor)
{
    const Wrong wrongs[] = {
        {"has no tensor 'q'", [](Parts &p) { p.erase("q"); }},
        {"has no tensor 'k'", [](Parts &p) { p.erase("k"); }},
        {"has no tensor 'v'", [](Parts &p) { p.erase("v"); }},
        {"has no tensor 'q_pos'", [](Parts &p) { p.erase("q_pos"); }},
        {"'q' has shape [3, 128], must have 3 dimensions",
         [](Parts &p) {
             p["q"] = zeros({3, 128}, Dtype::F16);
         }},
        {"'k' has shape [0, 2, 32]: a size outside",
         [](Parts &p) {
             p["k"] = zeros({0, 2, 32}, Dtype::BF16);
         }},
        {"'k' has shape [6, 2, 64], must be [6, 2, 32]",
         [](Parts &p) {
             p["k"] = zeros({6, 2, 64}, Dtype::BF16);
         }},
        {"'v' has shape [5, 2, 40], must be [6, 2, 40]",
         [](Parts &p) {
             p["v"] = zeros({5, 2, 40}, Dtype::BF16);
         }},
        {"'v' has shape [6, 1, 40]",
         [](Parts &p) {
             p["v"] = zeros({6, 1, 40}, Dtype::BF16);
         }},
        {"'q_pos' has shape [2], must be [3]", [](Parts &p) { p["q_pos"] = zeros({2}, Dtype::I32); }},
        {"'q' has 5 heads, no multiple of the 2 of k",
         [](Parts &p) {
             p["q"] = zeros({3, 5, 32}, Dtype::F16);
         }},
        {"'q' is I32, must be F32, F16 or BF16",
         [](Parts &p) {
             p["q"] = zeros({3, 4, 32}, Dtype::I32);
         }},
        {"'q' is F8_E4M3",
         [](Parts &p) {
             p["q"] = zeros({3, 4, 32}, Dtype::F8_E4M3);
         }},
        {"'v' is F16, not of the dtype",
         [](Parts &p) {
             p["v"] = zeros({6, 2, 40}, Dtype::F16);
         }},
        {"'q_pos' is U32, must be I32", [](Parts &p) { p["q_pos"] = zeros({3}, Dtype::U32); }},
        {"'q_pos' is 6 at element 1, must be in 0..5", [](Parts &p) { put_i32(&p["q_pos"], 1, 6); }},
        {"'q_pos' is -1 at element 2", [](Parts &p) { put_i32(&p["q_pos"], 2, -1); }},
        {"'q' is not finite at element 7", [](Parts &p) { p["q"].data[15] = 0x7c; }},
        {"'k' is not finite at element 0", [](Parts &p) { p["k"].data.replace(0, 2, "\x80\x7f"); }},
        {"'one.wk' is not finite at element 1", [](Parts &p) { put_i32(&p["one.wk"], 1, 0x7fc00000); }},
        {"'one.bias' is not finite at element 3", [](Parts &p) { put_i32(&p["one.bias"], 3, -0x800000); }},
        {"'one.wk' has shape [3, 32, 64], must be [2, 32, 64]",
         [](Parts &p) {
             p["one.wk"] = zeros({3, 32, 64});
         }},
        {"'one.wq' has shape [2, 32, 32], must be [2, 32, 64]",
         [](Parts &p) {
             p["one.wq"] = zeros({2, 32, 32});
         }},
        {"'one.bias' has shape [1, 64], must be [2, 64]",
         [](Parts &p) {
             p["one.bias"] = zeros({1, 64});
         }},
        {"'one.bias' is F16, not of the dtype",
         [](Parts &p) {
             p["one.bias"] = zeros({2, 64}, Dtype::F16);
         }},
        {"'one.bias' belongs to no part", [](Parts &p) { p.erase("one.wk"), p.erase("one.wq"); }},
        {"'one.slope.hamming' has shape [4], must be [2]", [](Parts &p) { p["one.slope.hamming"] = zeros({4}); }},
        {"'two.slope.weighted' has shape [2], must be [4]", [](Parts &p) { p["two.slope.weighted"] = zeros({2}); }},
        {"'one.slope.weighted' is F16, must be F32",
         [](Parts &p) { p["one.slope.weighted"] = zeros({2}, Dtype::F16); }},
        {"'one.slope.hamming' is not finite at element 1",
         [](Parts &p) {
             p["one.slope.hamming"] = zeros({2});
             put_i32(&p["one.slope.hamming"], 1, 0x7fc00000);
         }},
        {"'one.slope.cosine' belongs to no part", [](Parts &p) { p["one.slope.cosine"] = zeros({2}); }},
        {"'three.slope.hamming' belongs to no part", [](Parts &p) { p["three.slope.hamming"] = zeros({2}); }},
        {"'one.wbias' belongs to no part",
         [](Parts &p) {
             p["one.wbias"] = zeros({2, 64});
         }},
        {"has no tensor 'two.k.b2'", [](Parts &p) { p.erase("two.k.b2"); }},
        {"has no tensor 'two.q.w1'", [](Parts &p) { p.erase("two.q.w1"); }},
        {"'two.k.w1' has shape [2, 32, 16], must be [4, 32, 16]",
         [](Parts &p) {
             p["two.k.w1"] = zeros({2, 32, 16});
         }},
        {"'two.k.w2' has shape [4, 24, 24]",
         [](Parts &p) {
             p["two.k.w2"] = zeros({4, 24, 24});
         }},
        {"'two.q.w3' has shape [4, 24, 64]",
         [](Parts &p) {
             p["two.q.w3"] = zeros({4, 24, 64});
         }},
        {"makes an MLP map of the name of a linear one",
         [](Parts &p) {
             p["two.wk"] = zeros({2, 32, 64});
         }},
        {"has no hash map",
         [](Parts &p) {
             for (auto at = p.begin(); at != p.end();)
                 at = at->first.find('.') != std::string::npos ? p.erase(at) : std::next(at);
         }},
    };
    for (const Wrong &wrong : wrongs) {
        Parts parts = small_parts();
        wrong.damage(parts);
        try {
            load(parts);
            ADD_FAILURE() << "accepted: " << wrong.text;
        } catch (const UsageError &error) {
            EXPECT_NE(std::string(error.what()).find(wrong.text), std::string::npos) << wrong.text << "\n"
                                                                                     << error.what();
        }
    }
}

TEST(Trace, RealOnes)
{
    for (const char *path : {"examples/layer3.safetensors", "examples/layer5.safetensors"}) {
        Trace trace = load_trace(path);
        EXPECT_EQ(trace.map_names(), "hamming128, hashattention32, hata128, weighted128, weighted64");
        EXPECT_EQ(trace.num_queries, 32);
        EXPECT_FLOAT_EQ(trace.scale, 0.08838834764831845f);
    }
}
