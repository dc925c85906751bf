/* SPDX-License-Identifier: Apache-2.0
 * splitmix64: every word from its own counter, so that threads fill their pieces in any order.
 */
#ifndef HATTN_DEVICES_RANDOM_WORD_H
#define HATTN_DEVICES_RANDOM_WORD_H

#include <cstdint>

#ifdef __CUDACC__
#define HATTN_ON_BOTH __host__ __device__
#else
#define HATTN_ON_BOTH
#endif

namespace devices {

HATTN_ON_BOTH inline uint64_t mixed(uint64_t counter)
{
    uint64_t z = counter * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

HATTN_ON_BOTH inline uint64_t random_word(uint64_t seed, uint64_t i) { return mixed(mixed(seed) + i); }

} // namespace devices
#endif
