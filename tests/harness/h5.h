/* A small reader for golden files in tests. Whatever is missing or cannot be read is fatal and names file and
 * path. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef int64_t h5_file;

typedef struct {
    int     rank;  /* 0 for a scalar */
    int64_t n[8];  /* sizes, slowest first */
    int64_t count; /* their product */
} h5_dims;

h5_file h5_open(const char *path);
void    h5_close(h5_file f);

/* Formats a path inside a file: h5_path("%s/out/step%d", name, i). One of 16 static texts, used in turn. */
const char *h5_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Malloc'ed (never NULL), converted by HDF5 to the type asked for; d may be NULL. */
float   *h5_f32(h5_file f, const char *path, h5_dims *d);
double  *h5_f64(h5_file f, const char *path, h5_dims *d);
int32_t *h5_i32(h5_file f, const char *path, h5_dims *d);
int64_t *h5_i64(h5_file f, const char *path, h5_dims *d);
uint8_t *h5_u8(h5_file f, const char *path, h5_dims *d);
/* One number: a dataset of one element. */
double   h5_scalar(h5_file f, const char *path);

/* Is there an object of this path / an attribute on it? */
bool    h5_exists(h5_file f, const char *path);
bool    h5_attr_exists(h5_file f, const char *object, const char *name);
/* The attribute of an object ("/" = the file); `missing` when it is not there, fatal when missing is NaN. */
double  h5_attr_double(h5_file f, const char *object, const char *name, double missing);
/* An attribute of several numbers, malloc'ed. */
double *h5_attr_doubles(h5_file f, const char *object, const char *name, int64_t *n);
char   *h5_attr_string(h5_file f, const char *object, const char *name); /* malloc'ed, fatal when missing */

/* Link names of a group in alphabetical order, malloc'ed; h5_list_free. */
char **h5_list(h5_file f, const char *group, int *n);
void   h5_list_free(char **names, int n);
