/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/simt/scheduler.h"

#include <numeric>

namespace simt {

Engine engine;

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
        wave.any = wave.any_asked = false;
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
 * place, and nowhere else if it is a place of waves. */
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
    if (is_whole[0] && is_whole[1] && is_same(wave.warps[0].place, wave.warps[1].place)) {
        wave.any = wave.any_asked;
        wave.any_asked = false;
        release(wave, 0);
        release(wave, 1);
        return true;
    }
    const auto may_go = [&](int half) {
        return is_whole[half] && !(wave.warps[half].is_of_wave && wave.num_lanes > kWarp);
    };
    const int first = static_cast<int>(random() & 1);
    for (int half : {first, 1 - first})
        if (may_go(half)) {
            release(wave, half);
            return true;
        }
    if (is_whole[0] || is_whole[1]) {
        const Warp &warp = wave.warps[is_whole[1]], &other = wave.warps[!is_whole[1]];
        fail(std::string("a warp of a wave is at ") + warp.kind + " without the other, which " +
                 (other.here ? "is at " + text(other.place) : "waits for its block or has returned"),
             warp.place);
    }
    return false;
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

} // namespace simt
