/* The reference sources with their intermediates rounded to float: the same files, compiled with float in place of
 * double. The error of this back end against ref is what the bounds of the op tests are derived from. */
#pragma once
#include "kernels/backend.h"

extern const backend backend_ref32;
