/* SPDX-License-Identifier: Apache-2.0
 * The known answer at device_open: a device that gives something else is refused, with the operation and the first wrong value.
 */
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>

#include "backends/known_answer.h"

namespace {

/* The reference, as if it had memory of its own: with room for a decode that a test composes although its table has one. */
hattn_status allocate(hattn_device *, uint64_t size, hattn_buffer *buffer, hattn_error *)
{
    const uint64_t composed = 1 << 20;
    *buffer = {std::aligned_alloc(256, (size + composed + 255) / 256 * 256), 0};
    return HATTN_OK;
}
void release(hattn_device *, hattn_buffer buffer) { std::free(buffer.data); }
hattn_status copy_in(hattn_device *, hattn_buffer to, const void *from, uint64_t size, hattn_error *)
{
    std::memcpy(to.data, from, size);
    return HATTN_OK;
}
hattn_status copy_out(hattn_device *, void *to, hattn_buffer from, uint64_t size, hattn_error *)
{
    std::memcpy(to, from.data, size);
    return HATTN_OK;
}

/* Wrong bits in what a slot has written; a count becomes smaller, as decode reads what it counts. */
template <typename Args,
          hattn_status (*hattn_backend::*SLOT)(const hattn_plan *, const Args *, const hattn_exec *, hattn_error *),
          hattn_buffer Args::*OUTPUT>
hattn_status broken(const hattn_plan *plan, const Args *args, const hattn_exec *exec, hattn_error *error)
{
    const hattn_status status = (hattn_reference_backend.*SLOT)(plan, args, exec, error);
    const hattn_buffer output = args->*OUTPUT;
    uint8_t *written = static_cast<uint8_t *>(output.data) + output.byte_offset;
    written[0] ^= 4;
    written[3] ^= std::is_same<Args, hattn_topk_args>::value ? 0 : 64;
    return status;
}

class KnownAnswer : public testing::Test
{
protected:
    void SetUp() override
    {
        unsetenv("HATTN_SELFTEST");
        hattn_device_options options = {};
        ASSERT_EQ(hattn_reference_backend.open(&options, &device, nullptr), HATTN_OK);
        device->backend = &table;
    }
    void TearDown() override { hattn_reference_backend.close(device); }

    void expect_refused(const std::string &words)
    {
        hattn_error error = {};
        EXPECT_EQ(hattn_known_answer(device, &memory, &error), HATTN_DEVICE_ERROR) << words;
        EXPECT_NE(std::string(error.text).find(words), std::string::npos) << error.text;
    }

    hattn_backend table = hattn_reference_backend;
    hattn_device *device = nullptr;
    hattn_known_memory memory = {allocate, release, copy_in, copy_out, nullptr};
};

TEST_F(KnownAnswer, RightDevicesPass)
{
    hattn_error error = {};
    EXPECT_EQ(hattn_known_answer(device, &memory, &error), HATTN_OK) << error.text;
}

TEST_F(KnownAnswer, EachOperationThatIsWrongIsNamed)
{
    table.encode_keys = broken<hattn_encode_keys_args, &hattn_backend::encode_keys, &hattn_encode_keys_args::codes>;
    expect_refused("the known answer of encode_keys has codes[0]");
    table = hattn_reference_backend;
    table.encode_queries =
        broken<hattn_encode_queries_args, &hattn_backend::encode_queries, &hattn_encode_queries_args::weights>;
    expect_refused("the known answer of encode_queries has weights[0]");
    table = hattn_reference_backend;
    table.score = broken<hattn_score_args, &hattn_backend::score, &hattn_score_args::scores>;
    expect_refused("the known answer of score has scores[0]");
    table = hattn_reference_backend;
    table.topk = broken<hattn_topk_args, &hattn_backend::topk, &hattn_topk_args::counts>;
    expect_refused("the known answer of topk has counts[0]");
    table = hattn_reference_backend;
    table.attend = broken<hattn_attend_args, &hattn_backend::attend, &hattn_attend_args::out>;
    expect_refused("the known answer of attend has out[0]");
    table = hattn_reference_backend;
    table.merge = broken<hattn_merge_args, &hattn_backend::merge, &hattn_merge_args::out>;
    expect_refused("the known answer of merge has out[0]");
    table = hattn_reference_backend;
    table.decode = [](const hattn_plan *plan, const hattn_decode_args *args, const hattn_exec *exec,
                      hattn_error *error) {
        const hattn_status status = hattn_compose_decode(plan, args, exec, error);
        static_cast<uint8_t *>(args->lse.data)[args->lse.byte_offset + 3] ^= 64;
        return status;
    };
    expect_refused("the known answer of decode has lse[0]");
}

TEST_F(KnownAnswer, IsLeftOutWhereTheUserSaysSo)
{
    table.merge = broken<hattn_merge_args, &hattn_backend::merge, &hattn_merge_args::out>;
    setenv("HATTN_SELFTEST", "0", 1);
    EXPECT_EQ(hattn_known_answer(device, &memory, nullptr), HATTN_OK);
    setenv("HATTN_SELFTEST", "1", 1);
    EXPECT_EQ(hattn_known_answer(device, &memory, nullptr), HATTN_DEVICE_ERROR);
    unsetenv("HATTN_SELFTEST");
}

} // namespace
