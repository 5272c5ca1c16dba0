/* The HDF5 file driver for files under writing. HDF5 cannot close a file after a failed write: a chunk or
 * metadata block that it cannot flush keeps the file open, and the next flush meets its half-changed state.
 * So this driver never reports a failed write; it remembers the first one, and whoever closes the file asks.
 * The file is an ordinary HDF5 file. */
#pragma once
#include <hdf5.h>
#include <stdbool.h>

/* Makes a file access list use the driver. */
bool h5_driver_use(hid_t fapl);
/* errno of the first failed write, 0 when there was none. */
int  h5_driver_error(hid_t file);
/* From now on nothing is written: what a file under removal still holds back is dropped. */
void h5_driver_drop(hid_t file);
