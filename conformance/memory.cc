/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/memory.h"

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>

#include <sys/mman.h>
#include <unistd.h>

namespace conformance {
namespace {

/* All regions by the start of their mapping. Regions are made and destroyed by one thread, while nothing runs. Never
 * destroyed itself: regions in other static objects may live longer. */
std::map<uintptr_t, Region *> &regions()
{
    static auto *const all = new std::map<uintptr_t, Region *>;
    return *all;
}

size_t page_size()
{
    static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

thread_local sigjmp_buf *jump = nullptr;
char fault_text[512], fault_context[512];

/* No allocation: a signal handler runs this. */
void describe(uintptr_t address)
{
    auto after = regions().upper_bound(address);
    const Region *region = after == regions().begin() ? nullptr : (--after)->second;
    uintptr_t data = region ? reinterpret_cast<uintptr_t>(region->data()) : 0;
    if (!region || address >= reinterpret_cast<uintptr_t>(region->end()) + page_size())
        snprintf(fault_text, sizeof(fault_text), "memory fault at %#zx, in no tensor", static_cast<size_t>(address));
    else if (address >= data + region->size())
        snprintf(fault_text, sizeof(fault_text), "touched %s: byte %zu past its end", region->name().c_str(),
                 static_cast<size_t>(address - data - region->size()));
    else if (address < data)
        snprintf(fault_text, sizeof(fault_text), "touched %s: byte %zu before its start", region->name().c_str(),
                 static_cast<size_t>(data - address));
    else
        snprintf(fault_text, sizeof(fault_text), "wrote to %s, an input: byte %zu", region->name().c_str(),
                 static_cast<size_t>(address - data));
}

void on_fault(int, siginfo_t *info, void *)
{
    describe((uintptr_t)info->si_addr);
    if (jump)
        siglongjmp(*jump, 1);
    const char *parts[] = {"\n", fault_context, ": ", fault_text, "\n"};
    for (const char *part : parts)
        if (write(STDERR_FILENO, part, strlen(part)) < 0)
            break;
    _exit(1);
}

} // namespace

Region::Region(std::string name, size_t size, Side side, uint8_t byte, size_t alignment)
    : name_(std::move(name)), size_(size), side_(side)
{
    accessible_ = (size + page_size() - 1) / page_size() * page_size();
    mapped_ = accessible_ + 2 * page_size();
    void *mapping = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        throw std::bad_alloc();
    mapping_ = static_cast<uint8_t *>(mapping);
    begin_ = mapping_ + page_size();
    data_ = side == AT_START ? begin_ : begin_ + (accessible_ - size) / alignment * alignment;
    protect(true);
    fill(byte);
    regions()[reinterpret_cast<uintptr_t>(mapping_)] = this;
}

Region::~Region()
{
    regions().erase(reinterpret_cast<uintptr_t>(mapping_));
    munmap(mapping_, mapped_);
}

void Region::fill(uint8_t byte)
{
    if (accessible_)
        memset(begin_, byte, accessible_);
}

void Region::protect(bool writable)
{
    if (accessible_ && mprotect(begin_, accessible_, writable ? PROT_READ | PROT_WRITE : PROT_READ))
        throw std::bad_alloc();
    writable_ = writable;
}

Region *find_region(const void *address)
{
    auto after = regions().upper_bound(reinterpret_cast<uintptr_t>(address));
    Region *region = after == regions().begin() ? nullptr : (--after)->second;
    return region && static_cast<const uint8_t *>(address) <= region->end() ? region : nullptr;
}

std::string run_guarded(const std::string &context, bool recover, const std::function<void()> &fn)
{
    struct sigaction action = {}, old_segv, old_bus;
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    snprintf(fault_context, sizeof(fault_context), "%s", context.c_str());
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
    std::string result;
    sigjmp_buf here;
    if (sigsetjmp(here, 1) == 0) {
        jump = recover ? &here : nullptr;
        fn();
    } else {
        result = fault_text;
    }
    jump = nullptr;
    sigaction(SIGSEGV, &old_segv, nullptr);
    sigaction(SIGBUS, &old_bus, nullptr);
    return result;
}

} // namespace conformance
