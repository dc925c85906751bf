/* SPDX-License-Identifier: Apache-2.0
 * Stacks that one thread of the process switches between.
 */
#ifndef HATTN_TESTS_SIMT_FIBER_H
#define HATTN_TESTS_SIMT_FIBER_H

#include <cstddef>

namespace simt {

/* Between two guard pages. A sanitizer's frames are larger. */
class Stack
{
public:
    Stack();
    ~Stack();
    Stack(const Stack &) = delete;
    Stack &operator=(const Stack &) = delete;

    char *low() const { return low_; }
    char *high() const { return low_ + kSize; }

#ifdef __SANITIZE_ADDRESS__
    static constexpr size_t kSize = 512 << 10;
#else
    static constexpr size_t kSize = 64 << 10;
#endif

private:
    char *low_;
};

/* What runs on a stack; without one, the thread's own. */
class Fiber
{
public:
    /* The next switch to it calls entry, which must not return. */
    void start(const Stack &stack, void (*entry)());

    /* Stops `from`, which is running, and goes on with this one. */
    void go_on(Fiber &from);

    /* By entry, first of all. */
    static void arrived();

    /* What runs is over: after it nothing switches to it again. */
    void end() { is_over_ = true; }

private:
    void *sp_ = nullptr;
    const Stack *stack_ = nullptr;
    bool is_over_ = false;
#ifdef __SANITIZE_ADDRESS__
    void *fake_stack_ = nullptr;
    const void *bottom_ = nullptr; /* of the thread's own */
    size_t size_ = 0;
#endif
};

} // namespace simt

#endif
