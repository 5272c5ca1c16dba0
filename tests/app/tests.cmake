# The whole program, by shell scripts. Exit code 77: skipped.
add_executable(shard_tool app/shard_tool.c)
target_link_libraries(shard_tool PRIVATE d3s2_data d3s2_dino_weights)
function(d3s2_script name labels seconds)
  math(EXPR timeout "${seconds} * ${D3S2_TEST_PATIENCE}")
  add_test(NAME app_${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/app/${name}.sh $<TARGET_FILE:d3s2> ${MPIEXEC_EXECUTABLE}
           $<TARGET_FILE:shard_tool>)
  set(environment "${D3S2_TEST_ENVIRONMENT};OMP_NUM_THREADS=1;${D3S2_MPI_ENVIRONMENT}")
  if(NOT labels MATCHES "gpu")
    list(APPEND environment "CUDA_VISIBLE_DEVICES=") # these are about the CPU
  endif()
  set_tests_properties(app_${name} PROPERTIES LABELS "${labels}" TIMEOUT ${timeout} SKIP_RETURN_CODE 77
    ENVIRONMENT "${environment}")
endfunction()
d3s2_script(cli "unit" 300)
d3s2_script(kill "unit;mpi" 300)
d3s2_script(bad_input "train;mpi" 600)
d3s2_script(full_disk "train;mpi" 600)
d3s2_script(prep "unit;mpi" 300)
d3s2_script(tokens "train;mpi" 300)
d3s2_script(gpu "gpu;mpi" 600)
