# The jobs of slurm/ under a throw-away SLURM. They start a job after another and count seconds: one at a time.
foreach(case train warned warned_mpirun clock limit preempted node cut failures prep scaling chain)
  add_test(NAME slurm_${case} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/slurm/run $<TARGET_FILE:d3s2> $<TARGET_FILE:shard_tool> ${case})
  set_tests_properties(slurm_${case} PROPERTIES LABELS "slurm" TIMEOUT 400 SKIP_RETURN_CODE 77 RUN_SERIAL TRUE)
endforeach()
