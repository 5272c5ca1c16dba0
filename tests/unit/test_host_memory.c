/* What a host, its control groups and a limit of address space leave, from files as the kernel writes them. */
#include "core/host_memory.h"
#include "harness/harness.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char root[256];

static void put(const char *path, const char *text) {
    char all[512];
    snprintf(all, sizeof all, "%s/%s", root, path);
    for (char *p = strchr(all + strlen(root) + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        mkdir(all, 0755);
        *p = '/';
    }
    FILE *f = fopen(all, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void host_alone(void **state) {
    (void)state;
    snprintf(root, sizeof root, "%s/nothing", temp_folder());
    assert_true(host_memory_left_under(root) == SIZE_MAX);
    snprintf(root, sizeof root, "%s/host", temp_folder());
    mkdir(root, 0755);
    put("proc/meminfo", "MemTotal:       32000000 kB\nMemFree:          100000 kB\nMemAvailable:    2000000 kB\n");
    assert_int_equal(host_memory_left_under(root), 2000000ll * 1024);
    put("proc/self/cgroup", "12:memory:/old\n");
    assert_int_equal(host_memory_left_under(root), 2000000ll * 1024);
}

static void groups(void **state) {
    (void)state;
    snprintf(root, sizeof root, "%s/groups", temp_folder());
    mkdir(root, 0755);
    put("proc/meminfo", "MemAvailable:    2000000 kB\n");
    put("proc/self/cgroup", "0::/slurm/job_7/step_0\n");
    put("sys/fs/cgroup/slurm/job_7/step_0/memory.max", "max\n");
    put("sys/fs/cgroup/slurm/job_7/step_0/memory.current", "300000000\n");
    assert_int_equal(host_memory_left_under(root), 2000000ll * 1024);
    put("sys/fs/cgroup/slurm/job_7/memory.max", "1000000000\n"); /* a group above has the limit */
    put("sys/fs/cgroup/slurm/job_7/memory.current", "900000000\n");
    assert_int_equal(host_memory_left_under(root), 100000000);
    /* Page cache can be taken back, shared memory cannot. */
    put("sys/fs/cgroup/slurm/job_7/memory.stat", "anon 200000000\nfile 600000000\nkernel 1\nshmem 50000000\n");
    assert_int_equal(host_memory_left_under(root), 650000000);
    put("sys/fs/cgroup/slurm/job_7/memory.current", "1000000001\n");
    put("sys/fs/cgroup/slurm/job_7/memory.stat", "file 0\nshmem 0\n");
    assert_int_equal(host_memory_left_under(root), 0);
}

/* Version 1: a line of its own, other names, and no limit is a large number. */
static void old_groups(void **state) {
    (void)state;
    snprintf(root, sizeof root, "%s/old-groups", temp_folder());
    mkdir(root, 0755);
    put("proc/meminfo", "MemAvailable:    2000000 kB\n");
    put("proc/self/cgroup", "9:name=systemd:/user0::/x\n4:cpu,memory:/slurm/job_7/step_0\n3:cpuset:/\n0::/\n");
    put("sys/fs/cgroup/memory/slurm/job_7/step_0/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/slurm/job_7/step_0/memory.usage_in_bytes", "300000000\n");
    assert_int_equal(host_memory_left_under(root), 2000000ll * 1024);
    put("sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes", "1000000000\n");
    put("sys/fs/cgroup/memory/slurm/job_7/memory.usage_in_bytes", "900000000\n");
    assert_int_equal(host_memory_left_under(root), 100000000);
    put("sys/fs/cgroup/memory/slurm/job_7/memory.stat",
        "cache 1\nshmem 0\ntotal_cache 600000000\ntotal_rss 5\ntotal_shmem 50000000\n");
    assert_int_equal(host_memory_left_under(root), 650000000);
    put("sys/fs/cgroup/memory.max", "70000000\n"); /* both at once: the least counts */
    put("sys/fs/cgroup/memory.current", "10000000\n");
    assert_int_equal(host_memory_left_under(root), 60000000);
}

static void address_space(void **state) {
    struct rlimit old, tight;
    (void)state;
    size_t before = host_memory_left(), left;
    assert_true(before > 0 && before <= host_memory_left_under("") + ((size_t)1 << 30));
    assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
    tight = old;
    tight.rlim_cur = (rlim_t)1 << 20; /* less than the process has: nothing more is given */
    assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
    left = host_memory_left();
    setrlimit(RLIMIT_AS, &old);
    assert_int_equal(left, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(host_alone), cmocka_unit_test(groups),
                                       cmocka_unit_test(old_groups), cmocka_unit_test(address_space)};
    return test_exit(cmocka_run_group_tests_name("host_memory", tests, NULL, NULL));
}
