/*
 * Work in functions whose names say little: functions of C called like C++ types are encoded, and stubs
 * of the PLT, which have no symbols. Each part is a span called after what it works in.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "hotspan_lanes.h"

#define PART_NS (200 * 1000 * 1000)
#define APART __attribute__((noinline, noclone))

int hop_a(int);

static volatile uint64_t sink;

/* CPU time: a part is as much work on a busy host. */
static uint64_t used_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#define WORK(name)                                                                                   \
    APART void name(void) {                                                                          \
        uint64_t end = used_ns() + PART_NS;                                                          \
        while (used_ns() < end)                                                                      \
            for (int turn = 0; turn < 20000; turn++)                                                 \
                sink += (uint64_t)turn;                                                              \
        __asm__ volatile("");                                                                        \
    }

WORK(b)
WORK(f)
WORK(i)
WORK(v)
WORK(St)
WORK(PKc)

static APART void stubs(void) {
    uint64_t end = used_ns() + 6 * (uint64_t)PART_NS;
    int n = 0;
    while (used_ns() < end)
        for (int turn = 0; turn < 2000; turn++)
            n = hop_a(n);
    sink += (uint64_t)n;
}

static void part(const char *name, void (*work)(void)) {
    static uint8_t count;
    uint8_t trace[16] = {1}, span[8] = {0};
    span[7] = ++count;
    hotspan_span_set(trace, span, NULL, NULL, hotspan_name(name), 1);
    work();
    hotspan_span_clear();
}

int main(void) {
    part("b", b);
    part("f", f);
    part("i", i);
    part("v", v);
    part("St", St);
    part("PKc", PKc);
    part("stubs", stubs);
    return 0;
}
