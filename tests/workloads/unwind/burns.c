/*
 * Scenarios that burn CPU in functions whose call graph is known: main, the scenario, burn_a to
 * burn_d, and burn_leaf, so short that many samples hit its first and last instructions.
 */
#define _GNU_SOURCE
#include "unwind.h"

#include <time.h>

/* A leaf that needs no stack gets no frame pointer, whatever the compiler was told. */
FRAME unsigned long burn_leaf(unsigned long x) {
    volatile unsigned long y = x * 2654435761u;
    return y ^ y >> 7;
}

FRAME unsigned long burn_d(unsigned long x) {
    for (int i = 0; i < 2000; i++)
        x += burn_leaf(x + (unsigned long)i);
    return x;
}

/* More values than registers: all of those are saved, the frame pointer's too. */
FRAME unsigned long burn_c(unsigned long x) {
    unsigned long a = x, b = x + 1, c = x + 2, d = x + 3, e = x + 4, f = x + 5, g = x + 6;
    for (int i = 0; i < 5; i++) {
        a += burn_d(b), b ^= c, c += d, d ^= e, e += f, f ^= g, g += a;
        KEEP(d);
    }
    return a + b + c + d + e + f + g;
}

FRAME unsigned long burn_b(unsigned long x) {
    volatile unsigned long room[100];
    for (int i = 0; i < 100; i++)
        room[i] = x + (unsigned long)i;
    x = burn_c(room[50]);
    return x + room[99];
}

FRAME unsigned long burn_a(unsigned long x) {
    unsigned long sum = 0;
    for (int i = 0; i < 4; i++)
        sum += burn_b(x + sum);
    return sum;
}

static volatile unsigned long sink;

void scenario_burn(void) {
    span_begin();
    ready();
    do
        for (int i = 0; i < 20; i++)
            sink = burn_a(sink);
    while (!called());
}

/* The same for 30 ms and in no span. */
void scenario_short(void) {
    struct timespec cpu;
    do {
        sink = burn_a(sink);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    } while (cpu.tv_sec == 0 && cpu.tv_nsec < 30 * 1000 * 1000);
}

/*
 * Burns below `depth` frames of functions that lie pages apart, as those of a large program do: each has
 * rows of its own.
 */
#define DEEP(name, next)                                                                                \
    FRAME __attribute__((aligned(4096))) unsigned long name(int left) {                                 \
        volatile unsigned long room[8];                                                                 \
        room[left & 7] = (unsigned long)left;                                                           \
        unsigned long below = left > 1 ? next(left - 1) : deepest();                                    \
        KEEP(below);                                                                                    \
        return below + room[left & 7];                                                                  \
    }

FRAME unsigned long deepest(void) {
    unsigned long sum = 0;
    do
        for (int i = 0; i < 100; i++)
            sum += burn_d(sum);
    while (!called());
    return sum;
}

FRAME unsigned long deep_a(int left);
DEEP(deep_h, deep_a)
DEEP(deep_g, deep_h)
DEEP(deep_f, deep_g)
DEEP(deep_e, deep_f)
DEEP(deep_d, deep_e)
DEEP(deep_c, deep_d)
DEEP(deep_b, deep_c)
DEEP(deep_a, deep_b)

void scenario_deep(void) {
    span_begin();
    ready();
    sink = deep_a(depth);
}

#ifdef UNWIND_DYNAMIC
/* Of shared.c, through the procedure linkage table. */
unsigned long shared_leaf(unsigned long x);

FRAME unsigned long plt_caller(unsigned long x) {
    for (int i = 0; i < 2000; i++)
        x += shared_leaf(x);
    return x;
}

void scenario_plt(void) {
    span_begin();
    ready();
    do
        for (int i = 0; i < 100; i++)
            sink = plt_caller(sink);
    while (!called());
}
#endif
