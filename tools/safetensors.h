/* SPDX-License-Identifier: Apache-2.0
 * safetensors files, read strictly and written: u64 length of the header, header (JSON), raw little-endian data.
 * A file that breaks any rule of the format is refused with a text that names the tensor; nothing is allocated by what a
 * header claims. The data stays in the file until it is asked for.
 */
#ifndef HATTN_TOOLS_SAFETENSORS_H
#define HATTN_TOOLS_SAFETENSORS_H

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

enum class Dtype { F64, F32, F16, BF16, F8_E4M3, I64, I32, I8, U32, U16, U8 };

const char *dtype_name(Dtype dtype);
size_t dtype_size(Dtype dtype);
/* HATTN_F32 ..., or 0 for those that the library has no name for. */
int32_t dtype_of_library(Dtype dtype);
/* The way back: of HATTN_F32 ... */
Dtype dtype_from_library(int32_t dtype);

class Safetensors
{
public:
    struct Tensor {
        std::string name;
        Dtype dtype;
        std::vector<int64_t> shape;
        uint64_t begin; /* of its data in the file */
        uint64_t num_bytes, num_elements;
    };

    /* All of them throw UsageError: "FILE: what is wrong". parse reads memory that must outlive the object. */
    static Safetensors open(const std::string &path);
    static Safetensors parse(const void *data, size_t size, const std::string &name);

    /* The data of one of its tensors. Refused where the file has become another since it was opened. */
    std::vector<uint8_t> read(const Tensor &tensor) const;
    /* All bytes of the file in order; the first chunk is the whole header. */
    void for_each_chunk(const std::function<void(std::vector<uint8_t> *)> &fn) const;

    const std::string &path() const { return path_; }
    const std::map<std::string, Tensor> &tensors() const { return tensors_; }
    const std::map<std::string, std::string> &metadata() const { return metadata_; }
    const Tensor *find(const std::string &name) const; /* NULL: none */
    const Tensor &get(const std::string &name) const;  /* throws UsageError */

private:
    /* Copies bytes of the file, all of them or an exception. */
    using Reader = std::function<void(uint64_t begin, uint8_t *bytes, uint64_t size)>;

    static Safetensors parse(Reader reader, uint64_t size, const std::string &name);

    std::string path_;
    Reader reader_;
    uint64_t header_size_ = 0, size_ = 0;
    std::map<std::string, Tensor> tensors_;
    std::map<std::string, std::string> metadata_;
};

class SafetensorsWriter
{
public:
    void metadata(const std::string &name, const std::string &value) { metadata_[name] = value; }
    /* Copies the data. A name that is there already is a std::logic_error. */
    void add(const std::string &name, Dtype dtype, const std::vector<int64_t> &shape, const void *data);

    std::string bytes() const;

private:
    struct Entry {
        std::string name;
        Dtype dtype;
        std::vector<int64_t> shape;
        std::string data;
    };
    std::vector<Entry> entries_;
    std::map<std::string, std::string> metadata_;
};

#endif
