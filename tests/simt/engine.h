/* SPDX-License-Identifier: Apache-2.0
 * A grid of blocks on one thread of the process. A lane (CUDA's thread) is a fiber and runs until it meets others: its warp of 32, or its
 * block. Waves of one warp or of two are switched between there, and at atomics and looks at what other blocks write. A seed decides about
 * all that hardware leaves open: which wave and block goes on, in which order lanes do, when a store is seen by others.
 *
 * What kernels must not do is an error with its place: lanes of a warp that meet at different places, or do not all come; waits that nobody
 * ends. One launch at a time.
 */
#ifndef HATTN_TESTS_SIMT_ENGINE_H
#define HATTN_TESTS_SIMT_ENGINE_H

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

namespace simt {

/* Whose instructions multiply matrices. MFMA is of waves of 64, WMMA of waves of 32. */
enum class Matrices { CUDA, MFMA, WMMA_GFX11, WMMA_GFX12 };

struct Config {
    int wave = 32;    /* lanes: 32 or 64 */
    int resident = 0; /* blocks that run at once; 0: the seed's choice for each launch */
    uint64_t seed = 0;
    Matrices matrices = Matrices::CUDA;
    int multiprocessors = 3; /* what a device that is opened says; few: grids are small */
};
/* Of the launches from now on. */
void configure(const Config &config);
const Config &config();

struct Size {
    unsigned x, y, z;
    constexpr Size(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

/* Calls `lane` in all lanes. kernel: the function that it calls, whose shared memory the blocks have. "" or what was wrong. */
std::string run(Size grid, int threads, size_t shared_bytes, const void *kernel, const std::function<void()> &lane);

/* What the launches of this process were, so far. */
struct Totals {
    uint64_t launches, blocks, meetings, switches /* between blocks */;
};
Totals totals();

/* ---- for kernels ---- */

struct Place {
    const char *file;
    int line;
};

inline Place here(const char *file, int line) { return {file, line}; }

/* What the dialect's functions have as their last parameter's default: the kernel's line. In a call: gcc takes the builtins of an aggregate for
 * those of the declaration. */
#define SIMT_HERE ::simt::here(__builtin_FILE(), __builtin_LINE())

struct Indices {
    Size thread, block, grid;
};
extern const Indices *current;

inline const Size &thread_index() { return current->thread; }
inline const Size &block_index() { return current->block; }
inline const Size &grid_size() { return current->grid; }

/* All lanes of the block that have not returned. */
void block_barrier(Place place);

/* What a lane brings to a meeting of its warp. */
struct alignas(16) Brought {
    unsigned char bytes[64];
};

/* Returns what all 32 lanes brought, by lane, once they are here. It is there until this lane's next meeting but one. kind: all
 * lanes name the same. */
const Brought *meet(const char *kind, const void *brought, size_t size, Place place);
/* The same, where the other warp of the wave, if there is one, has to come, too. */
const Brought *meet_in_wave(const char *kind, const void *brought, size_t size, Place place);
/* Whether a warp of this wave says yes; in waves of 32 `yes` itself. */
bool any_of_wave(bool yes, Place place);

/* Another wave may go on here. */
void maybe_switch();
/* The same of a lane that may be waiting for what others write: of one that looks too often without meeting anybody, an error. */
void look(Place place);

/* Stores words where other blocks look for them: they see it now or later, in any order until the next fence. */
void store_later(uint32_t *to, uint32_t x);
/* Everything that this lane's block stored is seen from now on. */
void fence();

/* A copy into shared memory, of zeros where there is no `from`: it is there only when its group is waited for. */
void copy_later(void *to, const void *from, size_t size);
/* Copies since the last commit are a group; wait returns when all groups but the last `pending` are there. */
void copy_commit();
void copy_wait(int pending);

/* The error of this launch, which ends here. */
[[noreturn]] void stop(const char *what, Place place);

} // namespace simt

#endif
