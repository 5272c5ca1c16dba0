foreach(ranks 1 2 3 4)
  d3s2_test(test_comm_${ranks} LABELS "mpi" SOURCES dist/test_comm.c LIBS d3s2_dist RANKS ${ranks})
endforeach()

# On GPUs, one rank each.
foreach(ranks 1 2 4)
  d3s2_test(test_nccl_${ranks} LABELS "gpu;mpi" SOURCES dist/test_nccl.c LIBS d3s2_dist RANKS ${ranks})
endforeach()
function(d3s2_nccl_run name labels program ranks)
  add_test(NAME ${name} COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} ${ranks} $<TARGET_FILE:${program}> ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS "${labels}" TIMEOUT 120 SKIP_RETURN_CODE 77
    ENVIRONMENT "${D3S2_TEST_ENVIRONMENT};${D3S2_MPI_ENVIRONMENT}")
endfunction()
d3s2_nccl_run(nccl_levels_2x2 "gpu;mpi" test_nccl_4 4 levels 2)
d3s2_nccl_run(nccl_levels_1x2 "gpu;mpi" test_nccl_2 2 levels 2)
d3s2_nccl_run(nccl_hang "gpu;mpi" test_nccl_2 2 hang)
d3s2_nccl_run(nccl_hang_levels "gpu;mpi" test_nccl_4 4 hang 2)
set_tests_properties(nccl_hang nccl_hang_levels PROPERTIES PASS_REGULAR_EXPRESSION
  "fatal: rank [0-3] of [24] on .*step 7, GPU 0: sum of 1024 f32 did not end within 3 s" SKIP_REGULAR_EXPRESSION "skipped: ")

# The same program over a pretended NCCL, which is MPI: what is asked of it, on any machine.
d3s2_test(pretended_nccl_4 LABELS "mpi" SOURCES dist/test_nccl.c dist/pretend_nccl/pretend_nccl.c ${CMAKE_SOURCE_DIR}/src/dist/comm_nccl_cuda.c ${CMAKE_SOURCE_DIR}/src/dist/comm_nccl_levels_cuda.c
          LIBS d3s2_dist RANKS 4)
target_include_directories(pretended_nccl_4 BEFORE PRIVATE dist/pretend_nccl)
target_compile_definitions(pretended_nccl_4 PRIVATE PRETEND)
foreach(layout 2x2 4x1 1x4 3x2 2x3)
  string(REPLACE x ";" sides ${layout})
  list(GET sides 0 nodes)
  list(GET sides 1 places)
  math(EXPR ranks "${nodes} * ${places}")
  d3s2_nccl_run(pretended_nccl_levels_${layout} "mpi" pretended_nccl_4 ${ranks} levels ${places})
endforeach()
# All three groups of a rank are given up when its time is out. The first rank that leaves may end the others before they speak.
d3s2_nccl_run(pretended_nccl_hang_levels "mpi" pretended_nccl_4 6 hang 3)
set_tests_properties(pretended_nccl_hang_levels PROPERTIES PASS_REGULAR_EXPRESSION
  "gave up group 3.*fatal: rank [0-5] of 6 on .*step 7, GPU 0: start of a sum did not end within 3 s")
