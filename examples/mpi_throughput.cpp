// One layer over all ranks against one process, images/s and GFLOPS, results compared bit by bit:
//   mpirun -n 4 mpi_throughput [PROBLEM] [SECONDS]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
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

void print(const char* what, const convrt::Conv2dDesc& desc, double seconds) {
  std::printf("%-28s %10.1f images/s %10.2f GFLOPS\n", what, desc.n / seconds, desc.flops() / seconds / 1e9);
}

int compare(int argc, char** argv) {
  const convrt::Conv2dDesc desc = convrt::Conv2dDesc::parse(argc > 1 ? argv[1] : "n32c64h56w56k64r3s3ph1pw1+relu");
  const double budget = argc > 2 ? std::atof(argv[2]) : 1;
  const convrt::Device device = convrt::local_device(MPI_COMM_WORLD);  // a GPU for each rank, where there are GPUs
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

  double alone = 0;
  if (rank == 0) {
    const convrt::Conv2dPlan one(device, desc, weights, {}, {.kernel = plan.kernel()});
    alone = fastest(budget, false, [&] { one.run(src, expected); });
  }
  MPI_Barrier(MPI_COMM_WORLD);  // the others must not compute, nor time out, meanwhile
  const double dealt = fastest(budget, true, [&] { plan.run(src, dst); });

  // Each rank its own images: what a job gains that reads its data where it computes.
  std::vector<float> my_src(plan.local_desc().src_size()), my_dst(plan.local_desc().dst_size());
  const double local = fastest(budget, true, [&] { plan.run_local(my_src, my_dst); });

  if (rank != 0) return 0;
  const bool same = std::memcmp(dst.data(), expected.data(), dst.size() * sizeof(float)) == 0;
  std::printf("%s on %d ranks, %s; images of each rank:", desc.str().c_str(), plan.ranks(), plan.kernel().c_str());
  for (const int n : plan.images()) std::printf(" %d", n);
  std::printf("\n");
  print("rank 0 alone", desc, alone);
  print("run: dealt out by rank 0", desc, dealt);
  print("run_local: each its own", desc, local);
  std::printf("results are %s\n", same ? "equal bit by bit" : "DIFFERENT");
  return same ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  try {
    const int result = compare(argc, argv);
    MPI_Finalize();
    return result;
  } catch (const convrt::Error& error) {
    std::fprintf(stderr, "%s: %s\n", convrt::to_string(error.code()), error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);  // not MPI_Finalize, which would wait for ranks that may never come
  }
}
