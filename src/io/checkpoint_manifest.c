/* The manifest as JSON. 64-bit unsigned values are hexadecimal text, as JSON numbers are not unsigned. The
 * checksum is the XXH3 of the compact, key-sorted JSON without it. */
#include "io/checkpoint_internal.h"
#include "core/rng.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { FORM = JSON_COMPACT | JSON_SORT_KEYS, MAX_PARTS = 1 << 20 };

static json_t *hex(uint64_t v) {
    char text[20];
    snprintf(text, sizeof text, "%016" PRIx64, v);
    return json_string(text);
}

static bool unhex(const json_t *j, uint64_t *v) {
    const char *s = json_string_value(j);
    if (!s || strlen(s) != 16 || strspn(s, "0123456789abcdef") != 16) return false;
    *v = strtoull(s, NULL, 16);
    return true;
}

static json_t *params_json(const ckpt_manifest *m) {
    json_t *list = json_array();
    for (int i = 0; i < m->n_params; i++) {
        const ckpt_param *p = &m->param[i];
        json_t           *shape = json_array();
        for (int d = 0; d < p->rank; d++) json_array_append_new(shape, json_integer(p->shape[d]));
        json_array_append_new(
            list, json_pack("{s:s, s:o, s:I}", "name", p->name, "shape", shape, "offset", (json_int_t)p->offset));
    }
    return list;
}

static json_t *ranges_json(const ckpt_manifest *m) {
    json_t *list = json_array();
    for (int i = 0; i < m->n_ranges; i++) {
        const ckpt_range *r = &m->range[i];
        json_t           *hashes = json_array();
        for (int64_t k = 0; k < ckpt_chunks(r->count); k++) json_array_append_new(hashes, hex(r->hash[k]));
        json_array_append_new(list, json_pack("{s:s, s:i, s:i, s:I, s:I, s:s, s:o}", "slab", r->slab, "part", r->part,
                                              "index", r->index, "first", (json_int_t)r->first, "count",
                                              (json_int_t)r->count, "dtype", "F32", "hash", hashes));
    }
    return list;
}

char *ckpt_manifest_text(const ckpt_manifest *m) {
    json_t *bytes = json_array(), *numbers = json_object();
    for (int i = 0; i < m->n_parts; i++) json_array_append_new(bytes, json_integer(m->part_bytes[i]));
    for (int i = 0; i < m->n_numbers; i++)
        json_object_set_new(numbers, m->number[i].name, json_integer(m->number[i].value));
    json_t *root =
        json_pack("{s:s, s:i, s:s, s:I, s:o, s:o, s:s, s:i, s:o, s:o, s:o, s:o}", "format", "d3s2-checkpoint",
                  "version", CKPT_VERSION, "model", m->model, "step", (json_int_t)m->step, "seed", hex(m->seed),
                  "fingerprint", hex(m->fingerprint), "config", m->config ? m->config : "", "chunk", CKPT_CHUNK,
                  "numbers", numbers, "params", params_json(m), "part_bytes", bytes, "ranges", ranges_json(m));
    CHECK(root, "a checkpoint's manifest holds text that is not UTF-8");
    char *plain = json_dumps(root, FORM);
    CHECK(plain, "no memory for a manifest");
    json_object_set_new(root, "checksum", hex(hash_text(plain)));
    free(plain);
    char *text = json_dumps(root, FORM);
    CHECK(text, "no memory for a manifest");
    json_decref(root);
    return text;
}

/* ---- parsing
 * ------------------------------------------------------------------------------------------------------ */

/* Copies a text member that fits. */
static bool get_text(const json_t *o, const char *key, char *out, size_t cap) {
    const char *s = json_string_value(json_object_get(o, key));
    if (!s || strlen(s) >= cap) return false;
    strcpy(out, s);
    return true;
}

static bool get_int(const json_t *o, const char *key, int64_t least, int64_t most, int64_t *v) {
    json_t *j = json_object_get(o, key);
    *v = json_integer_value(j);
    return json_is_integer(j) && *v >= least && *v <= most;
}

static bool parse_params(ckpt_manifest *m, const json_t *list) {
    if (!json_is_array(list)) return false;
    m->param = calloc(json_array_size(list) + 1, sizeof *m->param);
    CHECK(m->param, "no memory for a manifest");
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t     *e = json_array_get(list, i), *shape = json_object_get(e, "shape");
        ckpt_param *p = &m->param[m->n_params++];
        if (!get_text(e, "name", p->name, sizeof p->name) || !get_int(e, "offset", 0, INT64_MAX, &p->offset) ||
            !json_is_array(shape) || json_array_size(shape) > CKPT_RANK)
            return false;
        p->rank = (int)json_array_size(shape);
        for (int d = 0; d < p->rank; d++) {
            json_t *v = json_array_get(shape, (size_t)d);
            if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
            p->shape[d] = json_integer_value(v);
        }
    }
    return true;
}

static bool parse_ranges(ckpt_manifest *m, const json_t *list) {
    if (!json_is_array(list) || json_array_size(list) > INT32_MAX) return false;
    m->range = calloc(json_array_size(list) + 1, sizeof *m->range);
    CHECK(m->range, "no memory for a manifest");
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t     *e = json_array_get(list, i), *hashes = json_object_get(e, "hash");
        ckpt_range *r = &m->range[m->n_ranges++];
        int64_t     part, index;
        char        dtype[8];
        if (!get_text(e, "slab", r->slab, sizeof r->slab) || !get_text(e, "dtype", dtype, sizeof dtype) ||
            strcmp(dtype, "F32") || !get_int(e, "part", 0, m->n_parts - 1, &part) ||
            !get_int(e, "index", 0, INT32_MAX, &index) || !get_int(e, "first", 0, INT64_MAX / 8, &r->first) ||
            !get_int(e, "count", 0, INT64_MAX / 8, &r->count) || !json_is_array(hashes) ||
            (int64_t)json_array_size(hashes) != ckpt_chunks(r->count))
            return false;
        r->part = (int)part;
        r->index = (int)index;
        r->hash = calloc(json_array_size(hashes) + 1, sizeof *r->hash);
        CHECK(r->hash, "no memory for a manifest");
        for (size_t k = 0; k < json_array_size(hashes); k++)
            if (!unhex(json_array_get(hashes, k), &r->hash[k])) return false;
    }
    return true;
}

static bool parse_rest(ckpt_manifest *m, json_t *root) {
    json_t     *bytes = json_object_get(root, "part_bytes"), *numbers = json_object_get(root, "numbers"), *v;
    const char *key, *config = json_string_value(json_object_get(root, "config"));
    int64_t     chunk;
    if (!get_text(root, "model", m->model, sizeof m->model) || !get_int(root, "step", 0, INT64_MAX, &m->step) ||
        !get_int(root, "chunk", CKPT_CHUNK, CKPT_CHUNK, &chunk) || !unhex(json_object_get(root, "seed"), &m->seed) ||
        !unhex(json_object_get(root, "fingerprint"), &m->fingerprint) || !config || !json_is_array(bytes) ||
        json_array_size(bytes) > MAX_PARTS || !json_is_object(numbers))
        return false;
    CHECK((m->config = strdup(config)), "no memory for a manifest");
    m->n_parts = (int)json_array_size(bytes);
    m->part_bytes = calloc((size_t)m->n_parts + 1, sizeof *m->part_bytes);
    CHECK(m->part_bytes, "no memory for a manifest");
    for (int i = 0; i < m->n_parts; i++) m->part_bytes[i] = json_integer_value(json_array_get(bytes, (size_t)i));
    json_object_foreach(numbers, key, v) {
        if (m->n_numbers == CKPT_NUMBERS || strlen(key) >= sizeof m->number[0].name || !json_is_integer(v))
            return false;
        strcpy(m->number[m->n_numbers].name, key);
        m->number[m->n_numbers++].value = json_integer_value(v);
    }
    return parse_params(m, json_object_get(root, "params")) && parse_ranges(m, json_object_get(root, "ranges"));
}

bool ckpt_manifest_parse(ckpt_manifest *m, const char *name, const char *text, int64_t n, status *st) {
    char     format[32];
    int64_t  version;
    uint64_t want;
    json_t  *root = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
    bool     ok = false;
    if (!json_is_object(root) || !get_text(root, "format", format, sizeof format) ||
        strcmp(format, "d3s2-checkpoint")) {
        status_set(st, ST_DATA, "%s: is not the manifest of a checkpoint, or damaged: use another step", name);
    } else if (!get_int(root, "version", 0, INT64_MAX, &version) || version != CKPT_VERSION) {
        status_set(st, ST_DATA,
                   "%s: has checkpoint format version %lld, this program reads version %d: use the matching "
                   "program",
                   name, (long long)version, CKPT_VERSION);
    } else {
        bool has = unhex(json_object_get(root, "checksum"), &want);
        json_object_del(root, "checksum");
        char *plain = json_dumps(root, FORM);
        CHECK(plain, "no memory for a manifest");
        ok = has && hash_text(plain) == want && parse_rest(m, root);
        free(plain);
        if (!ok)
            status_set(st, ST_DATA, "%s: does not match its checksum: the checkpoint is damaged, use another step",
                       name);
    }
    json_decref(root);
    return ok;
}
