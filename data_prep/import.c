#define _GNU_SOURCE
#include "data_prep/import.h"

#include <assimp/cimport.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

import_limits import_default_limits(void) {
    return (import_limits){.seconds = 60, .mbytes = 4096, .max_faces = 20000000};
}

static void (*child_hook)(const char *path);
void import_set_child_hook(void (*hook)(const char *path)) {
    child_hook = hook;
}

bool import_knows(const char *path) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    return dot && dot[1] && (strcasecmp(dot, ".wrl") == 0 || aiIsExtensionSupported(dot) == AI_TRUE);
}

void scene_free(scene *s) {
    mesh_free(&s->m);
    for (int i = 0; i < s->n_materials; i++) image_free(&s->material[i].texture);
    free(s->material);
    *s = (scene){0};
}

/* ---- child ---------------------------------------------------------------------------------------------------- */

/* Of this process: address space, or with `resident` the part that is in memory. */
static int64_t memory_bytes(bool resident) {
    long long pages = 0, in_memory = 0;
    FILE     *f = fopen("/proc/self/statm", "r");
    if (f) {
        if (fscanf(f, "%lld %lld", &pages, &in_memory) != 2) pages = in_memory = 0;
        fclose(f);
    }
    return (resident ? in_memory : pages) * sysconf(_SC_PAGESIZE);
}

static void set_limit(int what, int64_t value) {
    struct rlimit l;
    if (getrlimit(what, &l) != 0) return;
    if (l.rlim_max == RLIM_INFINITY || l.rlim_max > (rlim_t)value) l.rlim_cur = l.rlim_max = (rlim_t)value;
    setrlimit(what, &l);
}

static _Noreturn void child(const char *path, const import_limits *limits, int fd) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int s = 1; s < 32; s++) signal(s, SIG_DFL); /* MPI's handlers would print a backtrace, or abort the job */
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_RDWR);
    if (null >= 0)
        dup2(null, STDOUT_FILENO), dup2(null, STDERR_FILENO), close(null); /* importers print what they like */
    set_limit(RLIMIT_CORE, 0);
    set_limit(RLIMIT_CPU, (int64_t)ceil(limits->seconds) + 1);
    set_limit(RLIMIT_AS, memory_bytes(false) + limits->mbytes * 1048576);
    set_limit(RLIMIT_FSIZE, 0);
    if (child_hook) child_hook(path);
    import_child(path, limits, fd);
}

/* ---- parent --------------------------------------------------------------------------------------------------- */

typedef struct {
    int     fd;
    double  deadline;
    int64_t left; /* bytes that may still come */
    enum { STREAM_GOOD, STREAM_ENDED, STREAM_LATE, STREAM_LARGE } state;
} stream;

static bool take(stream *s, void *out, int64_t bytes) {
    char *p = out;
    if (s->state != STREAM_GOOD) return false;
    if (bytes > s->left) {
        s->state = STREAM_LARGE;
        return false;
    }
    s->left -= bytes;
    while (bytes > 0) {
        double wait = s->deadline - now_seconds();
        if (wait <= 0) {
            s->state = STREAM_LATE;
            return false;
        }
        struct pollfd p1 = {.fd = s->fd, .events = POLLIN};
        int           r = poll(&p1, 1, (int)fmin(1000.0, wait * 1000 + 1));
        if (r <= 0) continue;
        ssize_t n = read(s->fd, p, (size_t)bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            s->state = STREAM_ENDED;
            return false;
        }
        p += n;
        bytes -= n;
    }
    return true;
}

static void *take_array(stream *s, int64_t count, int64_t size) {
    if (s->state != STREAM_GOOD) return NULL;
    if (count > s->left / size) {
        s->state = STREAM_LARGE;
        return NULL;
    }
    void *p = malloc((size_t)(count > 0 ? count * size : 1));
    if (p && take(s, p, count * size)) return p;
    if (!p) s->state = STREAM_LARGE;
    free(p);
    return NULL;
}

/* A texture named in the file, looked for beside the model, then by its bare name: exports carry foreign folders. */
static void read_texture(const char *model, char *name, image *out) {
    enum { MAX_TEXTURE_BYTES = 256 << 20 };
    char path[2 * IMPORT_MAX_PATH];
    for (char *c = name; *c; c++)
        if (*c == '\\') *c = '/';
    const char *slash = strrchr(model, '/'), *base = strrchr(name, '/');
    int         n_dir = slash ? (int)(slash - model) + 1 : 0;
    const char *tries[2] = {name, base ? base + 1 : NULL};
    for (int i = 0; i < 2 && tries[i]; i++) {
        bool whole = i == 0 && tries[i][0] == '/';
        snprintf(path, sizeof path, "%.*s%s", whole ? 0 : n_dir, model, tries[i]);
        struct stat info;
        status      ignored = {0};
        if (stat(path, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > MAX_TEXTURE_BYTES) continue;
        if (image_read(path, out, &ignored)) return;
    }
}

/* A small file may hold a large picture, and each of many materials may name it: all of them together have `room`
 * bytes, and the mesh's time. */
static bool read_materials(stream *in, const char *path, int64_t room, scene *s) {
    for (int i = 0; i < s->n_materials; i++) {
        scene_material *m = &s->material[i];
        int64_t         n_path = 0, n_blob = 0;
        char            name[IMPORT_MAX_PATH + 1];
        if (!take(in, m->diffuse, sizeof m->diffuse) || !take(in, &n_path, 8)) return false;
        if (n_path < 0 || n_path > IMPORT_MAX_PATH || !take(in, name, n_path) || !take(in, &n_blob, 8)) return false;
        name[n_path] = 0;
        for (int c = 0; c < 4; c++)
            if (!(m->diffuse[c] >= 0 && m->diffuse[c] <= 1)) m->diffuse[c] = m->diffuse[c] > 1 ? 1.0f : 0.0f;
        if (n_blob < 0) return false;
        if (n_blob > 0) {
            uint8_t *blob = take_array(in, n_blob, 1);
            status   ignored = {0};
            if (!blob) return false;
            image_decode(blob, n_blob, path, &m->texture, &ignored);
            free(blob);
        } else if (n_path > 0) {
            read_texture(path, name, &m->texture);
        }
        room -= (int64_t)m->texture.width * m->texture.height * m->texture.channels;
        if (room < 0) in->state = STREAM_LARGE;
        if (now_seconds() > in->deadline) in->state = STREAM_LATE;
        if (in->state != STREAM_GOOD) return false;
    }
    return true;
}

/* Removes vertices that no face uses, so that they cannot stretch the bounding box. */
static bool compact(mesh *m) {
    int32_t *to = malloc((size_t)m->n_vertices * sizeof *to);
    int64_t  n = 0;
    if (!to) return false;
    for (int64_t i = 0; i < m->n_vertices; i++) to[i] = -1;
    for (int64_t i = 0; i < 3 * m->n_faces; i++) to[m->face[i]] = 0;
    for (int64_t i = 0; i < m->n_vertices; i++) {
        if (to[i] < 0) continue;
        memmove(m->position + 3 * n, m->position + 3 * i, 12);
        if (m->normal) memmove(m->normal + 3 * n, m->normal + 3 * i, 12);
        if (m->uv) memmove(m->uv + 2 * n, m->uv + 2 * i, 8);
        if (m->color) memmove(m->color + 4 * n, m->color + 4 * i, 4);
        to[i] = (int32_t)n++;
    }
    for (int64_t i = 0; i < 3 * m->n_faces; i++) m->face[i] = to[m->face[i]];
    m->n_vertices = n;
    free(to);
    return true;
}

static bool check_scene(const char *path, scene *s, status *st) {
    mesh *m = &s->m;
    for (int64_t i = 0; i < 3 * m->n_faces; i++)
        if (m->face[i] < 0 || m->face[i] >= m->n_vertices)
            return status_set(st, ST_DATA, "%s: triangle %lld refers to vertex %d of %lld", path, (long long)(i / 3),
                              m->face[i], (long long)m->n_vertices);
    for (int64_t i = 0; i < m->n_faces; i++)
        if (m->material[i] < 0 || m->material[i] >= s->n_materials) m->material[i] = 0;
    if (!compact(m)) return status_set(st, ST_DATA, "%s: out of memory", path);
    int64_t bad = 0;
    for (int64_t i = 0; i < 3 * m->n_vertices; i++) bad += !isfinite(m->position[i]);
    if (bad)
        return status_set(st, ST_DATA, "%s: %lld of %lld coordinates are not finite (NaN or Inf)", path, (long long)bad,
                          (long long)(3 * m->n_vertices));
    for (int64_t i = 0; m->normal && i < 3 * m->n_vertices; i++)
        if (!isfinite(m->normal[i])) m->normal[i] = 0;
    for (int64_t i = 0; m->uv && i < 2 * m->n_vertices; i++)
        if (!isfinite(m->uv[i])) m->uv[i] = 0;
    return true;
}

static bool receive(stream *in, const char *path, const import_limits *limits, scene *s, status *st) {
    import_head h;
    if (!take(in, &h, sizeof h)) return false;
    if (h.magic == IMPORT_MAGIC && h.n_vertices < 0 && h.n_vertices > -4096) {
        char text[4096] = "";
        take(in, text, -h.n_vertices);
        if (strcmp(text, "out of memory") == 0)
            return status_set(st, ST_DATA, "%s: needs over %lld MB to import (prep.mb_per_mesh)", path,
                              (long long)limits->mbytes);
        return status_set(st, ST_DATA, "%s: %.300s", path, text);
    }
    if (h.magic != IMPORT_MAGIC || h.n_vertices < 1 || h.n_vertices > 3 * limits->max_faces || h.n_faces < 1 ||
        h.n_faces > limits->max_faces || h.n_materials < 1 || h.n_materials > IMPORT_MAX_MATERIALS)
        return status_set(st, ST_DATA,
                          "%s: the importer sent a scene with impossible counts (%lld vertices, %lld faces)", path,
                          (long long)h.n_vertices, (long long)h.n_faces);
    mesh *m = &s->m;
    m->n_vertices = h.n_vertices;
    m->n_faces = h.n_faces;
    m->position = take_array(in, 3 * h.n_vertices, 4);
    m->face = take_array(in, 3 * h.n_faces, 4);
    m->material = take_array(in, h.n_faces, 4);
    if (h.has_normal) m->normal = take_array(in, 3 * h.n_vertices, 4);
    if (h.has_uv) m->uv = take_array(in, 2 * h.n_vertices, 4);
    if (h.has_color) m->color = take_array(in, 4 * h.n_vertices, 1);
    if (in->state != STREAM_GOOD) return false;
    s->material = calloc((size_t)h.n_materials, sizeof *s->material);
    if (!s->material) return status_set(st, ST_DATA, "%s: out of memory", path);
    s->n_materials = (int)h.n_materials;
    return read_materials(in, path, limits->mbytes * 1048576, s) && check_scene(path, s, st);
}

/* Why the stream broke off, from the child's end. */
static void explain(const char *path, const import_limits *l, const stream *in, int ended, int64_t peak_kb,
                    status *st) {
    long long mb = (long long)l->mbytes;
    /* an importer that is refused memory crashes or gives up; one that does so with over 60 % of it taken was refused
     */
    bool      full = peak_kb / 1024 > l->mbytes * 6 / 10;
    if (in->state == STREAM_LATE || (WIFSIGNALED(ended) && WTERMSIG(ended) == SIGXCPU))
        status_set(st, ST_DATA, "%s: import timed out after %g s (prep.seconds_per_mesh)", path, l->seconds);
    else if (in->state == STREAM_LARGE || full)
        status_set(st, ST_DATA, "%s: needs over %lld MB to import (prep.mb_per_mesh)", path, mb);
    else if (WIFSIGNALED(ended))
        status_set(st, ST_DATA, "%s: the importer crashed with signal %d (%s)", path, WTERMSIG(ended),
                   strsignal(WTERMSIG(ended)));
    else
        status_set(st, ST_DATA, "%s: the importer ended early (exit code %d)", path,
                   WIFEXITED(ended) ? WEXITSTATUS(ended) : -1);
}

bool import_scene(const char *path, const import_limits *limits, scene *s, status *st) {
    CHECK(limits->seconds > 0 && limits->mbytes > 0 && limits->max_faces > 0, "limits %g s, %lld MB, %lld faces",
          limits->seconds, (long long)limits->mbytes, (long long)limits->max_faces);
    *s = (scene){0};
    struct stat info;
    if (stat(path, &info) != 0) return status_set(st, ST_NO_INPUT, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return status_set(st, ST_DATA, "%s: not a file", path);
    if (access(path, R_OK) != 0) return status_set(st, ST_NO_INPUT, "%s: %s", path, strerror(errno));
    if (info.st_size == 0) return status_set(st, ST_DATA, "%s: the file is empty", path);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return status_set(st, ST_IO, "%s: no pipe: %s", path, strerror(errno));
    int64_t base_kb = memory_bytes(true) / 1024; /* the child starts with the parent's pages in its account */
    pid_t   pid = fork();
    if (pid < 0) {
        close(ends[0]), close(ends[1]);
        return status_set(st, ST_IO, "%s: no child process: %s", path, strerror(errno));
    }
    if (pid == 0) {
        close(ends[0]);
        child(path, limits, ends[1]);
    }
    close(ends[1]);
    stream in = {.fd = ends[0], .deadline = now_seconds() + limits->seconds, .left = limits->mbytes * 1048576};
    bool   good = receive(&in, path, limits, s, st);
    close(ends[0]);
    if (!good) kill(pid, SIGKILL);
    int           ended = 0;
    struct rusage use = {0};
    /* the child of an ended stream may still be dying of its own signal: wait first, it closed the pipe by exiting */
    while (wait4(pid, &ended, 0, &use) < 0 && errno == EINTR) {
    }
    if (good) return true;
    scene_free(s);
    if (status_ok(st)) explain(path, limits, &in, ended, use.ru_maxrss - base_kb, st);
    return false;
}
