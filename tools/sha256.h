/* SPDX-License-Identifier: Apache-2.0
 * SHA-256 (FIPS 180-4): the digest of golden files, so that any tool can check them.
 */
#ifndef HATTN_TOOLS_SHA256_H
#define HATTN_TOOLS_SHA256_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

class Sha256
{
public:
    void add(const void *data, size_t size);
    /* 64 digits of what was added; ends it. */
    std::string digits();

private:
    void add_block(const uint8_t *block);

    std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<uint8_t, 64> block_ = {};
    uint64_t size_ = 0;
};

#endif
