/* Spans and time, for the programs of tests/path/stacks.rs: each of their spans is named after what it
   does. */
#include "hotspan_lanes.h"

#include <time.h>
#include <unistd.h>

static __attribute__((unused)) void begin(unsigned id, const char *name) {
    uint8_t trace[16] = {0}, span[8] = {0xab};
    trace[15] = 1;
    span[6] = (uint8_t)(id >> 8);
    span[7] = (uint8_t)id;
    hotspan_span_set(trace, span, NULL, NULL, hotspan_name(name), 1);
}

static __attribute__((unused)) void end(void) { hotspan_span_clear(); }

static __attribute__((unused)) uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static __attribute__((unused)) void doze(unsigned ms) {
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}
