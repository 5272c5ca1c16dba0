/* Threads that make items ahead and write them behind: order, room, errors, and that nothing is lost. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/rng.h"
#include "harness/harness.h"
#include "train/fair_lock.h"
#include "train/read_ahead.h"
#include "train/write_behind.h"

enum { ITEMS = 200 };

/* An item is memory of its own, so that a leak is seen and one used twice breaks. */
typedef struct {
    int64_t *number;
} item;

typedef struct {
    int64_t     bad, bad_write; /* these items fail; -1: none does */
    bool        slow;           /* the file */
    atomic_long alive, most, begun;
    int64_t     written[ITEMS];
    int         n_written;
} rig;

static rig r;

static void start(int64_t bad, int64_t bad_write) {
    r = (rig){.bad = bad, .bad_write = bad_write};
}

static void pause_for(int64_t i) {
    nanosleep(&(struct timespec){.tv_nsec = (long)(hash_bytes(&i, sizeof i, 3) % 200000)}, NULL);
}

static bool make(void *user, int64_t i, void *out, status *st) {
    rig *of = user;
    atomic_fetch_add(&of->begun, 1);
    pause_for(i);
    if (i == of->bad) return status_set(st, ST_DATA, "item %lld is bad", (long long)i);
    item x = {malloc(sizeof *x.number)};
    *x.number = i;
    long alive = atomic_fetch_add(&of->alive, 1) + 1, most = atomic_load(&of->most);
    while (alive > most && !atomic_compare_exchange_weak(&of->most, &most, alive)) {
    }
    *(item *)out = x;
    return true;
}

static void drop(void *x) {
    free(((item *)x)->number);
    atomic_fetch_sub(&r.alive, 1);
}

static bool write_one(void *user, const void *x, status *st) {
    rig    *of = user;
    int64_t n = *((const item *)x)->number;
    pause_for(of->slow ? n + 1 : 0);
    if (n == of->bad_write) return status_set(st, ST_IO, "item %lld cannot be written", (long long)n);
    of->written[of->n_written++] = n;
    return true;
}

static read_ahead *reader(int threads, int room) {
    return read_ahead_new(&(read_ahead_config){.n = ITEMS,
                                               .item_bytes = sizeof(item),
                                               .threads = threads,
                                               .room = room,
                                               .user = &r,
                                               .make = make,
                                               .drop = drop});
}

static write_behind *writer(int room) {
    return write_behind_new(
        &(write_behind_config){.item_bytes = sizeof(item), .room = room, .user = &r, .write = write_one, .drop = drop});
}

static void test_order(void **state) {
    (void)state;
    for (int threads = 1; threads <= 5; threads += 2)
        for (int room = 1; room <= 7; room += 3) {
            status st = {0};
            start(-1, -1);
            read_ahead *a = reader(threads, room);
            for (int64_t i = 0; i < ITEMS; i++) {
                item x;
                assert_true(read_ahead_take(a, &x, &st));
                assert_int_equal(*x.number, i);
                drop(&x);
            }
            read_ahead_free(a);
            assert_int_equal(r.alive, 0);
            assert_in_range(r.most, 1, room + 1); /* and the one that was taken */
        }
}

/* Those before it come, it is told as often as it is asked for, and those behind it are left alone. */
static void test_bad_item(void **state) {
    (void)state;
    enum { BAD = 50, ROOM = 6 };
    for (int threads = 1; threads <= 4; threads++) {
        status st = {0};
        item   x;
        start(BAD, -1);
        read_ahead *a = reader(threads, ROOM);
        for (int64_t i = 0; i < BAD; i++) {
            assert_true(read_ahead_take(a, &x, &st));
            assert_int_equal(*x.number, i);
            drop(&x);
        }
        for (int k = 0; k < 2; k++) {
            st = (status){0};
            assert_false(read_ahead_take(a, &x, &st));
            assert_int_equal(st.code, ST_DATA);
            assert_string_equal(st.text, "item 50 is bad");
        }
        read_ahead_free(a);
        assert_int_equal(r.alive, 0);
        assert_in_range(r.begun, BAD + 1, BAD + ROOM);
    }
}

static void test_nobody_takes(void **state) {
    (void)state;
    for (int taken = 0; taken < 3; taken++) {
        status st = {0};
        start(-1, -1);
        read_ahead *a = reader(3, 4);
        for (int i = 0; i < taken; i++) {
            item x;
            assert_true(read_ahead_take(a, &x, &st));
            drop(&x);
        }
        read_ahead_free(a);
        assert_int_equal(r.alive, 0);
    }
}

/* From one to the other, as the verb does. */
static void test_through(void **state) {
    (void)state;
    for (int slow = 0; slow < 2; slow++) {
        status st = {0};
        start(-1, -1);
        r.slow = slow;
        read_ahead   *a = reader(3, 4);
        write_behind *b = writer(3);
        for (int i = 0; i < ITEMS; i++) {
            item x;
            assert_true(read_ahead_take(a, &x, &st) && write_behind_put(b, &x, &st));
        }
        assert_true(write_behind_flush(b, &st));
        assert_int_equal(r.n_written, ITEMS);
        for (int i = 0; i < ITEMS; i++) assert_int_equal(r.written[i], i);
        write_behind_free(b);
        read_ahead_free(a);
        assert_int_equal(r.alive, 0);
        assert_in_range(r.most, 1, 4 + 1 + 3);
    }
}

static void test_bad_write(void **state) {
    (void)state;
    enum { BAD = 20, ROOM = 5 };
    status st = {0};
    int    n = 0;
    start(-1, BAD);
    read_ahead   *a = reader(1, 4);
    write_behind *b = writer(ROOM);
    for (bool ok = true; ok; n++) {
        item x;
        assert_true(n < ITEMS && read_ahead_take(a, &x, &st));
        ok = write_behind_put(b, &x, &st);
    }
    assert_int_equal(st.code, ST_IO);
    assert_in_range(n, BAD + 1, BAD + ROOM + 2);
    st = (status){0};
    assert_false(write_behind_flush(b, &st));
    assert_non_null(strstr(st.text, "cannot be written"));
    assert_int_equal(r.n_written, BAD); /* nothing behind it */
    write_behind_free(b);
    read_ahead_free(a);
    assert_int_equal(r.alive, 0);
}

/* Each takes it twice in a row; those that asked before the second time come first. */
enum { CONTENDERS = 6 };

typedef struct {
    fair_lock lock;
    int       order[2 * CONTENDERS], n;
} contest;

typedef struct {
    contest *c;
    int      me;
} contender;

static void *contend(void *arg) {
    contender *x = arg;
    for (int turn = 0; turn < 2; turn++) {
        fair_lock_get(&x->c->lock);
        x->c->order[x->c->n++] = x->me;
        fair_lock_release(&x->c->lock);
    }
    return NULL;
}

static int64_t asked(contest *c) {
    pthread_mutex_lock(&c->lock.mutex);
    int64_t n = c->lock.asked;
    pthread_mutex_unlock(&c->lock.mutex);
    return n;
}

static void test_fair_lock(void **state) {
    (void)state;
    contest   c = {.n = 0};
    contender x[CONTENDERS];
    pthread_t thread[CONTENDERS];
    fair_lock_init(&c.lock);
    fair_lock_get(&c.lock);
    for (int i = 0; i < CONTENDERS; i++) {
        x[i] = (contender){&c, i};
        assert_int_equal(pthread_create(&thread[i], NULL, contend, &x[i]), 0);
        while (asked(&c) < i + 2) nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    fair_lock_release(&c.lock);
    for (int i = 0; i < CONTENDERS; i++) pthread_join(thread[i], NULL);
    assert_int_equal(c.n, 2 * CONTENDERS);
    for (int i = 0; i < CONTENDERS; i++) assert_int_equal(c.order[i], i);
    fair_lock_free(&c.lock);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order),        cmocka_unit_test(test_bad_item),
                                       cmocka_unit_test(test_nobody_takes), cmocka_unit_test(test_through),
                                       cmocka_unit_test(test_bad_write),    cmocka_unit_test(test_fair_lock)};
    return cmocka_run_group_tests_name("queues", tests, NULL, NULL);
}
