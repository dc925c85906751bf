/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/simt/engine.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "tests/simt/fiber.h"
#include "tests/simt/shared.h"

namespace simt {

const Indices *current = nullptr;

namespace {

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
};

struct Wave {
    Warp warps[2];
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

Engine engine;

Lane &running() { return *static_cast<Lane *>(const_cast<Indices *>(current)); }

void Engine::lane_main()
{
    Fiber::arrived();
    (*engine.lane_)();
    Lane &lane = running();
    const uint64_t bit = uint64_t(1) << lane.number;
    lane.wave->ready &= ~bit;
    lane.wave->alive &= ~bit;
    lane.home->num_alive--;
    lane.fiber.end();
    for (;;)
        engine.leave(lane);
}

void Engine::start(Block &block, Size index, Size grid, int threads)
{
    const int num_waves = (threads + config.wave - 1) / config.wave;
    block.lanes.resize(static_cast<size_t>(threads));
    block.waves.resize(static_cast<size_t>(num_waves));
    while (block.stacks.size() < block.lanes.size())
        block.stacks.push_back(std::make_unique<Stack>());
    for (int w = 0; w < num_waves; w++) {
        Wave &wave = block.waves[static_cast<size_t>(w)];
        wave.lanes = &block.lanes[static_cast<size_t>(w * config.wave)];
        wave.num_lanes = std::min(config.wave, threads - w * config.wave);
        wave.ready = wave.alive = ~uint64_t(0) >> (64 - wave.num_lanes);
        wave.at_barrier = 0;
        wave.warps[0].here = wave.warps[1].here = 0;
    }
    for (int t = 0; t < threads; t++) {
        Lane &lane = block.lanes[static_cast<size_t>(t)];
        lane.thread = {static_cast<unsigned>(t), 0, 0};
        lane.block = index;
        lane.grid = grid;
        lane.home = &block;
        lane.wave = &block.waves[static_cast<size_t>(t / config.wave)];
        lane.number = t % config.wave;
        lane.meetings = 0;
        lane.copies.clear();
        lane.groups = 0;
        lane.looks = 0;
        lane.fiber.start(*block.stacks[static_cast<size_t>(t)], lane_main);
    }
    block.num_alive = threads;
    block.num_at_barrier = 0;
    block.later.clear();
    block.is_running = true;
    block.shared.resize(shared_.size);
    make_current(nullptr);
    shared_.fill(random());
    loaded_ = &block;
    totals.blocks++;
}

/* Brings a block's shared memory to where its lanes find it. */
void Engine::make_current(Block *block)
{
    if (loaded_ == block)
        return;
    if (loaded_)
        shared_.save(loaded_->shared.data());
    if (block) {
        shared_.load(block->shared.data());
        totals.switches++;
    }
    loaded_ = block;
}

void Engine::release(Wave &wave, int half)
{
    wave.ready |= static_cast<uint64_t>(wave.warps[half].here) << 32 * half;
    wave.warps[half].here = 0;
    totals.meetings++;
}

/* Nobody of a wave can go on: those of a warp that are all here can, both warps of a wave together where they meet at one
 * place. */
bool Engine::settle(Wave &wave)
{
    bool is_whole[2];
    for (int half = 0; half < 2; half++) {
        const Warp &warp = wave.warps[half];
        is_whole[half] = warp.here == kAllLanes;
        if (is_whole[half] || !warp.here)
            continue;
        const int missing = __builtin_ctz(~warp.here);
        const uint64_t bit = uint64_t(1) << (32 * half + missing);
        fail("lane " + std::to_string(missing) + " of a warp " +
                 (wave.at_barrier & bit ? "waits for its block at " + text(wave.barrier) : "has returned") +
                 " while others are at " + warp.kind,
             warp.place);
        return false;
    }
    if (is_whole[0] && is_whole[1]) {
        if (is_same(wave.warps[0].place, wave.warps[1].place)) {
            release(wave, 0);
            release(wave, 1);
        } else {
            release(wave, static_cast<int>(random() & 1));
        }
    } else if (is_whole[0] || is_whole[1]) {
        release(wave, is_whole[1]);
    }
    return wave.ready != 0;
}

/* Until nobody of it can go on, or somebody lets others. Whether anybody did something. */
bool Engine::run_wave(Block &block, Wave &wave)
{
    if (!wave.ready && !settle(wave))
        return false;
    make_current(&block);
    do {
        const uint64_t ready = wave.ready;
        int first = is_descending_ ? 63 - __builtin_clzll(ready) : __builtin_ctzll(ready);
        const int other = static_cast<int>(random() % 64);
        if (ready >> other & 1)
            first = other;
        go_on(wave.lanes[first], conductor_);
        if (!error_.empty())
            return true;
        store_some(block.later);
    } while (!wave.ready && settle(wave) && !one_in(16));
    return true;
}

/* One wave of a block; false: all have returned. */
bool Engine::step(Block &block)
{
    const size_t num = block.waves.size(), first = random() % num;
    for (size_t i = 0; i < num; i++)
        if (run_wave(block, block.waves[(first + i) % num]) || !error_.empty())
            return true;
    if (!block.num_alive)
        return false;
    if (block.num_at_barrier != block.num_alive) {
        fail("nobody of a block can go on", {"block", static_cast<int>(block.lanes[0].block.x)});
        return true;
    }
    store_all(block.later);
    block.num_at_barrier = 0;
    for (Wave &wave : block.waves) {
        wave.ready |= wave.at_barrier;
        wave.at_barrier = 0;
    }
    return true;
}

std::string Engine::run(Size grid, int threads, size_t shared_bytes, const void *kernel,
                        const std::function<void()> &lane)
{
    if (threads < 1 || threads > 1024 || threads % kWarp || shared_bytes > kMostShared || !grid.x || !grid.y || !grid.z)
        return "a launch of " + std::to_string(threads) + " threads, " + std::to_string(shared_bytes) +
               " bytes of shared memory, grid " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
               std::to_string(grid.z);
    totals.launches++;
    state_ = (config.seed + 1) * 0x9e3779b97f4a7c15u ^ totals.launches;
    for (int i = 0; i < 4; i++)
        random();
    is_descending_ = random() & 1;
    error_.clear();
    lane_ = &lane;
    loaded_ = nullptr;
    shared_ = shared_memory(kernel, shared_bytes);
    const uint64_t num_blocks = uint64_t(grid.x) * grid.y * grid.z;
    const size_t resident = config.resident ? static_cast<size_t>(config.resident) : 1 + random() % kMostResident;
    while (blocks_.size() < resident)
        blocks_.push_back(std::make_unique<Block>());
    for (const auto &block : blocks_)
        block->is_running = false;
    std::vector<uint32_t> order(num_blocks);
    std::iota(order.begin(), order.end(), 0);
    if (config.seed & 1)
        for (size_t i = num_blocks; i > 1; i--)
            std::swap(order[i - 1], order[random() % i]);
    uint64_t next = 0, num_running = 0;
    size_t turn = 0;
    while (error_.empty() && (next < num_blocks || num_running)) {
        if (!one_in(4)) /* else the same again */
            turn = random() % resident;
        store_some(late_);
        Block &block = *blocks_[turn];
        if (!block.is_running) {
            if (next < num_blocks) {
                const uint32_t i = order[next++];
                start(block, {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y}, grid, threads);
                num_running++;
            }
            continue;
        }
        if (step(block))
            continue;
        make_current(&block);
        late_.insert(late_.end(), block.later.begin(), block.later.end());
        if (!shared_.is_whole())
            fail("wrote behind the dynamic shared memory", {shared_.name.c_str(), 0});
        loaded_ = nullptr;
        block.is_running = false;
        num_running--;
    }
    store_all(late_);
    return error_.empty() ? "" : error_ + ", in " + shared_.name;
}

} // namespace

void configure(const Config &config) { engine.config = config; }

Totals totals() { return engine.totals; }

std::string run(Size grid, int threads, size_t shared_bytes, const void *kernel, const std::function<void()> &lane)
{
    return engine.run(grid, threads, shared_bytes, kernel, lane);
}

void block_barrier(Place place)
{
    Lane &lane = running();
    Wave &wave = *lane.wave;
    if (wave.at_barrier && !Engine::is_same(wave.barrier, place)) {
        engine.fail("lanes of a wave wait for their block at different places, the first at " +
                        Engine::text(wave.barrier),
                    place);
        engine.abandon(lane);
    }
    const uint64_t bit = uint64_t(1) << lane.number;
    wave.barrier = place;
    wave.at_barrier |= bit;
    wave.ready &= ~bit;
    lane.home->num_at_barrier++;
    lane.looks = 0;
    engine.leave(lane);
}

const Brought *meet(const char *kind, const void *brought, size_t size, Place place)
{
    Lane &lane = running();
    Wave &wave = *lane.wave;
    Warp &warp = wave.warps[lane.number / kWarp];
    const int number = lane.number % kWarp;
    if (warp.here && (!Engine::is_same(warp.place, place) || strcmp(warp.kind, kind))) {
        engine.fail(std::string("lanes of a warp meet at different places, the first for ") + warp.kind + " at " +
                        Engine::text(warp.place) + ", lane " + std::to_string(number) + " for " + kind,
                    place);
        engine.abandon(lane);
    }
    Brought *all = warp.brought[lane.meetings++ & 1];
    memcpy(all[number].bytes, brought, size);
    warp.kind = kind;
    warp.place = place;
    warp.here |= 1u << number;
    wave.ready &= ~(uint64_t(1) << lane.number);
    lane.looks = 0;
    if (!lane.home->later.empty())
        engine.store_all(lane.home->later);
    engine.leave(lane);
    return all;
}

void maybe_switch()
{
    if (engine.one_in(16))
        engine.to_conductor(running());
}

void look(Place place)
{
    Lane &lane = running();
    engine.store_all(lane.home->later);
    if (++lane.looks > kMostLooks)
        stop("waits for what nobody writes", place);
    if (engine.one_in(4))
        engine.to_conductor(lane);
}

void store_later(uint32_t *to, uint32_t x)
{
    Lane &lane = running();
    lane.home->later.push_back({to, x});
    engine.store_some(lane.home->later);
    maybe_switch();
}

void fence() { engine.store_all(running().home->later); }

void copy_later(void *to, const void *from, size_t size)
{
    Lane &lane = running();
    lane.copies.push_back({to, from, size, lane.groups});
}

void copy_commit() { running().groups++; }

void copy_wait(int pending)
{
    Lane &lane = running();
    size_t kept = 0;
    for (const Copy &copy : lane.copies) {
        if (copy.group + static_cast<unsigned>(pending) >= lane.groups)
            lane.copies[kept++] = copy;
        else if (copy.from)
            memcpy(copy.to, copy.from, copy.size);
        else
            memset(copy.to, 0, copy.size);
    }
    lane.copies.resize(kept);
}

void stop(const char *what, Place place)
{
    engine.fail(what, place);
    engine.abandon(running());
}

} // namespace simt
