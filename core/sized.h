/* SPDX-License-Identifier: Apache-2.0
 * For the C++ programs around the library: what HATTN_STRUCT is to C.
 */
#ifndef HATTN_CORE_SIZED_H
#define HATTN_CORE_SIZED_H

#include <cstdint>

/* A struct with a struct_size, zeroed but for it. */
template <typename Struct>
Struct sized()
{
    Struct value = {};
    value.struct_size = uint32_t(sizeof(value));
    return value;
}

#endif
