/*
 * Scenarios that wait at a known place: under a deep recursion, a comparator of the C library's sort,
 * a signal on a stack of its own, a vfork, realigned and variable frames, the first function of a
 * thread, and functions that take turns in having tables and frame pointers.
 */
#define _GNU_SOURCE
#include "unwind.h"

#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- recursion ---- */

FRAME int recurse(int left) {
    int below = 0;
    if (left > 1) {
        below = recurse(left - 1);
    } else {
        ready();
        wait_here();
    }
    KEEP(below);
    return below + 1;
}

void scenario_recursion(void) {
    span_begin();
    if (recurse(depth) != depth)
        fail("recurse");
}

/* ---- qsort: frames of the C library between ours ---- */

static int waited;

FRAME int compare(const void *a, const void *b) {
    int left = *(const int *)a, right = *(const int *)b;
    if (!waited) {
        waited = 1;
        ready();
        wait_here();
    }
    return (left > right) - (left < right);
}

void scenario_qsort(void) {
    int values[64];
    span_begin();
    for (int i = 0; i < 64; i++)
        values[i] = i * 37 % 64;
    qsort(values, 64, sizeof *values, compare);
    if (values[0] != 0 || values[63] != 63)
        fail("qsort");
}

/* ---- signal: the handler has another stack, the interrupted place is any instruction ---- */

static volatile sig_atomic_t handled;
static volatile unsigned long work;

FRAME void handler(int number) {
    ready();
    wait_here();
    handled = number;
}

/* Its room keeps the compiler from leaving out the frame pointer of a function that calls nobody. */
FRAME void busy(void) {
    volatile unsigned long room = 1;
    while (!handled)
        work = work * 3 + room;
}

FRAME void busy_caller(void) {
    long sum = 0;
    busy();
    KEEP(sum);
}

void scenario_signal(void) {
    static char room[256 * 1024];
    stack_t stack = {.ss_sp = room, .ss_size = sizeof room};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec soon = {.it_value.tv_nsec = 50 * 1000 * 1000};
    timer_t timer;
    span_begin();
    if (sigaltstack(&stack, NULL) != 0 || sigaction(SIGUSR1, &action, NULL) != 0)
        fail("sigaction");
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
        timer_settime(timer, 0, &soon, NULL) != 0)
        fail("timer");
    busy_caller();
}

/* ---- vfork: the wait is the parent's, its return address in a register meanwhile ---- */

FRAME void child_naps(void) {
    struct timespec length = {.tv_nsec = 20 * 1000 * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &length, NULL);
    _exit(0);
}

FRAME void vfork_once(void) {
    int zero = 0;
    pid_t child = vfork();
    if (child == 0)
        child_naps();
    if (child < 0)
        fail("vfork");
    KEEP(zero);
}

void scenario_vfork(void) {
    struct sigaction action = {.sa_handler = SIG_IGN};
    sigaction(SIGCHLD, &action, NULL);
    span_begin();
    ready();
    do
        vfork_once();
    while (!called());
}

/* ---- alloca: frames of variable size, some realigned ---- */

FRAME void fill(char *bytes, size_t n) { memset(bytes, 1, n); }

FRAME int aligned(int left);

FRAME int variable(int left) {
    size_t n = 100 + 300 * (size_t)left;
    char *bytes = alloca(n);
    fill(bytes, n);
    if (left > 0) {
        left = aligned(left - 1);
    } else {
        ready();
        wait_here();
    }
    return left + bytes[n - 1];
}

FRAME int aligned(int left) {
    char line[128] __attribute__((aligned(64)));
    size_t n = 10 + 70 * (size_t)left;
    char *bytes = alloca(n);
    fill(line, sizeof line);
    fill(bytes, n);
    left = variable(left);
    return left + line[7] + bytes[n - 1];
}

/* Realigned without alloca: another prologue. */
FRAME int only_aligned(int left) {
    char line[256] __attribute__((aligned(64)));
    fill(line, sizeof line);
    left = aligned(left);
    return left + line[9];
}

void scenario_alloca(void) {
    span_begin();
    if (only_aligned(4) == 0)
        fail("alloca");
}

/* ---- thread ---- */

FRAME void *thread_waits(void *unused) {
    span_begin();
    ready();
    wait_here();
    return unused;
}

void scenario_thread(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, thread_waits, NULL) != 0 || pthread_join(thread, NULL) != 0)
        fail("pthread");
}

/* ---- mixed: see framed.c and tabled.c ---- */

void scenario_mixed(void) {
    span_begin();
    tabled_outer();
}
