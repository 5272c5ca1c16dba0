#include "model/flow.h"

#include <math.h>

double flow_time(double n, double mean, double std) {
    return 1.0 / (1.0 + exp(-(mean + std * n)));
}

static double shifted(double s, double shift) {
    return shift * s / (1.0 + (shift - 1.0) * s);
}

void flow_sigmas(int steps, double shift, double *sigma) {
    CHECK(steps > 0 && shift > 0, "schedule of %d steps, shift %g", steps, shift);
    double last = shifted(1.0 / 1000.0, shift);
    for (int i = 0; i < steps; i++) {
        double s = steps == 1 ? 1.0 : 1.0 + (last - 1.0) * i / (steps - 1);
        sigma[i] = shifted(s, shift);
    }
    sigma[steps] = 0;
}

void flow_sigmas_trellis(int steps, double shift, double *sigma) {
    CHECK(steps > 0 && shift > 0, "schedule of %d steps, shift %g", steps, shift);
    for (int i = 0; i <= steps; i++) sigma[i] = shifted(1.0 - (double)i / steps, shift);
}

void flow_euler_step(float *x, const float *v_cond, const float *v_uncond, int64_t n, double guidance, double sigma,
                     double sigma_next) {
    double step = sigma_next - sigma;
    for (int64_t i = 0; i < n; i++) {
        double v = v_cond[i];
        if (v_uncond) v = v_uncond[i] + guidance * (v - v_uncond[i]);
        x[i] = (float)(x[i] + step * v);
    }
}
