/* The floor everything stands on: fatal errors, status values, logging.
 *
 * Two kinds of trouble (docs/architecture.md, "Errors"):
 *   - bugs and failed MPI/CUDA/NCCL calls are fatal: CHECK / FATAL print one line with rank, host, file:line, function
 *     and the numbers that do not fit, then end the whole job;
 *   - files, configuration and shards are the user's: such functions return a `status`, leave nothing half done and let
 *     the caller decide.
 */
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define PRINTF_LIKE(fmt, args)
#endif

/* ---- fatal ---------------------------------------------------------------------------------------------------- */

/* Called with the finished one-line message. The default prints it to stderr and calls abort_job. A test may replace
 * it by a function that longjmps; it must not return. NULL restores the default. */
typedef void (*fatal_hook)(const char *message);
void fatal_set_hook(fatal_hook hook);

/* What ends the whole job: exit(70) by default, MPI_Abort once dist/comm is up. */
void fatal_set_abort(void (*abort_job)(int code));

#ifdef __cplusplus
[[noreturn]]
#else
_Noreturn
#endif
void fatal_at(const char *file, int line, const char *func, const char *fmt, ...) PRINTF_LIKE(4, 5);

/* A text that begins with "no memory" is no bug: the job ends with ST_MEMORY, the line with what the host has left. */
#define FATAL(...) fatal_at(__FILE__, __LINE__, __func__, __VA_ARGS__)
/* CHECK(condition, "what does not fit: %d", n): stays on in release builds. */
#define CHECK(cond, ...)                                                                                               \
    do {                                                                                                               \
        if (!(cond)) fatal_at(__FILE__, __LINE__, __func__, __VA_ARGS__);                                              \
    } while (0)
#ifdef NDEBUG
#define DEBUG_CHECK(cond, ...)                                                                                         \
    do {                                                                                                               \
    } while (0)
#else
#define DEBUG_CHECK(cond, ...) CHECK(cond, __VA_ARGS__)
#endif

/* ---- status --------------------------------------------------------------------------------------------------- */

/* Exit codes of the program, and codes of a status (sysexits.h where one fits). */
typedef enum {
    ST_OK = 0,
    ST_USAGE = 64,    /* wrong option, key, type or range */
    ST_DATA = 65,     /* a file's content is wrong or damaged */
    ST_NO_INPUT = 66, /* a file is missing or unreadable */
    ST_INTERNAL = 70,
    ST_HUNG = 71,    /* a rank hung or is gone: another start may go well */
    ST_MEMORY = 72,  /* a rank does not get the memory it needs */
    ST_SUSPECT = 73, /* a rank computes other results than the others: leave its host out */
    ST_IO = 74,      /* write failed: disk full, no permission */
    ST_REQUEUE = 75, /* stopped on request after a checkpoint: run again */
    ST_CONFIG = 78   /* configuration does not fit a checkpoint or a data set */
} status_code;

/* Result of a call on outside material. `text` says what, where and the mend, in one line. */
typedef struct {
    status_code code;
    char        text[512];
} status;

static inline bool status_ok(const status *s) {
    return s->code == ST_OK;
}
/* Fills *s (the first failure stays) and returns false, so that `return status_set(...)` reads well. */
bool status_set(status *s, status_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* ---- log ------------------------------------------------------------------------------------------------------ */

typedef enum { LOG_QUIET = 0, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level;

/* rank and size appear in messages; only rank 0 prints LOG_INFO. Level INFO by default. */
void log_init(int rank, int size, log_level level);
int  log_rank(void);
void log_at(log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)

/* All that is logged, of every rank and level up to INFO, and fatal messages also go to this file, with the time, until
 * it has max_bytes; -1: no more. The file stays the caller's. */
void log_tee(int file, int64_t max_bytes);
int  log_tee_file(void);
void log_to_tee(const char *fmt, ...) PRINTF_LIKE(1, 2); /* there only */

/* ---- progress ------------------------------------------------------------------------------------------------- */

/* A bar with ETA on a terminal, a plain line every few seconds otherwise. Only rank 0 prints. */
typedef struct {
    const char *what;
    int64_t     total, start; /* start: steps that were done before this run, not counted for the ETA */
    double      t0, t_last;
} progress;

void progress_begin(progress *p, const char *what, int64_t start, int64_t total);
/* `note` may be NULL; it follows the bar ("loss 0.123"). */
void progress_step(progress *p, int64_t done, const char *note);
/* Says nothing where there was nothing to do. */
void progress_end(progress *p, const char *note);

/* For qsort over doubles. */
int    ascending_f64(const void *a, const void *b);
double now_seconds(void); /* monotonic */

#ifdef __cplusplus
}
#endif
