/* One job at a time in a folder: the kernel's lock on FOLDER/lock, so a killed job leaves none behind; the text in it
 * only says who holds it. */
#pragma once
#include "core/base.h"

/* A descriptor to keep open while the job runs (close lets go), or -1 with ST_CONFIG "... in use by another job (who):
 * wait for it or MEND". The folder exists. Where the file system has no locks there is a warning and the job goes on.
 */
int  folder_lock(const char *folder, const char *mend, status *st);
/* Writes who holds it. */
bool folder_lock_sign(int lock, const char *folder, status *st);
