/* SPDX-License-Identifier: Apache-2.0
 * Memory between two guard pages, and what happens to those who touch the guards.
 */
#ifndef HATTN_CONFORMANCE_MEMORY_H
#define HATTN_CONFORMANCE_MEMORY_H

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace conformance {

/* begin()..end() is accessible and a whole number of pages; the payload, data()..data() + size(), lies at its end or at
 * its start. Everything is filled with one byte at first. */
class Region
{
public:
    enum Side { AT_END, AT_START };

    /* The payload of AT_END may end a few bytes early so that it starts at a multiple of alignment. */
    Region(std::string name, size_t size, Side side, uint8_t fill, size_t alignment = 1);
    ~Region();
    Region(const Region &) = delete;
    Region &operator=(const Region &) = delete;

    const std::string &name() const { return name_; }
    uint8_t *data() const { return data_; }
    size_t size() const { return size_; }
    uint8_t *begin() const { return begin_; }
    uint8_t *end() const { return begin_ + accessible_; }
    size_t accessible() const { return accessible_; }
    Side side() const { return side_; }

    void fill(uint8_t byte);
    void protect(bool writable);
    bool writable() const { return writable_; }
    /* Devices with memory of their own find it in pinned memory of the host. */
    void keep_on_host() { on_host_ = true; }
    bool on_host() const { return on_host_; }

private:
    std::string name_;
    uint8_t *mapping_, *begin_, *data_;
    size_t mapped_, accessible_, size_;
    Side side_;
    bool writable_ = true, on_host_ = false;
};

/* The region whose payload holds the address; NULL if there is none. */
Region *find_region(const void *address);

/* Calls fn. If recover, a fault of this thread inside it ends fn, and the text says which region was touched and where; ""
 * if all went well. Other faults cannot be undone, as threads would wait for ever: they print `context` and the text, and
 * end the process. */
std::string run_guarded(const std::string &context, bool recover, const std::function<void()> &fn);

} // namespace conformance
#endif
