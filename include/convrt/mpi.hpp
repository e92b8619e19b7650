/// \file
/// One convolution spread over the ranks of an MPI communicator, usually one rank a GPU: the optional component
/// convrt::mpi. Needs MPI 3.
///
/// What happens when a process dies is first of all MPI's business: `mpirun` of Open MPI and `srun` of Slurm kill the
/// whole job as soon as one process aborts, unless told otherwise (`mpirun --enable-recovery`, `srun --no-kill`). Where
/// the others live on, or a rank hangs without dying, they get an Error within the timeout. The communicator is of no
/// use after that, and neither is MPI_Finalize, which waits for every rank: save what matters, then MPI_Abort.
#pragma once

#include <mpi.h>

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "convrt/export.h"
#include "convrt/plan.hpp"

namespace convrt {

struct DistributedOptions {
  PlanOptions plan =
      {};  ///< as for Conv2dPlan; an empty kernel: the kernel that rank 0 chose, where this device has it
  /// This rank's part of the images, relative to the other ranks' (0: none). Given by every rank or by none; empty: the
  /// speed that each rank measures while the plan is made, equal for GPUs of one name that differ by little.
  std::optional<double> share = {};
  /// The longest that a call waits for other ranks at one point. Must exceed what the slowest rank takes to make its
  /// plan (tuning included) and to compute its part. Greater than 0, the same on every rank.
  std::chrono::milliseconds timeout = std::chrono::seconds(60);
};

/// A convolution whose images are dealt out to the ranks of a communicator; every rank holds all weights. The result
/// equals that of one process with the same kernel and PlanOptions::batch_invariant, which holds here too, bit for bit
/// where all ranks run one kernel (see `kernel`).
///
/// The constructor, `run` and `run_local` are collective: every rank calls them, in the same order. An Error on one
/// rank (bad argument, lost device) is thrown on every rank and leaves the plan usable, with two exceptions that end
/// it, so that every later call throws the same again: Error{timeout}, a rank did not answer in time, and
/// Error{device_lost} that says MPI itself reported a failure. In these two cases what MPI may still touch (copies
/// of the data, never the caller's memory) is kept until the process ends.
///
/// Not thread-safe: one call at a time. Calls MPI from the calling thread alone, so MPI_THREAD_FUNNELED is enough for
/// the main thread, MPI_THREAD_SERIALIZED for others. Destroy before MPI_Finalize, on every rank.
class CONVRT_API DistributedPlan {
 public:
  /// `communicator`: an intracommunicator; a duplicate of it is used. `device`: this rank's. `desc`: the whole
  /// convolution, the same on every rank. `weights`, `bias`: as for Conv2dPlan on rank 0, which sends them to the
  /// others; empty on the others. Throws Error: as Conv2dPlan does; invalid_argument (MPI not initialised, an
  /// intercommunicator, another desc than rank 0's, shares, timeout); timeout; device_lost.
  DistributedPlan(MPI_Comm communicator, const Device& device, const Conv2dDesc& desc, std::span<const float> weights,
                  std::span<const float> bias = {}, const DistributedOptions& options = {});
  DistributedPlan(DistributedPlan&&) noexcept;
  DistributedPlan& operator=(DistributedPlan&&) noexcept;
  ~DistributedPlan();

  /// Rank 0 deals out `src` (desc().src_size() floats) and collects `dst` (desc().dst_size() floats; read too where
  /// desc().accumulate); the others pass nothing. Blocks until all ranks are done. After an Error the contents of dst
  /// are unspecified. RunStats::device_ms is this rank's part alone.
  RunStats run(std::span<const float> src = {}, std::span<float> dst = {});

  /// Every rank convolves images of its own: `src` and `dst` as local_desc() says. No images travel; blocks until all
  /// ranks are done.
  RunStats run_local(std::span<const float> src, std::span<float> dst);

  const Conv2dDesc& desc() const;          ///< the whole
  Conv2dDesc local_desc() const;           ///< this rank's part: n is images()[rank()], which may be 0
  const std::vector<int>& images() const;  ///< of each rank, in order: rank 0 has the first images()[0] of the batch
  const Device& device() const;            ///< this rank's
  std::string kernel() const;              ///< of this rank
  int rank() const;                        ///< in the communicator
  int ranks() const;                       ///< in the communicator

 private:
  struct State;
  struct Release {
    void operator()(State* state) const noexcept;
  };
  std::unique_ptr<State, Release> state_;
};

/// A device for this rank where every rank shall have one of its own: the GPU (no software rasteriser) whose place in
/// devices() is this rank's place among the ranks on its machine, from the start again where there are more ranks than
/// GPUs; the CPU where there is no GPU. CONVRT_DEVICES narrows the choice. Collective, and as blocking as
/// MPI_Comm_split_type. Throws Error{invalid_argument} where MPI is not initialised.
CONVRT_API Device local_device(MPI_Comm communicator);

}  // namespace convrt
