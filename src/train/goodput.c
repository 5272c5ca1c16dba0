#include "train/goodput.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const key[] = {"time",          "run_start_s",      "run_useful_s", "run_lost_s",
                                  "run_stalled_s", "run_checkpoint_s", "run_eval_s",   "run_other_s",
                                  "run_down_s",    "starts",           "idle_starts",  "best_before"};
enum { KEY_TIME, KEY_ACCOUNT, KEY_STARTS = KEY_ACCOUNT + GOOD_ACCOUNTS, KEY_IDLE, KEY_BEST, KEYS, WRITE_SECONDS = 10 };

const char *good_account_name(good_account a) {
    static const char *const name[] = {"start", "useful", "lost", "stalled", "checkpoint", "eval", "other", "down"};
    return name[a];
}

double process_age(void) {
    char            text[1024], *p;
    struct timespec now;
    FILE           *f = fopen("/proc/self/stat", "r");
    size_t          n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    double          started = -1;
    if (f) fclose(f);
    text[n] = 0;
    p = strrchr(text, ')'); /* the second field may hold anything; the start is the 22nd */
    for (int field = 2; p && field < 22; field++) p = strchr(p + 1, ' ');
    if (p) started = strtod(p, NULL) / (double)sysconf(_SC_CLK_TCK);
    clock_gettime(CLOCK_BOOTTIME, &now);
    double age = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec - started;
    return started >= 0 && age >= 0 ? age : 0;
}

/* The newer of the two files, as a killed start may have written only one. */
static bool read_last(const char *run, goodput *g, double last[KEYS], int64_t *best, status *st) {
    char    metrics[PATH_CAP];
    double  own[KEYS];
    int64_t step;
    if (!join_path(run, "goodput.json", g->path, st) || !join_path(run, "metrics.jsonl", metrics, st) ||
        !jsonl_last(metrics, INT64_MAX, key, KEYS, last, best, st) ||
        !jsonl_last(g->path, INT64_MAX, key, KEYS, own, &step, st))
        return false;
    if (step > *best) *best = step;
    if (isnan(last[KEY_TIME]) || last[KEY_TIME] <= own[KEY_TIME]) memcpy(last, own, sizeof own);
    return true;
}

bool goodput_open(goodput *g, const char *run, int64_t step, double age, int64_t most, status *st) {
    double  last[KEYS], at_step[KEYS];
    char    metrics[PATH_CAP];
    int64_t best, found;
    *g = (goodput){.booked = now_seconds(), .first_best = step};
    if (!read_last(run, g, last, &best, st)) return false;
    g->account[GOOD_START] = age;
    g->starts = 1;
    if (isnan(last[KEY_TIME])) return true;
    for (int i = 0; i < GOOD_ACCOUNTS; i++)
        if (isfinite(last[KEY_ACCOUNT + i])) g->account[i] += last[KEY_ACCOUNT + i];
    double down = (double)time(NULL) - age - last[KEY_TIME];
    if (down > 0) g->account[GOOD_DOWN] += down;
    /* What was done after the checkpoint is done again. */
    if (!join_path(run, "metrics.jsonl", metrics, st) || !jsonl_last(metrics, step, key, KEYS, at_step, &found, st))
        return false;
    double useful = isfinite(at_step[KEY_ACCOUNT + GOOD_USEFUL]) ? at_step[KEY_ACCOUNT + GOOD_USEFUL] : 0;
    if (best > step) goodput_move(g, GOOD_USEFUL, GOOD_LOST, last[KEY_ACCOUNT + GOOD_USEFUL] - useful);
    g->starts += isfinite(last[KEY_STARTS]) ? (int64_t)last[KEY_STARTS] : 0;
    bool gained = !(isfinite(last[KEY_BEST]) && (double)best <= last[KEY_BEST]);
    g->idle_starts = gained || !isfinite(last[KEY_IDLE]) ? 0 : (int64_t)last[KEY_IDLE] + 1;
    g->first_best = best > step ? best : step;
    if (most == 0 || g->idle_starts < most) return true;
    return status_set(st, ST_CONFIG,
                      "%s: %lld starts in a row ended before a step beyond %lld: read logs/ there and mend the cause, "
                      "then start once with train.max_idle_starts=0",
                      run, (long long)g->idle_starts, (long long)g->first_best);
}

void goodput_book(goodput *g, good_account to) {
    double now = now_seconds();
    g->account[to] += now - g->booked;
    g->booked = now;
}

void goodput_move(goodput *g, good_account from, good_account to, double seconds) {
    if (!(seconds > 0)) return;
    if (seconds > g->account[from]) seconds = g->account[from];
    g->account[from] -= seconds;
    g->account[to] += seconds;
}

void goodput_mark(goodput *g, int64_t step) {
    int64_t i = g->n_useful++ % 64;
    g->useful_step[i] = step;
    g->useful_at[i] = g->account[GOOD_USEFUL];
}

void goodput_rolled_back(goodput *g, int64_t step) {
    for (int64_t i = g->n_useful - 1; i >= 0 && i >= g->n_useful - 64; i--)
        if (g->useful_step[i % 64] == step) {
            goodput_move(g, GOOD_USEFUL, GOOD_LOST, g->account[GOOD_USEFUL] - g->useful_at[i % 64]);
            return;
        }
}

double goodput_total(const goodput *g) {
    double sum = 0;
    for (int i = 0; i < GOOD_ACCOUNTS; i++) sum += g->account[i];
    return sum;
}

double goodput_share(const goodput *g) {
    double sum = goodput_total(g);
    return sum > 0 ? g->account[GOOD_USEFUL] / sum : 0;
}

void goodput_put(const goodput *g, jsonl *j) {
    jsonl_int(j, key[KEY_TIME], (int64_t)time(NULL));
    for (int i = 0; i < GOOD_ACCOUNTS; i++) jsonl_number(j, key[KEY_ACCOUNT + i], g->account[i]);
    jsonl_number(j, "goodput", goodput_share(g));
    jsonl_int(j, key[KEY_STARTS], g->starts);
    jsonl_int(j, key[KEY_IDLE], g->idle_starts);
    jsonl_int(j, key[KEY_BEST], g->first_best);
}

void goodput_write(goodput *g, int64_t step, bool now) {
    char   text[1024];
    int    n;
    status st = {0};
    if (!*g->path || (!now && now_seconds() - g->written < WRITE_SECONDS)) return;
    g->written = now_seconds();
    n = snprintf(text, sizeof text, "{\"step\":%lld,\"time\":%lld", (long long)step, (long long)time(NULL));
    for (int i = 0; i < GOOD_ACCOUNTS; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, ",\"%s\":%.3f", key[KEY_ACCOUNT + i], g->account[i]);
    n += snprintf(text + n, sizeof text - (size_t)n,
                  ",\"total_s\":%.3f,\"goodput\":%.5f,\"starts\":%lld,\"idle_starts\":%lld,\"best_before\":%lld}\n",
                  goodput_total(g), goodput_share(g), (long long)g->starts, (long long)g->idle_starts,
                  (long long)g->first_best);
    if (!atomic_write(g->path, text, n, &st) && !g->warned) {
        g->warned = true;
        log_warn("%s", st.text);
    }
}
