/* How close a shape is to the truth. All lengths of surfaces are in the [-1,1] frame, accumulations in double.
 *
 *   sign accuracy   share of voxels with |target| < 1 whose prediction has the target's sign (0 counts as outside)
 *   band error      mean |prediction - target| over the same voxels, in units of tau and of voxels
 *   Chamfer         (1/|P| sum_{p in P} d(p,T) + 1/|T| sum_{t in T} d(t,P)) / 2, P and T points drawn from the two
 *                   surfaces by area, d the Euclidean distance to the other surface (not squared, not to its points)
 *   F1 at e         2 a b / (a + b), a = share of P with d <= e (precision), b = share of T with d <= e (recall)
 *   normal error    mean angle in degrees between the face normals of a point and of its nearest point, both ways
 *
 * What cannot be computed (an empty mesh, no voxel in the band) is NaN here and null in JSON, never 0. */
#pragma once
#include "core/rng.h"
#include "io/mesh.h"
#include <jansson.h>

typedef struct {
    int64_t n_band, n_right, n_bad; /* n_bad: predictions that are not finite; they count as wrong, not in the error */
    double  abs_sum;
} band_stats;

/* Adds n voxels. */
void   band_add(band_stats *b, const float *pred, const float *target, int64_t n);
double band_sign_accuracy(const band_stats *b);
double band_error(const band_stats *b); /* in tau; NaN also when a prediction was not finite */

enum { F1_MAX = 8 };

typedef struct {
    bool   pred_empty, truth_empty; /* then all numbers are NaN */
    double chamfer, to_truth, to_pred;
    int    n_f1;
    double f1[F1_MAX], precision[F1_MAX], recall[F1_MAX];
    double normal_degrees;
} surface_stats;

typedef struct {
    int64_t       points; /* drawn from each surface */
    int           n_thresholds;
    const double *threshold;
    rng_key       key;
} surface_options;

/* Faces without area carry no points; a mesh without area counts as empty. False when memory for the tree runs out. */
bool surface_compare(const mesh *pred, const mesh *truth, const surface_options *opt, surface_stats *out, status *st);

/* ---- JSON ------------------------------------------------------------------------------------------------------ */

/* A number, null when it is not finite. */
json_t *metrics_number(double x);
/* Adds "sign_accuracy", "band_error_tau", "band_error_voxels", "band_voxels", "bad_values". */
void    metrics_put_band(json_t *shape, const band_stats *b, double tau_voxels);
/* Adds "chamfer", "to_truth", "to_pred", "f1@E" for each threshold, "normal_error_degrees", "empty" ("", "prediction",
 * "truth" or "both"). */
void    metrics_put_surface(json_t *shape, const surface_stats *s, const surface_options *opt);
/* Means of all numbers of an array of shapes: {"overall": {...}, "category": {name: {...}}}, each with "shapes" and,
 * for every number, its "mean" over the shapes that have it, and "n". Keys "id" and those of text are left out. */
json_t *metrics_summary(const json_t *shapes);
