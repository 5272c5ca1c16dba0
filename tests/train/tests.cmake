d3s2_test(test_plan LABELS "train" SOURCES train/test_plan.c LIBS d3s2_train)
d3s2_test(test_configs LABELS "train" SOURCES train/test_configs.c LIBS d3s2_train)
d3s2_test(test_trainer LABELS "train" SOURCES train/test_trainer.c train/fixture.c LIBS d3s2_train)
d3s2_test(test_device LABELS "train" SOURCES train/test_device.c train/fixture.c LIBS d3s2_train)

# One run on 1, 2 and 4 ranks, then a comparison of what they wrote.
add_executable(train_ranks train/train_ranks.c train/fixture.c)
target_link_libraries(train_ranks PRIVATE d3s2_train d3s2_harness)
set(ranks_folder ${CMAKE_CURRENT_BINARY_DIR}/train_ranks.out)
foreach(ranks 1 2 4)
  add_test(NAME train_ranks_${ranks} COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} ${ranks}
           $<TARGET_FILE:train_ranks> ${ranks_folder})
  set_tests_properties(train_ranks_${ranks} PROPERTIES FIXTURES_SETUP train_ranks_${ranks} LABELS "train;mpi" TIMEOUT 3000
    ENVIRONMENT "${D3S2_TEST_ENVIRONMENT};OMP_NUM_THREADS=1;${D3S2_MPI_ENVIRONMENT}")
endforeach()
add_test(NAME train_ranks_agree COMMAND train_ranks ${ranks_folder} check)
set_tests_properties(train_ranks_agree PROPERTIES LABELS "train;mpi" ENVIRONMENT "${D3S2_TEST_ENVIRONMENT}" FIXTURES_REQUIRED
  "train_ranks_1;train_ranks_2;train_ranks_4")
