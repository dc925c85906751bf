/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/mirror.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace conformance {
namespace {

/* Bytes in front of each tensor on the device that nobody may write. */
constexpr size_t GUARD = 256;

} // namespace

Mirror::~Mirror()
{
    for (const auto &[region, address] : copies_)
        memory_of(*region).release(address);
}

const devices::Memory &Mirror::memory_of(const Region &region) const
{
    if (region.on_host() && !pinned_)
        throw std::runtime_error(region.name() + ": the backend has no pinned memory");
    return region.on_host() ? *pinned_ : memory_;
}

hattn_buffer Mirror::there(hattn_buffer here)
{
    if (!here.data)
        return here;
    const uint8_t *address = static_cast<const uint8_t *>(here.data) + here.byte_offset;
    Region *region = find_region(address);
    if (!region)
        throw std::runtime_error("a buffer in no tensor");
    auto [place, is_new] = copies_.emplace(region, nullptr);
    if (is_new) {
        std::vector<uint8_t> bytes(GUARD + region->size(), 0xAA);
        std::copy_n(region->data(), region->size(), bytes.begin() + GUARD);
        place->second = static_cast<uint8_t *>(memory_of(*region).allocate(bytes.size()));
        memory_of(*region).write(place->second, bytes.data(), bytes.size());
    }
    /* The offset stays, so that ignoring it shows. */
    return {place->second + GUARD + (address - region->data()) - here.byte_offset, here.byte_offset};
}

std::string Mirror::bring_back() const
{
    memory_.synchronize();
    std::string wrong;
    for (const auto &[region, address] : copies_) {
        std::vector<uint8_t> bytes(GUARD + region->size());
        memory_of(*region).read(bytes.data(), address, bytes.size());
        for (size_t i = 0; i < GUARD; i++)
            if (bytes[i] != 0xAA)
                wrong = "wrote before the start of " + region->name();
        if (region->writable())
            memcpy(region->data(), bytes.data() + GUARD, region->size());
        else if (memcmp(region->data(), bytes.data() + GUARD, region->size()))
            wrong = "wrote to " + region->name() + ", an input";
    }
    return wrong;
}

} // namespace conformance
