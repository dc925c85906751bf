/* SPDX-License-Identifier: Apache-2.0
 * The engine's inside: blocks, waves and lanes, and who of them goes on.
 */
#ifndef HATTN_TESTS_SIMT_SCHEDULER_H
#define HATTN_TESTS_SIMT_SCHEDULER_H

#include <algorithm>
#include <memory>
#include <vector>

#include "tests/simt/engine.h"
#include "tests/simt/fiber.h"
#include "tests/simt/shared.h"

namespace simt {

constexpr int kWarp = 32, kMostResident = 4;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr int kMostLooks = 1 << 18; /* of a lane that meets nobody */

struct Wave;
struct Block;

struct Copy {
    void *to;
    const void *from;
    size_t size;
    unsigned group;
};

struct Lane : Indices {
    Fiber fiber;
    std::vector<Copy> copies; /* that have not landed */
    unsigned groups;          /* committed */
    Block *home;
    Wave *wave;
    int number; /* in the wave */
    unsigned meetings;
    int looks;
    Place looks_at;
};

struct Warp {
    Brought brought[2][kWarp]; /* of this meeting and of the one before it */
    uint32_t here;             /* lanes */
    const char *kind;
    Place place;
    bool is_of_wave; /* both warps of it have to come */
};

struct Wave {
    Warp warps[2];
    bool any, any_asked;               /* any_of_wave's last answer, and of the lanes that are at the next one */
    uint64_t ready, at_barrier, alive; /* lanes */
    Place barrier;
    Lane *lanes; /* the first */
    int num_lanes;
};

struct Later {
    uint32_t *to;
    uint32_t word;
};

struct Block {
    std::vector<Lane> lanes;
    std::vector<Wave> waves;
    std::vector<std::unique_ptr<Stack>> stacks;
    std::vector<unsigned char> shared; /* while it does not run */
    std::vector<Later> later;
    int num_alive = 0, num_at_barrier = 0;
    bool is_running = false;
};

class Engine
{
public:
    Config config;
    Totals totals = {};

    std::string run(Size grid, int threads, size_t shared_bytes, const void *kernel, const std::function<void()> &lane);

    /* ---- of the lane that runs ---- */

    /* Goes on with somebody else until this lane is ready again. */
    void leave(Lane &lane)
    {
        const uint64_t ready = lane.wave->ready;
        if (!ready) {
            to_conductor(lane);
            return;
        }
        const uint64_t after = lane.number == 63 ? 0 : ready >> (lane.number + 1) << (lane.number + 1);
        const uint64_t before = ready & ((uint64_t(1) << lane.number) - 1);
        int next;
        if (is_descending_)
            next = 63 - __builtin_clzll(before ? before : ready);
        else
            next = __builtin_ctzll(after ? after : ready);
        go_on(lane.wave->lanes[next], lane.fiber);
    }

    void to_conductor(Lane &lane) { conductor_.go_on(lane.fiber); }

    uint64_t random()
    {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_ * 0x2545f4914f6cdd1du >> 16;
    }

    bool one_in(unsigned n) { return random() % n == 0; }

    /* Of a lane that has failed: what is on its stack stays there. */
    [[noreturn]] void abandon(Lane &lane)
    {
        for (;;)
            to_conductor(lane);
    }

    void fail(const std::string &what, Place place)
    {
        if (error_.empty())
            error_ = what + " (" + text(place) + ")";
    }

    static std::string text(Place place)
    {
        const std::string file = place.file ? place.file : "?";
        return file.substr(file.rfind("kernels_") == std::string::npos ? 0 : file.rfind("kernels_")) + ":" +
               std::to_string(place.line);
    }

    static bool is_same(Place x, Place y) { return x.line == y.line && (x.file == y.file || !strcmp(x.file, y.file)); }

    static void store_all(std::vector<Later> &stores)
    {
        for (const Later &store : stores)
            __atomic_store_n(store.to, store.word, __ATOMIC_RELAXED);
        stores.clear();
    }

    /* At times, one of them; but of those to one place the first. */
    void store_some(std::vector<Later> &stores)
    {
        if (stores.empty() || !one_in(4))
            return;
        auto store = stores.begin() + static_cast<long>(random() % stores.size());
        store = std::find_if(stores.begin(), store, [&](const Later &other) { return other.to == store->to; });
        __atomic_store_n(store->to, store->word, __ATOMIC_RELAXED);
        stores.erase(store);
    }

private:
    static void lane_main();

    void go_on(Lane &lane, Fiber &from)
    {
        current = &lane;
        lane.fiber.go_on(from);
    }

    void start(Block &block, Size index, Size grid, int threads);
    bool run_wave(Block &block, Wave &wave);
    bool step(Block &block);
    void release(Wave &wave, int half);
    bool settle(Wave &wave);
    void make_current(Block *block);

    Fiber conductor_;
    std::vector<std::unique_ptr<Block>> blocks_;
    std::vector<Later> late_; /* stores of blocks that are done */
    Block *loaded_ = nullptr; /* whose shared memory is in place */
    SharedMemory shared_;
    const std::function<void()> *lane_ = nullptr;
    uint64_t state_ = 1;
    bool is_descending_ = false;
    std::string error_;
};

extern Engine engine;

/* The lane that runs. */
inline Lane &running() { return *static_cast<Lane *>(const_cast<Indices *>(current)); }

} // namespace simt

#endif
