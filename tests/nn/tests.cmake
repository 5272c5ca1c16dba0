# Arenas, ctx and tape for tests of layers and models.
add_library(d3s2_rig STATIC nn/rig.c)
target_link_libraries(d3s2_rig PUBLIC d3s2_harness d3s2_nn d3s2_sim16)
d3s2_test(test_tape LABELS "unit" SOURCES nn/test_tape.c LIBS d3s2_nn)
d3s2_test(test_layers LABELS "unit" SOURCES nn/test_layers.c LIBS d3s2_rig)
