/* SPDX-License-Identifier: Apache-2.0
 * The shared memory of kernels: variables of the thread of the process (language.cuh), found by their names in the program's own symbols. A
 * block that does not run keeps their content in a copy.
 */
#ifndef HATTN_TESTS_SIMT_SHARED_H
#define HATTN_TESTS_SIMT_SHARED_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace simt {

constexpr size_t kMostShared = 160 << 10; /* dynamic, of a block */

/* Pieces of memory that a kernel's blocks take turns in. */
struct SharedMemory {
    struct Piece {
        unsigned char *at;
        size_t size;
    };
    std::vector<Piece> pieces; /* the dynamic one is last, with room behind it that nobody may write */
    size_t size = 0;           /* of all of them */
    std::string name;          /* of the kernel, as the linker knows it */

    void save(unsigned char *copy) const;
    void load(const unsigned char *copy) const;
    /* Bytes of which no two words are alike, and NaN among them. */
    void fill(uint64_t seed) const;
    /* Whether nothing was written behind the dynamic memory since fill. */
    bool is_whole() const;
};

/* Of the calling thread. */
SharedMemory shared_memory(const void *kernel, size_t dynamic_bytes);

} // namespace simt

#endif
