# Measured by hand: docs/perf.md.
add_executable(checkpoint_rate bench/checkpoint_rate.c)
target_link_libraries(checkpoint_rate PRIVATE d3s2_io d3s2_harness)

# Programs that time things; no tests of their own.
add_executable(prep_tiles bench/prep_tiles.c)
target_link_libraries(prep_tiles PRIVATE d3s2_prep)
add_executable(view_rate bench/view_rate.c)
target_link_libraries(view_rate PRIVATE d3s2_train)
