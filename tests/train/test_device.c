/* train.device: the definitions train the same network as the fast kernels. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "harness/harness.h"
#include "train/trainer.h"

enum { STEPS = 2 };

static comm one;

typedef struct {
    double loss[STEPS + 1], norm[STEPS + 1];
} curve;

static void on_step(void *user, int64_t done, const step_result *r) {
    curve *c = user;
    c->loss[done] = r->loss;
    c->norm[done] = r->grad_norm;
}

static void train(bool dit, bool ref, curve *c) {
    options       o;
    status        st;
    char          data[PATH_CAP], run[PATH_CAP];
    trainer_hooks h = {.on_step = on_step, .user = c};
    snprintf(data, sizeof data, "%s/data", temp_folder());
    snprintf(run, sizeof run, "%s/run-%d%d", temp_folder(), dit, ref);
    fixture_options(&o, data, run, dit);
    o.train.steps = STEPS;
    o.train.batch_samples = 2;
    o.train.device = ref ? opt_train_device_ref : opt_train_device_cpu;
    if (trainer_run(&o, &one, &h, &st) != ST_OK) fail_msg("%s", st.text);
}

static void compare(bool dit) {
    curve cpu = {0}, ref = {0};
    train(dit, false, &cpu);
    train(dit, true, &ref);
    for (int i = 1; i <= STEPS; i++) {
        expect_le(fabs(ref.loss[i] / cpu.loss[i] - 1), 1e-5, "loss on the other back end");
        expect_le(fabs(ref.norm[i] / cpu.norm[i] - 1), 1e-4, "gradient norm on the other back end");
    }
    assert_true(ref.norm[STEPS] != cpu.norm[STEPS]); /* it is another back end */
}

static void test_vae(void **state) {
    (void)state;
    compare(false);
}

static void test_dit(void **state) {
    (void)state;
    compare(true);
}

int main(void) {
    fixture_spec spec = {.n_samples = 4, .per_shard = 2, .resolution = 32, .vae = 7};
    int          argc = 0;
    char         data[PATH_CAP];
    comm_start(&one, &argc, NULL);
    log_init(0, 1, LOG_WARN);
    snprintf(data, sizeof data, "%s/data", temp_folder());
    fixture_write(data, &spec);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vae), cmocka_unit_test(test_dit)};
    int                     failed = cmocka_run_group_tests_name("device", tests, NULL, NULL);
    comm_finish(&one);
    return failed;
}
