/*
 * Scenarios about the CPU and about the shape of spans: burning, contention, nesting, one span on
 * two threads, a thread that never switches, many short spans, many short threads, migration.
 */
#define _GNU_SOURCE
#include "truth.h"

#include <stddef.h>
#include <string.h>
#include <unistd.h>

static void burn_spans(const char *name, int count, int64_t ns) {
    for (int turn = 0; turn < count; turn++) {
        struct span s;
        span_init(&s, name, "running", NULL);
        span_enter(&s);
        burn_ns(ns);
        span_leave(&s);
        span_keep(&s);
    }
}

static void burner(void *unused) {
    (void)unused;
    burn_spans("burn", 20, 20 * MS);
}

void scenario_burn(void) { thread_join(thread_start(burner, NULL)); }

/* ---- Three burners on one CPU ---- */

static void contender(void *unused) {
    (void)unused;
    pin_to(0);
    burn_spans("contend", 10, 30 * MS);
}

void scenario_contention(void) {
    thread_handle all[3];
    for (int i = 0; i < 3; i++)
        all[i] = thread_start(contender, NULL);
    for (int i = 0; i < 3; i++)
        thread_join(all[i]);
}

/* ---- Parent set, child set, parent set again, clear ---- */

static void nester(void *unused) {
    (void)unused;
    for (int turn = 0; turn < 30; turn++) {
        struct span parent, child;
        span_init(&parent, "parent", "running", NULL);
        span_init(&child, "child", "sleep", &parent);
        child.intended_wait = length_of_wait(turn);
        child.waits = 1;
        span_enter(&parent);
        burn_ns(2 * MS);
        span_change(&parent, &child);
        sleep_ns(length_of_wait(turn));
        span_change(&child, &parent);
        burn_ns(3 * MS);
        span_leave(&parent);
        span_keep(&parent);
        span_keep(&child);
    }
}

void scenario_nested(void) { thread_join(thread_start(nester, NULL)); }

/* ---- One span, active on two threads at the same time ---- */

struct half {
    struct span span;
    int sleeps;
};

static void half_of_span(void *argument) {
    struct half *h = argument;
    span_warm_up();
    span_enter(&h->span);
    if (h->sleeps)
        sleep_ns(length_of_wait(0));
    else
        burn_ns(4 * MS);
    span_leave(&h->span);
    span_keep(&h->span);
}

void scenario_two_threads(void) {
    for (int turn = 0; turn < 20; turn++) {
        static struct half halves[2];
        memset(halves, 0, sizeof halves);
        span_init(&halves[0].span, "shared", "sleep", NULL);
        halves[1].span = halves[0].span;
        halves[0].sleeps = 1;
        halves[0].span.waits = 1;
        halves[0].span.intended_wait = length_of_wait(0);
        thread_handle first = thread_start(half_of_span, &halves[0]);
        thread_handle second = thread_start(half_of_span, &halves[1]);
        thread_join(first);
        thread_join(second);
    }
}

/* ---- No wait, no yield, as far as the neighbours let it ---- */

static void steady(void *unused) {
    (void)unused;
    pin_to(1);
    for (int turn = 0; turn < 4; turn++) {
        struct span s;
        span_init(&s, "steady", "running", NULL);
        span_enter(&s);
        burn_wall_ns(300 * (int64_t)MS);
        span_leave(&s);
        span_keep(&s);
    }
}

void scenario_no_switch(void) { thread_join(thread_start(steady, NULL)); }

/* ---- 10,000 spans of 50 us ---- */

static void many(void *unused) {
    (void)unused;
    burn_spans("tiny", 10000, 50000);
}

void scenario_many(void) { thread_join(thread_start(many, NULL)); }

/* ---- 1,000 threads, eight at a time, one span each ---- */

static void short_lived(void *unused) {
    (void)unused;
    span_warm_up();
    burn_spans("short-lived", 1, 100000);
}

void scenario_storm(void) {
    enum { AT_ONCE = 8 };
    for (int round = 0; round < 1000 / AT_ONCE; round++) {
        thread_handle batch[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++)
            batch[i] = thread_start(short_lived, NULL);
        for (int i = 0; i < AT_ONCE; i++)
            thread_join(batch[i]);
    }
}

/* ---- From CPU to CPU, in the middle of spans ---- */

static void migrant(void *unused) {
    (void)unused;
    for (int turn = 0; turn < WAITS; turn++) {
        struct span s;
        span_init(&s, "migrate", "sleep", NULL);
        s.waits = 2;
        s.intended_wait = 2 * 3 * MS;
        span_enter(&s);
        for (int part = 0; part < 2; part++) {
            pin_to((turn + part) % 2);
            burn_ns(2 * MS);
            sleep_ns(3 * MS);
        }
        span_leave(&s);
        span_keep(&s);
    }
}

void scenario_migrate(void) { thread_join(thread_start(migrant, NULL)); }
