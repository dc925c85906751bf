/* SPDX-License-Identifier: Apache-2.0
 * Golden values: every backend of this machine is held to the reference's in examples/golden.safetensors; what is turned by a rounding
 * is told from what is wrong; and a file that is not as it was written is refused.
 */
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "tests/run_hattn.h"
#include "tools/args.h"
#include "tools/golden.h"
#include "tools/sha256.h"

namespace {

const std::string GOLDEN = "examples/golden.safetensors";

/* With the digest that belongs to the bytes. */
std::string sealed(std::string bytes)
{
    const std::string key = "\"digest\":\"";
    const size_t at = bytes.find(key) + key.size();
    bytes.replace(at, 64, std::string(64, '0'));
    Sha256 digest;
    digest.add(bytes.data(), bytes.size());
    return bytes.replace(at, 64, digest.digits());
}

/* The bytes with a text of the header in place of another of its length. */
std::string replaced(std::string bytes, const std::string &text, const std::string &by)
{
    EXPECT_EQ(text.size(), by.size());
    const size_t at = bytes.find(text);
    EXPECT_NE(at, std::string::npos) << text;
    return bytes.replace(at, text.size(), by);
}

class Golden : public testing::Test
{
protected:
    const Directory directory_;
    const std::string path_ = directory_.at("golden"), whole_ = read_file(GOLDEN);

    /* hattn verify of the scalar kernels, which are everywhere. */
    Ran verify(const std::string &bytes, const Words &more = {})
    {
        write_file(path_, bytes);
        Words words = {"verify", "--backend", "cpu", "--isa", "scalar", "--against", path_};
        words.insert(words.end(), more.begin(), more.end());
        return run_hattn(words);
    }

    /* The verdict of a stage, its differences and their share, from JSON. */
    struct Told {
        std::string verdict;
        json_int_t different;
        double share;
    };
    Told told(const std::string &bytes, const std::string &filter, const std::string &output)
    {
        const Ran ran = verify(bytes, {"--filter", filter, "--json", directory_.at("json")});
        const JsonOwner json = parse_json(read_file(directory_.at("json")));
        const json_t *stages = json_object_get(json.get(), "golden");
        for (size_t i = 0; i < json_array_size(stages); i++) {
            const json_t *stage = json_array_get(stages, i);
            if (json_string_value(json_object_get(stage, "output")) != output)
                continue;
            const Told found = {json_string_value(json_object_get(stage, "verdict")),
                                json_integer_value(json_object_get(stage, "different")),
                                json_number_value(json_object_get(stage, "share"))};
            EXPECT_EQ(ran.exit_code, found.verdict == "wrong" ? 1 : 0) << ran.out << ran.err;
            return found;
        }
        ADD_FAILURE() << "no stage of " << output << " in " << filter << ": " << ran.out << ran.err;
        return {};
    }
};

TEST_F(Golden, EveryBackendIsHeldToTheReferencesFile)
{
    for (const std::string backend : {"reference", "all"}) {
        const Ran ran = run_hattn({"verify", "--backend", backend, "--against", GOLDEN, "--json", path_});
        EXPECT_EQ(ran.exit_code, 0) << ran.out << ran.err;
        const JsonOwner json = parse_json(read_file(path_));
        std::set<std::string> there, compared, outputs;
        const json_t *sessions = json_object_get(json.get(), "sessions"),
                     *stages = json_object_get(json.get(), "golden");
        for (size_t i = 0; i < json_array_size(sessions); i++) {
            const json_t *session = json_array_get(sessions, i);
            if (!*json_string_value(json_object_get(session, "not_present")))
                there.insert(json_string_value(json_object_get(session, "target")));
        }
        for (size_t i = 0; i < json_array_size(stages); i++) {
            const json_t *stage = json_array_get(stages, i);
            compared.insert(json_string_value(json_object_get(stage, "target")));
            outputs.insert(json_string_value(json_object_get(stage, "output")));
            EXPECT_STRNE(json_string_value(json_object_get(stage, "verdict")), "wrong");
        }
        EXPECT_EQ(there, compared);
        EXPECT_FALSE(there.empty());
        const std::set<std::string> all = {"codes",  "counts",        "head_steps", "head_weights", "indices",
                                           "lse",    "norms",         "out",        "rests",        "scores",
                                           "shares", "value_lengths", "value_sums", "steps",        "weights"};
        EXPECT_EQ(outputs, all);
        EXPECT_GE(json_array_size(stages), all.size() * there.size());
    }
}

/* A weight that another rounding may turn, and one that none may, as the file's own margins say. */
TEST_F(Golden, AllowedFlipsAreCountedAndOthersAreWrong)
{
    const Safetensors file = Safetensors::parse(whole_.data(), whole_.size(), GOLDEN);
    int allowed = 0, wrong = 0;
    for (const auto &[name, margins] : file.tensors()) {
        const size_t end = name.find("/encode_queries/margins");
        if (end == std::string::npos)
            continue;
        const std::string filter = name.substr(0, end) + "/encode_queries";
        const Safetensors::Tensor &weights = file.get(filter + "/weights");
        ASSERT_EQ(weights.shape, margins.shape);
        for (uint64_t i = 0; i < margins.num_elements; i++) {
            float margin;
            memcpy(&margin, &whole_[margins.begin + 4 * i], sizeof(margin));
            const bool may = margin <= 1;
            if (may ? allowed >= 2 : wrong >= 2 || i != 7)
                continue;
            int accepted = 0;
            for (const int step : {-2, -1, 1, 2}) {
                std::string bytes = whole_;
                bytes[weights.begin + i] = static_cast<char>(bytes[weights.begin + i] + step);
                const Told now = told(sealed(bytes), filter, "weights");
                EXPECT_EQ(now.different, 1);
                accepted += now.verdict == "allowed";
                if (now.verdict == "allowed") {
                    EXPECT_NEAR(now.share, margin, 1e-6);
                }
            }
            EXPECT_EQ(accepted > 0, may) << filter << " " << i << ": margin " << margin;
            ++(may ? allowed : wrong);
        }
        EXPECT_EQ(told(whole_, filter, "weights").verdict, "equal");
    }
    EXPECT_GT(allowed, 0);
    EXPECT_GT(wrong, 0);
}

TEST_F(Golden, AnyChangedByteIsRefused)
{
    EXPECT_NO_THROW(GoldenFile file(GOLDEN));
    uint64_t header;
    memcpy(&header, whole_.data(), sizeof(header));
    const auto expect_refused_at = [&](size_t at) {
        std::string bytes = whole_;
        bytes[at] = static_cast<char>(bytes[at] ^ 1);
        write_file(path_, bytes);
        EXPECT_THROW(GoldenFile file(path_), UsageError) << "byte " << at;
    };
    for (size_t at = 0; at < 8 + header; at += at < 8 ? 1 : 37)
        expect_refused_at(at);
    for (size_t at = 8 + header; at < whole_.size(); at += 2003)
        expect_refused_at(at);
    const size_t digest = whole_.find("\"digest\":\"") + 10;
    for (size_t at = digest; at < digest + 64; at++)
        expect_refused_at(at);
    expect_refused_at(whole_.size() - 1);
    expect_refused(verify(whole_.substr(0, whole_.size() - 1)), "the file has");
    expect_refused(verify(whole_ + "x"), "the file has");
    expect_refused(verify(""), "shorter than 8 bytes");
}

TEST_F(Golden, OthersFilesAreRefused)
{
    expect_refusal({"verify", "--against", TRACE}, TRACE + ": no golden values");
    expect_refused(verify(sealed(replaced(whole_, "hattn golden 1", "hattn golden 2"))),
                   "version '2', this build reads 1");
    expect_refused(verify(sealed(replaced(whole_, "hattn golden 1", "other golden 1"))), "no golden values");
    expect_refused(verify(sealed(replaced(whole_, "\"problems\":\"plain_append", "\"problems\":\"plain_opened"))),
                   "problem 'plain_opened', which this build does not know");
    expect_refused(verify(sealed(replaced(whole_, "\"seed\":\"3\"", "\"seed\":\"x\""))), "the seed is 'x'");
    expect_refused(verify(replaced(whole_, "\"digest\"", "\"dagest\"")), "the metadata have no digest");
}

TEST_F(Golden, OtherInputsAreAFailure)
{
    const std::string key = "\"inputs/mlp_40\":\"";
    const size_t at = whole_.find(key) + key.size();
    std::string bytes = whole_;
    bytes[at] = bytes[at] == '0' ? '1' : '0';
    const Ran ran = verify(sealed(bytes));
    EXPECT_EQ(ran.exit_code, 1);
    EXPECT_NE(ran.out.find("against golden values: they are of other inputs: this build makes mlp_40 otherwise"),
              std::string::npos)
        << ran.out;
}

/* FIPS 180-4's own examples. */
TEST(Sha256, GivesTheStandardsDigests)
{
    const std::pair<std::string, const char *> examples[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    };
    for (const auto &[text, digits] : examples) {
        Sha256 digest;
        digest.add(text.data(), text.size() / 3);
        digest.add(text.data() + text.size() / 3, text.size() - text.size() / 3);
        EXPECT_EQ(digest.digits(), digits);
    }
}

} // namespace
