/* Faults on purpose, in the program that users run: what a test breaks is the release build. Off unless the
 * environment variable D3S2_FAULT says where and what:
 *
 *   D3S2_FAULT='kill@ckpt.fsync:3,rank=1; fail=ENOSPC@ckpt.write:2-; delay=500@loader.read'
 *
 *   fault   action[=value] @ point [:passes] [,rank=R]      several are parted by ";"
 *   action  kill (SIGKILL), stop (SIGSTOP), exit[=code] (70), delay=milliseconds: done inside fault_at
 *           fail[=errno] (EIO; a name or a number), nan: the caller does it
 *   point   a name that some call of fault_at has
 *   passes  n: the nth pass of this process, n-m: those, n-: from then on, n-m/k, n-/k: every kth of them;
 *           without it the first
 *   rank    only there; without it on every rank
 *
 * A mistake in the text is fatal, at the first point or at fault_rank. What happens is told on stderr ("fault: ..."),
 * so that a test can see that its fault did come. Any thread may call. */
#pragma once
#include "core/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Counts a pass of `point` and does what is due. True: the caller must fail (errno is set) or make a NaN; which of the
 * two is for the point to say in its place. Without D3S2_FAULT one load. */
bool fault_at(const char *point);
/* This process' rank; until then faults with a rank do not come. */
void fault_rank(int rank);
/* Forgets counts and text; the environment is read again. */
void fault_reset(void);

#ifdef __cplusplus
}
#endif
