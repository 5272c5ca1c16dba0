/* The fault injector: off without the variable, counted passes, each action, mistakes in the text. */
#include "core/fault.h"
#include "harness/harness.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void use(const char *text) {
    if (text) setenv("D3S2_FAULT", text, 1);
    if (!text) unsetenv("D3S2_FAULT");
    fault_reset();
}

static void off(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        use(i ? "" : NULL);
        for (int k = 0; k < 3; k++) assert_false(fault_at("a"));
    }
}

/* Which of 6 passes fail, as a text of 0 and 1. */
static const char *passes(const char *point) {
    static char out[7];
    for (int i = 0; i < 6; i++) out[i] = fault_at(point) ? '1' : '0';
    return out;
}

static void counted(void **state) {
    (void)state;
    use("fail@a; nan@b:3;fail@c:2-4; fail@d:5-;fail@e:1 ; nan@e:4;fail@f:2-/2;fail@g:1-5/3");
    assert_string_equal(passes("a"), "100000");
    assert_string_equal(passes("b"), "001000");
    assert_string_equal(passes("c"), "011100");
    assert_string_equal(passes("d"), "000011");
    assert_string_equal(passes("e"), "100100");
    assert_string_equal(passes("f"), "010101");
    assert_string_equal(passes("g"), "100100");
    assert_string_equal(passes("aa"), "000000");
    fault_reset();
    assert_string_equal(passes("b"), "001000");
}

static void by_rank(void **state) {
    (void)state;
    use("fail@a,rank=1;fail@b,rank=0");
    fault_rank(1);
    assert_string_equal(passes("a"), "100000");
    assert_string_equal(passes("b"), "000000");
    fault_reset();
    fault_rank(0);
    assert_string_equal(passes("a"), "000000");
    assert_string_equal(passes("b"), "100000");
}

static void errno_of_a_failure(void **state) {
    (void)state;
    use("fail@a;fail=ENOSPC@b;fail=5@c");
    errno = 0;
    assert_true(fault_at("a") && errno == EIO);
    assert_true(fault_at("b") && errno == ENOSPC);
    assert_true(fault_at("c") && errno == 5);
}

static void delay(void **state) {
    (void)state;
    use("delay=60@a:2");
    double t = now_seconds();
    assert_false(fault_at("a"));
    double first = now_seconds() - t;
    assert_false(fault_at("a"));
    double second = now_seconds() - t - first;
    if (!(second >= 0.06 && second > first)) fail_msg("a delay of 60 ms took %g s", second);
}

/* How a child that passes "a" twice ends. */
static int ends_by(const char *text, int options) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        use(text);
        fault_at("a");
        fault_at("a");
        _exit(1);
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, options), child);
    if (WIFSTOPPED(how)) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return how;
}

static void ends(void **state) {
    (void)state;
    int how = ends_by("kill@a:2", 0);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    how = ends_by("exit@a", 0);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 70);
    how = ends_by("exit=3@a:2", 0);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 3);
    how = ends_by("stop@a", WUNTRACED);
    assert_true(WIFSTOPPED(how) && WSTOPSIG(how) == SIGSTOP);
    how = ends_by("kill@a:3", 0);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 1);
}

static void *pass_often(void *hits) {
    for (int i = 0; i < 1000; i++)
        if (fault_at("a")) ++*(int *)hits;
    return NULL;
}

static void from_threads(void **state) {
    (void)state;
    pthread_t id[4];
    int       hits[4] = {0};
    use("fail@a:1500-1509");
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&id[i], NULL, pass_often, &hits[i]), 0);
    for (int i = 0; i < 4; i++) pthread_join(id[i], NULL);
    assert_int_equal(hits[0] + hits[1] + hits[2] + hits[3], 10);
}

static void pass_once(void *unused) {
    (void)unused;
    fault_at("nowhere");
}

static void mistakes(void **state) {
    (void)state;
    static const char *const text[] = {"boom@a",
                                       "kill",
                                       "kill@",
                                       "kill@a:",
                                       "kill@a:0",
                                       "kill@a:x",
                                       "kill@a:3-2",
                                       "kill@a:1,2",
                                       "kill@a,rank=",
                                       "kill@a,rank=x",
                                       "kill=9@a",
                                       "delay@a",
                                       "delay=x@a",
                                       "fail=EWHAT@a",
                                       "fail=@a",
                                       "exit=-1@a",
                                       "kill@a:99999999999999999999",
                                       "kill@a,step=1",
                                       "fail@a;nan",
                                       "kill @a"};
    for (size_t i = 0; i < sizeof text / sizeof *text; i++) {
        use(text[i]);
        const char *message = expect_fatal(pass_once, NULL);
        if (!message) fail_msg("\"%s\" was accepted", text[i]);
        assert_non_null(strstr(message, "D3S2_FAULT"));
    }
    use(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(off),          cmocka_unit_test(counted),
        cmocka_unit_test(by_rank),      cmocka_unit_test(errno_of_a_failure),
        cmocka_unit_test(delay),        cmocka_unit_test(ends),
        cmocka_unit_test(from_threads), cmocka_unit_test(mistakes),
    };
    return cmocka_run_group_tests_name("fault", tests, NULL, NULL);
}
