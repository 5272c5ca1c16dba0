/* Rectified flow (R§6): time distribution, schedule of the sampler, guided Euler. Pure functions; the noise itself is
 * ops/loss.h flow_noise. */
#pragma once
#include "core/base.h"

/* t of one training sample: sigmoid(mean + std n), n normal. */
double flow_time(double n, double mean, double std);
/* The published schedule: f(s) = shift s/(1+(shift-1)s) applied when the range is built and again to the linear grid;
 * sigmas (steps+1) ends with 0; model time of step i is 1000*sigma[i]. */
void   flow_sigmas(int steps, double shift, double *sigma);
/* TRELLIS's form: t linear from 1 to 0, then f once (steps+1 values). */
void   flow_sigmas_trellis(int steps, double shift, double *sigma);
/* x += (sigma_next - sigma) * v,  v = v_uncond + guidance (v_cond - v_uncond); v_uncond NULL: v = v_cond. */
void   flow_euler_step(float *x, const float *v_cond, const float *v_uncond, int64_t n, double guidance, double sigma,
                       double sigma_next);
