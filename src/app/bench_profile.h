/* Prints what the ops of one step took, of `step` seconds in all; ops below a thousandth are added up. */
#pragma once
#include "ops/op_profile.h"

void bench_profile_print(op_profile *p, double step);
