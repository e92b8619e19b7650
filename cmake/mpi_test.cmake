# Ranks on this machine alone, as root too, more of them than cores where need be.
set(convrt_mpi_environment OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
  OMP_WAIT_POLICY=passive)
set(convrt_mpirun ${MPIEXEC_EXECUTABLE} --oversubscribe --bind-to none --mca btl self,vader
  --mca btl_vader_single_copy_mechanism none)
# convrt_mpi_test(name ranks command...)
function(convrt_mpi_test name ranks)
  add_test(NAME ${name}.${ranks} COMMAND ${convrt_mpirun} -n ${ranks} ${ARGN})
  set_tests_properties(${name}.${ranks} PROPERTIES LABELS mpi TIMEOUT 300 ENVIRONMENT "${convrt_mpi_environment}")
endfunction()
