// Publishers that are easily overlooked. Static, so that it runs where there is nothing but itself.
//
//   publishers beat GAP_MS           one span after another until standard input ends; each begins
//                                    GAP_MS after the one before it and sleeps 2 ms
//   publishers spans COUNT MS        COUNT spans that sleep MS each
//   publishers threads COUNT MS      as many threads alive at once, each with one span of MS
//   publishers processes COUNT MS    as many fork children alive at once, each with a span of 2 ms
//                                    every 200 ms, for MS
//   publishers orphans MS LATER      the main thread ends first; its worker has spans that burn 4 ms
//                                    in orphan_leaf <- orphan_top and sleep 2 ms, for MS, the first
//                                    after LATER ms
//
// Standard output: one line a span, when it is over: `start end span_id`, CLOCK_MONOTONIC ns.
#define _GNU_SOURCE
#include "hotspan_lanes.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void sleep_ms(unsigned ms) {
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&time, NULL);
}

static uint64_t begin(uint32_t id) {
    uint8_t trace[16] = {0}, span[8] = {0};
    uint32_t pid = (uint32_t)getpid();
    memcpy(trace, &pid, sizeof pid);
    memcpy(trace + 12, &id, sizeof id);
    memcpy(span, &id, sizeof id);
    memcpy(span + 4, &pid, sizeof pid);
    uint64_t start = now_ns();
    hotspan_span_set(trace, span, NULL, NULL, hotspan_name("published"), 1);
    return start;
}

// One write: lines of several threads and processes do not mix.
static void end(uint64_t start, uint32_t id) {
    hotspan_span_clear();
    char line[96];
    uint32_t pid = (uint32_t)getpid();
    uint8_t span[8];
    memcpy(span, &id, sizeof id);
    memcpy(span + 4, &pid, sizeof pid);
    int at = snprintf(line, sizeof line, "%llu %llu ", (unsigned long long)start,
                      (unsigned long long)now_ns());
    for (int i = 0; i < 8; i++)
        at += snprintf(line + at, sizeof line - (size_t)at, "%02x", span[i]);
    line[at++] = '\n';
    if (write(1, line, (size_t)at) != at)
        _exit(3);
}

static void beat(unsigned gap) {
    struct pollfd input = {0, POLLIN, 0};
    for (uint32_t id = 1;; id++) {
        uint64_t start = begin(id);
        sleep_ms(2);
        end(start, id);
        if (poll(&input, 1, (int)gap) > 0)
            return;
    }
}

static pthread_barrier_t all_there;
static unsigned thread_ms;

static void *one_span(void *id) {
    pthread_barrier_wait(&all_there);
    uint64_t start = begin((uint32_t)(uintptr_t)id);
    sleep_ms(thread_ms);
    end(start, (uint32_t)(uintptr_t)id);
    pthread_barrier_wait(&all_there);
    return NULL;
}

static int threads(unsigned count, unsigned ms) {
    pthread_t *all = calloc(count, sizeof *all);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    pthread_barrier_init(&all_there, NULL, count + 1);
    thread_ms = ms;
    for (uintptr_t i = 0; i < count; i++)
        if (pthread_create(all + i, &small, one_span, (void *)(i + 1)))
            return 4;
    pthread_barrier_wait(&all_there);
    pthread_barrier_wait(&all_there);
    for (unsigned i = 0; i < count; i++)
        pthread_join(all[i], NULL);
    free(all);
    return 0;
}

static int processes(unsigned count, unsigned ms) {
    for (unsigned i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0)
            return 5;
        if (child == 0) {
            uint64_t until = now_ns() + (uint64_t)ms * 1000000;
            sleep_ms(i % 200);
            for (uint32_t id = 1; now_ns() < until; id++) {
                uint64_t start = begin(id);
                sleep_ms(2);
                end(start, id);
                sleep_ms(198);
            }
            _exit(0);
        }
    }
    int status, all = 0;
    while (wait(&status) > 0)
        all |= status;
    return all ? 6 : 0;
}

static volatile unsigned long sink;
static unsigned orphan_ms, orphan_later;

__attribute__((noinline)) void orphan_leaf(unsigned ms) {
    uint64_t until = now_ns() + (uint64_t)ms * 1000000;
    while (now_ns() < until)
        for (int i = 0; i < 1000; i++)
            sink += (unsigned long)i;
    __asm__ volatile("");
}

__attribute__((noinline)) void orphan_top(unsigned ms) {
    orphan_leaf(ms);
    __asm__ volatile("");
}

static void *orphan(void *unused) {
    (void)unused;
    sleep_ms(orphan_later);
    uint64_t until = now_ns() + (uint64_t)orphan_ms * 1000000;
    for (uint32_t id = 1; now_ns() < until; id++) {
        uint64_t start = begin(id);
        orphan_top(4);
        sleep_ms(2);
        end(start, id);
    }
    exit(0);
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    unsigned first = count > 2 ? (unsigned)atoi(words[2]) : 0;
    unsigned second = count > 3 ? (unsigned)atoi(words[3]) : 0;
    if (!strcmp(what, "beat") && first) {
        beat(first);
        return 0;
    }
    if (!strcmp(what, "spans") && first) {
        for (uint32_t id = 1; id <= first; id++) {
            uint64_t start = begin(id);
            sleep_ms(second);
            end(start, id);
        }
        return 0;
    }
    if (!strcmp(what, "threads") && first)
        return threads(first, second);
    if (!strcmp(what, "processes") && first)
        return processes(first, second);
    if (!strcmp(what, "orphans") && first) {
        orphan_ms = first;
        orphan_later = second;
        pthread_t worker;
        if (pthread_create(&worker, NULL, orphan, NULL))
            return 4;
        pthread_exit(NULL);
    }
    fprintf(stderr, "what is `%s`? see the head of publishers.c\n", what);
    return 2;
}
