/* d3s2 report --scaling: weak and strong scaling from rows of `d3s2 bench step --csv`. */
#pragma once
#include "io/options.h"

/* Files: the command's arguments; into the folder report.output: scaling.md, scaling.csv, and plots as SVG. */
bool report_scaling(const options *o, status *st);
