/* Why a run stops before its last step: SIGTERM, SIGUSR1, SIGINT (Ctrl-C), or the end of the job's time. Of this rank;
 * the ranks agree in the step. */
#pragma once
#include <signal.h>
#include <stdbool.h>

typedef struct {
    struct sigaction term, usr1, interrupt;
} stop_signals;

/* From here on the signals are requests; `old` has what they did before. A second Ctrl-C ends the process at once. */
void   stop_listen(stop_signals *old);
void   stop_unlisten(const stop_signals *old);
bool   stop_asked(void);
/* Seconds until the job's time is up, as SLURM_JOB_END_TIME says; INFINITY: nobody did. */
double stop_time_left(void);
/* Whether another step of step_s seconds would leave less than `before`; 0: never. */
bool   stop_time_is_up(double before, double step_s);
