/* SPDX-License-Identifier: Apache-2.0
 * safetensors files, read strictly and written: u64 length of the header, header (JSON), raw little-endian data.
 * A file that breaks any rule of the format is refused with a text that names the tensor; nothing is allocated by what a
 * header claims, the data stays in the mapped file.
 */
#ifndef HATTN_TOOLS_SAFETENSORS_H
#define HATTN_TOOLS_SAFETENSORS_H

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

enum class Dtype { F64, F32, F16, BF16, F8_E4M3, I64, I32, I8, U32, U16, U8 };

const char *dtype_name(Dtype dtype);
size_t dtype_size(Dtype dtype);
/* HATTN_F32 ..., or 0 for those that the library has no name for. */
int32_t dtype_of_library(Dtype dtype);

class Safetensors
{
public:
    struct Tensor {
        std::string name;
        Dtype dtype;
        std::vector<int64_t> shape;
        const uint8_t *data; /* at any alignment */
        uint64_t num_bytes, num_elements;
    };

    /* Both throw UsageError: "FILE: what is wrong". parse reads memory that must outlive the object. */
    static Safetensors open(const std::string &path);
    static Safetensors parse(const void *data, size_t size, const std::string &name);

    const std::string &path() const { return path_; }
    const std::map<std::string, Tensor> &tensors() const { return tensors_; }
    const std::map<std::string, std::string> &metadata() const { return metadata_; }
    const Tensor *find(const std::string &name) const; /* NULL: none */
    const Tensor &get(const std::string &name) const;  /* throws UsageError */

private:
    std::string path_;
    std::shared_ptr<const void> mapping_;
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
    void write(const std::string &path) const; /* throws UsageError */

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
