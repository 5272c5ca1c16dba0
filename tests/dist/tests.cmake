foreach(ranks 1 2 3 4)
  d3s2_test(test_comm_${ranks} LABELS "mpi" SOURCES dist/test_comm.c LIBS d3s2_dist RANKS ${ranks})
endforeach()
