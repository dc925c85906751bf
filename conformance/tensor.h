/* SPDX-License-Identifier: Apache-2.0
 * A tensor of a problem in memory of its own: dtype, extents, strides in elements.
 */
#ifndef HATTN_CONFORMANCE_TENSOR_H
#define HATTN_CONFORMANCE_TENSOR_H

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "api/hattn.h"
#include "conformance/memory.h"
#include "core/dtype.h"

namespace conformance {

inline size_t dtype_size(int32_t dtype) { return size_t(hattn_dtype_size(dtype)); }
const char *dtype_name(int32_t dtype);

using Index = std::array<int64_t, 4>; /* unused dimensions 0 */

struct Tensor {
    std::string name;
    int32_t dtype = 0;
    int rank = 0; /* 0: there is no such tensor; its buffer is null */
    Index extent = {}, stride = {};
    int64_t first = 0; /* element of the memory, which may be another tensor's */
    std::shared_ptr<Region> memory;

    Tensor() = default;
    /* extents: outermost first; strides of all but the last. */
    Tensor(std::string name, int32_t dtype, const std::vector<int64_t> &extents, const int64_t *strides,
           Region::Side side, uint8_t fill);

    /* Same shape, own memory. */
    Tensor twin(const std::string &suffix, uint8_t fill) const;

    explicit operator bool() const { return rank > 0; }
    int64_t num_elements() const;
    int64_t offset(const Index &index) const;
    uint8_t *at(const Index &index) const
    {
        return memory->data() + (first + offset(index)) * static_cast<int64_t>(dtype_size(dtype));
    }
    template <typename T>
    T &value(const Index &index) const
    {
        return *reinterpret_cast<T *>(at(index));
    }
    double load(const Index &index) const;
    void store(const Index &index, double value) const;

    /* What the library is given. The offset is never 0, so that ignoring it shows. */
    hattn_buffer buffer() const;

    /* Calls fn(index) for every element, the last dimension innermost. */
    template <typename Fn>
    void for_each(Fn fn) const
    {
        if (!rank || !num_elements())
            return;
        for (Index index = {};;) {
            fn(static_cast<const Index &>(index));
            int dim = rank - 1;
            while (dim >= 0 && ++index[dim] == extent[dim])
                index[dim--] = 0;
            if (dim < 0)
                return;
        }
    }

    std::string element_name(const Index &index) const; /* "out[2,1,57]" */
    std::string element_text(const void *element) const;
};

/* Nearest e4m3 value of a finite number, ties to even, clamped to +-448. */
uint8_t to_f8_e4m3(double value);

} // namespace conformance
#endif
