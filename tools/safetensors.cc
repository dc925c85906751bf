/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "api/hattn.h"
#include "tools/args.h"
#include "tools/report.h"
#include "tools/text.h"

namespace {

/* A tensor takes about 100 bytes of header: room for 80,000 of them, and a bound on what the JSON tree can take. */
const uint64_t MAX_HEADER = 8 << 20;

struct DtypeRow {
    const char *name;
    size_t size;
    int32_t library;
};

const DtypeRow DTYPES[] = {
    {"F64", 8, 0},
    {"F32", 4, HATTN_F32},
    {"F16", 2, HATTN_F16},
    {"BF16", 2, HATTN_BF16},
    {"F8_E4M3", 1, HATTN_F8_E4M3},
    {"I64", 8, HATTN_I64},
    {"I32", 4, HATTN_I32},
    {"I8", 1, HATTN_I8},
    {"U32", 4, HATTN_U32},
    {"U16", 2, HATTN_U16},
    {"U8", 1, 0},
};

} // namespace

const char *dtype_name(Dtype dtype) { return DTYPES[int(dtype)].name; }

size_t dtype_size(Dtype dtype) { return DTYPES[int(dtype)].size; }

int32_t dtype_of_library(Dtype dtype) { return DTYPES[int(dtype)].library; }

Dtype dtype_from_library(int32_t dtype)
{
    for (size_t i = 0; i < sizeof(DTYPES) / sizeof(DTYPES[0]); i++)
        if (dtype && DTYPES[i].library == dtype)
            return Dtype(i);
    throw std::logic_error("a dtype without a name");
}

namespace {

bool parse_dtype(const json_t *value, Dtype *dtype)
{
    for (size_t i = 0; i < sizeof(DTYPES) / sizeof(DTYPES[0]); i++)
        if (json_is_string(value) && !std::strcmp(json_string_value(value), DTYPES[i].name)) {
            *dtype = Dtype(i);
            return true;
        }
    return false;
}

/* Fills *tensor but for its begin in the file; *begin is where its data starts in the data. */
void parse_tensor(const json_t *entry, uint64_t data_size, Safetensors::Tensor *tensor, uint64_t *begin)
{
    const std::string who = "tensor " + quoted(tensor->name);
    if (!json_is_object(entry))
        throw UsageError(who + ": not an object");
    const json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (!dtype || !shape || !offsets || json_object_size(entry) != 3)
        throw UsageError(who + ": must have dtype, shape and data_offsets, nothing else");
    if (!parse_dtype(dtype, &tensor->dtype))
        throw UsageError(who + ": unknown dtype " +
                         (json_is_string(dtype) ? quoted(json_string_value(dtype)) : "(not a string)"));
    if (!json_is_array(shape))
        throw UsageError(who + ": shape is not a list");
    tensor->num_elements = 1;
    for (size_t i = 0; i < json_array_size(shape); i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            throw UsageError(who + ": a size in shape is not a whole number >= 0");
        tensor->shape.push_back(json_integer_value(size));
        if (__builtin_mul_overflow(tensor->num_elements, uint64_t(json_integer_value(size)), &tensor->num_elements))
            throw UsageError(who + ": shape overflows");
    }
    if (__builtin_mul_overflow(tensor->num_elements, uint64_t(dtype_size(tensor->dtype)), &tensor->num_bytes))
        throw UsageError(who + ": shape overflows");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        json_integer_value(first) < 0)
        throw UsageError(who + ": data_offsets are not two whole numbers >= 0");
    if (json_integer_value(last) < json_integer_value(first))
        throw UsageError(who + ": data_offsets end before they begin");
    *begin = uint64_t(json_integer_value(first));
    uint64_t end = uint64_t(json_integer_value(last));
    if (end > data_size)
        throw UsageError(who + ": data_offsets reach " + std::to_string(end) + ", the file has " +
                         std::to_string(data_size) + " bytes of data");
    if (end - *begin != tensor->num_bytes)
        throw UsageError(who + ": " + std::to_string(end - *begin) + " bytes of data where dtype and shape need " +
                         std::to_string(tensor->num_bytes));
}

void parse_metadata(json_t *object, std::map<std::string, std::string> *metadata)
{
    if (!json_is_object(object))
        throw UsageError("__metadata__ is not an object");
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        if (!json_is_string(value))
            throw UsageError("__metadata__ " + quoted(name) + " is not a string");
        (*metadata)[name] = json_string_value(value);
    }
}

/* Tensors tile the data: sorted by offset each begins where the one before ended, and the last ends the file. */
void check_tiling(std::vector<std::pair<uint64_t, const Safetensors::Tensor *>> placed, uint64_t data_size)
{
    std::sort(placed.begin(), placed.end(), [](const auto &a, const auto &b) {
        return a.first != b.first ? a.first < b.first : a.second->num_bytes < b.second->num_bytes;
    });
    uint64_t end = 0;
    for (const auto &[begin, tensor] : placed) {
        if (begin != end)
            throw UsageError("tensor " + quoted(tensor->name) + ": data begins at " + std::to_string(begin) +
                             (begin < end ? ", inside the tensor before it, which ends at " : ", a hole after ") +
                             std::to_string(end));
        end = begin + tensor->num_bytes;
    }
    if (end != data_size)
        throw UsageError("tensors end at " + std::to_string(end) + ", the file has " + std::to_string(data_size) +
                         " bytes of data");
}

void parse_header(const std::vector<uint8_t> &bytes, uint64_t data_begin, uint64_t data_size,
                  std::map<std::string, Safetensors::Tensor> *tensors, std::map<std::string, std::string> *metadata)
{
    if (bytes.size() < 2 || bytes[0] != '{')
        throw UsageError("not a safetensors file: the header is no JSON object");
    json_error_t error;
    Json header(json_loadb(reinterpret_cast<const char *>(bytes.data()), bytes.size(), JSON_REJECT_DUPLICATES, &error));
    if (!header)
        throw UsageError("the header is not valid JSON: " + quoted(error.text));

    std::vector<std::pair<uint64_t, const Safetensors::Tensor *>> placed;
    const char *name;
    json_t *entry;
    json_object_foreach(header.get(), name, entry)
    {
        if (!std::strcmp(name, "__metadata__")) {
            parse_metadata(entry, metadata);
            continue;
        }
        Safetensors::Tensor tensor = {};
        tensor.name = name;
        uint64_t begin = 0;
        parse_tensor(entry, data_size, &tensor, &begin);
        tensor.begin = data_begin + begin;
        placed.emplace_back(begin, &tensors->emplace(name, std::move(tensor)).first->second);
    }
    check_tiling(std::move(placed), data_size);
}

} // namespace

Safetensors Safetensors::parse(Reader reader, uint64_t size, const std::string &name)
{
    Safetensors file;
    file.path_ = name;
    file.reader_ = std::move(reader);
    try {
        if (size < 8)
            throw UsageError("not a safetensors file: shorter than 8 bytes");
        uint8_t bytes[8];
        file.reader_(0, bytes, 8);
        uint64_t length = 0;
        for (int i = 7; i >= 0; i--)
            length = length << 8 | bytes[i];
        if (length > size - 8)
            throw UsageError("not a safetensors file, or cut short: the header claims " + std::to_string(length) +
                             " bytes, the file has " + std::to_string(size - 8) + " more");
        if (length > MAX_HEADER)
            throw UsageError("the header has " + std::to_string(length) + " bytes, more than " +
                             std::to_string(MAX_HEADER));
        std::vector<uint8_t> header(length);
        file.reader_(8, header.data(), length);
        file.header_size_ = 8 + length;
        file.size_ = size;
        parse_header(header, 8 + length, size - 8 - length, &file.tensors_, &file.metadata_);
    } catch (const UsageError &error) {
        throw UsageError(name + ": " + error.what());
    }
    return file;
}

Safetensors Safetensors::parse(const void *data, size_t size, const std::string &name)
{
    const Reader reader = [data](uint64_t begin, uint8_t *bytes, uint64_t count) {
        std::copy_n(static_cast<const uint8_t *>(data) + begin, count, bytes);
    };
    return parse(reader, size, name);
}

namespace {

/* A regular file that must stay as it was when it was opened. */
class OpenFile
{
public:
    explicit OpenFile(const std::string &path)
        : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) // a FIFO must not hang the open
    {
        if (descriptor_ < 0 || fstat(descriptor_, &status_))
            refuse(path, std::strerror(errno));
        if (!S_ISREG(status_.st_mode))
            refuse(path, "not a regular file");
    }
    ~OpenFile() { close(); }
    OpenFile(const OpenFile &) = delete;
    OpenFile &operator=(const OpenFile &) = delete;

    uint64_t size() const { return uint64_t(status_.st_size); }

    void read(uint64_t begin, uint8_t *bytes, uint64_t size) const
    {
        for (uint64_t done = 0; done < size;) {
            const ssize_t count = pread(descriptor_, bytes + done, size - done, off_t(begin + done));
            if (count < 0 && errno != EINTR)
                throw UsageError(std::string("cannot be read: ") + std::strerror(errno));
            if (count == 0)
                throw UsageError("the file has become shorter while it was read");
            done += count > 0 ? uint64_t(count) : 0;
        }
        struct stat now;
        if (fstat(descriptor_, &now) || now.st_size != status_.st_size ||
            now.st_mtim.tv_sec != status_.st_mtim.tv_sec || now.st_mtim.tv_nsec != status_.st_mtim.tv_nsec)
            throw UsageError("the file has changed while it was read");
    }

private:
    [[noreturn]] void refuse(const std::string &path, const std::string &why)
    {
        close();
        throw UsageError("cannot read " + path + ": " + why);
    }
    void close()
    {
        if (descriptor_ >= 0)
            ::close(descriptor_);
        descriptor_ = -1;
    }

    int descriptor_;
    struct stat status_;
};

} // namespace

Safetensors Safetensors::open(const std::string &path)
{
    const auto file = std::make_shared<const OpenFile>(path);
    const Reader reader = [file](uint64_t begin, uint8_t *bytes, uint64_t size) { file->read(begin, bytes, size); };
    return parse(reader, file->size(), path);
}

std::vector<uint8_t> Safetensors::read(const Tensor &tensor) const
{
    std::vector<uint8_t> data(tensor.num_bytes);
    try {
        reader_(tensor.begin, data.data(), tensor.num_bytes);
    } catch (const UsageError &error) {
        throw UsageError(path_ + ": tensor " + quoted(tensor.name) + ": " + error.what());
    }
    return data;
}

void Safetensors::for_each_chunk(const std::function<void(std::vector<uint8_t> *)> &fn) const
{
    const uint64_t most = 1 << 20;
    for (uint64_t begin = 0, size = header_size_; begin < size_; begin += size, size = std::min(most, size_ - begin)) {
        std::vector<uint8_t> chunk(size);
        try {
            reader_(begin, chunk.data(), size);
        } catch (const UsageError &error) {
            throw UsageError(path_ + ": " + error.what());
        }
        fn(&chunk);
    }
}

const Safetensors::Tensor *Safetensors::find(const std::string &name) const
{
    auto at = tensors_.find(name);
    return at == tensors_.end() ? nullptr : &at->second;
}

const Safetensors::Tensor &Safetensors::get(const std::string &name) const
{
    const Tensor *tensor = find(name);
    if (!tensor)
        throw UsageError(path_ + ": has no tensor " + quoted(name));
    return *tensor;
}

void SafetensorsWriter::add(const std::string &name, Dtype dtype, const std::vector<int64_t> &shape, const void *data)
{
    size_t size = dtype_size(dtype);
    for (int64_t one : shape)
        size *= size_t(one);
    for (const Entry &entry : entries_)
        if (entry.name == name || name == "__metadata__")
            throw std::logic_error("a second tensor " + name);
    entries_.push_back({name, dtype, shape, std::string(static_cast<const char *>(data), size)});
}

std::string SafetensorsWriter::bytes() const
{
    /* Wide elements first: with a header of a multiple of 8 bytes every tensor lies at its alignment. */
    std::vector<const Entry *> order;
    for (const Entry &entry : entries_)
        order.push_back(&entry);
    std::stable_sort(order.begin(), order.end(),
                     [](const Entry *a, const Entry *b) { return dtype_size(a->dtype) > dtype_size(b->dtype); });

    Json header(json_object());
    if (!metadata_.empty()) {
        json_t *object = json_object();
        json_put(header.get(), "__metadata__", object);
        for (const auto &[name, value] : metadata_)
            json_put(object, name.c_str(), json_string(value.c_str()));
    }
    std::string data;
    for (const Entry *entry : order) {
        json_t *object = json_object(), *shape = json_array(), *offsets = json_array();
        json_put(header.get(), entry->name.c_str(), object);
        json_put(object, "dtype", json_string(dtype_name(entry->dtype)));
        json_put(object, "shape", shape);
        for (int64_t size : entry->shape)
            json_array_append_new(shape, json_integer(size));
        json_put(object, "data_offsets", offsets);
        json_array_append_new(offsets, json_integer(json_int_t(data.size())));
        data += entry->data;
        json_array_append_new(offsets, json_integer(json_int_t(data.size())));
    }
    std::unique_ptr<char, decltype(&std::free)> dumped(json_dumps(header.get(), JSON_COMPACT), &std::free);
    if (!dumped)
        throw std::bad_alloc();
    std::string text = dumped.get();
    text.append((8 - text.size() % 8) % 8, ' ');
    std::string length;
    for (int i = 0; i < 8; i++)
        length += char(text.size() >> (8 * i));
    return length + text + data;
}
