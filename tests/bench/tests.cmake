# Programs that time things; no tests of their own.
add_executable(prep_tiles bench/prep_tiles.c)
target_link_libraries(prep_tiles PRIVATE d3s2_prep)
