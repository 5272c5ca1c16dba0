#include "io/h5.h"
#include "io/h5_chunks.h"
#include "io/h5_driver.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* zlib cannot do better than 1032:1, so stored bytes bound what a table can hold. */
enum { DEFLATE_BOUND = 1040, CHUNK_CACHE = 8 << 20, STRING_CAP = 1 << 20, LARGE = 256 << 10 };

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init(void) {
    setenv("HDF5_USE_FILE_LOCKING", "FALSE", 0);
    H5open();
}

static void quiet(void) {
    pthread_once(&once, init);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* per thread, and cheap */
}

/* "file: object" for messages. */
static const char *where(hid_t object, const char *name, char out[768]) {
    char file[400] = "?", path[200] = "";
    H5Fget_name(object, file, sizeof file);
    H5Iget_name(object, path, sizeof path);
    snprintf(out, 768, "%s: %s%s%s", file, path, name && *path && path[strlen(path) - 1] != '/' ? "/" : "",
             name ? name : "");
    return out;
}

#define DAMAGED(object, name, what)                                                                                    \
    status_set(st, ST_DATA, "%s: %s: the file is damaged or of another kind", where(object, name, (char[768]){0}), what)
#define NOT_WRITTEN(object, name)                                                                                      \
    status_set(st, ST_IO, "%s: write failed: the disk is full or the device failed; free some space and run again",    \
               where(object, name, (char[768]){0}))

static hid_t access_list(void) {
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG);
    H5Pset_libver_bounds(fapl, H5F_LIBVER_V110, H5F_LIBVER_LATEST);
    H5Pset_cache(fapl, 0, 521, CHUNK_CACHE, 0.75);
    return fapl;
}

/* Objects without the time they were made: equal content gives equal files. */
static hid_t timeless(hid_t kind) {
    hid_t p = H5Pcreate(kind);
    H5Pset_obj_track_times(p, false);
    return p;
}

hid_t h5_file_create(const char *path, status *st) {
    quiet();
    hid_t fapl = access_list(), fcpl = timeless(H5P_FILE_CREATE);
    errno = 0;
    hid_t f = h5_driver_use(fapl) ? H5Fcreate(path, H5F_ACC_TRUNC, fcpl, fapl) : -1;
    int   err = errno;
    H5Pclose(fapl);
    H5Pclose(fcpl);
    if (f < 0)
        status_set(st, ST_IO, "%s: cannot create: %s; check the folder, its permissions and space", path,
                   err ? strerror(err) : "HDF5 refused");
    return f;
}

hid_t h5_file_open(const char *path, status *st) {
    quiet();
    if (access(path, R_OK)) {
        status_set(st, ST_NO_INPUT, "%s: cannot open: %s", path, strerror(errno));
        return -1;
    }
    hid_t fapl = access_list();
    hid_t f = H5Fopen(path, H5F_ACC_RDONLY, fapl);
    H5Pclose(fapl);
    if (f < 0) status_set(st, ST_DATA, "%s: is not an HDF5 file, or cut short or damaged: make it again", path);
    return f;
}

void h5_file_close(hid_t file) {
    quiet();
    H5Fclose(file);
}

bool h5_file_finish(hid_t file, const char *path, status *st) {
    quiet();
    bool flushed = H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0;
    int  err = h5_driver_error(file);
    if (flushed && !err && H5Fclose(file) >= 0) return true;
    if (!flushed || err) h5_file_discard(file, path);
    unlink(path);
    return status_set(st, ST_IO, "%s: write failed: %s; free some space and run again", path,
                      err ? strerror(err) : "HDF5 cannot write its tables");
}

void h5_file_discard(hid_t file, const char *path) {
    quiet();
    h5_driver_drop(file);
    if (H5Fclose(file) < 0) log_warn("%s: HDF5 cannot close it; its space comes back when the program ends", path);
    unlink(path);
}

bool h5_group(hid_t file, const char *name, status *st) {
    quiet();
    hid_t gcpl = timeless(H5P_GROUP_CREATE), g = H5Gcreate2(file, name, H5P_DEFAULT, gcpl, H5P_DEFAULT);
    H5Pclose(gcpl);
    if (g < 0) return NOT_WRITTEN(file, name);
    H5Gclose(g);
    return true;
}

bool h5_has(hid_t file, const char *name) {
    char part[512];
    quiet();
    if (strlen(name) >= sizeof part) return false;
    strcpy(part, name);
    for (char *p = part + (part[0] == '/');; p++) { /* H5Lexists wants every step of the path to exist */
        if (*p && *p != '/') continue;
        char keep = *p;
        *p = 0;
        if (*part && H5Lexists(file, part, H5P_DEFAULT) <= 0) return false;
        if (!keep) break;
        *p = keep;
    }
    return true;
}

/* ---- attributes
 * --------------------------------------------------------------------------------------------------- */

static bool set_attr(hid_t object, const char *name, hid_t type, const void *v, status *st) {
    quiet();
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool  ok = a >= 0 && H5Awrite(a, type, v) >= 0;
    if (a >= 0) ok = H5Aclose(a) >= 0 && ok;
    H5Sclose(space);
    return ok || NOT_WRITTEN(object, name);
}

bool h5_set_text(hid_t object, const char *name, const char *text, status *st) {
    quiet();
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, strlen(text) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    bool ok = set_attr(object, name, type, text, st);
    H5Tclose(type);
    return ok;
}

bool h5_set_i64(hid_t object, const char *name, int64_t v, status *st) {
    quiet();
    return set_attr(object, name, H5T_NATIVE_INT64, &v, st);
}

bool h5_set_u64(hid_t object, const char *name, uint64_t v, status *st) {
    quiet();
    return set_attr(object, name, H5T_NATIVE_UINT64, &v, st);
}

bool h5_set_f64(hid_t object, const char *name, double v, status *st) {
    quiet();
    return set_attr(object, name, H5T_NATIVE_DOUBLE, &v, st);
}

/* A scalar attribute of the wanted class, or negative. */
static hid_t open_attr(hid_t object, const char *name, H5T_class_t want, hid_t *type, status *st) {
    quiet();
    if (H5Aexists(object, name) <= 0) {
        DAMAGED(object, name, "the attribute is missing");
        return -1;
    }
    hid_t a = H5Aopen(object, name, H5P_DEFAULT);
    hid_t space = a >= 0 ? H5Aget_space(a) : -1;
    *type = a >= 0 ? H5Aget_type(a) : -1;
    bool ok = space >= 0 && *type >= 0 && H5Sget_simple_extent_npoints(space) == 1 && H5Tget_class(*type) == want;
    if (space >= 0) H5Sclose(space);
    if (ok) return a;
    DAMAGED(object, name, "the attribute has another type or shape");
    if (*type >= 0) H5Tclose(*type);
    if (a >= 0) H5Aclose(a);
    return -1;
}

bool h5_get_text(hid_t object, const char *name, char *out, size_t cap, status *st) {
    hid_t type, a = open_attr(object, name, H5T_STRING, &type, st);
    if (a < 0) return false;
    bool  ok = false;
    char *text = NULL;
    if (H5Tis_variable_str(type) > 0) { /* other writers, for instance h5py, use this form */
        hid_t mem = H5Tcopy(type);
        ok = H5Aread(a, mem, &text) >= 0 && text && strlen(text) < cap;
        if (ok) strcpy(out, text);
        H5free_memory(text);
        H5Tclose(mem);
    } else {
        size_t size = H5Tget_size(type);
        ok = size <= STRING_CAP && (text = calloc(size + 1, 1)) && H5Aread(a, type, text) >= 0 && strlen(text) < cap;
        if (ok) strcpy(out, text);
        free(text);
    }
    H5Tclose(type);
    H5Aclose(a);
    return ok || DAMAGED(object, name, "the text cannot be read");
}

static bool get_number(hid_t object, const char *name, H5T_class_t want, hid_t mem, void *v, status *st) {
    hid_t type, a = open_attr(object, name, want, &type, st);
    if (a < 0) return false;
    bool ok = H5Aread(a, mem, v) >= 0;
    H5Tclose(type);
    H5Aclose(a);
    return ok || DAMAGED(object, name, "the attribute cannot be read");
}

bool h5_get_i64(hid_t object, const char *name, int64_t *v, status *st) {
    quiet();
    return get_number(object, name, H5T_INTEGER, H5T_NATIVE_INT64, v, st);
}

bool h5_get_u64(hid_t object, const char *name, uint64_t *v, status *st) {
    quiet();
    return get_number(object, name, H5T_INTEGER, H5T_NATIVE_UINT64, v, st);
}

bool h5_get_f64(hid_t object, const char *name, double *v, status *st) {
    quiet();
    return get_number(object, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, v, st);
}

/* ---- tables
 * ------------------------------------------------------------------------------------------------------- */

static hid_t          half_type = -1;
static pthread_once_t half_once = PTHREAD_ONCE_INIT;

static void make_half(void) {
    quiet();
    half_type = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(half_type, 15, 10, 5, 0, 10);
    H5Tset_size(half_type, 2);
    H5Tset_ebias(half_type, 15);
}

hid_t h5_half(void) {
    pthread_once(&half_once, make_half);
    return half_type;
}

hid_t h5_table_create(hid_t file, const char *name, hid_t type, int64_t cols, int64_t chunk_rows, int deflate,
                      status *st) {
    quiet();
    int     rank = cols ? 2 : 1;
    hsize_t dims[2] = {0, (hsize_t)cols}, max[2] = {H5S_UNLIMITED, (hsize_t)cols};
    hsize_t chunk[2] = {(hsize_t)(chunk_rows > 0 ? chunk_rows : 1), (hsize_t)cols};
    hid_t   space = H5Screate_simple(rank, dims, max), dcpl = timeless(H5P_DATASET_CREATE);
    H5Pset_chunk(dcpl, rank, chunk);
    if (deflate > 0) {
        H5Pset_shuffle(dcpl);
        H5Pset_deflate(dcpl, (unsigned)deflate);
    }
    H5Pset_fletcher32(dcpl);
    hid_t table = H5Dcreate2(file, name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    H5Pclose(dcpl);
    H5Sclose(space);
    if (table < 0) NOT_WRITTEN(file, name);
    return table;
}

static int table_dims(hid_t table, hsize_t dims[2]) {
    hid_t space = H5Dget_space(table);
    int   rank = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    dims[0] = dims[1] = 0;
    if (rank == 1 || rank == 2) H5Sget_simple_extent_dims(space, dims, NULL);
    if (space >= 0) H5Sclose(space);
    return rank;
}

/* Selects rows of the table and moves them from or to `data`. */
static bool move_rows(hid_t table, hid_t type, hsize_t first, hsize_t n, const void *from, void *to) {
    hsize_t dims[2], start[2] = {first, 0}, count[2] = {n, 0};
    int     rank = table_dims(table, dims);
    count[1] = dims[1];
    hid_t file_space = H5Dget_space(table), mem_space = H5Screate_simple(rank, count, NULL);
    bool  ok = file_space >= 0 && mem_space >= 0 &&
              H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0;
    if (ok && from) ok = H5Dwrite(table, type, mem_space, file_space, H5P_DEFAULT, from) >= 0;
    if (ok && to) ok = H5Dread(table, type, mem_space, file_space, H5P_DEFAULT, to) >= 0;
    if (mem_space >= 0) H5Sclose(mem_space);
    if (file_space >= 0) H5Sclose(file_space);
    return ok;
}

/* The driver keeps failed writes to itself so that HDF5 stays in order; a writer hears of them here, not at
 * the end. */
static bool no_write_failed(hid_t table, status *st) {
    hid_t file = H5Iget_file_id(table);
    int   err = h5_driver_error(file);
    H5Fclose(file);
    return err == 0 || status_set(st, ST_IO, "%s: write failed: %s; free some space and run again",
                                  where(table, NULL, (char[768]){0}), strerror(err));
}

bool h5_table_append(hid_t table, hid_t type, int64_t rows, const void *data, status *st) {
    hsize_t dims[2];
    quiet();
    if (rows == 0) return true;
    table_dims(table, dims);
    hsize_t old = dims[0];
    dims[0] += (hsize_t)rows;
    if (H5Dset_extent(table, dims) < 0 || !move_rows(table, type, old, (hsize_t)rows, data, NULL))
        return NOT_WRITTEN(table, NULL);
    return no_write_failed(table, st);
}

bool h5_table_put(hid_t file, const char *name, hid_t type, int64_t cols, int64_t rows, const void *data, status *st) {
    int64_t width = (int64_t)H5Tget_size(type) * (cols ? cols : 1), chunk = (256 << 10) / width;
    if (chunk > rows) chunk = rows;
    hid_t table = h5_table_create(file, name, type, cols, chunk, 4, st);
    if (table < 0) return false;
    bool ok = h5_table_append(table, type, rows, data, st);
    return (H5Dclose(table) >= 0 && ok) || NOT_WRITTEN(file, name);
}

bool h5_flat_reserve(hid_t file, const char *name, hid_t type, int64_t count, int64_t *at, status *st) {
    quiet();
    hsize_t dims = (hsize_t)count;
    hid_t   space = H5Screate_simple(1, &dims, NULL), dcpl = timeless(H5P_DATASET_CREATE);
    H5Pset_alloc_time(dcpl, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(dcpl, H5D_FILL_TIME_NEVER);
    hid_t   set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    haddr_t place = set >= 0 && count > 0 ? H5Dget_offset(set) : 0;
    H5Pclose(dcpl);
    H5Sclose(space);
    bool ok = set >= 0 && place != HADDR_UNDEF;
    if (set >= 0) ok = H5Dclose(set) >= 0 && ok;
    *at = (int64_t)place;
    return ok || NOT_WRITTEN(file, name);
}

bool h5_strings_put(hid_t file, const char *name, int64_t rows, char *const *text, status *st) {
    quiet();
    size_t size = 1;
    CHECK(rows >= 0 && rows < INT32_MAX, "%lld strings", (long long)rows);
    for (int64_t i = 0; i < rows; i++)
        if (strlen(text[i]) > size) size = strlen(text[i]);
    if (size > STRING_CAP)
        return status_set(st, ST_DATA, "%s: a text of %zu bytes is longer than %d", where(file, name, (char[768]){0}),
                          size, STRING_CAP);
    char *flat = calloc((size_t)(rows ? rows : 1), size);
    CHECK(flat, "no memory for %lld strings of %zu bytes", (long long)rows, size);
    for (int64_t i = 0; i < rows; i++) memcpy(flat + (size_t)i * size, text[i], strlen(text[i]));
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, size);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    bool ok = h5_table_put(file, name, type, 0, rows, flat, st);
    H5Tclose(type);
    free(flat);
    return ok;
}

/* Rows and bytes that the table claims, checked against its stored bytes. */
static bool plausible(hid_t table, const hsize_t dims[2], size_t size) {
    hsize_t cols = dims[1] ? dims[1] : 1, chunk[2] = {1, 1};
    if (dims[0] > (hsize_t)INT64_MAX / size / cols) return false;
    hid_t dcpl = H5Dget_create_plist(table);
    bool  chunked = dcpl >= 0 && H5Pget_layout(dcpl) == H5D_CHUNKED;
    if (chunked) H5Pget_chunk(dcpl, 2, chunk);
    if (dcpl >= 0) H5Pclose(dcpl);
    double claimed = (double)dims[0] * (double)cols * (double)size, stored = (double)H5Dget_storage_size(table);
    return claimed <= stored * (chunked ? DEFLATE_BOUND : 1) && (double)chunk[0] * (double)chunk[1] < 2e9;
}

/* All steps of the path lie in this file (h5_has has seen them): a link may lead out of it. */
static bool inside(hid_t file, const char *name) {
    char part[512];
    snprintf(part, sizeof part, "%s", name);
    for (char *p = part + (part[0] == '/');; p++) {
        H5L_info_t info;
        if (*p && *p != '/') continue;
        char keep = *p;
        *p = 0;
        if (*part && (H5Lget_info(file, part, &info, H5P_DEFAULT) < 0 || info.type != H5L_TYPE_HARD)) return false;
        if (!keep) return true;
        *p = keep;
    }
}

/* Its numbers lie in this file: not in files that it names, not in other data sets. */
static bool own_storage(hid_t table) {
    hid_t        dcpl = H5Dget_create_plist(table);
    H5D_layout_t layout = dcpl >= 0 ? H5Pget_layout(dcpl) : H5D_LAYOUT_ERROR;
    bool         ok = (layout == H5D_CHUNKED || layout == H5D_CONTIGUOUS || layout == H5D_COMPACT) &&
              H5Pget_external_count(dcpl) == 0;
    if (dcpl >= 0) H5Pclose(dcpl);
    return ok;
}

static hid_t open_table(hid_t file, const char *name, int64_t cols, int64_t rows, hsize_t dims[2], hid_t *type,
                        status *st) {
    quiet();
    bool  there = h5_has(file, name), here = there && inside(file, name);
    hid_t table = here ? H5Dopen2(file, name, H5P_DEFAULT) : -1;
    if (table >= 0 && !own_storage(table)) {
        H5Dclose(table);
        table = -1;
        here = false;
    }
    if (table < 0) {
        DAMAGED(file, name, there && !here ? "its data lie outside the file" : "the dataset is missing");
        return -1;
    }
    *type = H5Dget_type(table);
    int rank = table_dims(table, dims);
    if (*type < 0 || rank != (cols ? 2 : 1) || (cols && dims[1] != (hsize_t)cols) ||
        (rows >= 0 && dims[0] != (hsize_t)rows)) {
        status_set(st, ST_DATA,
                   "%s: has shape [%llu,%llu], expected [%lld,%lld]: the file is damaged or of another "
                   "kind",
                   where(file, name, (char[768]){0}), (unsigned long long)dims[0], (unsigned long long)dims[1],
                   (long long)rows, (long long)cols);
    } else if (!plausible(table, dims, H5Tget_size(*type))) {
        DAMAGED(file, name, "claims more rows than its stored bytes can hold");
    } else {
        return table;
    }
    if (*type >= 0) H5Tclose(*type);
    H5Dclose(table);
    return -1;
}

hid_t h5_table_open(hid_t file, const char *name, hid_t type, int64_t cols, int64_t rows, int64_t *found, status *st) {
    hsize_t dims[2];
    hid_t   have, table = open_table(file, name, cols, rows, dims, &have, st);
    if (table < 0) return -1;
    H5T_class_t class = H5Tget_class(have);
    bool ok = class == H5Tget_class(type) && H5Tget_size(have) == H5Tget_size(type) &&
              (class != H5T_INTEGER || H5Tget_sign(have) == H5Tget_sign(type));
    H5Tclose(have);
    if (!ok) {
        DAMAGED(file, name, "has another number type");
        H5Dclose(table);
        return -1;
    }
    if (found) *found = (int64_t)dims[0];
    return table;
}

bool h5_table_rows(hid_t table, hid_t type, int64_t first, int64_t n, void *out, status *st) {
    hsize_t dims[2];
    quiet();
    if (n == 0) return true;
    int    rank = table_dims(table, dims);
    size_t width = H5Tget_size(type) * (rank == 2 ? dims[1] : 1);
    if (rank > 0 && first >= 0 && n > 0 && (hsize_t)n <= dims[0] && (hsize_t)first <= dims[0] - (hsize_t)n &&
        (size_t)n * width >= LARGE && h5_chunks_read(table, type, rank, dims, first, n, out))
        return true;
    if (!move_rows(table, type, (hsize_t)first, (hsize_t)n, NULL, out))
        return status_set(st, ST_DATA, "%s: rows %lld..%lld cannot be read: a checksum failed or the file is cut short",
                          where(table, NULL, (char[768]){0}), (long long)first, (long long)(first + n - 1));
    return true;
}

void *h5_table_get(hid_t file, const char *name, hid_t type, int64_t cols, int64_t rows, status *st) {
    int64_t found;
    hid_t   table = h5_table_open(file, name, type, cols, rows, &found, st);
    if (table < 0) return NULL;
    size_t bytes = (size_t)found * (size_t)(cols ? cols : 1) * H5Tget_size(type);
    void  *out = malloc(bytes ? bytes : 1);
    CHECK(out, "no memory for %zu bytes of %s", bytes, name);
    bool ok = h5_table_rows(table, type, 0, found, out, st);
    H5Dclose(table);
    if (ok) return out;
    free(out);
    return NULL;
}

char **h5_strings_get(hid_t file, const char *name, int64_t rows, status *st) {
    hsize_t dims[2];
    hid_t   type, table = open_table(file, name, 0, rows, dims, &type, st);
    if (table < 0) return NULL;
    size_t size = H5Tget_size(type);
    char **out = NULL, *flat = NULL;
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) || size > STRING_CAP) {
        DAMAGED(file, name, "is not a table of fixed-length strings");
    } else {
        flat = malloc((size_t)dims[0] * size + 1);
        CHECK(flat, "no memory for %zu bytes of %s", (size_t)dims[0] * size, name);
        if (h5_table_rows(table, type, 0, (int64_t)dims[0], flat, st)) {
            out = malloc(((size_t)dims[0] + 1) * sizeof *out);
            CHECK(out, "no memory for the strings of %s", name);
            for (hsize_t i = 0; i < dims[0]; i++) CHECK((out[i] = strndup(flat + i * size, size)), "no memory");
        }
        free(flat);
    }
    H5Tclose(type);
    H5Dclose(table);
    return out;
}
