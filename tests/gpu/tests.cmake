# The CUDA back end behind host memory: tests of ops run on it unchanged. And what storing in bf16 costs.
add_library(d3s2_hosted STATIC gpu/hosted.c)
target_link_libraries(d3s2_hosted PUBLIC d3s2_harness d3s2_ops)
add_library(d3s2_sim16 STATIC gpu/sim16.c ops/ref16.c)
target_link_libraries(d3s2_sim16 PUBLIC d3s2_hosted)

d3s2_test(test_gpu_model LABELS "gpu" SOURCES gpu/test_gpu_model.c LIBS d3s2_rig d3s2_model TIMEOUT 600)
d3s2_test(test_gpu_large LABELS "gpu" SOURCES gpu/test_gpu_large.c LIBS d3s2_hosted TIMEOUT 300)

# The programs of ops/ and golden/ once more, on a GPU; form: gpu, or gpu-f32 and gpu-bf16, which run beside each other.
# Those that take longest come first: tests/gpu/run starts them in this order.
function(d3s2_on_gpu name program form)
  add_test(NAME ${name} COMMAND ${program} ${form})
  set_tests_properties(${name} PROPERTIES LABELS "gpu" TIMEOUT 600 SKIP_RETURN_CODE 77 ENVIRONMENT "${D3S2_TEST_ENVIRONMENT}")
endfunction()
foreach(family IN ITEMS sparse_conv sparse_attn linear norm elementwise lift loss)
  foreach(precision bf16 f32)
    d3s2_on_gpu(gpu_ops_${family}_${precision} test_ops_${family} gpu-${precision})
  endforeach()
endforeach()
foreach(name IN ITEMS sparse_conv ssa_core ssa_module sparse_dit ss_vae flow opt dino_net)
  d3s2_on_gpu(golden_gpu_${name} test_${name} gpu)
endforeach()
