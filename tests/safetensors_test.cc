/* SPDX-License-Identifier: Apache-2.0
 * The safetensors reader and writer: round trips, each refusal by its text, and thousands of damaged headers of a real file.
 */
#include "tools/safetensors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>

#include "tools/args.h"
#include "tools/output.h"

static const char TRACE[] = "examples/layer3.safetensors";

static std::string read_file(const std::string &path)
{
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
}

static std::string temporary(const std::string &name)
{
    return testing::TempDir() + "/" + std::to_string(getpid()) + name;
}

static std::string with_length(const std::string &header, const std::string &data)
{
    std::string bytes;
    for (int i = 0; i < 8; i++)
        bytes += static_cast<char>(header.size() >> (8 * i));
    return bytes + header + data;
}

static std::string text_of(const Safetensors &file, const Safetensors::Tensor &tensor)
{
    const std::vector<uint8_t> data = file.read(tensor);
    return std::string(data.begin(), data.end());
}

/* "" if it is read, else the refusal. */
static std::string refusal(const std::string &bytes)
{
    /* In a block of its own size, so that a sanitizer sees a read past the end. */
    std::vector<char> exact(bytes.begin(), bytes.end());
    try {
        Safetensors::parse(exact.data(), exact.size(), "f");
        return "";
    } catch (const UsageError &error) {
        return error.what();
    }
}

static std::string refusal(const std::string &header, size_t data_size)
{
    return refusal(with_length(header, std::string(data_size, 'x')));
}

TEST(Safetensors, ReadsTheRealTrace)
{
    Safetensors file = Safetensors::open(TRACE);
    EXPECT_EQ(file.tensors().size(), 40u);
    EXPECT_EQ(file.metadata().at("softmax_scale"), "0.08838834764831845");
    const Safetensors::Tensor &k = file.get("k");
    EXPECT_EQ(k.shape, (std::vector<int64_t>{4096, 2, 128}));
    EXPECT_EQ(k.dtype, Dtype::F16);
    EXPECT_EQ(k.num_bytes, 4096u * 2 * 128 * 2);
    EXPECT_EQ(k.num_elements, 4096u * 2 * 128);
    EXPECT_EQ(file.find("absent"), nullptr);
    EXPECT_THROW(file.get("absent"), UsageError);
    std::string bytes = read_file(TRACE);
    EXPECT_EQ(k.begin, 8u + 3488 + 1386368);
    EXPECT_EQ(text_of(file, k), bytes.substr(k.begin, k.num_bytes));
}

TEST(Safetensors, RoundTripOfEveryDtype)
{
    const Dtype dtypes[] = {Dtype::U8,  Dtype::F16, Dtype::F64, Dtype::F32, Dtype::BF16, Dtype::F8_E4M3,
                            Dtype::I64, Dtype::I32, Dtype::I8,  Dtype::U32, Dtype::U16};
    std::mt19937 random(1);
    SafetensorsWriter writer;
    writer.metadata("about", "a \"quoted\" line\nand another, \xc3\xa9");
    std::map<std::string, std::string> expected;
    for (Dtype dtype : dtypes) {
        std::string data(3 * 5 * dtype_size(dtype), 0);
        for (char &c : data)
            c = static_cast<char>(random());
        expected[dtype_name(dtype)] = data;
        writer.add(dtype_name(dtype), dtype, {3, 5}, data.data());
    }
    writer.add("empty", Dtype::F32, {4, 0, 7}, "");
    writer.add("scalar", Dtype::I64, {}, "12345678");
    const std::string path = temporary("round.safetensors");
    Output("--write", path).write(writer.bytes());
    Safetensors file = Safetensors::open(path);
    EXPECT_EQ(file.tensors().size(), expected.size() + 2);
    for (const auto &[name, data] : expected) {
        const Safetensors::Tensor &tensor = file.get(name);
        EXPECT_EQ(dtype_name(tensor.dtype), name);
        EXPECT_EQ(tensor.shape, (std::vector<int64_t>{3, 5}));
        EXPECT_EQ(text_of(file, tensor), data) << name;
        EXPECT_EQ(tensor.begin % dtype_size(tensor.dtype), 0u) << name;
    }
    EXPECT_EQ(file.get("empty").num_bytes, 0u);
    EXPECT_EQ(text_of(file, file.get("scalar")), "12345678");
    EXPECT_EQ(file.metadata().at("about"), "a \"quoted\" line\nand another, \xc3\xa9");
    EXPECT_THROW(writer.add("U8", Dtype::U8, {1}, "x"), std::logic_error);
    std::remove(path.c_str());
}

TEST(Safetensors, EmptyFileOfNoTensors)
{
    EXPECT_EQ(refusal("{}", 0), "");
    EXPECT_EQ(refusal(SafetensorsWriter().bytes()), "");
    EXPECT_EQ(refusal("{\"__metadata__\":{}}    ", 0), "");
}

TEST(Safetensors, AnyOrderInTheHeader)
{
    EXPECT_EQ(
        refusal(
            R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]},"e":{"dtype":"U8","shape":[0],"data_offsets":[4,4]},)"
            R"("a":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}})",
            7),
        "");
}

struct Damage {
    const char *header;
    size_t data_size;
    const char *text; /* part of the refusal */
};

TEST(Safetensors, EachRefusalNamesTheCause)
{
    const Damage damages[] = {
        {"[1]", 0, "no JSON object"},
        {" {}", 0, "no JSON object"},
        {"{", 0, "no JSON object"},
        {"{]", 0, "not valid JSON"},
        {"{}x", 0, "not valid JSON"},
        {"{\"a\":1}", 0, "'a': not an object"},
        {"{\"a\":{},\"a\":{}}", 0, "not valid JSON"},
        {R"({"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})", 0, "not valid JSON"},
        {"{\"a\\u0000b\":{}}", 0, "not valid JSON"},
        {"{\"\xff\":{}}", 0, "not valid JSON"},
        {R"({"a":{"dtype":"U8","shape":[0]}})", 0, "'a': must have dtype, shape and data_offsets"},
        {R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"more":1}})", 0, "'a': must have"},
        {R"({"a":{"dtype":"F31","shape":[0],"data_offsets":[0,0]}})", 0, "'a': unknown dtype 'F31'"},
        {R"({"a":{"dtype":7,"shape":[0],"data_offsets":[0,0]}})", 0, "'a': unknown dtype (not a string)"},
        {R"({"a":{"dtype":"U8","shape":3,"data_offsets":[0,3]}})", 3, "'a': shape is not a list"},
        {R"({"a":{"dtype":"U8","shape":[-3],"data_offsets":[0,3]}})", 3, "'a': a size in shape"},
        {R"({"a":{"dtype":"U8","shape":[3.0],"data_offsets":[0,3]}})", 3, "'a': a size in shape"},
        {R"({"a":{"dtype":"U8","shape":["3"],"data_offsets":[0,3]}})", 3, "'a': a size in shape"},
        {R"({"a":{"dtype":"U8","shape":[[3]],"data_offsets":[0,3]}})", 3, "'a': a size in shape"},
        {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, "'a': shape overflows"},
        {R"({"a":{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0, "'a': shape overflows"},
        {R"({"a":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,0]}})", 0, "not valid JSON"},
        {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,5]}})", 5,
         "'a': 5 bytes of data where dtype and shape need 4"},
        {R"({"a":{"dtype":"F16","shape":[4],"data_offsets":[0,4]}})", 4,
         "'a': 4 bytes of data where dtype and shape need 8"},
        {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 3, "'a': data_offsets reach 4, the file has 3"},
        {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})", 4, "'a': data_offsets end before they begin"},
        {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}})", 4, "'a': data_offsets are not two whole numbers"},
        {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}})", 4,
         "'a': data_offsets are not two whole numbers"},
        {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4e0]}})", 4,
         "'a': data_offsets are not two whole numbers"},
        {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":{}}})", 4, "'a': data_offsets are not two whole numbers"},
        {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})", 4, "'a': data begins at 1, a hole after 0"},
        {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 4, "tensors end at 3, the file has 4"},
        {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
         4, "'b': data begins at 2, inside the tensor before it"},
        {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
         4, "data begins at 0, inside the tensor before it"},
        {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
         4, "'b': data begins at 2, inside the tensor before it"},
        {R"({"__metadata__":1})", 0, "__metadata__ is not an object"},
        {R"({"__metadata__":{"a":1}})", 0, "__metadata__ 'a' is not a string"},
        {"{\"\\u0007-\\n\":1}", 0, "'?-?': not an object"},
    };
    for (const Damage &damage : damages) {
        const std::string text = refusal(damage.header, damage.data_size);
        EXPECT_NE(text.find(damage.text), std::string::npos) << damage.header << "\n gives: " << text;
        EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    }
}

TEST(Safetensors, LyingLengths)
{
    EXPECT_NE(refusal("").find("shorter than 8 bytes"), std::string::npos);
    EXPECT_NE(refusal(std::string(7, '\0')).find("shorter than 8 bytes"), std::string::npos);
    EXPECT_NE(refusal(std::string(8, '\0')).find("no JSON object"), std::string::npos);
    EXPECT_NE(refusal(std::string(8, '\xff')).find("header claims 18446744073709551615 bytes"), std::string::npos);
    EXPECT_NE(refusal(std::string("\x03\0\0\0\0\0\0\0{}", 10)).find("header claims 3 bytes"), std::string::npos);
    EXPECT_NE(refusal("{" + std::string(9 << 20, ' ') + "}", 0).find("more than 8388608"), std::string::npos);
}

TEST(Safetensors, DeepNestingAndManyMembersEnd)
{
    EXPECT_NE(refusal("{\"a\":" + std::string(4 << 20, '['), 0).find("not valid JSON"), std::string::npos);
    std::string objects = "{\"a\":";
    for (int i = 0; i < 500000; i++)
        objects += "{\"a\":";
    EXPECT_NE(refusal(objects, 0).find("not valid JSON"), std::string::npos);
    EXPECT_NE(refusal("{\"a\":" + std::string(1000, '[') + std::string(1000, ']') + "}", 0).find("not an object"),
              std::string::npos);
    std::string shape = "1";
    for (int i = 0; i < 100000; i++)
        shape += ",1";
    EXPECT_EQ(refusal(R"({"a":{"dtype":"U8","data_offsets":[0,1],"shape":[)" + shape + "]}}", 1), "");
}

TEST(Safetensors, NotAFile)
{
    EXPECT_THROW(Safetensors::open("/nonexistent"), UsageError);
    EXPECT_THROW(Safetensors::open("/"), UsageError);
    EXPECT_THROW(Safetensors::open("/dev/zero"), UsageError);
    const std::string path = temporary("fifo");
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    EXPECT_THROW(Safetensors::open(path), UsageError); // and does not wait for a writer
    unlink(path.c_str());
    std::ofstream(path).close();
    EXPECT_THROW(Safetensors::open(path), UsageError);
    unlink(path.c_str());
}

/* A file that another program writes to: told, and no fault of memory. */
TEST(Safetensors, AFileThatChangesWhileItIsRead)
{
    SafetensorsWriter writer;
    const std::string zeros(1 << 20, '\0');
    writer.add("first", Dtype::U8, {1 << 20}, zeros.data());
    writer.add("last", Dtype::U8, {1 << 20}, zeros.data());
    const std::string path = temporary("changing"), bytes = writer.bytes();
    const std::pair<std::function<void()>, std::string> changes[] = {
        {[&] { ASSERT_EQ(truncate(path.c_str(), 1 << 20), 0); },
         "'last': the file has become shorter while it was read"},
        {[&] { std::ofstream(path, std::ios::binary | std::ios::app) << "x"; },
         "'last': the file has changed while it was read"},
        {[&] { std::ofstream(path, std::ios::binary | std::ios::in).seekp(1 << 19) << "x"; },
         "'last': the file has changed"},
        {[&] { std::ofstream(path, std::ios::binary) << bytes; }, "'last': the file has changed while it was read"},
    };
    for (const auto &[change, text] : changes) {
        std::ofstream(path, std::ios::binary) << bytes;
        const timespec past[2] = {{1, 0}, {1, 0}}; // clocks of files are coarse
        ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), past, 0), 0);
        const Safetensors file = Safetensors::open(path);
        EXPECT_EQ(text_of(file, file.get("first")), zeros);
        change();
        try {
            file.read(file.get("last"));
            ADD_FAILURE() << "read: " << text;
        } catch (const UsageError &error) {
            EXPECT_EQ(std::string(error.what()).compare(0, path.size() + 1, path + ":"), 0) << error.what();
            EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
        }
    }
    std::remove(path.c_str());
}

/* A real file whose header can be replaced without moving the data. */
class Damaged
{
public:
    Damaged() : file_(read_file(TRACE)), room_(ROOM + file_.size(), 0)
    {
        uint64_t length;
        std::memcpy(&length, file_.data(), sizeof(length));
        header_ = file_.substr(8, length);
        std::memcpy(&room_[ROOM], file_.data(), file_.size());
    }

    const std::string &header() const { return header_; }

    /* Parses the file with this header and length field, `cut` bytes short; true if it was read. Whatever is read must
     * be as the format says. */
    bool parse(const std::string &header, uint64_t length, size_t cut)
    {
        const size_t begin = ROOM + 8 + header_.size() - header.size() - 8;
        std::memcpy(&room_[begin], &length, 8);
        std::memcpy(&room_[begin + 8], header.data(), header.size());
        const size_t size = room_.size() - begin - cut;
        try {
            Safetensors file = Safetensors::parse(&room_[begin], size, "damaged");
            check(file, 8 + length, size);
            return true;
        } catch (const UsageError &error) {
            EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
            return false;
        }
    }

private:
    static void check(const Safetensors &file, uint64_t data, uint64_t end)
    {
        uint64_t total = 0;
        for (const auto &[name, tensor] : file.tensors()) {
            uint64_t bytes = dtype_size(tensor.dtype);
            for (int64_t size : tensor.shape) {
                ASSERT_GE(size, 0);
                bytes *= static_cast<uint64_t>(size);
            }
            ASSERT_EQ(bytes, tensor.num_bytes);
            const uint64_t begin = tensor.begin;
            ASSERT_TRUE(begin >= data && begin <= end && tensor.num_bytes <= end - begin) << name;
            total += bytes;
        }
        ASSERT_EQ(total, end - data);
    }

    static const size_t ROOM = 1 << 16;
    std::string file_, header_;
    std::vector<char> room_;
};

static std::string mutate(std::string header, std::mt19937 &random)
{
    static const char *const PIECES[] = {"[",
                                         "]",
                                         "{",
                                         "}",
                                         ",",
                                         ":",
                                         "\"",
                                         "0",
                                         "-1",
                                         "1e9",
                                         "9223372036854775807",
                                         "18446744073709551616",
                                         "null",
                                         "\"F32\"",
                                         "\"shape\"",
                                         "\\u0000",
                                         "\xff",
                                         "\\"};
    for (int edits = 1 + random() % 3; edits > 0; edits--) {
        const size_t at = random() % header.size(), length = std::min<size_t>(1 + random() % 40, header.size() - at);
        switch (random() % 6) {
        case 0: header[at] = static_cast<char>(header[at] ^ 1 << random() % 8); break;
        case 1: header[at] = static_cast<char>(random()); break;
        case 2: header.erase(at, std::min(length, header.size() - 1)); break;
        case 3: header.insert(at, PIECES[random() % (sizeof(PIECES) / sizeof(PIECES[0]))]); break;
        case 4: header.insert(random() % header.size(), header.substr(at, length)); break;
        default: // a digit, where there is one after `at`: sizes and offsets
            for (size_t i = at; i < header.size(); i++)
                if (header[i] >= '0' && header[i] <= '9') {
                    header[i] = static_cast<char>('0' + random() % 10);
                    break;
                }
        }
    }
    return header;
}

TEST(Safetensors, FuzzedHeadersOfTheTrace)
{
    Damaged file;
    ASSERT_TRUE(file.parse(file.header(), file.header().size(), 0));
    int read = 0;
    const char *const wanted = getenv("HATTN_DAMAGED_HEADERS");
    const int cases = wanted ? atoi(wanted) : 20000;
    for (int seed = 0; seed < cases && !HasFatalFailure(); seed++) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937 random(static_cast<unsigned>(seed));
        const std::string header = mutate(file.header(), random);
        uint64_t length = header.size();
        if (random() % 8 == 0)
            length ^= 1ull << random() % 64;
        read += file.parse(header, length, random() % 8 == 0 ? random() % 5000000 : 0);
    }
    /* Edits of names and of the about text leave a valid file; most others must not. */
    EXPECT_GT(read, cases / 100);
    EXPECT_LT(read, cases / 2);
}

TEST(Safetensors, EveryCutOfASmallFile)
{
    SafetensorsWriter writer;
    const float data[6] = {1, 2, 3, 4, 5, 6};
    writer.metadata("a", "b");
    writer.add("x", Dtype::F32, {2, 3}, data);
    writer.add("y", Dtype::U8, {5}, "abcde");
    const std::string bytes = writer.bytes();
    EXPECT_EQ(refusal(bytes), "");
    for (size_t size = 0; size < bytes.size(); size++)
        EXPECT_NE(refusal(bytes.substr(0, size)), "") << size;
    EXPECT_NE(refusal(bytes + "z"), "");
}
