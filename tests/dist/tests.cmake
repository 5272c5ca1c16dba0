foreach(ranks 1 2 3 4)
  d3s2_test(test_comm_${ranks} LABELS "mpi" SOURCES dist/test_comm.c LIBS d3s2_dist RANKS ${ranks})
endforeach()

# On GPUs, one rank each.
foreach(ranks 1 2 4)
  d3s2_test(test_nccl_${ranks} LABELS "gpu;mpi" SOURCES dist/test_nccl.c LIBS d3s2_dist RANKS ${ranks})
endforeach()
add_test(NAME nccl_hang COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} 2 $<TARGET_FILE:test_nccl_2> hang)
set_tests_properties(nccl_hang PROPERTIES LABELS "gpu;mpi" TIMEOUT 120 ENVIRONMENT "${D3S2_TEST_ENVIRONMENT};${D3S2_MPI_ENVIRONMENT}"
  PASS_REGULAR_EXPRESSION "fatal: rank 0 of 2 on .*step 7, GPU 0: sum of 1024 f32 did not end within 3 s" SKIP_REGULAR_EXPRESSION "skipped: ")
