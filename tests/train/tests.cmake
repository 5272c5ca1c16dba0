d3s2_test(test_plan LABELS "train" SOURCES train/test_plan.c LIBS d3s2_train)
d3s2_test(test_cost LABELS "train" SOURCES train/test_cost.c LIBS d3s2_train)
d3s2_test(test_sharing LABELS "train" SOURCES train/test_sharing.c LIBS d3s2_train)
d3s2_test(test_configs LABELS "train" SOURCES train/test_configs.c LIBS d3s2_train)
d3s2_test(test_vae_load LABELS "train" SOURCES train/test_vae_load.c train/fixture.c LIBS d3s2_train)
d3s2_test(test_watchdog LABELS "train" SOURCES train/test_watchdog.c LIBS d3s2_train)
d3s2_test(test_rules LABELS "train" SOURCES train/test_rules.c LIBS d3s2_train)
d3s2_test(test_trainer LABELS "train" SOURCES train/test_trainer.c train/fixture.c LIBS d3s2_train)
d3s2_test(test_device LABELS "train" SOURCES train/test_device.c train/fixture.c LIBS d3s2_train)
d3s2_test(test_dataset LABELS "train" SOURCES train/test_dataset.c train/fixture.c LIBS d3s2_train)
d3s2_test(test_tokens LABELS "train" SOURCES train/test_tokens.c train/fixture.c LIBS d3s2_train d3s2_dino_weights)

# On a GPU, and on a pretended one for the host's part.
d3s2_test(test_gpu_step LABELS "gpu" SOURCES train/test_gpu_step.c train/fixture.c LIBS d3s2_app TIMEOUT 900)
d3s2_test(test_pretended_gpu LABELS "train" SOURCES train/test_gpu_step.c train/pretend_gpu.c train/fixture.c LIBS d3s2_app TIMEOUT 900)
target_compile_definitions(test_pretended_gpu PRIVATE PRETEND)
d3s2_test(test_pretended_tokens LABELS "train" SOURCES train/test_tokens.c train/pretend_gpu.c train/fixture.c
          LIBS d3s2_train d3s2_dino_weights)
target_compile_definitions(test_pretended_tokens PRIVATE PRETEND)

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

# The same configurations on GPUs: one run each, then the comparison with the CPU. Names of a run: SET-PRECISION-RANKS.
add_executable(gpu_ranks train/gpu_ranks.c train/fixture.c)
add_executable(gpu_ranks_pretended train/gpu_ranks.c train/pretend_gpu.c train/fixture.c)
foreach(program gpu_ranks gpu_ranks_pretended)
  target_link_libraries(${program} PRIVATE d3s2_train d3s2_harness)
endforeach()
target_compile_definitions(gpu_ranks_pretended PRIVATE PRETEND)
# d3s2_gpu_run(PROGRAM FOLDER LABELS NAME RANKS SETTINGS...)
function(d3s2_gpu_run program folder labels name ranks)
  add_test(NAME ${program}_${name} COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe ${MPIEXEC_NUMPROC_FLAG} ${ranks}
           $<TARGET_FILE:${program}> ${folder} ${name} ${ARGN})
  set_tests_properties(${program}_${name} PROPERTIES LABELS "${labels}" TIMEOUT 900 SKIP_RETURN_CODE 77
    ENVIRONMENT "${D3S2_TEST_ENVIRONMENT};OMP_NUM_THREADS=1;${D3S2_MPI_ENVIRONMENT}")
  if(NOT name STREQUAL "cpu")
    set_tests_properties(${program}_${name} PROPERTIES DEPENDS ${program}_cpu)
  endif()
  set_property(DIRECTORY APPEND PROPERTY D3S2_${program} ${program}_${name})
endfunction()
function(d3s2_gpu_check program folder labels)
  get_property(runs DIRECTORY PROPERTY D3S2_${program})
  add_test(NAME ${program}_agree COMMAND ${program} ${folder} check)
  set_tests_properties(${program}_agree PROPERTIES LABELS "${labels}" DEPENDS "${runs}" SKIP_RETURN_CODE 77
    ENVIRONMENT "${D3S2_TEST_ENVIRONMENT}")
endfunction()
set(gpu_folder ${CMAKE_CURRENT_BINARY_DIR}/gpu_ranks.out)
d3s2_gpu_run(gpu_ranks ${gpu_folder} "gpu;mpi" cpu 1 train.device=cpu)
foreach(ranks 1 2 4)
  foreach(precision f32 bf16)
    d3s2_gpu_run(gpu_ranks ${gpu_folder} "gpu;mpi" gpu-${precision}-${ranks} ${ranks} train.device=cuda
                 train.precision=${precision})
  endforeach()
endforeach()
d3s2_gpu_run(gpu_ranks ${gpu_folder} "gpu;mpi" plain-f32-2 2 train.device=cuda train.precision=f32 train.sharded_optimizer=false
             train.overlap=auto)
d3s2_gpu_run(gpu_ranks ${gpu_folder} "gpu;mpi" reduce-bf16-2 2 train.device=cuda train.precision=bf16 train.reduce_dtype=bf16
             train.overlap=auto)
d3s2_gpu_run(gpu_ranks ${gpu_folder} "gpu;mpi" whole-f32-4 4 train.device=cuda train.precision=f32 train.overlap=auto)
# By levels, as two nodes of two GPUs.
set(two_nodes train.reduce_levels=on train.node_ranks=2)
d3s2_gpu_run(gpu_ranks ${gpu_folder} "gpu;mpi" levels-f32-4 4 train.device=cuda train.precision=f32 ${two_nodes})
d3s2_gpu_run(gpu_ranks ${gpu_folder} "gpu;mpi" levels-bf16-4 4 train.device=cuda train.precision=bf16 ${two_nodes})
d3s2_gpu_run(gpu_ranks ${gpu_folder} "gpu;mpi" levels-plain-f32-4 4 train.device=cuda train.precision=f32 train.sharded_optimizer=false
             ${two_nodes})
d3s2_gpu_check(gpu_ranks ${gpu_folder} "gpu;mpi")

set(pretended_folder ${CMAKE_CURRENT_BINARY_DIR}/gpu_ranks_pretended.out)
d3s2_gpu_run(gpu_ranks_pretended ${pretended_folder} "train;mpi" cpu 1 train.device=cpu)
foreach(ranks 2 4)
  d3s2_gpu_run(gpu_ranks_pretended ${pretended_folder} "train;mpi" pretended-${ranks} ${ranks} train.device=cuda
               train.precision=f32)
endforeach()
d3s2_gpu_run(gpu_ranks_pretended ${pretended_folder} "train;mpi" reduce-bf16-2 2 train.device=cuda train.precision=f32
             train.reduce_dtype=bf16 train.overlap=auto)
d3s2_gpu_run(gpu_ranks_pretended ${pretended_folder} "train;mpi" levels-4 4 train.device=cuda train.precision=f32 ${two_nodes})
d3s2_gpu_check(gpu_ranks_pretended ${pretended_folder} "train;mpi")
