#include "train/stop.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

static volatile sig_atomic_t asked;

static void on_signal(int number) {
    (void)number;
    asked = 1;
}

void stop_listen(stop_signals *old) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    asked = 0;
    sigaction(SIGTERM, &a, &old->term);
    sigaction(SIGUSR1, &a, &old->usr1);
    a.sa_flags |= SA_RESETHAND; /* who presses Ctrl-C twice does not want to wait */
    sigaction(SIGINT, &a, &old->interrupt);
    if (old->interrupt.sa_handler == SIG_IGN) sigaction(SIGINT, &old->interrupt, NULL); /* started in the background */
}

/* Who was asked to stop is on his way out: the same request once more must not cut that short. */
void stop_unlisten(const stop_signals *old) {
    if (asked) return;
    sigaction(SIGTERM, &old->term, NULL);
    sigaction(SIGUSR1, &old->usr1, NULL);
    sigaction(SIGINT, &old->interrupt, NULL);
}

bool stop_asked(void) {
    return asked;
}

double stop_time_left(void) {
    const char *text = getenv("SLURM_JOB_END_TIME");
    char       *end;
    double      t = text ? strtod(text, &end) : 0;
    return text && end != text && !*end && t > 0 ? t - (double)time(NULL) : INFINITY;
}

bool stop_time_is_up(double before, double step_s) {
    return before > 0 && stop_time_left() < step_s + before;
}
