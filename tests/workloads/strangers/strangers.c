/* A program that spends as much of hotspan as it can, until its standard input ends:
 *
 *   strangers segments PROCESSES SEGMENTS   idle processes with segments, all lanes said to be in use
 *   strangers spans COUNT                   COUNT new spans each 20 ms
 *   strangers threads PROCESSES             threads that each announce a lane of their own, and end
 *   strangers takeover TRACE SPAN           a lane that says with a stamp from long ago that its thread is
 *                                           in that span
 *
 * Says "ready" once it spends, and at the end how much it did. */
#define _GNU_SOURCE
#include "hotspan_lanes.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* SPEC 2: a segment, byte by byte. */
enum { LANE_OFF = 4096 + 4096 * 128, STRIDE = 4096 + (64 << 13), LANES = 64 };
#define SEGMENT_LEN ((size_t)LANE_OFF + (size_t)LANES * STRIDE)
#define AT(type, base, offset) (*(volatile type *)((base) + (offset)))

static int is_over(int wait_ms) {
    struct pollfd in = {0, POLLIN, 0};
    char byte;
    return poll(&in, 1, wait_ms) > 0 && read(0, &byte, 1) <= 0;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void ready(void) {
    puts("ready");
    fflush(stdout);
}

/* Field 22 of /proc/self/stat. */
static uint64_t own_start(void) {
    char text[2048];
    int file = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t len = read(file, text, sizeof text - 1);
    close(file);
    text[len > 0 ? len : 0] = 0;
    char *at = strrchr(text, ')');
    for (int field = 0; at && field < 20; field++) at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

static char *segment(uint32_t lanes_in_use) {
    int file = memfd_create("HOTSPANLANE1", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file < 0 || ftruncate(file, (off_t)SEGMENT_LEN)) exit(3);
    char *made = mmap(NULL, SEGMENT_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (made == MAP_FAILED) exit(3);
    memcpy(made, "HOTSPAN1", 8);
    AT(uint16_t, made, 0x08) = 1;
    AT(uint32_t, made, 0x0c) = 256;
    AT(uint64_t, made, 0x10) = SEGMENT_LEN;
    AT(uint32_t, made, 0x18) = LANE_OFF;
    AT(uint32_t, made, 0x1c) = STRIDE;
    AT(uint32_t, made, 0x20) = LANES;
    AT(uint16_t, made, 0x24) = 64;
    AT(uint16_t, made, 0x26) = 10;
    AT(uint8_t, made, 0x2a) = 13;
    AT(uint32_t, made, 0x2c) = (uint32_t)getpid();
    AT(uint64_t, made, 0x30) = own_start();
    AT(uint32_t, made, 0x64) = lanes_in_use;
    AT(uint64_t, made, 0x78) = 4096;
    AT(uint32_t, made, 0x80) = 4096;
    AT(uint32_t, made, 0x84) = 128;
    fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    AT(uint32_t, made, 0x60) = 1;
    close(file);
    return made;
}

/* The calling thread takes lane 0. */
static char *lane(char *made) {
    char *first = made + LANE_OFF;
    AT(uint16_t, first, 0x0c) = 10;
    AT(uint64_t, first, 0x18) = LANE_OFF + 4096;
    AT(uint32_t, first, 0x04) = 1;
    AT(uint32_t, first, 0x08) = (uint32_t)syscall(SYS_gettid);
    AT(uint32_t, first, 0x00) = 0x454e414c;
    return first;
}

static void segments(int processes, int count) {
    for (int n = 0; n < processes; n++) {
        int done[2];
        if (pipe(done)) exit(3);
        if (!fork()) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            char *last = NULL;
            for (int i = 0; i < count; i++) last = segment(LANES);
            if (last) prctl(0x48535031, lane(last), 0, 0, "HOTSPANLANE1");
            close(done[0]);
            close(done[1]);
            pause();
            _exit(0);
        }
        char byte;
        close(done[1]);
        if (read(done[0], &byte, 1) < 0) exit(3);
        close(done[0]);
    }
    ready();
    while (!is_over(1000)) {}
}

static void spans(long count) {
    uint64_t number = 0;
    uint32_t name = hotspan_name("flood");
    ready();
    do {
        double end = now() + 0.02;
        for (long i = 0; i < count && now() < end; i++) {
            uint8_t trace[16] = {0xfa, 0x11}, span[8];
            number++;
            memcpy(trace + 8, &number, 8);
            memcpy(span, &number, 8);
            hotspan_span_set(trace, span, NULL, NULL, name, 1);
        }
        double left = end - now();
        if (left > 0) {
            struct timespec wait = {0, (long)(left * 1e9)};
            nanosleep(&wait, NULL);
        }
    } while (!is_over(0));
    printf("%llu\n", (unsigned long long)number);
}

static void *announce(void *place) {
    char *made = place;
    AT(uint32_t, made, 4) = 1;
    AT(uint32_t, made, 8) = (uint32_t)syscall(SYS_gettid);
    AT(uint32_t, made, 0) = 0x454e414c;
    prctl(0x48535031, made, 0, 0, 0);
    return NULL;
}

static void threads(int processes) {
    for (int n = 1; n < processes; n++) {
        if (!fork()) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    }
    /* More addresses than a process may have lanes. */
    size_t len = (size_t)64 * 32768;
    char *pages = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) exit(3);
    ready();
    unsigned long n = 0;
    do {
        pthread_t thread;
        if (pthread_create(&thread, NULL, announce, pages + 64 * (n++ % 32768))) exit(3);
        pthread_join(thread, NULL);
    } while (n % 64 || !is_over(0));
    printf("%lu\n", n);
}

static void from_hex(const char *hex, uint8_t *out, int bytes) {
    for (int i = 0; i < bytes; i++) {
        unsigned byte = 0;
        sscanf(hex + 2 * i, "%2x", &byte);
        out[i] = (uint8_t)byte;
    }
}

static void takeover(const char *trace, const char *span) {
    char *first = lane(segment(1));
    char *event = first + 4096;
    from_hex(trace, (uint8_t *)event + 16, 16);
    from_hex(span, (uint8_t *)event + 32, 8);
    AT(uint64_t, event, 8) = 1000000000;
    AT(uint8_t, event, 48) = 1;
    AT(uint8_t, event, 50) = 3;
    AT(uint64_t, event, 0) = 1;
    AT(uint64_t, first, 0x10) = 1;
    ready();
    while (!is_over(20)) {}
}

int main(int count, char **words) {
    const char *what = count > 2 ? words[1] : "";
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(what, "segments") && count > 3) segments(atoi(words[2]), atoi(words[3]));
    else if (!strcmp(what, "spans")) spans(atol(words[2]));
    else if (!strcmp(what, "threads")) threads(atoi(words[2]));
    else if (!strcmp(what, "takeover") && count > 3) takeover(words[2], words[3]);
    else return 2;
    return 0;
}
