/*
 * A program whose stacks are known: unwind_* SCENARIO [N].
 *
 * It prints `main ADDRESS`, from which a test knows where everything else is, and `ready PID TID` once
 * the thread with the span is where its scenario says. A byte on standard input leads to the next
 * stage, the end of the input to the end.
 */
#define _GNU_SOURCE
#include "unwind.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hotspan_lanes.h"

enum { NAP_NS = 20 * 1000 * 1000 };

int depth = 100;

void fail(const char *what) {
    perror(what);
    exit(1);
}

void span_begin(void) {
    static const uint8_t trace_id[16] = {0x75, 0x6e, 0x77, 0x69, 0x6e, 0x64, 1};
    static const uint8_t span_id[8] = {0x75, 0x6e, 0x77, 0x69, 0x6e, 0x64, 1};
    if (hotspan_span_set(trace_id, span_id, NULL, NULL, hotspan_name("unwind"), 1) != 0)
        fail("hotspan_span_set");
}

void ready(void) {
    printf("ready %d %ld\n", getpid(), syscall(SYS_gettid));
    fflush(stdout);
}

int called(void) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    char byte;
    return poll(&input, 1, 0) > 0 && read(0, &byte, 1) >= 0;
}

/* Cut short by a signal or a debugger, a nap is simply over. */
static inline __attribute__((always_inline)) void nap(void) {
    struct timespec length = {.tv_nsec = NAP_NS};
#ifdef UNWIND_OWN_SYSCALL
    /* No frame of the C library below ours. */
    register struct timespec *rest __asm__("r10") = NULL;
    long result = SYS_clock_nanosleep;
    __asm__ volatile("syscall"
                     : "+a"(result)
                     : "D"((long)CLOCK_MONOTONIC), "S"(0L), "d"(&length), "r"(rest)
                     : "rcx", "r11", "memory");
#else
    clock_nanosleep(CLOCK_MONOTONIC, 0, &length, NULL);
#endif
}

FRAME void wait_here(void) {
    do
        nap();
    while (!called());
}

#ifndef UNWIND_CXX
static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"recursion", scenario_recursion},
    {"qsort", scenario_qsort},
    {"signal", scenario_signal},
    {"vfork", scenario_vfork},
    {"alloca", scenario_alloca},
    {"thread", scenario_thread},
    {"mixed", scenario_mixed},
    {"burn", scenario_burn},
    {"short", scenario_short},
    {"deep", scenario_deep},
#ifdef UNWIND_DYNAMIC
    {"dlopen", scenario_dlopen},
    {"plt", scenario_plt},
#endif
};
#else
static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {{"exceptions", scenario_exceptions}};
#endif

int main(int argc, char **argv) {
    int found = 0;
    if (argc > 2)
        depth = atoi(argv[2]);
    for (size_t i = 0; argc > 1 && i < sizeof scenarios / sizeof *scenarios; i++) {
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            printf("main %p\n", (void *)(uintptr_t)main);
            fflush(stdout);
            scenarios[i].run();
            found = 1;
        }
    }
    if (!found)
        fprintf(stderr, "usage: unwind SCENARIO [N]\n");
    return found ? 0 : 2;
}
