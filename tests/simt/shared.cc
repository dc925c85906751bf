/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/simt/shared.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>

#include <elf.h>
#include <link.h>

/* What all `extern __shared__` arrays of the kernels are: one more of them is one more name here. */
extern "C" {
extern thread_local unsigned char hattn_simt_dynamic[];
alignas(256) thread_local unsigned char hattn_simt_dynamic[simt::kMostShared + 256] = {};
}
#define SAME(name) asm(".globl " name "\n.set " name ",hattn_simt_dynamic")
SAME("_ZN5hattn6sharedE");
SAME("_ZN5hattn12_GLOBAL__N_16sharedE");
SAME("_ZN5hattn12_GLOBAL__N_15partsE");
SAME("_ZN5hattn14dynamic_memoryE");
/* What initialises them, gcc thinks: those of unnamed namespaces, which it takes for a file's own, and each other.
 * There is nothing to do. */
extern "C" {
void nothing_to_do();
void nothing_to_do() {}
}
#define NOTHING(name) asm(".globl " name "\n.set " name ",nothing_to_do")
NOTHING("__tls_init");
NOTHING("_ZTHN5hattn6sharedE");
NOTHING("_ZTHN5hattn14dynamic_memoryE");

namespace simt {
namespace {

constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xc3;

struct Variable {
    std::string name;
    size_t offset, size; /* in the program's thread-local memory */
};

/* The program's symbols: functions by address, and its thread-local variables. */
struct Symbols {
    std::map<uint64_t, std::string> functions;
    std::vector<Variable> variables;
    uint64_t base = 0; /* where the program was loaded */

    Symbols();
};

struct Loaded {
    uint64_t base = 0;
    unsigned char *thread_local_memory = nullptr;
};

/* Of the program, which is the first. */
int find_loaded(dl_phdr_info *info, size_t, void *loaded)
{
    *static_cast<Loaded *>(loaded) = {info->dlpi_addr, static_cast<unsigned char *>(info->dlpi_tls_data)};
    return 1;
}

Loaded loaded()
{
    Loaded found;
    dl_iterate_phdr(find_loaded, &found);
    return found;
}

template <class T>
T at(const std::string &file, uint64_t offset)
{
    T value;
    if (offset + sizeof(value) > file.size())
        throw std::runtime_error("simt: the program's own file is not whole");
    memcpy(&value, file.data() + offset, sizeof(value));
    return value;
}

Symbols::Symbols() : base(loaded().base)
{
    std::ifstream stream("/proc/self/exe", std::ios::binary);
    const std::string file{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    const auto header = at<ElfW(Ehdr)>(file, 0);
    for (int s = 0; s < header.e_shnum; s++) {
        const auto section = at<ElfW(Shdr)>(file, header.e_shoff + static_cast<uint64_t>(s) * header.e_shentsize);
        if (section.sh_type != SHT_SYMTAB)
            continue;
        const auto names = at<ElfW(Shdr)>(file, header.e_shoff + section.sh_link * uint64_t(header.e_shentsize));
        for (uint64_t i = 0; i < section.sh_size / sizeof(ElfW(Sym)); i++) {
            const auto symbol = at<ElfW(Sym)>(file, section.sh_offset + i * sizeof(ElfW(Sym)));
            const std::string name = file.c_str() + names.sh_offset + symbol.st_name;
            if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC)
                functions[symbol.st_value] = name;
            else if (ELF64_ST_TYPE(symbol.st_info) == STT_TLS && symbol.st_size)
                variables.push_back({name, symbol.st_value, symbol.st_size});
        }
    }
}

/* The function that a variable is inside of, without its namespaces and arguments: of _ZZN5hattn3runI..., run. */
std::string function_of(const std::string &variable)
{
    std::string name;
    size_t at = 4;
    while (at < variable.size() && isdigit(variable[at])) {
        size_t length = 0;
        for (; at < variable.size() && isdigit(variable[at]); at++)
            length = 10 * length + static_cast<size_t>(variable[at] - '0');
        name = variable.substr(at, length);
        at += length;
    }
    return name;
}

/* Whether a variable inside of a function of namespace hattn is of this kernel or of what kernels call: of no other
 * kernel, whose names end in _kernel. What is called may have kernels among its template arguments. */
bool is_used(const std::string &variable, const std::string &kernel)
{
    if (variable.compare(0, 4, "_ZZN") || variable.find("5hattn") == std::string::npos)
        return false;
    const std::string function = function_of(variable), ending = "_kernel";
    const bool is_of_kernel = function.size() > ending.size() &&
                              !function.compare(function.size() - ending.size(), std::string::npos, ending);
    return !is_of_kernel || !variable.compare(3, kernel.size() - 2, kernel, 2, std::string::npos);
}

} // namespace

SharedMemory shared_memory(const void *kernel, size_t dynamic_bytes)
{
    static const Symbols symbols;
    static std::map<const void *, SharedMemory> known;
    auto found = known.find(kernel);
    if (found == known.end()) {
        const Loaded program = loaded();
        const auto function = symbols.functions.find(reinterpret_cast<uint64_t>(kernel) - program.base);
        if (function == symbols.functions.end() || function->second.find("_kernel") == std::string::npos)
            throw std::runtime_error("simt: a kernel without a symbol, or whose name does not end in _kernel");
        SharedMemory memory;
        memory.name = function->second;
        for (const Variable &variable : symbols.variables)
            if (is_used(variable.name, memory.name))
                memory.pieces.push_back({program.thread_local_memory + variable.offset, variable.size});
        found = known.emplace(kernel, memory).first;
    }
    SharedMemory memory = found->second;
    memory.pieces.push_back({hattn_simt_dynamic, dynamic_bytes + kGuard});
    for (const SharedMemory::Piece &piece : memory.pieces)
        memory.size += piece.size;
    return memory;
}

void SharedMemory::save(unsigned char *copy) const
{
    for (const Piece &piece : pieces) {
        memcpy(copy, piece.at, piece.size);
        copy += piece.size;
    }
}

void SharedMemory::load(const unsigned char *copy) const
{
    for (const Piece &piece : pieces) {
        memcpy(piece.at, copy, piece.size);
        copy += piece.size;
    }
}

void SharedMemory::fill(uint64_t seed) const
{
    for (const Piece &piece : pieces)
        for (size_t i = 0; i < piece.size; i += sizeof(uint32_t)) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            const uint32_t word = static_cast<uint32_t>(seed >> 32) | (seed >> 63 ? 0x7f800000u : 0);
            memcpy(piece.at + i, &word, std::min(sizeof(word), piece.size - i));
        }
    memset(pieces.back().at + pieces.back().size - kGuard, kGuardByte, kGuard);
}

bool SharedMemory::is_whole() const
{
    const Piece &dynamic = pieces.back();
    for (size_t i = dynamic.size - kGuard; i < dynamic.size; i++)
        if (dynamic.at[i] != kGuardByte)
            return false;
    return true;
}

} // namespace simt
