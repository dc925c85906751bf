/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/simt/fiber.h"

#include <cstdint>
#include <new>

#include <sys/mman.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

/* Keeps the registers that a call keeps on this stack and its pointer in *from, and takes those of the stack `to`. */
extern "C" void hattn_simt_switch(void **from, void *to);

#ifdef __x86_64__
asm(".text\n"
    ".type hattn_simt_switch,@function\n"
    "hattn_simt_switch:\n"
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp,(%rdi)\n"
    "mov %rsi,%rsp\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
    "ret\n"
    ".size hattn_simt_switch,.-hattn_simt_switch\n");
static const int ENTRY = 6, WORDS = 8; /* below the top: registers, the entry, nowhere to return to */
#elif defined(__aarch64__)
asm(".text\n"
    ".type hattn_simt_switch,@function\n"
    "hattn_simt_switch:\n"
    "sub sp,sp,#160\n"
    "stp x19,x20,[sp]\n stp x21,x22,[sp,#16]\n stp x23,x24,[sp,#32]\n stp x25,x26,[sp,#48]\n"
    "stp x27,x28,[sp,#64]\n stp x29,x30,[sp,#80]\n"
    "stp d8,d9,[sp,#96]\n stp d10,d11,[sp,#112]\n stp d12,d13,[sp,#128]\n stp d14,d15,[sp,#144]\n"
    "mov x9,sp\n str x9,[x0]\n"
    "mov sp,x1\n"
    "ldp x19,x20,[sp]\n ldp x21,x22,[sp,#16]\n ldp x23,x24,[sp,#32]\n ldp x25,x26,[sp,#48]\n"
    "ldp x27,x28,[sp,#64]\n ldp x29,x30,[sp,#80]\n"
    "ldp d8,d9,[sp,#96]\n ldp d10,d11,[sp,#112]\n ldp d12,d13,[sp,#128]\n ldp d14,d15,[sp,#144]\n"
    "add sp,sp,#160\n"
    "ret\n"
    ".size hattn_simt_switch,.-hattn_simt_switch\n");
static const int ENTRY = 11, WORDS = 20; /* x30 is where it returns to */
#else
#error "no stack switch for this processor"
#endif

namespace simt {
namespace {

#ifdef __SANITIZE_ADDRESS__
Fiber *left = nullptr; /* by the last switch */
#endif

size_t page_size() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

} // namespace

Stack::Stack()
{
    const size_t page = page_size();
    void *mapping =
        mmap(nullptr, kSize + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (mapping == MAP_FAILED)
        throw std::bad_alloc();
    low_ = static_cast<char *>(mapping) + page;
    if (mprotect(low_, kSize, PROT_READ | PROT_WRITE))
        throw std::bad_alloc();
}

Stack::~Stack()
{
    const size_t page = page_size();
    munmap(low_ - page, kSize + 2 * page);
}

void Fiber::start(const Stack &stack, void (*entry)())
{
    *this = Fiber();
    stack_ = &stack;
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(stack.low(), Stack::kSize); /* frames that were left there by an error */
#endif
    void **sp = reinterpret_cast<void **>(stack.high()) - WORDS;
    for (int i = 0; i < WORDS; i++)
        sp[i] = nullptr;
    sp[ENTRY] = reinterpret_cast<void *>(entry);
    sp_ = sp;
}

void Fiber::go_on(Fiber &from)
{
#ifdef __SANITIZE_ADDRESS__
    left = &from;
    __sanitizer_start_switch_fiber(from.is_over_ ? nullptr : &from.fake_stack_, stack_ ? stack_->low() : bottom_,
                                   stack_ ? Stack::kSize : size_);
    hattn_simt_switch(&from.sp_, sp_);
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(from.fake_stack_, &bottom, &size);
    if (left && !left->stack_)
        left->bottom_ = bottom, left->size_ = size;
#else
    hattn_simt_switch(&from.sp_, sp_);
#endif
}

void Fiber::arrived()
{
#ifdef __SANITIZE_ADDRESS__
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (left && !left->stack_)
        left->bottom_ = bottom, left->size_ = size;
#endif
}

} // namespace simt
