/* SPDX-License-Identifier: Apache-2.0
 * Loading of code objects, with build.py's help: the environment says where it is.
 */
#define _POSIX_C_SOURCE 200809L
#include "tests/amdgpu/module.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        return NULL;
    *size = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(*size + 1);
    if (data && fread(data, 1, *size, file) != *size)
        data = NULL;
    fclose(file);
    return data;
}

/* ---- build.py ---- */

static size_t image_size(const uint8_t *image)
{
    if (!memcmp(image, "CCOB", 4)) { /* version 2 says how long it is */
        uint16_t version;
        uint32_t size;
        memcpy(&version, image + 4, 2);
        memcpy(&size, image + 8, 4);
        return version == 2 ? size : 0;
    }
    if (!memcmp(image, "__CLANG_OFFLOAD_BUNDLE__", 24)) {
        uint64_t count, most = 0;
        memcpy(&count, image + 24, 8);
        const uint8_t *at = image + 32;
        for (uint64_t i = 0; i < count; i++) {
            uint64_t entry[3];
            memcpy(entry, at, 24);
            most = entry[0] + entry[1] > most ? entry[0] + entry[1] : most;
            at += 24 + entry[2];
        }
        return most;
    }
    if (!memcmp(image, ELFMAG, 4)) {
        Elf64_Ehdr header;
        memcpy(&header, image, sizeof(header));
        return header.e_shoff + (size_t)header.e_shnum * header.e_shentsize;
    }
    return 0;
}

static int run_builder(const char *file, const char *architecture, const char *directory)
{
    const char *python = getenv("HATTN_AMDGPU_PYTHON"), *builder = getenv("HATTN_AMDGPU_BUILDER");
    if (!python || !builder)
        return 0;
    const pid_t child = fork();
    if (!child) {
        execl(python, python, builder, file, architecture, directory, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && !status;
}

/* The folder that build.py has filled, named after what is in the image: "" if it failed. */
static void built(const uint8_t *image, char *directory, size_t size)
{
    const char *cache = getenv("HATTN_AMDGPU_CACHE"), *architecture = getenv("HATTN_AMDGPU_ARCHITECTURE");
    const size_t bytes = image_size(image);
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ image[i]) * 0x100000001b3ull;
    directory[0] = 0;
    if (!cache || !architecture || !bytes) {
        fprintf(stderr, "amdgpu: no HATTN_AMDGPU_CACHE, no HATTN_AMDGPU_ARCHITECTURE, or no code object\n");
        return;
    }
    char path[4096], bundle[4200];
    snprintf(path, sizeof(path), "%s/%s-%016llx", cache, architecture, (unsigned long long)hash);
    snprintf(bundle, sizeof(bundle), "%s.%d.bundle", path, (int)getpid());
    FILE *file = fopen(bundle, "wb");
    const int written = file && fwrite(image, 1, bytes, file) == bytes;
    if (file)
        fclose(file);
    if (written && run_builder(bundle, architecture, path))
        snprintf(directory, size, "%s", path);
    else
        fprintf(stderr, "amdgpu: build.py failed on %s\n", bundle);
    unlink(bundle);
}

/* ---- segments ---- */

static int load_segments(Module *module, const uint8_t *object)
{
    Elf64_Ehdr header;
    memcpy(&header, object, sizeof(header));
    const Elf64_Phdr *segments = (const Elf64_Phdr *)(object + header.e_phoff);
    for (int i = 0; i < header.e_phnum; i++)
        if (segments[i].p_type == PT_LOAD && segments[i].p_vaddr + segments[i].p_memsz > module->size)
            module->size = segments[i].p_vaddr + segments[i].p_memsz;
    module->size = (module->size + 4095) / 4096 * 4096;
    module->memory = aligned_alloc(4096, module->size);
    if (!module->memory)
        return 0;
    memset(module->memory, 0, module->size);
    for (int i = 0; i < header.e_phnum; i++) {
        const Elf64_Phdr *segment = &segments[i];
        if (segment->p_type != PT_LOAD || module->num_ranges == 8)
            continue;
        memcpy(module->memory + segment->p_vaddr, object + segment->p_offset, segment->p_filesz);
        const uint64_t first = (uint64_t)(uintptr_t)module->memory + segment->p_vaddr;
        module->ranges[module->num_ranges++] =
            (MemoryRange){first, first + segment->p_memsz, !(segment->p_flags & PF_W)};
    }
    return 1;
}

/* ---- index.txt ---- */

static void read_line(Module *module, char *line)
{
    unsigned long long x, y;
    uint32_t lds, scratch, bytes, rsrc1, rsrc2, properties, most;
    char name[2048];
    const uint64_t base = (uint64_t)(uintptr_t)module->memory;
    if (sscanf(line, "code %llu %llu", &x, &y) == 2) {
        module->code = base + x;
        module->code_size = y;
    } else if (sscanf(line, "relocation %llu %llu", &x, &y) == 2) {
        const uint64_t pointer = base + y;
        memcpy(module->memory + x, &pointer, 8);
    } else if (sscanf(line, "kernel %2047s %llu %u %u %u %u %u %u %u", name, &x, &lds, &scratch, &bytes, &rsrc1, &rsrc2,
                      &properties, &most) == 9) {
        module->kernels = realloc(module->kernels, (module->num_kernels + 1) * sizeof(Kernel));
        module->kernels[module->num_kernels++] = (Kernel){.module = module,
                                                          .name = strdup(name),
                                                          .entry = base + x,
                                                          .lds_size = lds,
                                                          .scratch_size = scratch,
                                                          .arguments_size = bytes,
                                                          .rsrc1 = rsrc1,
                                                          .rsrc2 = rsrc2,
                                                          .properties = properties,
                                                          .most_threads = most};
    } else if (!strncmp(line, "argument ", 9) && module->num_kernels) {
        Kernel *kernel = &module->kernels[module->num_kernels - 1];
        if (kernel->num_arguments == 64)
            return;
        Argument *argument = &kernel->arguments[kernel->num_arguments++];
        sscanf(line, "argument %u %u %39s", &argument->offset, &argument->size, argument->kind);
    } else if (!strncmp(line, "refusal ", 8)) {
        module->refusals = realloc(module->refusals, (module->num_refusals + 1) * sizeof(char *));
        module->refusals[module->num_refusals++] = strdup(line + 8);
    }
}

Module *module_load(const void *image)
{
    char directory[4096], path[4200];
    built(image, directory, sizeof(directory));
    if (!directory[0])
        return NULL;
    Module *module = calloc(1, sizeof(Module));
    size_t size;
    snprintf(path, sizeof(path), "%s/object", directory);
    uint8_t *object = read_file(path, &size);
    snprintf(path, sizeof(path), "%s/instructions.bin", directory);
    module->instructions = read_file(path, &module->num_instructions);
    snprintf(path, sizeof(path), "%s/index.txt", directory);
    char *index = read_file(path, &size);
    snprintf(path, sizeof(path), "%s/emulate.so", directory);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!object || !index || !module->instructions || !library || !load_segments(module, object)) {
        fprintf(stderr, "amdgpu: %s is not whole\n", directory);
        return NULL;
    }
    index[size] = 0;
    for (char *line = strtok(index, "\n"); line; line = strtok(NULL, "\n"))
        read_line(module, line);
    free(index);
    free(object);
    void *emulate = dlsym(library, "hattn_emulate");
    memcpy(&module->emulate, &emulate, sizeof(emulate));
    module->names = dlsym(library, "hattn_names");
    return module;
}
