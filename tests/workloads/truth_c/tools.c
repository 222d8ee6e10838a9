/*
 * Clocks, and the work and waits that the scenarios are made of.
 */
#define _GNU_SOURCE
#include "truth.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
int64_t thread_cpu_ns(void) { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }

void fail(const char *what) {
    fprintf(stderr, "truth_c: %s: %s\n", what, strerror(errno));
    _exit(2);
}

int must(int result, const char *what) {
    if (result < 0)
        fail(what);
    return result;
}

void sleep_ns(int64_t ns) {
    struct timespec left = {ns / 1000000000, ns % 1000000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

/* Burns CPU time, not wall time: so the truth does not depend on neighbours. */
void burn_ns(int64_t ns) {
    int64_t until = thread_cpu_ns() + ns;
    while (thread_cpu_ns() < until)
        for (volatile int i = 0; i < 2000; i++) {
        }
}

/* The same by the wall clock, which is no system call: nothing enters the kernel meanwhile. */
void burn_wall_ns(int64_t ns) {
    int64_t until = now_ns() + ns;
    while (now_ns() < until)
        for (volatile int i = 0; i < 2000; i++) {
        }
}

void pin_to(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0 && errno != EINVAL)
        fail("sched_setaffinity");
}

/* 3 to 8 ms. */
int64_t length_of_wait(int turn) { return (int64_t)(3 + turn % 6) * MS; }
