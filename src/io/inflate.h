/* Decoding of zlib streams (RFC 1950, 1951) whose length is known, two to three times as fast as the library's: a
 * sample's tiles are 50 MB, and a step waits for them. What was decoded is verified by the caller: the checksum at the
 * end of the stream is not read. */
#pragma once
#include "core/base.h"

enum { INFLATE_SLACK = 16 }; /* bytes behind `out` that may be written to */

/* False unless the stream is whole, without a preset dictionary, and gives exactly n_out bytes. */
bool inflate_zlib(const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out);
