/* SPDX-License-Identifier: Apache-2.0
 * Backends, devices, errors, and a problem's defaults.
 */
#include <cmath>
#include <cstdlib>
#include <set>

#include "core/sized.h"
#include "tests/api_job.h"

namespace {

hattn_device_options options_for(const char *backend)
{
    hattn_device_options options = sized<hattn_device_options>();
    options.backend = backend;
    return options;
}

void expect_refused(hattn_status status, const std::string &text, const hattn_device_options &options)
{
    SCOPED_TRACE(text);
    hattn_error error = fresh_error();
    hattn_device *const untouched = reinterpret_cast<hattn_device *>(&error), *device = untouched;
    EXPECT_EQ(status, hattn_device_open(&options, &device, &error));
    EXPECT_EQ(status, error.status);
    EXPECT_NE(std::string::npos, std::string(error.text).find(text)) << error.text;
    EXPECT_EQ(status, hattn_device_open(&options, &device, nullptr));
    EXPECT_EQ(untouched, device);
}

hattn_device_info info_of(hattn_device *device)
{
    hattn_device_info info = sized<hattn_device_info>();
    EXPECT_EQ(HATTN_OK, hattn_device_query(device, &info, nullptr));
    return info;
}

/* The backend that an open without a name gives. */
std::string opened_by_default()
{
    hattn_device *device = nullptr;
    hattn_error error = fresh_error();
    EXPECT_EQ(HATTN_OK, hattn_device_open(nullptr, &device, &error)) << error.text;
    if (!device)
        return error.text;
    std::string backend = info_of(device).backend;
    hattn_device_close(device);
    return backend;
}

/* $HATTN_BACKEND for one scope. */
class Environment
{
public:
    explicit Environment(const char *value)
    {
        const char *before = std::getenv("HATTN_BACKEND");
        was_set_ = before != nullptr;
        before_ = before ? before : "";
        value ? setenv("HATTN_BACKEND", value, 1) : unsetenv("HATTN_BACKEND");
    }
    ~Environment() { was_set_ ? setenv("HATTN_BACKEND", before_.c_str(), 1) : unsetenv("HATTN_BACKEND"); }

private:
    bool was_set_;
    std::string before_;
};

TEST(Device, BackendsInOrder)
{
    const std::vector<std::string> expected = {"cuda", "hip", "opencl", "cpu", "reference"};
    ASSERT_EQ(static_cast<int>(expected.size()), hattn_backend_count());
    for (int i = 0; i < hattn_backend_count(); i++) {
        hattn_backend_info info = sized<hattn_backend_info>();
        ASSERT_EQ(HATTN_OK, hattn_backend_query(i, &info, nullptr));
        EXPECT_EQ(expected[i], info.name);
        EXPECT_EQ(sizeof(info), info.struct_size);
        EXPECT_EQ(info.num_devices == 0, info.text[0] != 0) << info.name << ": " << info.text;
        EXPECT_TRUE(info.built || info.num_devices == 0);
        if (i >= 3) {
            EXPECT_TRUE(info.built);
            EXPECT_EQ(1, info.num_devices);
        }
        hattn_device_options options = options_for(expected[i].c_str());
        options.index = info.num_devices;
        expect_refused(HATTN_NO_DEVICE, info.name, options);
    }
    hattn_backend_info info = sized<hattn_backend_info>();
    hattn_error error = fresh_error();
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_backend_query(-1, &info, &error));
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_backend_query(hattn_backend_count(), &info, &error));
    EXPECT_NE(std::string::npos, std::string(error.text).find("backend"));
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_backend_query(0, nullptr, &error));
    info.struct_size = 0;
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_backend_query(0, &info, &error));
    EXPECT_NE(std::string::npos, std::string(error.text).find("struct_size"));
}

TEST(Device, OpenRefuses)
{
    expect_refused(HATTN_INVALID_ARGUMENT, "nonsense", options_for("nonsense"));
    expect_refused(HATTN_INVALID_ARGUMENT, "no backend", options_for(""));
    hattn_device_options options = options_for("cpu");
    options.struct_size = 0;
    expect_refused(HATTN_INVALID_ARGUMENT, "options.struct_size", options);
    options = options_for("cpu");
    options.reserved = 1;
    expect_refused(HATTN_INVALID_ARGUMENT, "options.reserved", options);
    options = options_for("cpu");
    for (int32_t threads : {-1, 1025, INT32_MAX}) {
        options.max_threads = threads;
        expect_refused(HATTN_INVALID_ARGUMENT, "options.max_threads", options);
    }
    for (const char *backend : {"cpu", "reference"}) {
        options = options_for(backend);
        options.native_context = &options;
        expect_refused(HATTN_INVALID_ARGUMENT, "options.native_context", options);
        options = options_for(backend);
        options.native_device = &options;
        expect_refused(HATTN_INVALID_ARGUMENT, "options.native_device", options);
    }
    options = options_for("cpu");
    options.index = -1;
    expect_refused(HATTN_INVALID_ARGUMENT, "options.index", options);
    options.index = 1;
    expect_refused(HATTN_NO_DEVICE, "no device 1", options);
    options = options_for("cpu");
    options.isa = "sse9";
    expect_refused(HATTN_INVALID_ARGUMENT, "sse9", options);
#if defined(__aarch64__)
    options.isa = "avx2";
#else
    options.isa = "neon";
#endif
    expect_refused(HATTN_NO_DEVICE, options.isa, options);
    options = options_for("reference");
    options.isa = "scalar";
    expect_refused(HATTN_INVALID_ARGUMENT, "options.isa", options);
    options = options_for("cpu");
    hattn_error error = fresh_error();
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_device_open(&options, nullptr, &error));
    EXPECT_STREQ("device is null", error.text);
    hattn_device_close(nullptr);
}

TEST(Device, CpuOptions)
{
    hattn_device_options options = options_for("cpu");
    options.isa = "scalar";
    options.max_threads = 5;
    hattn_device *device = nullptr;
    ASSERT_EQ(HATTN_OK, hattn_device_open(&options, &device, nullptr));
    hattn_device_info info = info_of(device);
    EXPECT_STREQ("cpu", info.backend);
    EXPECT_STREQ("scalar", info.isa);
    EXPECT_EQ(5, info.max_threads);
    EXPECT_NE(0, info.name[0]);
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_device_query(nullptr, &info, nullptr));
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_device_query(device, nullptr, nullptr));
    info.struct_size = 4;
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_device_query(device, &info, nullptr));
    hattn_device_close(device);

    options.max_threads = 0;
    ASSERT_EQ(HATTN_OK, hattn_device_open(&options, &device, nullptr));
    EXPECT_GE(info_of(device).max_threads, 1);
    hattn_device_close(device);

    const std::string disabled = std::getenv("HATTN_CPU_DISABLE") ? std::getenv("HATTN_CPU_DISABLE") : "";
    setenv("HATTN_CPU_DISABLE", "avx512,avx2,neon", 1);
    options.isa = nullptr;
    ASSERT_EQ(HATTN_OK, hattn_device_open(&options, &device, nullptr));
    EXPECT_STREQ("scalar", info_of(device).isa);
    hattn_device_close(device);
    setenv("HATTN_CPU_DISABLE", "avx512, avx-2", 1);
    expect_refused(HATTN_INVALID_ARGUMENT, "HATTN_CPU_DISABLE has 'avx-2', it knows scalar, neon, avx2 and avx512",
                   options);
    setenv("HATTN_CPU_DISABLE", disabled.c_str(), 1);
}

TEST(Device, EnvironmentNamesTheBackend)
{
    std::string best;
    {
        Environment none(nullptr);
        best = opened_by_default();
    }
    {
        /* The first that has a device; OpenCL's may be processors, for which the cpu backend is there. */
        hattn_backend_info info = sized<hattn_backend_info>();
        for (int i = 0; info.num_devices == 0 || (info.name == std::string("opencl") && best != "opencl"); i++)
            ASSERT_EQ(HATTN_OK, hattn_backend_query(i, &info, nullptr));
        EXPECT_EQ(info.name, best);
    }
    {
        Environment empty("");
        EXPECT_EQ(best, opened_by_default());
    }
    Environment reference("reference");
    EXPECT_EQ("reference", opened_by_default());
    hattn_device *device = nullptr;
    hattn_device_options options = options_for("cpu");
    ASSERT_EQ(HATTN_OK, hattn_device_open(&options, &device, nullptr));
    EXPECT_STREQ("cpu", info_of(device).backend); /* a name in the options comes first */
    hattn_device_close(device);
    Environment nonsense("nonsense");
    expect_refused(HATTN_INVALID_ARGUMENT, "nonsense", options_for(nullptr));
}

TEST(Error, NeedsNoInitialValue)
{
    for (int fill : {0, 0xff}) {
        hattn_error error;
        memset(&error, fill, sizeof(error));
        EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_plan_create(nullptr, nullptr, nullptr, &error));
        EXPECT_STREQ("device is null", error.text);
        EXPECT_EQ(HATTN_INVALID_ARGUMENT, error.status);
    }
}

TEST(Error, LongTextsAreCut)
{
    hattn_error error;
    std::string name(2000, 'x');
    hattn_device_options options = options_for(name.c_str());
    hattn_device *device = nullptr;
    error = fresh_error();
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_device_open(&options, &device, &error));
    EXPECT_EQ(sizeof(error.text) - 1, strnlen(error.text, sizeof(error.text)));
}

TEST(Error, StatusesHaveNames)
{
    EXPECT_STREQ("ok", hattn_status_string(HATTN_OK));
    EXPECT_STREQ("invalid argument", hattn_status_string(HATTN_INVALID_ARGUMENT));
    std::set<std::string> names;
    for (int status = HATTN_OK; status <= HATTN_DEVICE_ERROR; status++)
        names.insert(hattn_status_string(static_cast<hattn_status>(status)));
    EXPECT_EQ(HATTN_DEVICE_ERROR + 1u, names.size());
    EXPECT_FALSE(names.count(""));
    std::string unknown = hattn_status_string(static_cast<hattn_status>(HATTN_DEVICE_ERROR + 1));
    EXPECT_FALSE(names.count(unknown));
    EXPECT_EQ(HATTN_VERSION_MAJOR * 10000 + HATTN_VERSION_MINOR * 100 + HATTN_VERSION_PATCH, hattn_version());
}

void expect_strides(const char *name, const hattn_tensor &t, std::vector<int64_t> expected)
{
    expected.resize(3);
    EXPECT_EQ(expected, std::vector<int64_t>(t.stride, t.stride + 3)) << name;
}

TEST(Problem, Defaults)
{
    hattn_problem p = plain_problem();
    EXPECT_EQ(sizeof(p), p.struct_size);
    p.head_dim_v = 72;
    p = completed(p);
    EXPECT_EQ(sizeof(p), p.struct_size);
    EXPECT_EQ(HATTN_MAP_LINEAR, p.map_kind);
    EXPECT_EQ(HATTN_SCORE_HAMMING, p.score_kind);
    EXPECT_EQ(4, p.weight_bits);
    EXPECT_EQ(2, p.max_q_len);
    EXPECT_EQ(2, p.num_code_heads);
    EXPECT_EQ(2, p.num_selection_heads);
    EXPECT_EQ(4, p.max_rows);
    EXPECT_EQ(0.125f, p.scale);
    for (const hattn_tensor *t : {&p.q, &p.k_new, &p.k_cache, &p.v_cache, &p.out})
        EXPECT_EQ(HATTN_F16, t->dtype);
    EXPECT_EQ(HATTN_F16, p.key_map.dtype);
    EXPECT_EQ(HATTN_F16, p.query_map.dtype);
    EXPECT_EQ(HATTN_U16, p.scores.dtype);
    expect_strides("q", p.q, {512, 64});
    expect_strides("k_new", p.k_new, {128, 64});
    expect_strides("k_cache", p.k_cache, {2 * 16 * 64, 64, 16 * 64});
    expect_strides("v_cache", p.v_cache, {2 * 16 * 72, 72, 16 * 72});
    expect_strides("codes", p.codes, {64, 2, 32});
    expect_strides("norms", p.norms, {32, 1, 16});
    expect_strides("weights", p.weights, {128, 64});
    expect_strides("scores", p.scores, {200, 100});
    expect_strides("indices", p.indices, {20, 10});
    expect_strides("counts", p.counts, {2, 1});
    expect_strides("out", p.out, {8 * 72, 72});
    expect_strides("lse", p.lse, {8, 1});
    expect_strides("partial_out", p.partial_out, {4 * 8 * 72, 8 * 72, 72});
    expect_strides("partial_lse", p.partial_lse, {32, 8, 1});
    expect_strides("block_table", p.block_table, {7});
    expect_strides("budgets", p.budgets, {2, 1});
    EXPECT_EQ(64 * 64, p.key_map.weight_stride[0][0]);
    EXPECT_EQ(64, p.key_map.weight_stride[0][1]);
    EXPECT_EQ(64, p.key_map.bias_stride[0]);
}

TEST(Problem, DefaultsOfOtherKinds)
{
    hattn_problem p = plain_problem();
    p.page_size = 0;
    p.key_norms = 1;
    p.code_bits = 72;
    p.num_code_heads = p.num_selection_heads = 8;
    p.scale = 3;
    p.k_cache.dtype = HATTN_F8_E4M3;
    p.q.dtype = HATTN_BF16;
    p.out.dtype = HATTN_F32;
    p.map_kind = HATTN_MAP_MLP;
    p.key_map.hidden[0] = 16;
    p.key_map.hidden[1] = 24;
    p = completed(p);
    EXPECT_EQ(3, p.scale);
    EXPECT_EQ(HATTN_F8_E4M3, p.k_new.dtype);
    EXPECT_EQ(HATTN_F32, p.out.dtype);
    EXPECT_EQ(HATTN_BF16, p.key_map.dtype); /* there are no fp8 maps */
    EXPECT_EQ(HATTN_F32, p.scores.dtype);
    expect_strides("codes", p.codes, {8 * 100 * 3, 3, 300});
    expect_strides("k_cache", p.k_cache, {2 * 100 * 64, 64, 6400});
    const int64_t expected[3][2] = {{64 * 16, 16}, {16 * 24, 24}, {24 * 72, 72}};
    for (int layer = 0; layer < 3; layer++) {
        EXPECT_EQ(expected[layer][0], p.key_map.weight_stride[layer][0]);
        EXPECT_EQ(expected[layer][1], p.key_map.weight_stride[layer][1]);
        EXPECT_EQ(expected[layer][1], p.key_map.bias_stride[layer]);
    }
}

/* Callers that know fewer fields, or more. */
TEST(Device, QueriesWriteWhatTheCallerHas)
{
    hattn_device_options options = options_for("cpu");
    hattn_device *device = nullptr;
    ASSERT_EQ(HATTN_OK, hattn_device_open(&options, &device, nullptr));
    const hattn_device_info whole = info_of(device);
    union {
        hattn_device_info info;
        unsigned char bytes[sizeof(hattn_device_info) + 64];
    } theirs;
    for (size_t size : {offsetof(hattn_device_info, name), sizeof(hattn_device_info), sizeof(theirs)}) {
        memset(&theirs, 0xaa, sizeof(theirs));
        theirs.info.struct_size = uint32_t(size);
        ASSERT_EQ(HATTN_OK, hattn_device_query(device, &theirs.info, nullptr));
        EXPECT_EQ(size, theirs.info.struct_size);
        EXPECT_STREQ(whole.backend, theirs.info.backend);
        for (size_t i = std::min(size, sizeof(hattn_device_info)); i < sizeof(theirs); i++)
            ASSERT_EQ(i < size ? 0 : 0xaa, theirs.bytes[i]) << i << " of " << size;
    }
    hattn_device_close(device);
}

TEST(Problem, CompletesWhatIsZeroAndNothingElse)
{
    hattn_problem p = plain_problem(), complete = completed(p), again = completed(complete);
    EXPECT_EQ(0, memcmp(&complete, &again, sizeof(again)));

    /* Fields may be changed and the same problem be completed anew. */
    p.head_dim_qk = 128;
    complete = completed(p);
    EXPECT_EQ(128, complete.head_dim_v);
    EXPECT_EQ(float(1 / std::sqrt(128.0)), complete.scale);
    expect_strides("v_cache", complete.v_cache, {2 * 16 * 128, 128, 16 * 128});

    /* Strides that are given stay, broadcasts too; all 0 is compact. */
    p.q.stride[0] = 5000, p.q.stride[1] = 0;
    p.k_new.stride[0] = p.k_new.stride[1] = 0;
    p.budgets.stride[0] = p.budgets.stride[1] = HATTN_BROADCAST;
    p.key_map.weight_stride[0][0] = 0, p.key_map.weight_stride[0][1] = 80;
    p.key_map.bias_stride[0] = HATTN_BROADCAST;
    complete = completed(p);
    expect_strides("q", complete.q, {5000, 0});
    expect_strides("k_new", complete.k_new, {256, 128});
    expect_strides("budgets", complete.budgets, {HATTN_BROADCAST, HATTN_BROADCAST});
    EXPECT_EQ(0, complete.key_map.weight_stride[0][0]);
    EXPECT_EQ(80, complete.key_map.weight_stride[0][1]);
    EXPECT_EQ(HATTN_BROADCAST, complete.key_map.bias_stride[0]);

    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_problem_complete(&p, &p, nullptr));
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_problem_complete(nullptr, &p, nullptr));
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_problem_complete(&p, nullptr, nullptr));
    complete.struct_size = 0;
    EXPECT_EQ(HATTN_INVALID_ARGUMENT, hattn_problem_complete(&p, &complete, nullptr));
}

} // namespace
