/* SPDX-License-Identifier: Apache-2.0
 * Runs a grid: some blocks at a time, their waves in an order that a seed chooses, each for a few instructions. LDS,
 * scratch and registers start with garbage.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/amdgpu/machine.h"

extern Function *const hattn_functions[];

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void fill_garbage(void *memory, size_t bytes, uint64_t *random)
{
    uint8_t *to = memory;
    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t x = next_random(random);
        memcpy(to + i, &x, bytes - i < 8 ? bytes - i : 8);
    }
}

/* ---- one wave ---- */

static void run_wave(Wave *w, uint64_t count)
{
    const Launch *launch = w->launch;
    const Inst *instructions = launch->instructions;
    for (; count && w->state == READY; count--) {
        const uint64_t offset = w->pc - launch->code;
        if (offset >= launch->code_size || offset % 4) {
            fail(w, "a jump out of the code");
            return;
        }
        const Inst *in = instructions + offset / 4;
        w->next = w->pc + in->size;
        w->clock++;
        hattn_functions[in->function](w, in);
        if (w->error[0])
            return;
        w->pc = w->next;
        if (w->yields) {
            w->yields = 0;
            return;
        }
    }
}

/* User and system registers as the kernel descriptor asks for them (AMDGPU Usage, "Initial Kernel Execution State"). */
static void start_registers(Wave *w, const uint32_t *block, uint32_t first_thread)
{
    const Launch *launch = w->launch;
    static const struct {
        int bit, words;
    } user[] = {{0, 4}, {1, 2}, {2, 2}, {3, 2}, {4, 2}, {5, 2}, {6, 1}};
    uint32_t s = 0;
    for (size_t i = 0; i < sizeof(user) / sizeof(user[0]); i++) {
        if (!(launch->properties >> user[i].bit & 1))
            continue;
        const uint64_t address = user[i].bit == 1 ? launch->dispatch : launch->kernel_arguments;
        if (user[i].bit == 1 || user[i].bit == 3) {
            w->s[s] = (uint32_t)address;
            w->s[s + 1] = (uint32_t)(address >> 32);
        } else if (user[i].bit == 6) {
            w->s[s] = launch->scratch_size;
        }
        s += (uint32_t)user[i].words; /* of others: garbage, which no kernel of ours reads */
    }
    s = launch->rsrc2 >> 1 & 31;
    for (int i = 0; i < 3; i++)
        if (launch->rsrc2 >> (7 + i) & 1)
            w->s[s++] = block[i];
    LOOP
    {
        const uint32_t t = first_thread + (uint32_t)l, x = launch->threads[0], y = launch->threads[1];
        w->v[0][l] = t % x | t / x % y << 10 | t / x / y << 20;
    }
    const uint32_t threads = launch->threads[0] * launch->threads[1] * launch->threads[2];
    const uint32_t left = threads - first_thread;
    w->exec = left >= LANES ? ALL_LANES : (1ull << left) - 1;
    w->mode = launch->rsrc1 >> 12 & 0xff;
    w->pc = launch->entry;
}

/* ---- the grid ---- */

typedef struct Grid {
    Launch *launch;
    Block *blocks;
    Wave **waves;
    uint32_t waves_of_block, resident;
    uint64_t started, count, random;
} Grid;

static void start_block(Grid *grid, uint32_t slot)
{
    const Launch *launch = grid->launch;
    Block *block = &grid->blocks[slot];
    const uint64_t number = grid->started++;
    const uint32_t at[3] = {(uint32_t)(number % launch->grid[0]),
                            (uint32_t)(number / launch->grid[0] % launch->grid[1]),
                            (uint32_t)(number / launch->grid[0] / launch->grid[1])};
    block->lds_size = launch->lds_size;
    block->waves = grid->waves_of_block;
    block->ended = block->waiting = 0;
    fill_garbage(block->lds, block->lds_size, &grid->random);
    for (uint32_t i = 0; i < grid->waves_of_block; i++) {
        Wave *w = grid->waves[slot * grid->waves_of_block + i];
        uint8_t *scratch = w->scratch;
        fill_garbage(w, sizeof(*w), &grid->random);
        w->block = block;
        w->scratch = scratch;
        w->scratch_size = launch->scratch_size;
        w->launch = launch;
        w->last = NULL;
        w->error[0] = 0;
        w->state = READY;
        w->yields = 0;
        w->scc = 0;
        w->clock = 0;
        fill_garbage(scratch, (size_t)LANES * launch->scratch_size, &grid->random);
        start_registers(w, at, i * LANES);
    }
}

static int make_grid(Grid *grid, Launch *launch)
{
    const uint32_t threads = launch->threads[0] * launch->threads[1] * launch->threads[2];
    grid->launch = launch;
    grid->waves_of_block = (threads + LANES - 1) / LANES;
    grid->count = (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2];
    grid->resident = grid->count < launch->resident ? (uint32_t)grid->count : launch->resident;
    grid->random = launch->seed;
    grid->blocks = calloc(grid->resident + 1, sizeof(Block));
    grid->waves = calloc(grid->resident * grid->waves_of_block + 1, sizeof(Wave *));
    if (!grid->blocks || !grid->waves)
        return 0;
    for (uint32_t i = 0; i < grid->resident; i++)
        if (!(grid->blocks[i].lds = malloc(launch->lds_size + 8)))
            return 0;
    for (uint32_t i = 0; i < grid->resident * grid->waves_of_block; i++) {
        Wave *w = grid->waves[i] = calloc(1, sizeof(Wave));
        if (!w || !(w->scratch = malloc((size_t)LANES * launch->scratch_size + 8)))
            return 0;
    }
    return 1;
}

static void free_grid(Grid *grid)
{
    for (uint32_t i = 0; grid->blocks && i < grid->resident; i++)
        free(grid->blocks[i].lds);
    for (uint32_t i = 0; grid->waves && i < grid->resident * grid->waves_of_block; i++) {
        if (grid->waves[i])
            free(grid->waves[i]->scratch);
        free(grid->waves[i]);
    }
    free(grid->blocks);
    free(grid->waves);
}

static const char *explain(const Grid *grid, const Wave *w)
{
    static char text[600];
    const Launch *launch = grid->launch;
    const uint64_t offset = w->pc - launch->code;
    const Inst *in = launch->instructions;
    const char *name = offset < launch->code_size ? launch->names[in[offset / 4].function] : "no code";
    snprintf(text, sizeof(text), "%s: %s (code + 0x%llx, entry + 0x%llx, seed %llu)", name, w->error,
             (unsigned long long)offset, (unsigned long long)(w->pc - launch->entry), (unsigned long long)launch->seed);
    return text;
}

static void release(Grid *grid, uint32_t slot)
{
    Block *block = &grid->blocks[slot];
    if (!block->waiting || block->waiting + block->ended < block->waves)
        return;
    block->waiting = 0;
    for (uint32_t i = 0; i < grid->waves_of_block; i++) {
        Wave *w = grid->waves[slot * grid->waves_of_block + i];
        if (w->state == AT_BARRIER)
            w->state = READY;
    }
}

static const char *run_grid(Grid *grid)
{
    Launch *launch = grid->launch;
    for (uint32_t i = 0; i < grid->resident; i++)
        start_block(grid, i);
    for (uint64_t ended = 0; ended < grid->count;) {
        const uint32_t chosen = (uint32_t)(next_random(&grid->random) % (grid->resident * grid->waves_of_block));
        Wave *w = grid->waves[chosen];
        if (w->state != READY)
            continue;
        const uint32_t slot = chosen / grid->waves_of_block;
        Block *block = &grid->blocks[slot];
        const uint64_t before = w->clock;
        run_wave(w, 1 + (next_random(&grid->random) & (next_random(&grid->random) & 1 ? 1023 : 63)));
        if (w->error[0])
            return explain(grid, w);
        launch->executed += w->clock - before;
        if (launch->executed > launch->most_instructions) {
            fail(w, "still running after %llu instructions", (unsigned long long)launch->executed);
            return explain(grid, w);
        }
        block->waiting += w->state == AT_BARRIER;
        block->ended += w->state == ENDED;
        release(grid, slot);
        if (block->ended == block->waves) {
            ended++;
            block->ended = 0; /* once */
            if (grid->started < grid->count)
                start_block(grid, slot);
        }
    }
    return NULL;
}

__attribute__((visibility("default"))) const char *hattn_emulate(Launch *launch)
{
    Grid grid = {0};
    const char *error = make_grid(&grid, launch) ? run_grid(&grid) : "no memory for the waves";
    free_grid(&grid);
    return error;
}
