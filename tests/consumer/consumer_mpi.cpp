// Uses the component convrt::mpi from outside; built only, since running it takes mpirun.
#include <vector>

#include "convrt/mpi.hpp"

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  {
    const convrt::Conv2dDesc desc = convrt::Conv2dDesc::parse("n1c1h3w3k1r2s2");
    convrt::DistributedPlan(MPI_COMM_SELF, convrt::local_device(MPI_COMM_SELF), desc, std::vector<float>(4));
  }
  MPI_Finalize();
}
