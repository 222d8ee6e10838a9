/*
 * Publishes which tracing span is active on which thread, through shared memory that a profiler
 * outside the process (hotspan) reads. The ABI is described byte by byte in SPEC.md.
 *
 * Header only, C11 or C++17, Linux on x86-64 or AArch64, gcc or clang. No feature-test macro is
 * needed. Include it in as many translation units as you like: they share one publisher, and so
 * do several shared objects and the Rust crate in one process.
 *
 *     uint32_t checkout = hotspan_name("GET /checkout");
 *     hotspan_span_set(trace_id, span_id, NULL, NULL, checkout, 1);   this thread works for it
 *     hotspan_span_clear();                                           and now for none
 *
 * Publishing costs a few nanoseconds: no lock, no system call, no allocation. It never harms the
 * program: no signal, no abort, no blocking. It may be called in a signal handler, where a call
 * that interrupts another one of the same thread is refused and counted.
 *
 * Everything named hotspan__ is private.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOTSPAN_LANES_H
#define HOTSPAN_LANES_H

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#if !defined(__linux__) || !(defined(__x86_64__) || defined(__aarch64__)) || !defined(__LP64__)
#error "hotspan_lanes.h: only Linux on 64-bit x86 and ARM"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* One per linked module; several translation units fold into it. */
#define HOTSPAN__SHARED __attribute__((weak, visibility("hidden")))
#define HOTSPAN__COLD __attribute__((weak, visibility("hidden"), noinline, cold))
#define HOTSPAN__HOT static inline __attribute__((unused))
/* Keeps the compiler, not the CPU, from moving stores: for a reader that stops this thread. */
#define HOTSPAN__ORDER() __atomic_signal_fence(__ATOMIC_SEQ_CST)
/* Keeps earlier stores before later ones for other CPUs too, which x86 does by itself. */
#ifdef __x86_64__
#define HOTSPAN__STORE_FENCE() HOTSPAN__ORDER()
#else
#define HOTSPAN__STORE_FENCE() __atomic_thread_fence(__ATOMIC_RELEASE)
#endif
#define HOTSPAN__GET(place) __atomic_load_n(&(place), __ATOMIC_RELAXED)
#define HOTSPAN__PUT(place, value) __atomic_store_n(&(place), (value), __ATOMIC_RELAXED)

/* ---- The ABI (SPEC.md) ---- */

enum {
    HOTSPAN__PAGE = 4096,
    HOTSPAN__RING_LOG2_DEFAULT = 10,
    HOTSPAN__RING_LOG2_MIN = 4,
    HOTSPAN__RING_LOG2_MAX = 13,
    HOTSPAN__NAME_CAP = 4096,
    HOTSPAN__NAME_STRIDE = 128,
    HOTSPAN__NAME_WORDS = HOTSPAN__NAME_STRIDE / 8,
    HOTSPAN__LANE_OFF = HOTSPAN__PAGE + HOTSPAN__NAME_CAP * HOTSPAN__NAME_STRIDE,
    HOTSPAN__LANE_STRIDE = HOTSPAN__PAGE + (64 << HOTSPAN__RING_LOG2_MAX),
    HOTSPAN__LANE_CAP = 64,
    HOTSPAN__SEGMENT_LEN = HOTSPAN__LANE_OFF + HOTSPAN__LANE_CAP * HOTSPAN__LANE_STRIDE,
    HOTSPAN__SEGMENTS_MAX = 256,
    HOTSPAN__CELL_COUNT = HOTSPAN__NAME_CAP + 512,
    HOTSPAN__INDEX_COUNT = 2 * HOTSPAN__NAME_CAP
};
enum { HOTSPAN__SET = 1, HOTSPAN__CLEAR = 2, HOTSPAN__LANE_BEGIN = 3, HOTSPAN__LANE_END = 4 };
enum {
    HOTSPAN__TS_NONE = 0,
#ifdef __x86_64__
    HOTSPAN__TS_COUNTER = 1,
#else
    HOTSPAN__TS_COUNTER = 2,
#endif
    HOTSPAN__TS_MONO = 3
};
enum hotspan__clock {
    HOTSPAN__CLOCK_NONE,
    HOTSPAN__CLOCK_COUNTER,
    HOTSPAN__CLOCK_MONO,
    HOTSPAN__CLOCK_CALLER
};
enum hotspan__reason {
    HOTSPAN__SWITCHED_OFF = 1,
    HOTSPAN__FILE_SIZE_LIMIT,
    HOTSPAN__ADDRESS_SPACE_LIMIT,
    HOTSPAN__MEMFD_DENIED,
    HOTSPAN__SEAL_FAILED,
    HOTSPAN__MAP_FAILED,
    HOTSPAN__NO_WIPE_ON_FORK,
    HOTSPAN__COMMIT_LIMIT
};

struct hotspan__header {
    uint8_t magic[8];
    uint16_t abi_major, abi_minor;
    uint32_t header_len;
    uint64_t seg_len;
    uint32_t lane_off, lane_stride, lane_cap;
    uint16_t event_len, ring_log2;
    uint8_t ts_kind, flags, ring_log2_max, reserved_2b;
    uint32_t creator_pid;
    uint64_t creator_start, pidns_ino;
    uint8_t instance_id[16];
    uint64_t calibration_counter, calibration_mono_ns;
    uint32_t state, lanes_high_water;
    uint64_t threads_without_lane, ordinal, name_off;
    uint32_t name_cap, name_stride, name_count, names_refused;
    uint64_t publishes_refused;
    uint8_t reserved_98[104];
};

struct hotspan__lane {
    uint32_t magic, generation, owner_tid;
    uint16_t ring_log2;
    uint8_t kind, flags;
    uint64_t head, ring_off, acquire_ts, first_index, lap_warnings, grown_at;
    uint64_t record_trace_id[2], record_span_id; /* the OTEP 4947 record begins here */
    uint32_t record_valid_flags_size;
    uint8_t record_attrs[612];
    uint64_t thread_name[2];
};

struct hotspan__event {
    uint64_t word[8]; /* seq, ts, trace id, trace id, span, local root, small fields, parent */
};

#ifdef __cplusplus
#define HOTSPAN__ASSERT static_assert
#else
#define HOTSPAN__ASSERT _Static_assert
#endif
HOTSPAN__ASSERT(sizeof(struct hotspan__header) == 256, "header");
HOTSPAN__ASSERT(offsetof(struct hotspan__header, creator_pid) == 0x2C, "header");
HOTSPAN__ASSERT(offsetof(struct hotspan__header, state) == 0x60, "header");
HOTSPAN__ASSERT(offsetof(struct hotspan__header, publishes_refused) == 0x90, "header");
HOTSPAN__ASSERT(offsetof(struct hotspan__lane, grown_at) == 0x38, "lane");
HOTSPAN__ASSERT(offsetof(struct hotspan__lane, record_valid_flags_size) == 0x58, "lane");
HOTSPAN__ASSERT(offsetof(struct hotspan__lane, thread_name) == 0x2C0, "lane");

/* ---- One publisher per process ---- */

struct hotspan__stats {
    uint64_t threads_without_lane, names_refused, publishes_refused;
    uint32_t disabled, reserved;
};

/* The functions of the copy that serves the process. */
struct hotspan__publisher {
    uint32_t version, len;
    uint32_t (*name)(const uint8_t *name, size_t len);
    int32_t (*set)(const uint8_t *trace_id, const uint8_t *span_id, const uint8_t *parent_span_id,
                   const uint8_t *local_root_span_id, uint32_t name, uint8_t trace_flags,
                   uint64_t ts);
    void (*clear)(void);
    void (*stats)(struct hotspan__stats *stats);
};

/* Defined by the assembler to be of the unique kind: one per process, also between libraries
 * loaded privately, and a library that defines it is never unloaded. */
__asm__(".ifndef hotspan_lanes_v1\n" /* link-time optimisation joins several units into one */
        ".pushsection .bss.hotspan_lanes_v1,\"awG\",%nobits,hotspan_lanes_v1,comdat\n"
        ".balign 8\n"
        ".globl hotspan_lanes_v1\n"
        ".type hotspan_lanes_v1,%gnu_unique_object\n"
        ".size hotspan_lanes_v1,8\n"
        "hotspan_lanes_v1:\n"
        ".zero 8\n"
        ".popsection\n"
        ".endif\n");
extern __attribute__((visibility("default"))) const struct hotspan__publisher *hotspan_lanes_v1;

/* OTEP 4947: where a profiler finds this thread's record. */
__attribute__((weak, visibility("default"))) __thread void *otel_thread_ctx_v1;

/* ---- State ---- */

/* What a thread knows about its lane; zero means "nothing yet". */
struct hotspan__thread {
    volatile uint8_t busy;
    uint8_t ended, clock, ring_log2;
    const uint64_t *live; /* the process page's number, and the one this state belongs to */
    uint64_t incarnation;
    struct hotspan__lane *lane;
    struct hotspan__event *ring, *newest;
    uint64_t mask, check_at, grow_at, lap_began_ns, without_lane_in;
};

/* The page that the kernel wipes in every child: there it reads as "nothing made yet". */
struct hotspan__page {
    uint64_t live;
    uint32_t reclaiming, reserved[13];
    uint8_t *segments[HOTSPAN__SEGMENTS_MAX];
};

struct hotspan__module {
    struct hotspan__page *page;
    uint64_t incarnations;
    struct hotspan__stats counters; /* disabled: the reason, 0 while publishing */
    uint32_t config, exit_key;      /* both 0 until known; clock | ring_log2 << 8; key + 1 */
    /* The name table: see the words beside it below. */
    uint32_t cells_used, count, indexed;
    uint16_t order[HOTSPAN__NAME_CAP], index[HOTSPAN__INDEX_COUNT];
    uint64_t cells[HOTSPAN__CELL_COUNT][HOTSPAN__NAME_WORDS];
};

HOTSPAN__SHARED struct hotspan__module hotspan__module;
HOTSPAN__SHARED __thread struct hotspan__thread hotspan__thread;

/* ---- The kernel, without any feature-test macro ---- */

struct hotspan__timespec {
    int64_t seconds, nanoseconds;
};
extern long hotspan__raw_syscall(long number, ...) __asm__("syscall");
/* Every argument as wide as a register: a narrower one passed as a variable argument may carry
 * garbage in its upper half. */
HOTSPAN__HOT long hotspan__call(long number, long a, long b, long c, long d, long e) {
    return hotspan__raw_syscall(number, a, b, c, d, e, 0L);
}
HOTSPAN__HOT long hotspan__at(const volatile void *pointer) { return (long)(uintptr_t)pointer; }
extern int hotspan__clock_gettime(int clock, struct hotspan__timespec *now)
    __asm__("clock_gettime");

HOTSPAN__HOT uint64_t hotspan__monotonic_ns(void) {
    struct hotspan__timespec now = {0, 0};
    hotspan__clock_gettime(1, &now);
    return (uint64_t)now.seconds * 1000000000u + (uint64_t)now.nanoseconds;
}

HOTSPAN__HOT uint64_t hotspan__counter(void) {
#ifdef __x86_64__
    return __builtin_ia32_rdtsc();
#else
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#endif
}

/* For the clocks that cost one instruction or none. */
HOTSPAN__HOT uint64_t hotspan__plain_now(uint8_t clock, uint8_t *kind) {
    *kind = clock == HOTSPAN__CLOCK_COUNTER ? HOTSPAN__TS_COUNTER : HOTSPAN__TS_NONE;
    return clock == HOTSPAN__CLOCK_COUNTER ? hotspan__counter() : 0;
}

HOTSPAN__HOT uint64_t hotspan__now(uint8_t clock, uint64_t caller, uint8_t *kind) {
    switch (clock) {
    case HOTSPAN__CLOCK_MONO:
        *kind = HOTSPAN__TS_MONO;
        return hotspan__monotonic_ns();
    case HOTSPAN__CLOCK_CALLER:
        *kind = caller ? HOTSPAN__TS_MONO : HOTSPAN__TS_NONE;
        return caller;
    default:
        return hotspan__plain_now(clock, kind);
    }
}

/* Reads the start of a small file and ends it with NUL. */
HOTSPAN__COLD size_t hotspan__read_file(const char *path, char *text, size_t room) {
    size_t filled = 0;
    long fd = hotspan__call(SYS_openat, -100, hotspan__at(path), 02000000, 0, 0);
    if (fd >= 0) {
        while (filled < room - 1) {
            long got = hotspan__call(SYS_read, fd, hotspan__at(text + filled),
                                     (long)(room - 1 - filled), 0, 0);
            if (got > 0)
                filled += (size_t)got;
            else if (got == 0 || errno != EINTR)
                break;
        }
        hotspan__call(SYS_close, fd, 0, 0, 0, 0);
    }
    text[filled] = 0;
    return filled;
}

HOTSPAN__COLD uint64_t hotspan__number(const char *text) {
    uint64_t value = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (uint64_t)(*text - '0');
    return value;
}

/* ---- Configuration ---- */

/* Whether the kernel itself keeps time by the counter, so that all CPUs agree on it. */
HOTSPAN__COLD int hotspan__counter_is_trusted(void) {
#ifdef __x86_64__
    char text[545];
    int constant = 0, nonstop = 0, turn;
    long fd;
    hotspan__read_file("/sys/devices/system/clocksource/clocksource0/current_clocksource", text,
                       16);
    if (strncmp(text, "tsc", 3) != 0 || (text[3] != '\n' && text[3] != 0))
        return 0;
    fd = hotspan__call(SYS_openat, -100, hotspan__at("/proc/cpuinfo"), 02000000, 0, 0);
    memset(text, ' ', sizeof text);
    /* Small reads with an overlap: a signal handler's stack may be tiny. */
    for (turn = 0; fd >= 0 && turn < 16 && !(constant && nonstop); turn++) {
        long got;
        memmove(text, text + 512, 32);
        got = hotspan__call(SYS_read, fd, hotspan__at(text + 32), 512, 0, 0);
        if (got <= 0)
            break;
        text[32 + got] = 0;
        constant |= strstr(text, "constant_tsc") != NULL;
        nonstop |= strstr(text, "nonstop_tsc") != NULL;
        memmove(text + 512, text + got, 32);
    }
    if (fd >= 0)
        hotspan__call(SYS_close, fd, 0, 0, 0, 0);
    return constant && nonstop;
#else
    return 1;
#endif
}

/* clock | ring_log2 << 8; racing first readers agree. */
HOTSPAN__COLD uint32_t hotspan__config(void) {
    uint32_t config = HOTSPAN__GET(hotspan__module.config);
    if (!config) {
        const char *clock = getenv("HOTSPAN_TS"), *ring = getenv("HOTSPAN_RING_LOG2");
        uint64_t log2 = ring ? hotspan__number(ring) : 0;
        if (log2 < HOTSPAN__RING_LOG2_MIN || log2 > HOTSPAN__RING_LOG2_MAX)
            log2 = HOTSPAN__RING_LOG2_DEFAULT;
        if (clock && strcmp(clock, "none") == 0)
            config = HOTSPAN__CLOCK_NONE;
        else if (clock && strcmp(clock, "mono") == 0)
            config = HOTSPAN__CLOCK_MONO;
        else if (clock && strcmp(clock, "caller") == 0)
            config = HOTSPAN__CLOCK_CALLER;
        else
            config = hotspan__counter_is_trusted() ? HOTSPAN__CLOCK_COUNTER : HOTSPAN__CLOCK_MONO;
        config |= (uint32_t)log2 << 8;
        HOTSPAN__PUT(hotspan__module.config, config);
    }
    return config;
}

/* ---- Counters ---- */

HOTSPAN__COLD void hotspan__show_counters(void) {
    struct hotspan__page *page = __atomic_load_n(&hotspan__module.page, __ATOMIC_ACQUIRE);
    uint8_t *base = page ? __atomic_load_n(&page->segments[0], __ATOMIC_SEQ_CST) : NULL;
    if (base) {
        struct hotspan__header *header = (struct hotspan__header *)(void *)base;
        struct hotspan__stats *own = &hotspan__module.counters;
        HOTSPAN__PUT(header->threads_without_lane, HOTSPAN__GET(own->threads_without_lane));
        HOTSPAN__PUT(header->publishes_refused, HOTSPAN__GET(own->publishes_refused));
        HOTSPAN__PUT(header->names_refused, (uint32_t)HOTSPAN__GET(own->names_refused));
    }
}

HOTSPAN__COLD void hotspan__count(uint64_t *counter) {
    __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
    hotspan__show_counters();
}

/* ---- Names: append-only, without a lock ----
 *   index  hash -> id         an accelerator; may lag behind order, never ahead
 *   order  id-1 -> cell + 1   the truth: one compare-exchange appends a name
 *   cells  length + bytes     written by one thread before order names it          */

HOTSPAN__COLD const uint64_t *hotspan__name_words(uint32_t place) {
    uint16_t number = __atomic_load_n(&hotspan__module.order[place], __ATOMIC_ACQUIRE);
    return hotspan__module.cells[number ? number - 1 : 0];
}

HOTSPAN__COLD uint32_t hotspan__name_hash(const uint64_t *words) {
    uint64_t hash = 0xCBF29CE484222325u;
    uint32_t word, used = 1 + (uint32_t)(words[0] & 0xFF) / 8;
    for (word = 0; word < used; word++) {
        hash = (hash ^ words[word]) * 0x100000001B3u;
        hash = hash << 29 | hash >> 35;
    }
    return (uint32_t)((hash * 0x9E3779B97F4A7C15u) >> 44) % HOTSPAN__INDEX_COUNT;
}

/* Moves count past every name in order, and puts every counted name into the index. */
HOTSPAN__COLD void hotspan__names_catch_up(void) {
    struct hotspan__module *m = &hotspan__module;
    for (;;) {
        uint32_t count = __atomic_load_n(&m->count, __ATOMIC_SEQ_CST), indexed, slot;
        if (count < HOTSPAN__NAME_CAP && __atomic_load_n(&m->order[count], __ATOMIC_SEQ_CST)) {
            __atomic_compare_exchange_n(&m->count, &count, count + 1, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED);
            continue;
        }
        indexed = __atomic_load_n(&m->indexed, __ATOMIC_ACQUIRE);
        if (indexed >= count)
            return;
        for (slot = hotspan__name_hash(hotspan__name_words(indexed));; slot++) {
            uint16_t other = 0, id = (uint16_t)(indexed + 1);
            if (__atomic_compare_exchange_n(&m->index[slot % HOTSPAN__INDEX_COUNT], &other, id, 0,
                                            __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) ||
                other == id)
                break;
        }
        __atomic_compare_exchange_n(&m->indexed, &indexed, indexed + 1, 0, __ATOMIC_ACQ_REL,
                                    __ATOMIC_RELAXED);
    }
}

/* Brings a segment's copy of the table up to date; several threads may do it at once. */
HOTSPAN__COLD void hotspan__names_publish(uint8_t *base) {
    struct hotspan__header *header = (struct hotspan__header *)(void *)base;
    for (;;) {
        uint32_t word, done = __atomic_load_n(&header->name_count, __ATOMIC_ACQUIRE);
        const uint64_t *words;
        uint64_t *entry;
        if (done >= __atomic_load_n(&hotspan__module.count, __ATOMIC_SEQ_CST))
            return;
        words = hotspan__name_words(done);
        entry = (uint64_t *)(void *)(base + HOTSPAN__PAGE + (size_t)done * HOTSPAN__NAME_STRIDE);
        for (word = 0; word < HOTSPAN__NAME_WORDS; word++)
            HOTSPAN__PUT(entry[word], HOTSPAN__GET(words[word]));
        __atomic_compare_exchange_n(&header->name_count, &done, done + 1, 0, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED);
    }
}

HOTSPAN__COLD uint32_t hotspan__intern_words(const uint64_t *words) {
    struct hotspan__module *m = &hotspan__module;
    const size_t len = HOTSPAN__NAME_STRIDE;
    /* Read before the look-up: what is indexed later is found by the scan instead. */
    uint32_t seen = __atomic_load_n(&m->indexed, __ATOMIC_ACQUIRE);
    uint32_t slot = hotspan__name_hash(words), used, count, step, id;
    uint16_t cell = 0, empty;
    for (step = 0; step < HOTSPAN__INDEX_COUNT; step++) {
        id = __atomic_load_n(&m->index[(slot + step) % HOTSPAN__INDEX_COUNT], __ATOMIC_ACQUIRE);
        if (!id)
            break;
        if (memcmp(hotspan__name_words(id - 1), words, len) == 0)
            return id;
    }
    for (;;) {
        hotspan__names_catch_up();
        count = __atomic_load_n(&m->count, __ATOMIC_SEQ_CST);
        for (; seen < count; seen++)
            if (memcmp(hotspan__name_words(seen), words, len) == 0)
                return seen + 1;
        if (count == HOTSPAN__NAME_CAP)
            return 0;
        if (!cell) {
            used = HOTSPAN__GET(m->cells_used);
            do {
                if (used >= HOTSPAN__CELL_COUNT)
                    return 0;
            } while (!__atomic_compare_exchange_n(&m->cells_used, &used, used + 1, 1,
                                                  __ATOMIC_RELAXED, __ATOMIC_RELAXED));
            memcpy(m->cells[used], words, len);
            cell = (uint16_t)(used + 1);
        }
        empty = 0;
        if (__atomic_compare_exchange_n(&m->order[count], &empty, cell, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
            hotspan__names_catch_up();
            return count + 1;
        }
    }
}

HOTSPAN__COLD uint32_t hotspan__intern(const uint8_t *name, size_t len) {
    uint64_t words[HOTSPAN__NAME_WORDS];
    uint32_t id, known = HOTSPAN__GET(hotspan__module.count), ordinal;
    if (!name || len == 0)
        return 0;
    id = 0;
    if (len < HOTSPAN__NAME_STRIDE) {
        memset(words, 0, sizeof words);
        words[0] = len;
        memcpy((uint8_t *)words + 1, name, len);
        id = hotspan__intern_words(words);
    }
    if (!id)
        hotspan__count(&hotspan__module.counters.names_refused);
    if (id > known) {
        struct hotspan__page *page = __atomic_load_n(&hotspan__module.page, __ATOMIC_ACQUIRE);
        for (ordinal = 0; page && ordinal < HOTSPAN__SEGMENTS_MAX; ordinal++) {
            uint8_t *base = __atomic_load_n(&page->segments[ordinal], __ATOMIC_SEQ_CST);
            if (!base)
                break;
            hotspan__names_publish(base);
        }
    }
    return id;
}

/* ---- Segments ---- */

/* Refuses where a limit stands in the way: growing a file over RLIMIT_FSIZE kills by SIGXFSZ. */
HOTSPAN__COLD uint32_t hotspan__no_room(void) {
    uint64_t limit[2] = {~(uint64_t)0, 0};
    char text[32];
    /* Where the kernel never overcommits, a page it refuses to shared memory is a SIGBUS. */
    if (hotspan__read_file("/proc/sys/vm/overcommit_memory", text, 4) && text[0] == '2')
        return HOTSPAN__COMMIT_LIMIT;
    if (hotspan__call(SYS_prlimit64, 0, 1, 0, hotspan__at(limit), 0) == 0 &&
        limit[0] < HOTSPAN__SEGMENT_LEN)
        return HOTSPAN__FILE_SIZE_LIMIT;
    limit[0] = ~(uint64_t)0;
    if (hotspan__call(SYS_prlimit64, 0, 9, 0, hotspan__at(limit), 0) == 0 &&
        limit[0] != ~(uint64_t)0) {
        uint64_t taken = ~(uint64_t)0;
        if (hotspan__read_file("/proc/self/statm", text, sizeof text))
            taken = hotspan__number(text) * HOTSPAN__PAGE;
        /* Never more than half of what the program left itself. */
        if (taken >= limit[0] || (limit[0] - taken) / 2 < HOTSPAN__SEGMENT_LEN)
            return HOTSPAN__ADDRESS_SPACE_LIMIT;
    }
    return 0;
}

HOTSPAN__COLD void hotspan__fill_header(struct hotspan__header *header, uint64_t ordinal) {
    uint32_t config = hotspan__config();
    char text[512], *field;
    int spaces;
    size_t len;
    long got;
    hotspan__now((uint8_t)config, 1, &header->ts_kind);
    memcpy(header->magic, "HOTSPAN1", 8);
    header->abi_major = 1;
    header->header_len = 256;
    header->seg_len = HOTSPAN__SEGMENT_LEN;
    header->lane_off = HOTSPAN__LANE_OFF;
    header->lane_stride = HOTSPAN__LANE_STRIDE;
    header->lane_cap = HOTSPAN__LANE_CAP;
    header->event_len = 64;
    header->ring_log2 = (uint16_t)(config >> 8);
    header->ring_log2_max = HOTSPAN__RING_LOG2_MAX;
    header->creator_pid = (uint32_t)hotspan__call(SYS_getpid, 0, 0, 0, 0, 0);
    header->ordinal = ordinal;
    header->name_off = HOTSPAN__PAGE;
    header->name_cap = HOTSPAN__NAME_CAP;
    header->name_stride = HOTSPAN__NAME_STRIDE;
    len = hotspan__read_file("/proc/self/stat", text, sizeof text);
    /* Field 22; the command name may hold anything, so count from its last parenthesis. */
    for (field = text + len; field > text && *field != ')'; field--) {
    }
    for (spaces = 0; *field && spaces < 20; field++)
        spaces += *field == ' ';
    header->creator_start = hotspan__number(field);
    got = hotspan__call(SYS_readlinkat, -100, hotspan__at("/proc/self/ns/pid"), hotspan__at(text),
                        sizeof text - 1, 0);
    text[got > 0 ? got : 0] = 0;
    header->pidns_ino = got > 5 ? hotspan__number(text + 5) : 0;
    hotspan__call(SYS_getrandom, hotspan__at(header->instance_id), 16, 1, 0, 0);
    if ((uint8_t)config == HOTSPAN__CLOCK_COUNTER)
        header->calibration_counter = hotspan__counter();
    header->calibration_mono_ns = hotspan__monotonic_ns();
    __atomic_store_n(&header->state, 1, __ATOMIC_RELEASE);
}

HOTSPAN__COLD uint8_t *hotspan__segment_create(uint64_t ordinal, uint32_t *reason) {
    const unsigned flags = 1 | 2, noexec_seal = 8; /* MFD_CLOEXEC, MFD_ALLOW_SEALING */
    const int fixed = 1 | 2 | 4, future_write = 16; /* F_SEAL_SEAL, _SHRINK, _GROW */
    long fd, address = -1;
    uint8_t *base = NULL;
    if ((*reason = hotspan__no_room()) != 0)
        return NULL;
    fd = hotspan__call(SYS_memfd_create, hotspan__at("HOTSPANLANE1"), flags | noexec_seal, 0, 0, 0);
    if (fd < 0)
        fd = hotspan__call(SYS_memfd_create, hotspan__at("HOTSPANLANE1"), flags, 0, 0, 0);
    if (fd < 0) {
        *reason = HOTSPAN__MEMFD_DENIED;
        return NULL;
    }
    if (hotspan__call(SYS_ftruncate, fd, HOTSPAN__SEGMENT_LEN, 0, 0, 0) == 0)
        address = hotspan__call(SYS_mmap, 0, HOTSPAN__SEGMENT_LEN, 3, 1, fd);
    if (address == -1) {
        *reason = HOTSPAN__MAP_FAILED;
    } else {
        base = (uint8_t *)(uintptr_t)address;
        if ((hotspan__call(SYS_fcntl, fd, 1033, fixed | future_write, 0, 0) != 0 &&
             hotspan__call(SYS_fcntl, fd, 1033, fixed, 0, 0) != 0) ||
            hotspan__call(SYS_madvise, hotspan__at(base), HOTSPAN__SEGMENT_LEN, 10, 0, 0) != 0) {
            hotspan__call(SYS_munmap, hotspan__at(base), HOTSPAN__SEGMENT_LEN, 0, 0, 0);
            base = NULL;
            *reason = HOTSPAN__SEAL_FAILED;
        }
    }
    hotspan__call(SYS_close, fd, 0, 0, 0, 0);
    if (base)
        hotspan__fill_header((struct hotspan__header *)(void *)base, ordinal);
    return base;
}

HOTSPAN__COLD uint8_t *hotspan__segment(struct hotspan__page *page, uint32_t ordinal,
                                        uint32_t *reason) {
    uint8_t *fresh, *winner = __atomic_load_n(&page->segments[ordinal], __ATOMIC_SEQ_CST);
    if (winner)
        return winner;
    fresh = hotspan__segment_create(ordinal, reason);
    if (!fresh)
        return NULL;
    hotspan__names_publish(fresh);
    /* A name added meanwhile arrives by its adder, who sees the segment, or by us, who see it. */
    if (!__atomic_compare_exchange_n(&page->segments[ordinal], &winner, fresh, 0, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST)) {
        hotspan__call(SYS_munmap, hotspan__at(fresh), HOTSPAN__SEGMENT_LEN, 0, 0, 0);
        return winner;
    }
    hotspan__names_publish(fresh);
    hotspan__show_counters();
    return fresh;
}

HOTSPAN__COLD struct hotspan__page *hotspan__page_make(void) {
    long address = hotspan__call(SYS_mmap, 0, HOTSPAN__PAGE, 3, 0x22, -1);
    struct hotspan__page *fresh, *none = NULL;
    if (address == -1)
        return NULL;
    fresh = (struct hotspan__page *)(uintptr_t)address;
    if (hotspan__call(SYS_madvise, hotspan__at(fresh), HOTSPAN__PAGE, 18, 0, 0) != 0 ||
        !__atomic_compare_exchange_n(&hotspan__module.page, &none, fresh, 0, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE))
        hotspan__call(SYS_munmap, hotspan__at(fresh), HOTSPAN__PAGE, 0, 0, 0);
    return __atomic_load_n(&hotspan__module.page, __ATOMIC_ACQUIRE);
}

/* The process, with at least one segment; or NULL with the reason stored. */
HOTSPAN__COLD struct hotspan__page *hotspan__ready(void) {
    struct hotspan__page *page = __atomic_load_n(&hotspan__module.page, __ATOMIC_ACQUIRE);
    uint32_t reason = HOTSPAN__GET(hotspan__module.counters.disabled);
    uint64_t none = 0;
    if (reason)
        return NULL;
    if (!page) {
        const char *off = getenv("HOTSPAN_DISABLE");
        if (off && *off && strcmp(off, "0") != 0)
            reason = HOTSPAN__SWITCHED_OFF;
        else if (!(page = hotspan__page_make()))
            reason = HOTSPAN__NO_WIPE_ON_FORK;
    }
    if (page) {
        struct hotspan__stats *counters = &hotspan__module.counters;
        if (!__atomic_load_n(&page->segments[0], __ATOMIC_SEQ_CST) &&
            HOTSPAN__GET(hotspan__module.incarnations)) {
            /* A child: what its parent lost is not its own loss. */
            HOTSPAN__PUT(counters->threads_without_lane, 0);
            HOTSPAN__PUT(counters->names_refused, 0);
            HOTSPAN__PUT(counters->publishes_refused, 0);
        }
        hotspan__segment(page, 0, &reason);
    }
    if (reason) {
        HOTSPAN__PUT(hotspan__module.counters.disabled, reason);
        return NULL;
    }
    if (!__atomic_load_n(&page->live, __ATOMIC_ACQUIRE)) {
        uint64_t number = __atomic_add_fetch(&hotspan__module.incarnations, 1, __ATOMIC_RELAXED);
        __atomic_compare_exchange_n(&page->live, &none, number, 0, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE);
    }
    return page;
}

/* ---- The hot path ---- */

/* A lap of the ring ends, or the ring may grow now. */
HOTSPAN__COLD void hotspan__new_lap(struct hotspan__thread *t, uint64_t index) {
    struct hotspan__lane *lane = t->lane;
    uint64_t lap, next;
    if (t->grow_at && index >= t->grow_at) {
        t->ring_log2 = HOTSPAN__RING_LOG2_MAX;
        t->mask = ((uint64_t)1 << HOTSPAN__RING_LOG2_MAX) - 1;
        t->grow_at = t->lap_began_ns = 0;
        /* Before the first event under the larger mask, hence before the head that shows it. */
        __atomic_store_n(&lane->grown_at, index, __ATOMIC_RELEASE);
    }
    lap = (uint64_t)1 << t->ring_log2;
    if ((index & (lap - 1)) == 0) {
        uint64_t now = hotspan__monotonic_ns(), took = now - t->lap_began_ns;
        t->lap_began_ns = now;
        if (took < 50000000u)
            __atomic_fetch_add(&lane->lap_warnings, 1, __ATOMIC_RELAXED);
        if (took < 100000000u && t->ring_log2 < HOTSPAN__RING_LOG2_MAX && !t->grow_at) {
            /* Only where the large ring's next slots lie clear of the small ring. */
            uint64_t large = (uint64_t)1 << HOTSPAN__RING_LOG2_MAX;
            uint64_t at = index + 1, place = at & (large - 1);
            if (place < lap)
                at += lap - place;
            else if (place > large - lap)
                at += large - place + lap;
            t->grow_at = at;
        }
    }
    next = (index / lap + 1) * lap;
    t->check_at = t->grow_at && t->grow_at < next ? t->grow_at : next;
}

/* Two words by one store: the number of stores is what a publish costs. */
typedef uint64_t hotspan__pair __attribute__((vector_size(16), may_alias));
HOTSPAN__HOT void hotspan__put_pair(uint64_t *place, uint64_t first, uint64_t second) {
    const hotspan__pair pair = {first, second};
    *(volatile hotspan__pair *)(void *)place = pair;
}

/* Stores an event, takes the record's validity away, moves head. A reader that interrupts this
 * thread sees either `valid` with the record of head, or no `valid` and the event at head - 1. */
HOTSPAN__HOT void hotspan__write(struct hotspan__thread *t, uint64_t ts,
                                 const struct hotspan__event *state) {
    struct hotspan__lane *lane = t->lane;
    const uint64_t index = HOTSPAN__GET(lane->head);
    struct hotspan__event *e = t->ring + (index & t->mask);
    const uint8_t op = (uint8_t)state->word[6];
    HOTSPAN__PUT(e->word[0], 0);
    /* Pairs with the reader's acquire fence: no later store is seen before seq = 0. */
    HOTSPAN__STORE_FENCE();
    HOTSPAN__PUT(e->word[1], ts);
    hotspan__put_pair(&e->word[2], state->word[2], state->word[3]);
    hotspan__put_pair(&e->word[4], state->word[4], state->word[5]);
    hotspan__put_pair(&e->word[6], state->word[6], state->word[7]);
    __atomic_store_n(&e->word[0], index + 1, __ATOMIC_RELEASE);
    HOTSPAN__PUT(lane->record_valid_flags_size, 0);
    HOTSPAN__ORDER();
    if (op == HOTSPAN__SET) {
        hotspan__put_pair(lane->record_trace_id, state->word[2], state->word[3]);
        HOTSPAN__PUT(lane->record_span_id, state->word[4]);
    }
    __atomic_store_n(&lane->head, index + 1, __ATOMIC_RELEASE);
    t->newest = e;
    HOTSPAN__ORDER();
    if (op == HOTSPAN__SET)
        HOTSPAN__PUT(lane->record_valid_flags_size,
                     1 | (uint32_t)(uint8_t)(state->word[6] >> 8) << 8);
}

HOTSPAN__HOT uint64_t hotspan__small(uint8_t op, uint8_t flags, uint8_t kind, uint32_t name) {
    return op | (uint64_t)flags << 8 | (uint64_t)kind << 16 | (uint64_t)name << 32;
}

/* Whether the newest event already says this; the kind of its timestamp does not matter. */
HOTSPAN__HOT int hotspan__is_current(const struct hotspan__thread *t,
                                     const struct hotspan__event *state) {
    const uint64_t *now = t->newest->word;
    return HOTSPAN__GET(now[4]) == state->word[4] && HOTSPAN__GET(now[7]) == state->word[7] &&
           ((HOTSPAN__GET(now[6]) ^ state->word[6]) & ~((uint64_t)0xFF << 16)) == 0 &&
           HOTSPAN__GET(now[2]) == state->word[2] && HOTSPAN__GET(now[3]) == state->word[3] &&
           HOTSPAN__GET(now[5]) == state->word[5];
}

/* Everything that is not straight-line: a new lap, and clocks that are function calls. */
HOTSPAN__COLD void hotspan__write_slowly(struct hotspan__thread *t, uint64_t caller_ts,
                                         const struct hotspan__event *wanted) {
    struct hotspan__event state = *wanted;
    uint64_t index = HOTSPAN__GET(t->lane->head), ts;
    uint8_t kind;
    if (index >= t->check_at)
        hotspan__new_lap(t, index);
    ts = hotspan__now(t->clock, caller_ts, &kind);
    state.word[6] = (state.word[6] & ~((uint64_t)0xFF << 16)) | (uint64_t)kind << 16;
    hotspan__write(t, ts, &state);
}

/* ---- Lanes ---- */

HOTSPAN__COLD void hotspan__append_owner(struct hotspan__thread *t, uint8_t op, uint32_t tid,
                                         uint32_t generation) {
    struct hotspan__event state = {{0, 0, 0, 0, 0, 0, 0, 0}};
    state.word[2] = tid | (uint64_t)generation << 32;
    state.word[6] = op;
    hotspan__write_slowly(t, 0, &state);
}

/* Runs once per thread, when it ends. */
HOTSPAN__COLD void hotspan__end_of_thread(void *unused) {
    struct hotspan__thread *t = &hotspan__thread;
    struct hotspan__lane *lane = t->lane;
    (void)unused;
    t->busy = 1;
    HOTSPAN__ORDER();
    if (t->live && HOTSPAN__GET(*t->live) == t->incarnation) {
        uint32_t generation = HOTSPAN__GET(lane->generation);
        HOTSPAN__PUT(lane->record_valid_flags_size, 0);
        hotspan__append_owner(t, HOTSPAN__LANE_END, HOTSPAN__GET(lane->owner_tid), generation);
        if (otel_thread_ctx_v1 == (void *)lane->record_trace_id)
            otel_thread_ctx_v1 = NULL;
        t->live = NULL;
        HOTSPAN__PUT(lane->owner_tid, 0);
        __atomic_store_n(&lane->generation, generation + 1, __ATOMIC_RELEASE);
    }
    t->ended = 1;
    HOTSPAN__ORDER();
    t->busy = 0;
}

/* In a fork child the lane is not mapped, so the pointer to its record must not survive. */
HOTSPAN__COLD void hotspan__in_fork_child(void) {
    struct hotspan__thread *t = &hotspan__thread;
    if (t->lane && otel_thread_ctx_v1 == (void *)((uint8_t *)t->lane + 0x40) &&
        !(t->live && HOTSPAN__GET(*t->live) == t->incarnation))
        otel_thread_ctx_v1 = NULL;
}

/* At load, where allocating is allowed; once per module. */
HOTSPAN__SHARED uint8_t hotspan__loaded;
static __attribute__((constructor, unused)) void hotspan__at_load(void) {
    if (!hotspan__loaded) {
        hotspan__loaded = 1;
        pthread_atfork(NULL, NULL, hotspan__in_fork_child);
    }
}

HOTSPAN__COLD void hotspan__release_at_exit(void) {
    uint32_t none = 0, key = __atomic_load_n(&hotspan__module.exit_key, __ATOMIC_ACQUIRE);
    if (!key) {
        pthread_key_t fresh;
        if (pthread_key_create(&fresh, hotspan__end_of_thread) != 0)
            return; /* the lanes of dead threads are then taken back by whoever needs one */
        key = (uint32_t)fresh + 1;
        if (!__atomic_compare_exchange_n(&hotspan__module.exit_key, &none, key, 0,
                                         __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            pthread_key_delete(fresh);
            key = none;
        }
    }
    pthread_setspecific((pthread_key_t)(key - 1), (void *)&hotspan__module);
}

HOTSPAN__HOT struct hotspan__lane *hotspan__lane_at(uint8_t *base, uint32_t number) {
    return (struct hotspan__lane *)(void *)(base + HOTSPAN__LANE_OFF +
                                            (size_t)number * HOTSPAN__LANE_STRIDE);
}

HOTSPAN__COLD struct hotspan__lane *hotspan__claim_free(uint8_t *base, uint32_t *number) {
    for (*number = 0; *number < HOTSPAN__LANE_CAP; ++*number) {
        struct hotspan__lane *lane = hotspan__lane_at(base, *number);
        uint32_t free_gen = HOTSPAN__GET(lane->generation);
        if (free_gen % 2 == 0 &&
            __atomic_compare_exchange_n(&lane->generation, &free_gen, free_gen + 1, 0,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return lane;
    }
    return NULL;
}

/* Takes over a lane whose owner is gone. One thread at a time: a lane half taken over still looks
 * like an orphan to another. */
HOTSPAN__COLD struct hotspan__lane *hotspan__claim_orphan(struct hotspan__page *page,
                                                          uint8_t **base, uint32_t *number,
                                                          uint32_t *dead) {
    struct hotspan__lane *found = NULL;
    uint32_t ordinal, none = 0;
    long pid = hotspan__call(SYS_getpid, 0, 0, 0, 0, 0);
    if (!__atomic_compare_exchange_n(&page->reclaiming, &none, 1, 0, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED))
        return NULL;
    for (ordinal = 0; !found && ordinal < HOTSPAN__SEGMENTS_MAX; ordinal++) {
        *base = __atomic_load_n(&page->segments[ordinal], __ATOMIC_SEQ_CST);
        if (!*base)
            break;
        for (*number = 0; *number < HOTSPAN__LANE_CAP; ++*number) {
            struct hotspan__lane *lane = hotspan__lane_at(*base, *number);
            uint32_t owned = __atomic_load_n(&lane->generation, __ATOMIC_ACQUIRE);
            *dead = HOTSPAN__GET(lane->owner_tid);
            if (owned % 2 == 0 || !*dead || hotspan__call(SYS_tgkill, pid, *dead, 0, 0, 0) == 0 ||
                errno != ESRCH ||
                !__atomic_compare_exchange_n(&lane->generation, &owned, owned + 2, 0,
                                             __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
                continue;
            HOTSPAN__PUT(lane->owner_tid, 0);
            found = lane;
            break;
        }
    }
    __atomic_store_n(&page->reclaiming, 0, __ATOMIC_RELEASE);
    return found;
}

HOTSPAN__COLD struct hotspan__lane *hotspan__claim(struct hotspan__page *page, uint8_t **base,
                                                   uint32_t *number, uint32_t *dead) {
    uint32_t ordinal, reason;
    for (ordinal = 0; ordinal < HOTSPAN__SEGMENTS_MAX; ordinal++) {
        struct hotspan__lane *lane;
        *dead = 0;
        *base = __atomic_load_n(&page->segments[ordinal], __ATOMIC_SEQ_CST);
        if (!*base) {
            if ((lane = hotspan__claim_orphan(page, base, number, dead)) != NULL)
                return lane;
            *dead = 0;
            if (!(*base = hotspan__segment(page, ordinal, &reason)))
                return NULL;
        }
        /* A vfork child borrows its parent's memory; a lane taken here would outlive it. */
        if (((struct hotspan__header *)(void *)*base)->creator_pid !=
            (uint32_t)hotspan__call(SYS_getpid, 0, 0, 0, 0, 0))
            return NULL;
        if ((lane = hotspan__claim_free(*base, number)) != NULL)
            return lane;
    }
    return NULL;
}

HOTSPAN__COLD int hotspan__acquire(struct hotspan__page *page, struct hotspan__thread *t) {
    uint32_t number, dead, generation, config = hotspan__config(), high;
    uint32_t tid = (uint32_t)hotspan__call(SYS_gettid, 0, 0, 0, 0, 0);
    uint8_t *base, kind;
    struct hotspan__header *header;
    struct hotspan__lane *lane = hotspan__claim(page, &base, &number, &dead);
    if (!lane)
        return 0;
    header = (struct hotspan__header *)(void *)base;
    high = HOTSPAN__GET(header->lanes_high_water);
    while (high < number + 1 &&
           !__atomic_compare_exchange_n(&header->lanes_high_water, &high, number + 1, 0,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
    }
    generation = HOTSPAN__GET(lane->generation);
    t->lane = lane;
    t->ring = t->newest = (struct hotspan__event *)(void *)((uint8_t *)lane + HOTSPAN__PAGE);
    t->clock = (uint8_t)config;
    t->ring_log2 = (uint8_t)(config >> 8);
    if (HOTSPAN__GET(lane->grown_at))
        t->ring_log2 = HOTSPAN__RING_LOG2_MAX;
    t->mask = ((uint64_t)1 << t->ring_log2) - 1;
    t->check_at = (HOTSPAN__GET(lane->head) + t->mask) & ~t->mask;
    t->grow_at = t->lap_began_ns = 0;
    HOTSPAN__PUT(lane->magic, 0x454E414Cu);
    HOTSPAN__PUT(lane->ring_log2, (uint16_t)(config >> 8));
    HOTSPAN__PUT(lane->kind, 0);
    HOTSPAN__PUT(lane->flags, 0);
    HOTSPAN__PUT(lane->ring_off, (uint64_t)((uint8_t *)t->ring - base));
    HOTSPAN__PUT(lane->record_valid_flags_size, 0);
    if (dead) /* what its owner could not say any more */
        hotspan__append_owner(t, HOTSPAN__LANE_END, dead, generation - 2);
    HOTSPAN__PUT(lane->first_index, HOTSPAN__GET(lane->head));
    HOTSPAN__PUT(lane->acquire_ts, hotspan__now(t->clock, 0, &kind));
    hotspan__call(SYS_prctl, 16, hotspan__at(lane->thread_name), 0, 0, 0);
    __atomic_store_n(&lane->owner_tid, tid, __ATOMIC_RELEASE);
    hotspan__append_owner(t, HOTSPAN__LANE_BEGIN, tid, generation);
    t->live = &page->live;
    t->incarnation = HOTSPAN__GET(page->live);
    if (!otel_thread_ctx_v1)
        otel_thread_ctx_v1 = (void *)lane->record_trace_id;
    /* Only now is every field true that the breadcrumb invites to read. */
    hotspan__call(SYS_prctl, 0x48535031, hotspan__at(lane), 0, 0, hotspan__at("HOTSPANLANE1"));
    hotspan__release_at_exit();
    return 1;
}

/* ---- First use, and joining ---- */

HOTSPAN__COLD int32_t hotspan__serve_set(const uint8_t *trace_id, const uint8_t *span_id,
                                         const uint8_t *parent_span_id,
                                         const uint8_t *local_root_span_id, uint32_t name,
                                         uint8_t trace_flags, uint64_t ts);
HOTSPAN__COLD void hotspan__serve_clear(void);

HOTSPAN__COLD void hotspan__serve_stats(struct hotspan__stats *stats) {
    *stats = hotspan__module.counters;
}

/* The other copy that serves this process, or NULL if this one does, from now on at least. */
HOTSPAN__COLD const struct hotspan__publisher *hotspan__elsewhere(void) {
    static const struct hotspan__publisher this_copy = {
        1,
        sizeof(struct hotspan__publisher),
        hotspan__intern,
        hotspan__serve_set,
        hotspan__serve_clear,
        hotspan__serve_stats,
    };
    const struct hotspan__publisher *none = NULL;
    const struct hotspan__publisher *serving =
        __atomic_load_n(&hotspan_lanes_v1, __ATOMIC_ACQUIRE);
    if (!serving) {
        serving = &this_copy;
        if (!__atomic_compare_exchange_n(&hotspan_lanes_v1, &none, serving, 0, __ATOMIC_ACQ_REL,
                                         __ATOMIC_ACQUIRE))
            serving = none;
    }
    return serving == &this_copy ? NULL : serving;
}

/* First use on this thread or in this process, or after a fork: 1 = has a lane, 0 = has none,
 * -1 = disabled. */
HOTSPAN__COLD int hotspan__settle(struct hotspan__thread *t) {
    const int kept_errno = errno;
    struct hotspan__page *page = hotspan__ready();
    int answer = -1;
    if (page) {
        uint64_t live = __atomic_load_n(&page->live, __ATOMIC_ACQUIRE);
        answer = 0;
        t->live = NULL; /* whatever was here belongs to a parent */
        if (!t->ended && t->without_lane_in != live) {
            answer = hotspan__acquire(page, t);
            if (!answer) {
                t->without_lane_in = live;
                hotspan__count(&hotspan__module.counters.threads_without_lane);
            }
        }
    } else {
        hotspan__count(&hotspan__module.counters.publishes_refused);
    }
    errno = kept_errno;
    return answer;
}

HOTSPAN__COLD int hotspan__refuse(void) {
    hotspan__count(&hotspan__module.counters.publishes_refused);
    return 0;
}

HOTSPAN__HOT uint64_t hotspan__word(const uint8_t *bytes) {
    uint64_t word = 0;
    if (bytes)
        memcpy(&word, bytes, sizeof word);
    return word;
}

HOTSPAN__HOT void hotspan__leave(struct hotspan__thread *t) {
    HOTSPAN__ORDER();
    t->busy = 0;
}

HOTSPAN__HOT int hotspan__is_live(const struct hotspan__thread *t) {
    return t->live && HOTSPAN__GET(*t->live) == t->incarnation;
}

/* Whether a write is straight-line: no new lap, and a clock that is one instruction or none. */
HOTSPAN__HOT int hotspan__is_plain(const struct hotspan__thread *t) {
    return HOTSPAN__GET(t->lane->head) < t->check_at && t->clock <= HOTSPAN__CLOCK_COUNTER;
}

HOTSPAN__HOT struct hotspan__event hotspan__state(const uint8_t *trace_id, const uint8_t *span_id,
                                                  const uint8_t *parent_span_id,
                                                  const uint8_t *local_root_span_id, uint32_t name,
                                                  uint8_t trace_flags) {
    struct hotspan__event state;
    state.word[0] = state.word[1] = 0;
    memcpy(&state.word[2], trace_id, 16);
    memcpy(&state.word[4], span_id, 8);
    state.word[5] = hotspan__word(local_root_span_id);
    state.word[6] = hotspan__small(HOTSPAN__SET, trace_flags, 0, name);
    state.word[7] = hotspan__word(parent_span_id);
    return state;
}

/* Entered with `busy` set, by a tail call: so the fast path saves no registers. */
HOTSPAN__COLD int32_t hotspan__set_slowly(const uint8_t *trace_id, const uint8_t *span_id,
                                          const uint8_t *parent_span_id,
                                          const uint8_t *local_root_span_id, uint32_t name,
                                          uint8_t trace_flags, uint64_t caller_ts) {
    struct hotspan__thread *t = &hotspan__thread;
    struct hotspan__event state;
    if (!hotspan__is_live(t)) {
        const struct hotspan__publisher *other = hotspan__elsewhere();
        int answer = other ? 0 : hotspan__settle(t);
        if (answer <= 0) {
            hotspan__leave(t);
            return other ? other->set(trace_id, span_id, parent_span_id, local_root_span_id, name,
                                      trace_flags, caller_ts)
                         : answer;
        }
    }
    state = hotspan__state(trace_id, span_id, parent_span_id, local_root_span_id, name,
                           trace_flags);
    if (!hotspan__is_current(t, &state))
        hotspan__write_slowly(t, caller_ts, &state);
    hotspan__leave(t);
    return 0;
}

HOTSPAN__HOT int32_t hotspan__set(const uint8_t *trace_id, const uint8_t *span_id,
                                  const uint8_t *parent_span_id, const uint8_t *local_root_span_id,
                                  uint32_t name, uint8_t trace_flags, uint64_t caller_ts) {
    struct hotspan__thread *t = &hotspan__thread;
    struct hotspan__event state;
    uint8_t kind;
    if (__builtin_expect(t->busy, 0))
        return hotspan__refuse();
    t->busy = 1;
    HOTSPAN__ORDER();
    if (__builtin_expect(!hotspan__is_live(t) || !hotspan__is_plain(t), 0))
        return hotspan__set_slowly(trace_id, span_id, parent_span_id, local_root_span_id, name,
                                   trace_flags, caller_ts);
    state = hotspan__state(trace_id, span_id, parent_span_id, local_root_span_id, name,
                           trace_flags);
    if (!hotspan__is_current(t, &state)) {
        uint64_t ts = hotspan__plain_now(t->clock, &kind);
        state.word[6] |= (uint64_t)kind << 16;
        hotspan__write(t, ts, &state);
    }
    hotspan__leave(t);
    return 0;
}

/* Entered with `busy` set. */
HOTSPAN__COLD void hotspan__clear_slowly(void) {
    static const struct hotspan__event none = {{0, 0, 0, 0, 0, 0, HOTSPAN__CLEAR, 0}};
    struct hotspan__thread *t = &hotspan__thread;
    if (hotspan__is_live(t)) {
        hotspan__write_slowly(t, 0, &none);
        hotspan__leave(t);
    } else {
        /* Nothing is set on a thread without a lane, unless another copy keeps the lane. */
        const struct hotspan__publisher *other = hotspan__elsewhere();
        hotspan__leave(t);
        if (other)
            other->clear();
    }
}

HOTSPAN__HOT void hotspan__clear(void) {
    struct hotspan__thread *t = &hotspan__thread;
    uint8_t kind;
    if (__builtin_expect(t->busy, 0)) {
        hotspan__refuse();
        return;
    }
    t->busy = 1;
    HOTSPAN__ORDER();
    if (__builtin_expect(!hotspan__is_live(t), 0)) {
        hotspan__clear_slowly();
        return;
    }
    if ((uint8_t)HOTSPAN__GET(t->newest->word[6]) == HOTSPAN__SET) {
        struct hotspan__event state = {{0, 0, 0, 0, 0, 0, 0, 0}};
        uint64_t ts;
        if (__builtin_expect(!hotspan__is_plain(t), 0)) {
            hotspan__clear_slowly();
            return;
        }
        ts = hotspan__plain_now(t->clock, &kind);
        state.word[6] = hotspan__small(HOTSPAN__CLEAR, 0, kind, 0);
        hotspan__write(t, ts, &state);
    }
    hotspan__leave(t);
}

HOTSPAN__COLD int32_t hotspan__serve_set(const uint8_t *trace_id, const uint8_t *span_id,
                                         const uint8_t *parent_span_id,
                                         const uint8_t *local_root_span_id, uint32_t name,
                                         uint8_t trace_flags, uint64_t ts) {
    return hotspan__set(trace_id, span_id, parent_span_id, local_root_span_id, name, trace_flags,
                        ts);
}

HOTSPAN__COLD void hotspan__serve_clear(void) { hotspan__clear(); }

/* ---- The interface ---- */

/* Interns a low-cardinality operation name. Idempotent; 0 = unnamed, also for a name of more than
 * 127 bytes or beyond the 4,096th, which is counted. */
HOTSPAN__HOT uint32_t hotspan_name(const char *operation) {
    const struct hotspan__publisher *other = hotspan__elsewhere();
    size_t len = 0;
    while (operation && len < HOTSPAN__NAME_STRIDE && operation[len])
        len++;
    return other ? other->name((const uint8_t *)operation, len)
                 : hotspan__intern((const uint8_t *)operation, len);
}

/* From now on this thread works for this span. NULL parent or local root = none. Returns 0, or -1
 * when publishing is disabled. */
HOTSPAN__HOT int hotspan_span_set(const uint8_t trace_id[16], const uint8_t span_id[8],
                                  const uint8_t parent_span_id[8],
                                  const uint8_t local_root_span_id[8], uint32_t name,
                                  uint8_t trace_flags) {
    return hotspan__set(trace_id, span_id, parent_span_id, local_root_span_id, name, trace_flags,
                        0);
}

/* From now on this thread works for no span. */
HOTSPAN__HOT void hotspan_span_clear(void) { hotspan__clear(); }

#ifdef __cplusplus
}
#endif

#endif /* HOTSPAN_LANES_H */
