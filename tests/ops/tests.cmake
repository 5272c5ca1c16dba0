# With the argument "gpu" the same programs test the CUDA back end (gpu/tests.cmake).
add_library(d3s2_optest STATIC ops/optest.c ops/ref16.c ops/ref32.c)
target_link_libraries(d3s2_optest PUBLIC d3s2_harness d3s2_ops d3s2_hosted)
foreach(family IN ITEMS linear norm lift elementwise loss)
  d3s2_test(test_ops_${family} LABELS "ops" SOURCES ops/test_ops_${family}.c LIBS d3s2_optest)
endforeach()
foreach(family IN ITEMS sparse_conv sparse_attn)
  d3s2_test(test_ops_${family} LABELS "ops" SOURCES ops/test_ops_${family}.c ops/ref32_sparse.c LIBS d3s2_optest)
endforeach()
