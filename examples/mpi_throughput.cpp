// Layers over all ranks against one process, images/s and GFLOPS, results compared bit by bit:
//   mpirun -n 4 mpi_throughput [--seconds=S] [--resident] [PROBLEM...]
// --seconds: what each number is measured over. --resident: only with tensors that stay on the devices.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "convrt/mpi.hpp"

namespace {

// Seconds of the fastest of the calls that fit into `budget` seconds, at least three. Rank 0 decides when it is enough.
double fastest(double budget, bool every_rank, const std::function<void()>& call) {
  double best = 1e30, spent = 0;
  for (int i = 0, more = 1; more != 0; ++i) {
    const auto start = std::chrono::steady_clock::now();
    call();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::min(best, seconds);
    spent += seconds;
    more = i < 2 || spent < budget ? 1 : 0;
    if (every_rank) MPI_Bcast(&more, 1, MPI_INT, 0, MPI_COMM_WORLD);
  }
  return best;
}

// The same for convolutions of tensors that stay on the device, enqueued many at a time. All ranks, or rank 0 alone.
double fastest_resident(double budget, bool every_rank, const convrt::Conv2dPlan& plan, convrt::Device device,
                        const convrt::Buffer& src, convrt::Buffer& dst) {
  const auto queue = [&](int runs) {
    for (int i = 0; i < runs; ++i) plan.enqueue(src, dst);
    device.synchronize();
    if (every_rank) MPI_Barrier(MPI_COMM_WORLD);  // the slowest counts
  };
  const double first = fastest(0.4, every_rank, [&] { queue(4); }) / 4;  // an idle GPU's clocks rise meanwhile
  int runs = static_cast<int>(std::clamp(0.1 / first, 4.0, 2048.0));     // long beside the wait for their end
  if (every_rank) MPI_Bcast(&runs, 1, MPI_INT, 0, MPI_COMM_WORLD);
  return fastest(budget, every_rank, [&] { queue(runs); }) / runs;
}

convrt::Buffer on_device(convrt::Device device, const std::vector<float>& values) {
  convrt::Buffer buffer = device.allocate(values.size());
  buffer.upload(values);
  return buffer;
}

// Counts and offsets, in images, of each rank's part.
struct Parts {
  std::vector<int> counts, offsets;
  explicit Parts(std::vector<int> images) : counts(std::move(images)) {
    int offset = 0;
    for (const int count : counts) {
      offsets.push_back(offset);
      offset += count;
    }
  }
};

MPI_Datatype image_type(std::size_t floats) {
  MPI_Datatype type = MPI_DATATYPE_NULL;
  MPI_Type_contiguous(static_cast<int>(floats), MPI_FLOAT, &type);
  MPI_Type_commit(&type);
  return type;
}

void print(const char* what, const convrt::Conv2dDesc& desc, double seconds) {
  std::printf("%-28s %10.1f images/s %10.2f GFLOPS\n", what, desc.n / seconds, desc.flops() / seconds / 1e9);
}

struct Options {
  double seconds = 1;
  bool resident = false;  // nothing else
  std::vector<std::string> problems;
};

// How many times one rank's speed all ranks have with tensors on their devices; 0 if a result was wrong. Rank 0 prints.
double compare(const convrt::Device& device, const convrt::Conv2dDesc& desc, const Options& options) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::vector<float> weights, src, dst, expected;
  if (rank == 0) {  // the others need none of it
    weights.resize(desc.weights_size());
    src.resize(desc.src_size());
    dst.resize(desc.dst_size());
    expected.resize(desc.dst_size());
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i * 7 % 31) / 31 - 0.5F;
    for (std::size_t i = 0; i < src.size(); ++i) src[i] = static_cast<float>(i * 13 % 61) / 61 - 0.5F;
  }
  convrt::DistributedPlan plan(MPI_COMM_WORLD, device, desc, weights);

  double alone = 0, alone_resident = 0;
  if (rank == 0) {
    // What the ranks compute in one process.
    convrt::Conv2dPlan(device, desc, weights, {}, {.kernel = plan.kernel(), .batch_invariant = true})
        .run(src, expected);
    const convrt::Conv2dPlan own(device, desc, weights);  // by the kernel that suits the whole batch
    if (!options.resident) alone = fastest(options.seconds, false, [&] { own.run(src, dst); });
    const convrt::Buffer from = on_device(device, src);
    convrt::Buffer to = device.allocate(desc.dst_size());
    alone_resident = fastest_resident(options.seconds, false, own, device, from, to);
  }
  MPI_Barrier(MPI_COMM_WORLD);  // the others must not compute, nor time out, meanwhile
  const auto as_expected = [&] {
    return rank != 0 || std::memcmp(dst.data(), expected.data(), dst.size() * sizeof(float)) == 0;
  };
  bool same = true;
  double dealt = 0, local = 0;
  if (!options.resident) {
    dealt = fastest(options.seconds, true, [&] { plan.run(src, dst); });
    same = as_expected();
  }

  // Each rank its own images: what a job gains that reads its data where it computes, or keeps it there.
  const convrt::Conv2dDesc mine = plan.local_desc();
  std::vector<float> my_src(mine.src_size()), my_dst(mine.dst_size());
  const Parts parts(plan.images());
  const auto n = static_cast<std::size_t>(desc.n);
  MPI_Datatype image_src = image_type(desc.src_size() / n), image_dst = image_type(desc.dst_size() / n);
  MPI_Scatterv(src.data(), parts.counts.data(), parts.offsets.data(), image_src, my_src.data(), mine.n, image_src, 0,
               MPI_COMM_WORLD);
  const auto gathered_as_expected = [&] {
    if (rank == 0) std::fill(dst.begin(), dst.end(), -1.0F);
    MPI_Gatherv(my_dst.data(), mine.n, image_dst, dst.data(), parts.counts.data(), parts.offsets.data(), image_dst, 0,
                MPI_COMM_WORLD);
    return as_expected();
  };
  if (!options.resident) {
    local = fastest(options.seconds, true, [&] { plan.run_local(my_src, my_dst); });
    same = gathered_as_expected() && same;
  }

  // The plan sent the weights to all ranks, but keeps them to itself; a plan for tensors on the device needs them too.
  weights.resize(desc.weights_size());
  MPI_Bcast(weights.data(), static_cast<int>(weights.size()), MPI_FLOAT, 0, MPI_COMM_WORLD);
  const convrt::Conv2dPlan part(device, mine, weights, {}, {.kernel = plan.kernel(), .batch_invariant = true});
  const convrt::Buffer from = on_device(device, my_src);
  convrt::Buffer to = device.allocate(my_dst.size());
  const double resident = fastest_resident(options.seconds, true, part, device, from, to);
  to.download(my_dst);
  same = gathered_as_expected() && same;
  MPI_Type_free(&image_src);
  MPI_Type_free(&image_dst);

  int right = same ? 1 : 0;
  MPI_Bcast(&right, 1, MPI_INT, 0, MPI_COMM_WORLD);
  const double gain = alone_resident / resident;
  if (rank == 0) {
    std::printf("%s on %d ranks, %s; images of each rank:", desc.str().c_str(), plan.ranks(), plan.kernel().c_str());
    for (const int count : parts.counts) std::printf(" %d", count);
    std::printf("\n");
    if (!options.resident) {
      print("rank 0 alone", desc, alone);
      print("run: dealt out by rank 0", desc, dealt);
      print("run_local: each its own", desc, local);
    }
    print("rank 0 alone, on the device", desc, alone_resident);
    print("each its own, on the device", desc, resident);
    std::printf("on the device %.2f times rank 0 alone; results are %s\n", gain,
                same ? "equal bit by bit" : "DIFFERENT");
    std::fflush(stdout);
  }
  return right == 0 ? 0 : rank == 0 ? gain : 1;
}

int compare_all(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--resident")
      options.resident = true;
    else if (argument.starts_with("--seconds="))
      options.seconds = std::atof(argument.c_str() + 10);
    else
      options.problems.push_back(argument);
  }
  if (options.problems.empty()) options.problems.emplace_back("n32c64h56w56k64r3s3ph1pw1+relu");
  const convrt::Device device = convrt::local_device(MPI_COMM_WORLD);  // a GPU for each rank, where there are GPUs
  double product = 1;
  for (const std::string& problem : options.problems) {
    const double gain = compare(device, convrt::Conv2dDesc::parse(problem), options);
    if (gain == 0) return 1;
    product *= gain;
  }
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank == 0 && options.problems.size() > 1)
    std::printf("geomean of %zu, on the device: %.2f times rank 0 alone\n", options.problems.size(),
                std::pow(product, 1.0 / static_cast<double>(options.problems.size())));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  try {
    const int result = compare_all(argc, argv);
    MPI_Finalize();
    return result;
  } catch (const convrt::Error& error) {
    std::fprintf(stderr, "%s: %s\n", convrt::to_string(error.code()), error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);  // not MPI_Finalize, which would wait for ranks that may never come
  }
}
