#include "app/bench_profile.h"

#include <stdio.h>

void bench_profile_print(op_profile *p, double step) {
    int                   n;
    const op_profile_row *row = op_profile_rows(p, &n);
    double                all = 0, rest = 0;
    for (int i = 0; i < n; i++) all += row[i].seconds;
    printf("\none more step, op by op; %.2f of %.2f ms are of ops\n", 1e3 * all, 1e3 * step);
    printf("%-18s %-36s %6s %9s %7s %8s\n", "op", "shape of the first two tensors", "calls", "ms", "share", "GB/s");
    for (int i = 0; i < n; i++) {
        if (row[i].seconds < 1e-3 * all) {
            rest += row[i].seconds;
            continue;
        }
        printf("%-18s %-36s %6lld %9.3f %5.1f %% %8.1f\n", op_table[row[i].op].name, row[i].shape,
               (long long)row[i].calls, 1e3 * row[i].seconds, 100 * row[i].seconds / all,
               row[i].bytes / row[i].seconds * 1e-9);
    }
    printf("%-18s %-36s %6s %9.3f %5.1f %%\n", "others", "", "", 1e3 * rest, all > 0 ? 100 * rest / all : 0);
}
