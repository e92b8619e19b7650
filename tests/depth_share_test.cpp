// How work groups share the depth of tiles: what is chosen keeps every limit, and the arithmetic of
// shaders/share_depth.glsl, replayed here, covers every step of every tile once. No driver is needed.
#include "gl/depth_share.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "gl/variants.hpp"

namespace convrt::gl {
namespace {

GlInfo card(int processors) {
  GlInfo info;
  info.vendor = Vendor::nvidia;
  info.compute_units = processors;
  info.limits.max_groups = {65535, 65535, 1};
  info.limits.max_block_bytes = 1U << 30U;
  return info;
}

Blocking blocking(int filters, int pixels, int invocations) {
  return {.filters = filters, .pixels = pixels, .depth = 8, .invocations = invocations, .shares = true};
}

// shaders/share_depth.glsl.
struct Shader {
  Shader(const DepthShare& share, const TileGrid& of) : grid(of) {
    std::vector<std::uint32_t> words;
    append(words, share, grid);
    whole = words.at(0);
    length = words.at(1);
    extra = words.at(2);
  }
  std::int64_t begin(std::int64_t index) const { return index * length + std::min(index, extra); }
  std::int64_t with(std::int64_t step) const {
    const std::int64_t in_longer = extra * (length + 1);
    return step < in_longer ? step / (length + 1) : extra + (step - in_longer) / length;
  }
  std::int64_t slot(std::int64_t index, std::int64_t first_step) const {
    return 2 * index + (begin(index) < first_step ? 1 : 0);
  }
  TileGrid grid;
  std::int64_t whole = 0, length = 0, extra = 0;
};

// Every step of every shared tile is in one stretch, which first .. last of its tile name; no two parts of tiles share
// a place for their sums.
void expect_covered(const DepthShare& share, const TileGrid& grid) {
  const Shader shader(share, grid);
  ASSERT_EQ(shader.whole, share.whole);
  const std::int64_t steps = (grid.tiles - share.whole) * grid.steps;
  ASSERT_EQ(shader.begin(share.stretches), steps);
  std::set<std::int64_t> slots;
  for (std::int64_t index = 0; index < share.stretches; ++index) {
    const std::int64_t begin = shader.begin(index), end = shader.begin(index + 1);
    ASSERT_LT(begin, end);
    ASSERT_EQ(shader.with(begin), index);
    ASSERT_EQ(shader.with(end - 1), index);
    for (std::int64_t at = begin; at < end;) {  // as multiply_tiles() goes from tile to tile
      const std::int64_t tile = at / grid.steps, next = std::min(end, (tile + 1) * grid.steps);
      if (next - at < grid.steps) {
        ASSERT_GE(index, shader.with(tile * grid.steps));
        ASSERT_LE(index, shader.with((tile + 1) * grid.steps - 1));
        const std::int64_t slot = shader.slot(index, tile * grid.steps);
        ASSERT_LT(slot, 2 * share.stretches);
        ASSERT_TRUE(slots.insert(slot).second);
      }
      at = next;
    }
  }
}

TEST(DepthShare, StretchesCoverEveryStepOnce) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (int i = 0; i < 2000; ++i) {
    const TileGrid grid = {pick(1, 60), pick(1, 40)};
    const std::int64_t whole = pick(0, grid.tiles - 1);
    expect_covered({whole, pick(1, (grid.tiles - whole) * grid.steps)}, grid);
    if (HasFatalFailure()) return;
  }
}

TEST(DepthShare, ChoiceKeepsEveryLimitAndIsNotWorseThanWholeTiles) {
  int shared = 0, mixed = 0;
  for (const int processors : {1, 3, 16, 132})
    for (const Blocking& b : {blocking(128, 64, 128), blocking(64, 64, 128), blocking(32, 32, 64)})
      for (const std::int64_t tiles : {1, 2, 15, 100, 140, 391, 800, 5000, 100000})
        for (const std::int64_t steps : {1, 3, 8, 64, 300}) {
          GlInfo info = card(processors);
          info.limits.max_groups = {static_cast<std::uint32_t>(tiles + 300), 1, 1};
          info.limits.max_block_bytes = 2U << 20U;
          const TileGrid grid = {tiles, steps};
          const DepthShare share = best_share(b, info, grid);
          EXPECT_LE(gemm_cycles(b, info, grid, share), gemm_cycles(b, info, grid, {tiles, 0}));
          EXPECT_LE(share.whole + share.stretches, tiles + 300);
          EXPECT_LE(partial_floats(b, share) * 4, 2 << 20);
          if (share.stretches == 0) {
            EXPECT_EQ(share.whole, tiles);
            continue;
          }
          ++shared;
          mixed += share.whole > 0;
          EXPECT_LE(tiles - share.whole, kCounters);
          expect_covered(share, grid);
          if (HasFatalFailure()) return;
        }
  EXPECT_GT(shared, 40);
  EXPECT_GT(mixed, 5);
}

TEST(DepthShare, TilesThatFillTheDeviceStayWhole) {
  const Blocking b = blocking(128, 64, 128);
  EXPECT_EQ(best_share(b, card(132), {132 * 3, 64}).stretches, 0);
  EXPECT_EQ(best_share(b, card(132), {132 * 30, 64}).stretches, 0);
  EXPECT_GT(best_share(b, card(132), {132 * 3 + 10, 64}).stretches, 0);  // a round for ten tiles
  EXPECT_GT(best_share(b, card(132), {40, 64}).stretches, 0);
  Blocking alone = b;
  alone.shares = false;
  EXPECT_EQ(best_share(alone, card(132), {40, 64}).stretches, 0);
}

}  // namespace
}  // namespace convrt::gl
