#include "eval/metrics.h"
#include "eval/nearest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void band_add(band_stats *b, const float *pred, const float *target, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (!(fabsf(target[i]) < 1)) continue;
        b->n_band++;
        if (!isfinite(pred[i])) {
            b->n_bad++;
            continue;
        }
        b->n_right += (pred[i] < 0) == (target[i] < 0);
        b->abs_sum += fabs((double)pred[i] - (double)target[i]);
    }
}

double band_sign_accuracy(const band_stats *b) {
    return b->n_band ? (double)b->n_right / (double)b->n_band : NAN;
}
double band_error(const band_stats *b) {
    return b->n_band && !b->n_bad ? b->abs_sum / (double)b->n_band : NAN;
}

/* ---- surfaces -------------------------------------------------------------------------------------------------- */

/* Face normal times twice the area. */
static void face_normal(const mesh *m, int64_t f, double n[3]) {
    double a[3], b[3];
    for (int k = 0; k < 3; k++) {
        double p = (double)m->position[3 * (int64_t)m->face[3 * f] + k];
        a[k] = (double)m->position[3 * (int64_t)m->face[3 * f + 1] + k] - p;
        b[k] = (double)m->position[3 * (int64_t)m->face[3 * f + 2] + k] - p;
    }
    for (int k = 0; k < 3; k++) n[k] = a[(k + 1) % 3] * b[(k + 2) % 3] - a[(k + 2) % 3] * b[(k + 1) % 3];
}

static double length3(const double n[3]) {
    return sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
}

static double angle_degrees(const double a[3], const double b[3]) {
    double c = (a[0] * b[0] + a[1] * b[1] + a[2] * b[2]) / (length3(a) * length3(b));
    return acos(fmin(fmax(c, -1), 1)) * (180 / 3.14159265358979323846);
}

/* Running sum of the faces' areas; NULL when the mesh has none (area that is not finite included). */
static double *area_sums(const mesh *m) {
    double *sum = malloc(sizeof *sum * (size_t)(m->n_faces + 1)), n[3];
    CHECK(sum, "no memory for %lld areas", (long long)m->n_faces);
    sum[0] = 0;
    for (int64_t f = 0; f < m->n_faces; f++) {
        face_normal(m, f, n);
        sum[f + 1] = sum[f] + 0.5 * length3(n);
    }
    if (sum[m->n_faces] > 0 && isfinite(sum[m->n_faces])) return sum;
    free(sum);
    return NULL;
}

/* Point i of n: the i-th stratum of the area, a uniform place in the face found there. */
static int64_t draw(const mesh *m, const double *sum, rng_key key, int64_t i, int64_t n, double p[3]) {
    double  at = ((double)i + rng_uniform(key, 3 * (uint64_t)i)) / (double)n * sum[m->n_faces];
    int64_t lo = 0, hi = m->n_faces - 1;
    while (lo < hi) { /* first face whose sum reaches beyond `at` */
        int64_t mid = (lo + hi) / 2;
        if (sum[mid + 1] > at)
            hi = mid;
        else
            lo = mid + 1;
    }
    double r = sqrt(rng_uniform(key, 3 * (uint64_t)i + 1)), s = rng_uniform(key, 3 * (uint64_t)i + 2);
    for (int k = 0; k < 3; k++)
        p[k] = (1 - r) * (double)m->position[3 * (int64_t)m->face[3 * lo] + k] +
               r * (1 - s) * (double)m->position[3 * (int64_t)m->face[3 * lo + 1] + k] +
               r * s * (double)m->position[3 * (int64_t)m->face[3 * lo + 2] + k];
    return lo;
}

/* From points of `a` to surface `b`. share[i]: points within threshold i. */
static bool one_way(const mesh *a, const double *sum, const mesh *b, const surface_options *opt, uint64_t side,
                    double *mean, double *degrees, double share[F1_MAX], status *st) {
    nearest tree;
    if (!nearest_build(&tree, b, st)) return false;
    double *d = malloc(sizeof *d * (size_t)opt->points * 2), *angle = d + opt->points;
    CHECK(d, "no memory for %lld points", (long long)opt->points);
    rng_key key = opt->key;
    key.step = 2 * key.step + side;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < opt->points; i++) {
        double  p[3], n[3], o[3];
        int64_t face, own = draw(a, sum, key, i, opt->points, p);
        d[i] = nearest_find(&tree, p, &face);
        face_normal(a, own, n);
        face_normal(b, face, o);
        angle[i] = length3(n) > 0 && length3(o) > 0 ? angle_degrees(n, o) : NAN;
    }
    int64_t n_angles = 0;
    *mean = *degrees = 0;
    for (int t = 0; t < opt->n_thresholds; t++) share[t] = 0;
    for (int64_t i = 0; i < opt->points; i++) { /* in order: equal bits for any number of threads */
        *mean += d[i] / (double)opt->points;
        for (int t = 0; t < opt->n_thresholds; t++) share[t] += d[i] <= opt->threshold[t];
        if (!isnan(angle[i])) *degrees += angle[i], n_angles++;
    }
    for (int t = 0; t < opt->n_thresholds; t++) share[t] /= (double)opt->points;
    *degrees = n_angles ? *degrees / (double)n_angles : NAN;
    free(d);
    nearest_free(&tree);
    return true;
}

bool surface_compare(const mesh *pred, const mesh *truth, const surface_options *opt, surface_stats *out, status *st) {
    CHECK(opt->points > 0 && opt->n_thresholds <= F1_MAX, "%lld points, %d thresholds", (long long)opt->points,
          opt->n_thresholds);
    double *ps = area_sums(pred), *ts = area_sums(truth);
    *out = (surface_stats){.pred_empty = !ps, .truth_empty = !ts, .n_f1 = opt->n_thresholds};
    double angle[2] = {NAN, NAN};
    out->to_truth = out->to_pred = NAN;
    for (int t = 0; t < F1_MAX; t++) out->precision[t] = out->recall[t] = out->f1[t] = NAN;
    bool good = !ps || !ts ||
                (one_way(pred, ps, truth, opt, 0, &out->to_truth, &angle[0], out->precision, st) &&
                 one_way(truth, ts, pred, opt, 1, &out->to_pred, &angle[1], out->recall, st));
    out->chamfer = (out->to_truth + out->to_pred) / 2;
    out->normal_degrees = (angle[0] + angle[1]) / 2;
    for (int t = 0; t < opt->n_thresholds && ps && ts; t++) {
        double a = out->precision[t], b = out->recall[t];
        out->f1[t] = a + b > 0 ? 2 * a * b / (a + b) : 0;
    }
    free(ps);
    free(ts);
    return good;
}

/* ---- JSON ------------------------------------------------------------------------------------------------------ */

json_t *metrics_number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

void metrics_put_band(json_t *shape, const band_stats *b, double tau_voxels) {
    json_object_set_new(shape, "sign_accuracy", metrics_number(band_sign_accuracy(b)));
    json_object_set_new(shape, "band_error_tau", metrics_number(band_error(b)));
    json_object_set_new(shape, "band_error_voxels", metrics_number(band_error(b) * tau_voxels));
    json_object_set_new(shape, "band_voxels", json_integer(b->n_band));
    json_object_set_new(shape, "bad_values", json_integer(b->n_bad));
}

void metrics_put_surface(json_t *shape, const surface_stats *s, const surface_options *opt) {
    static const char *empty[] = {"", "prediction", "truth", "both"};
    json_object_set_new(shape, "chamfer", metrics_number(s->chamfer));
    json_object_set_new(shape, "to_truth", metrics_number(s->to_truth));
    json_object_set_new(shape, "to_pred", metrics_number(s->to_pred));
    for (int t = 0; t < opt->n_thresholds; t++) {
        char key[40];
        snprintf(key, sizeof key, "f1@%g", opt->threshold[t]);
        json_object_set_new(shape, key, metrics_number(s->f1[t]));
    }
    json_object_set_new(shape, "normal_error_degrees", metrics_number(s->normal_degrees));
    json_object_set_new(shape, "empty", json_string(empty[s->pred_empty + 2 * s->truth_empty]));
}

static void add_to_group(json_t *group, const json_t *shape) {
    const char *key;
    json_t     *v;
    json_object_set_new(group, "shapes", json_integer(json_integer_value(json_object_get(group, "shapes")) + 1));
    json_object_foreach((json_t *)shape, key, v) {
        if ((!json_is_number(v) && !json_is_null(v)) || strcmp(key, "id") == 0) continue;
        json_t *cell = json_object_get(group, key);
        if (!cell) json_object_set_new(group, key, cell = json_pack("{s:f, s:i}", "mean", 0.0, "n", 0));
        if (json_is_null(v)) continue;
        json_int_t n = json_integer_value(json_object_get(cell, "n"));
        double     mean = json_number_value(json_object_get(cell, "mean"));
        json_object_set_new(cell, "mean", json_real(mean + (json_number_value(v) - mean) / (double)(n + 1)));
        json_object_set_new(cell, "n", json_integer(n + 1));
    }
}

static void close_group(json_t *group) {
    const char *key;
    json_t     *cell;
    json_object_foreach(group, key, cell) {
        if (json_is_object(cell) && json_integer_value(json_object_get(cell, "n")) == 0)
            json_object_set_new(cell, "mean", json_null());
    }
}

json_t *metrics_summary(const json_t *shapes) {
    json_t     *overall = json_pack("{s:i}", "shapes", 0), *category = json_object(), *shape, *group;
    size_t      i;
    const char *name;
    json_array_foreach((json_t *)shapes, i, shape) {
        const char *c = json_string_value(json_object_get(shape, "category"));
        if (!c || !*c) c = "none";
        if (!json_object_get(category, c)) json_object_set_new(category, c, json_pack("{s:i}", "shapes", 0));
        add_to_group(overall, shape);
        add_to_group(json_object_get(category, c), shape);
    }
    close_group(overall);
    json_object_foreach(category, name, group) close_group(group);
    return json_pack("{s:o, s:o}", "overall", overall, "category", category);
}
