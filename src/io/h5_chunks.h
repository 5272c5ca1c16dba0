/* Rows of large tables as this program writes them (shuffle, deflate, Fletcher's sum), chunk by chunk on all threads
 * that OpenMP gives the caller. HDF5 gives the stored bytes, one thread at a time; libdeflate
 * decodes them, twice as fast as zlib. */
#pragma once
#include "core/base.h"
#include <hdf5.h>

/* Rows first .. first+n-1 of a table with `rank` and `dims`. False: not such a table, or not in order; then HDF5 itself
 * has to look, and `out` may be written to. */
bool h5_chunks_read(hid_t table, hid_t type, int rank, const hsize_t dims[2], int64_t first, int64_t n, void *out);
