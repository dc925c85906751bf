/* SPDX-License-Identifier: Apache-2.0
 * A piece of a backend's memory with an owner.
 */
#ifndef HATTN_DEVICES_BUFFER_H
#define HATTN_DEVICES_BUFFER_H

#include <memory>
#include <vector>

#include "api/hattn.h"
#include "devices/memory.h"

namespace devices {

/* Aligned to 256 bytes. Empty buffers give null: "not there" to the library. */
class Buffer
{
public:
    Buffer() = default;
    /* Any content. */
    Buffer(const Memory &memory, uint64_t size)
        : data_(size ? memory.allocate(size) : nullptr, Release{&memory}), size_(size)
    {
    }
    Buffer(const Memory &memory, const void *data, uint64_t size) : Buffer(memory, size)
    {
        if (size)
            memory.write(data_.get(), data, size);
    }

    hattn_buffer at(uint64_t byte_offset = 0) const
    {
        return data_ ? data_.get_deleter().memory->buffer(data_.get(), byte_offset) : hattn_buffer{};
    }
    uint8_t *data() const { return static_cast<uint8_t *>(data_.get()); }
    uint64_t size() const { return size_; }

    /* Brought to the host, once the device is done. */
    template <typename Element>
    std::vector<Element> contents() const
    {
        std::vector<Element> elements(size_ / sizeof(Element));
        if (data_)
            data_.get_deleter().memory->read(elements.data(), data_.get(), elements.size() * sizeof(Element));
        return elements;
    }

private:
    struct Release {
        const Memory *memory;
        void operator()(void *data) const { memory->release(data); }
    };
    std::unique_ptr<void, Release> data_;
    uint64_t size_ = 0;
};

template <typename Element>
Buffer buffer_of(const Memory &memory, const std::vector<Element> &elements)
{
    return Buffer(memory, elements.data(), elements.size() * sizeof(Element));
}

} // namespace devices
#endif
