#include "harness/h5.h"
#include "core/base.h"

#include <hdf5.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *name_of(h5_file f) {
    static char name[1024];
    if (H5Fget_name(f, name, sizeof name) < 0) snprintf(name, sizeof name, "?");
    return name;
}

h5_file h5_open(const char *path) {
    setenv("HDF5_USE_FILE_LOCKING", "FALSE", 0);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    CHECK(f >= 0, "%s: cannot open", path);
    return f;
}

void h5_close(h5_file f) {
    H5Fclose(f);
}

const char *h5_path(const char *fmt, ...) {
    static char text[16][512];
    static int  turn;
    char       *out = text[turn++ % 16];
    va_list     ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, sizeof text[0], fmt, ap);
    va_end(ap);
    CHECK(n >= 0 && n < (int)sizeof text[0], "path too long: %s", out);
    return out;
}

bool h5_exists(h5_file f, const char *path) {
    char part[1024];
    snprintf(part, sizeof part, "%s", path);
    for (char *p = part + (*part == '/');; p++) {
        if (*p && *p != '/') continue;
        char keep = *p;
        *p = 0;
        if (*part && strcmp(part, "/") && H5Lexists(f, part, H5P_DEFAULT) <= 0) return false;
        if (!keep) return true;
        *p = keep;
    }
}

static int64_t extent(hid_t space, h5_dims *d) {
    hsize_t n[H5S_MAX_RANK];
    int     rank = H5Sget_simple_extent_dims(space, n, NULL);
    CHECK(rank >= 0 && rank <= 8, "rank %d", rank);
    *d = (h5_dims){.rank = rank, .count = 1};
    for (int i = 0; i < rank; i++) {
        d->n[i] = (int64_t)n[i];
        d->count *= d->n[i];
    }
    return d->count;
}

static void *read_as(h5_file f, const char *path, hid_t type, size_t size, h5_dims *d) {
    h5_dims own;
    CHECK(h5_exists(f, path), "%s: %s is missing", name_of(f), path);
    hid_t set = H5Dopen2(f, path, H5P_DEFAULT);
    CHECK(set >= 0, "%s: %s is not a dataset", name_of(f), path);
    hid_t   space = H5Dget_space(set);
    int64_t n = extent(space, d ? d : &own);
    void   *out = malloc((size_t)(n ? n : 1) * size);
    CHECK(out, "%s: %s: no memory for %lld elements", name_of(f), path, (long long)n);
    CHECK(n == 0 || H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0, "%s: %s cannot be read as numbers",
          name_of(f), path);
    H5Sclose(space);
    H5Dclose(set);
    return out;
}

float *h5_f32(h5_file f, const char *path, h5_dims *d) {
    return read_as(f, path, H5T_NATIVE_FLOAT, 4, d);
}
double *h5_f64(h5_file f, const char *path, h5_dims *d) {
    return read_as(f, path, H5T_NATIVE_DOUBLE, 8, d);
}
int32_t *h5_i32(h5_file f, const char *path, h5_dims *d) {
    return read_as(f, path, H5T_NATIVE_INT32, 4, d);
}
int64_t *h5_i64(h5_file f, const char *path, h5_dims *d) {
    return read_as(f, path, H5T_NATIVE_INT64, 8, d);
}
uint8_t *h5_u8(h5_file f, const char *path, h5_dims *d) {
    return read_as(f, path, H5T_NATIVE_UINT8, 1, d);
}

double h5_scalar(h5_file f, const char *path) {
    h5_dims d;
    double *x = h5_f64(f, path, &d), v = x[0];
    CHECK(d.count == 1, "%s: %s has %lld elements, not 1", name_of(f), path, (long long)d.count);
    free(x);
    return v;
}

bool h5_attr_exists(h5_file f, const char *object, const char *name) {
    CHECK(h5_exists(f, object), "%s: %s is missing", name_of(f), object);
    return H5Aexists_by_name(f, object, name, H5P_DEFAULT) > 0;
}

static hid_t open_attr(h5_file f, const char *object, const char *name) {
    CHECK(h5_attr_exists(f, object, name), "%s: %s has no attribute %s", name_of(f), object, name);
    hid_t a = H5Aopen_by_name(f, object, name, H5P_DEFAULT, H5P_DEFAULT);
    CHECK(a >= 0, "%s: attribute %s of %s cannot be opened", name_of(f), name, object);
    return a;
}

double *h5_attr_doubles(h5_file f, const char *object, const char *name, int64_t *n) {
    h5_dims d;
    hid_t   a = open_attr(f, object, name), space = H5Aget_space(a), type = H5Aget_type(a), mem = H5T_NATIVE_DOUBLE;
    double *out = calloc((size_t)extent(space, &d) + 1, sizeof *out);
    CHECK(out, "%s: no memory for attribute %s", name_of(f), name);
    if (H5Tget_class(type) == H5T_ENUM) { /* h5py stores bool as an enum of one byte, which HDF5 does not convert */
        int8_t *b = calloc((size_t)d.count + 1, 1);
        CHECK(b && H5Tget_size(type) == 1 && H5Aread(a, type, b) >= 0, "%s: attribute %s of %s is no number",
              name_of(f), name, object);
        for (int64_t i = 0; i < d.count; i++) out[i] = b[i];
        free(b);
    } else {
        CHECK(H5Aread(a, mem, out) >= 0, "%s: attribute %s of %s is no number", name_of(f), name, object);
    }
    H5Tclose(type);
    H5Sclose(space);
    H5Aclose(a);
    if (n) *n = d.count;
    return out;
}

double h5_attr_double(h5_file f, const char *object, const char *name, double missing) {
    int64_t n;
    if (!isnan(missing) && !h5_attr_exists(f, object, name)) return missing;
    double *x = h5_attr_doubles(f, object, name, &n), v = x[0];
    CHECK(n == 1, "%s: attribute %s of %s has %lld elements, not 1", name_of(f), name, object, (long long)n);
    free(x);
    return v;
}

char *h5_attr_string(h5_file f, const char *object, const char *name) {
    hid_t a = open_attr(f, object, name), type = H5Aget_type(a);
    char *out = NULL;
    CHECK(H5Tget_class(type) == H5T_STRING, "%s: attribute %s of %s is no text", name_of(f), name, object);
    if (H5Tis_variable_str(type) > 0) {
        char *text = NULL;
        CHECK(H5Aread(a, type, &text) >= 0 && text && (out = strdup(text)), "%s: attribute %s of %s cannot be read",
              name_of(f), name, object);
        H5free_memory(text);
    } else {
        CHECK((out = calloc(H5Tget_size(type) + 1, 1)) && H5Aread(a, type, out) >= 0,
              "%s: attribute %s of %s cannot be read", name_of(f), name, object);
    }
    H5Tclose(type);
    H5Aclose(a);
    return out;
}

static herr_t add_name(hid_t group, const char *name, const H5L_info_t *info, void *out) {
    (void)group, (void)info;
    char ***at = out;
    return (*(*at)++ = strdup(name)) ? 0 : -1;
}

char **h5_list(h5_file f, const char *group, int *n) {
    H5G_info_t info;
    CHECK(h5_exists(f, group), "%s: %s is missing", name_of(f), group);
    CHECK(H5Gget_info_by_name(f, group, &info, H5P_DEFAULT) >= 0, "%s: %s is not a group", name_of(f), group);
    char **names = calloc((size_t)info.nlinks + 1, sizeof *names), **at = names;
    CHECK(names && H5Literate_by_name(f, group, H5_INDEX_NAME, H5_ITER_INC, NULL, add_name, &at, H5P_DEFAULT) >= 0,
          "%s: %s cannot be listed", name_of(f), group);
    *n = (int)info.nlinks;
    return names;
}

void h5_list_free(char **names, int n) {
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
}
