#include "gl/depth_share.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "gl/variants.hpp"

namespace convrt::gl {
namespace {

// Fitted to 2,400 timings on an H200: four tiles on 18 layers of ResNet-50 at N = 32 and 64 (8 % rms), eight on 23 at
// N = 1 (14 %). Of the shares timed the model prefers one that is on geomean 1 to 2 % slower than the best
// (bench/NOTES.md). Cycles and bytes are a processor's.
constexpr double kHalfRateWarps = 410;  // over an invocation's sums and the root of eighths of a step: how much there
                                        // is to do while a load is awaited
constexpr double kFewSumsPeak = 0.7, kFewSumsHalf = 0.55;  // 4x4 sums: bound by shared memory, and so by fewer warps
constexpr double kStoreCycles = 0.11;                      // an element of a tile
constexpr double kArriveCycles = 5600;                     // count up, see who is last
constexpr double kReadBytes = 24, kWriteBytes = 13;  // a cycle: the last of a tile reads; all write at about one time
constexpr double kTextCycles = 4;                    // a multiply-add of the kernel's text, on NVIDIA (gl_floor)
constexpr double kGroupSharedBytes = 1024;           // that a work group takes beyond what it declares
constexpr std::int64_t kLeastSteps = 4;              // of a stretch
constexpr double kWorthIt = 0.98;  // of the time with whole tiles: less is within what the model knows

// Work groups that a processor holds at a time, the least and the most that their registers may allow: up to 128 for
// 8x8 sums, 100 to 128 for 8x4. NVIDIA's driver gives all groups of a processor together the shared memory that one may
// have, 48 KiB: three of 12, five of 8 (measured; each number of groups more starts a second round).
struct Resident {
  double least, most;
};
Resident resident_groups(const Blocking& b, const GlInfo& info) {
  if (info.software) return {1, 1};
  const double sums = static_cast<double>(b.filters) * b.pixels / b.invocations;
  const double by_shared = info.limits.max_shared_bytes / (b.shared_bytes + kGroupSharedBytes);
  const auto of = [&](double registers) {
    return std::clamp(std::floor(std::min(65536 / registers / b.invocations, by_shared)), 1.0, 32.0);
  };
  if (sums < 32) return {of(80), of(64)};
  if (sums < 64) return {of(128), of(100)};
  return {of(128), of(128)};
}

// One processor's work: whole tiles, then stretches. Groups that run together share it evenly, at a rate that grows
// with their number; what they do before their first multiply-add and after their last is hidden by the others.
class Processor {
 public:
  Processor(const Blocking& b, double resident) : resident_(resident) {
    const double sums = static_cast<double>(b.filters) * b.pixels / b.invocations;
    warps_ = b.invocations / 32.0;
    half_ = kHalfRateWarps / (sums * std::sqrt(b.depth / 8.0)) * (sums < 32 ? kFewSumsHalf : 1);
    peak_ = sums < 32 ? kFewSumsPeak : 1;
  }

  double cycles(double tiles, double tile, double stretches, double stretch) const {
    const double rounds = std::floor(tiles / resident_);
    double cycles = rounds * resident_ * tile / rate(resident_);
    double rest = tiles - rounds * resident_, left = tile;  // tiles beside which stretches run, and work left of each
    while (rest > 0 || stretches > 0) {
      const double beside = std::min(stretches, resident_ - rest), groups = rest + beside;
      double now = left;  // until a tile or a stretch is done
      if (beside > 0 && (rest == 0 || stretch < left)) now = stretch;
      cycles += now * groups / rate(groups);
      if (rest > 0 && (left -= now) <= 0) rest = 0;
      if (beside > 0) {
        if (now >= stretch)
          stretches -= beside;
        else  // what is left of those that have begun counts as so many whole ones
          stretches -= beside * now / stretch;
      }
      if (stretches < 1e-6) stretches = 0;
    }
    return cycles;
  }

  // Of the peak.
  double rate(double groups) const { return peak_ * groups * warps_ / (groups * warps_ + half_); }

 private:
  double resident_, warps_ = 0, half_ = 0, peak_ = 1;
};

}  // namespace

int processors(const GlInfo& info) { return info.compute_units > 0 ? info.compute_units : info.software ? 2 : 16; }

double full_rate(const Blocking& b, const GlInfo& info) {
  const Resident resident = resident_groups(b, info);
  return (Processor(b, resident.least).rate(resident.least) + Processor(b, resident.most).rate(resident.most)) / 2;
}

double gemm_cycles(const Blocking& b, const GlInfo& info, const TileGrid& grid, const DepthShare& share) {
  const double area = static_cast<double>(b.filters) * b.pixels, step = area * b.depth / 128;
  const double store = area * kStoreCycles, tile = static_cast<double>(grid.steps) * step + store;
  const auto a_processor = [&](std::int64_t groups) {
    return std::ceil(static_cast<double>(groups) / processors(info));
  };
  const auto shared = static_cast<double>(grid.tiles - share.whole), stretches = static_cast<double>(share.stretches);
  double stretch = 0, arrive = 0;
  if (share.stretches > 0) {
    // Of tiles: where tiles and stretches end at one place, a piece less.
    const double pieces = shared + stretches - static_cast<double>(std::gcd(grid.tiles - share.whole, share.stretches));
    stretch = shared * static_cast<double>(grid.steps) / stretches * step + pieces / stretches * store;
    arrive =
        kArriveCycles + pieces / shared * area * 4 / kReadBytes + pieces * area * 4 / kWriteBytes / processors(info);
  }
  const auto with = [&](double resident) {
    return Processor(b, resident).cycles(a_processor(share.whole), tile, a_processor(share.stretches), stretch);
  };
  const Resident resident = resident_groups(b, info);
  double cycles = (with(resident.least) + with(resident.most)) / 2 + arrive;
  if (info.vendor == Vendor::nvidia) cycles += kTextCycles * b.text;
  return cycles;
}

DepthShare best_share(const Blocking& b, const GlInfo& info, const TileGrid& grid) {
  DepthShare best = {grid.tiles, 0};
  if (!b.shares || grid.tiles == 0) return best;
  double least = kWorthIt * gemm_cycles(b, info, grid, best);
  const std::int64_t launch = std::int64_t{info.limits.max_groups[0]} * info.limits.max_groups[1];
  const auto consider = [&](const DepthShare& share) {
    const std::int64_t shared = grid.tiles - share.whole;
    if (shared <= 0 || shared > kCounters || share.stretches * kLeastSteps > shared * grid.steps ||
        share.whole + share.stretches > launch ||
        partial_floats(b, share) * 4 > static_cast<std::int64_t>(info.limits.max_block_bytes))
      return;
    const double cycles = gemm_cycles(b, info, grid, share);
    if (cycles >= least) return;
    least = cycles;
    best = share;
  };
  // Whole rounds, then stretches for each place, or two; or parts of equal length.
  const std::int64_t count = processors(info), rounds = grid.tiles / count;
  for (std::int64_t whole = std::max<std::int64_t>(0, rounds - 3); whole <= rounds; ++whole)
    for (std::int64_t places = 1; places <= 2 * static_cast<std::int64_t>(resident_groups(b, info).most); ++places)
      consider({whole * count, places * count});
  for (std::int64_t parts = 2; parts <= 64; ++parts) consider({0, grid.tiles * parts});
  return best;
}

void append(std::vector<std::uint32_t>& params, const DepthShare& share, const TileGrid& grid) {
  const std::int64_t steps = (grid.tiles - share.whole) * grid.steps;
  const std::int64_t stretches = std::max<std::int64_t>(share.stretches, 1);
  for (const std::int64_t word : {share.whole, std::max<std::int64_t>(steps / stretches, 1), steps % stretches})
    params.push_back(static_cast<std::uint32_t>(word));
}

std::int64_t partial_floats(const Blocking& b, const DepthShare& share) {
  return share.stretches * 2 * b.filters * b.pixels;
}

}  // namespace convrt::gl
