/* d3s2 bench: times every op of the CPU back end at one or more shapes, after checking it against the reference. */
#pragma once

/* argv[0] is the verb. Returns an exit code; says itself what is wrong. */
int bench_run(int argc, char **argv);
