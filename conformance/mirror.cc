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

Region *Mirror::region_of(hattn_buffer here)
{
    Region *region = find_region(static_cast<const uint8_t *>(here.data) + here.byte_offset);
    if (!region)
        throw std::runtime_error("a buffer in no tensor");
    return region;
}

void Mirror::send(const Region &region, uint8_t *address) const
{
    std::vector<uint8_t> bytes(GUARD + region.size(), 0xAA);
    std::copy_n(region.data(), region.size(), bytes.begin() + GUARD);
    memory_of(region).write(address, bytes.data(), bytes.size());
}

hattn_buffer Mirror::there(hattn_buffer here)
{
    if (!here.data)
        return here;
    Region *region = region_of(here);
    auto [place, is_new] = copies_.emplace(region, nullptr);
    if (is_new) {
        place->second = static_cast<uint8_t *>(memory_of(*region).allocate(GUARD + region->size()));
        send(*region, place->second);
    }
    /* The offset stays, so that ignoring it shows. */
    return memory_of(*region).buffer(place->second + GUARD + (static_cast<const uint8_t *>(here.data) - region->data()),
                                     here.byte_offset);
}

void Mirror::refresh(hattn_buffer here) const
{
    const auto place = copies_.find(region_of(here));
    if (place != copies_.end())
        send(*place->first, place->second);
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
