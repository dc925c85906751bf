/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/tensor.h"

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "reference/reference.h"

namespace conformance {
namespace {

template <typename T>
T read(const void *element)
{
    T value;
    memcpy(&value, element, sizeof(value));
    return value;
}

} // namespace

const char *dtype_name(int32_t dtype)
{
    static const char *const names[] = {"f32", "f16", "bf16", "f8", "i8", "u16", "i32", "u32", "i64"};
    return names[dtype - HATTN_F32];
}

Tensor::Tensor(std::string tensor_name, int32_t type, const std::vector<int64_t> &extents, const int64_t *strides,
               Region::Side side, uint8_t fill)
    : name(std::move(tensor_name)), dtype(type), rank(static_cast<int>(extents.size()))
{
    int64_t span = 1;
    for (int i = 0; i < rank; i++) {
        extent[i] = extents[i];
        stride[i] = i + 1 < rank ? strides[i] : 1;
        span += (extent[i] - 1) * stride[i];
    }
    size_t size = num_elements() ? static_cast<size_t>(span) * dtype_size(dtype) : 0;
    memory = std::make_shared<Region>(name, size, side, fill, dtype_size(dtype));
}

Tensor Tensor::twin(const std::string &suffix, uint8_t fill) const
{
    Tensor other = *this;
    other.name = name + suffix;
    other.memory = std::make_shared<Region>(other.name, memory->size(), memory->side(), fill, dtype_size(dtype));
    return other;
}

int64_t Tensor::num_elements() const
{
    int64_t n = rank ? 1 : 0;
    for (int i = 0; i < rank; i++)
        n *= extent[i];
    return n;
}

int64_t Tensor::offset(const Index &index) const
{
    int64_t sum = 0;
    for (int i = 0; i < rank; i++)
        sum += index[i] * stride[i];
    return sum;
}

double Tensor::load(const Index &index) const { return hattn_reference_load(at(index), dtype, 0); }

void Tensor::store(const Index &index, double value) const
{
    if (dtype == HATTN_F8_E4M3)
        *at(index) = std::isnan(value) ? 0x7f : to_f8_e4m3(value);
    else
        hattn_reference_store(at(index), dtype, 0, value);
}

hattn_buffer Tensor::buffer() const
{
    if (!rank)
        return {nullptr, 0};
    const size_t distance = 256;
    return {memory->data() - distance, distance + static_cast<size_t>(first) * dtype_size(dtype)};
}

std::string Tensor::element_name(const Index &index) const
{
    std::string text = name + "[";
    for (int i = 0; i < rank; i++)
        text += (i ? "," : "") + std::to_string(index[i]);
    return text + "]";
}

std::string Tensor::element_text(const void *element) const
{
    char text[64];
    switch (dtype) {
    case HATTN_I8: return std::to_string(read<int8_t>(element));
    case HATTN_U16: return std::to_string(read<uint16_t>(element));
    case HATTN_I32: return std::to_string(read<int32_t>(element));
    case HATTN_I64: return std::to_string(read<int64_t>(element));
    case HATTN_U32: snprintf(text, sizeof(text), "0x%08" PRIx32, read<uint32_t>(element)); return text;
    default: break;
    }
    double value = hattn_reference_load(element, dtype, 0);
    snprintf(text, sizeof(text), "%.9g", std::isnan(value) ? std::fabs(value) : value); /* NaN without its sign */
    return text;
}

uint8_t to_f8_e4m3(double value)
{
    /* Codes 0..0x7e are 0..448 in rising order; 0x7f is NaN. */
    static const std::array<double, 0x7f> values = [] {
        std::array<double, 0x7f> table;
        for (int code = 0; code < 0x7f; code++) {
            uint8_t byte = static_cast<uint8_t>(code);
            table[code] = hattn_reference_load(&byte, HATTN_F8_E4M3, 0);
        }
        return table;
    }();
    double magnitude = std::fmin(std::fabs(value), 448);
    int low = 0, high = 0x7e;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        (values[middle] <= magnitude ? low : high) = middle;
    }
    double below = magnitude - values[low], above = values[high] - magnitude;
    int nearest = below < above ? low : above < below ? high : low % 2 ? high : low;
    return static_cast<uint8_t>(nearest | (std::signbit(value) ? 0x80 : 0));
}

} // namespace conformance
