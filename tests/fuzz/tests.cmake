# Mutated files against the parsers of what comes from outside; how to run longer and to repeat: fuzz.h.
add_library(d3s2_fuzz STATIC fuzz/fuzz.c)
target_link_libraries(d3s2_fuzz PUBLIC d3s2_harness)
d3s2_test(fuzz_text LABELS "unit" SOURCES fuzz/fuzz_text.c LIBS d3s2_fuzz d3s2_prep TIMEOUT 120)
d3s2_test(fuzz_h5 LABELS "unit" SOURCES fuzz/fuzz_h5.c train/fixture.c LIBS d3s2_fuzz d3s2_data TIMEOUT 120)
d3s2_test(test_hostile_h5 LABELS "unit" SOURCES fuzz/test_hostile_h5.c train/fixture.c LIBS d3s2_data)
d3s2_test(test_broken_yaml LABELS "unit" SOURCES fuzz/test_broken_yaml.c LIBS d3s2_io TIMEOUT 120)
