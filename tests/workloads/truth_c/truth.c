/*
 * Workload with known behaviour, published through the C header: `truth_c SCENARIO --truth FILE`.
 * This file is the recorder and the command line; the scenarios are beside it.
 */
#define _GNU_SOURCE
#include "truth.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hotspan_lanes.h"

enum { SPANS_MAX = 12000, THREADS_MAX = 1100 };

struct thread {
    pthread_t pthread;
    thread_function *function;
    void *argument;
    pid_t tid;
    int is_main;
    int64_t start, end, cpu, cpu_at_start, switches;
    uint64_t run, delay, delay_at_start;
};

const char *truth_file, *work_dir = "/tmp", *ready_file, *go_file;
char **own_arguments;
static const char *scenario;
static struct span spans[SPANS_MAX];
static atomic_uint spans_used;
static struct thread threads[THREADS_MAX];
static atomic_uint threads_used;
static atomic_ullong ids;
static int is_child;
static __thread int is_warm;

/* ---- The kernel's account of this thread ---- */

static int64_t thread_switches(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw + usage.ru_nivcsw;
}

/* The kernel's own account of this thread; the CPU clock is read first to bring it up to date. */
static void schedstat(uint64_t *run, uint64_t *delay) {
    char text[128] = "";
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    thread_cpu_ns();
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
        fail("schedstat");
    close(fd);
    unsigned long long a = 0, b = 0;
    if (sscanf(text, "%llu %llu", &a, &b) != 2)
        fail("schedstat");
    *run = a;
    *delay = b;
}

/* ---- Spans ---- */

/* Different for every process, thread and call; never zero. */
static uint64_t fresh_id(void) {
    uint64_t x = (uint64_t)getpid() << 32 | (uint32_t)atomic_fetch_add(&ids, 1);
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return (x ^ x >> 31) | 1;
}

void span_init(struct span *s, const char *name, const char *state, const struct span *parent) {
    uint64_t id = fresh_id(), high = 0x7275746874657374u ^ (uint64_t)now_ns() << 8, low = fresh_id();
    memset(s, 0, sizeof *s);
    memcpy(s->span_id, &id, 8);
    if (parent) {
        memcpy(s->trace_id, parent->trace_id, 16);
        memcpy(s->parent_id, parent->span_id, 8);
    } else {
        memcpy(s->trace_id, &high, 8);
        memcpy(s->trace_id + 8, &low, 8);
    }
    s->name = name;
    s->state = state;
    s->name_id = hotspan_name(name);
}

static void publish(const struct span *s) {
    static const uint8_t none[8];
    const uint8_t *parent = memcmp(s->parent_id, none, 8) ? s->parent_id : NULL;
    if (hotspan_span_set(s->trace_id, s->span_id, parent, NULL, s->name_id, 1) != 0)
        fail("publishing is off");
}

static void begin(struct span *s, int64_t cpu, int64_t switches, int64_t at) {
    s->pid = getpid();
    s->tid = (pid_t)syscall(SYS_gettid);
    s->since_switches = switches;
    s->since_cpu = cpu;
    s->since = at;
    if (!s->activations++)
        s->start = at;
}

static void finish(struct span *s, int64_t at, int64_t cpu, int64_t switches) {
    s->wall += at - s->since;
    s->cpu += cpu - s->since_cpu;
    s->switches += switches - s->since_switches;
    s->end = at;
}

void span_enter(struct span *s) {
    s->cold |= !is_warm;
    is_warm = 1;
    begin(s, 0, 0, 0);
    s->since_switches = thread_switches();
    int64_t before = now_ns();
    s->since_cpu = thread_cpu_ns();
    s->since = now_ns();
    publish(s);
    s->slack += s->since - before;
    if (s->activations == 1)
        s->start = s->since;
}

void span_leave(struct span *s) {
    hotspan_span_clear();
    int64_t at = now_ns();
    int64_t cpu = thread_cpu_ns();
    s->slack += now_ns() - at;
    finish(s, at, cpu, thread_switches());
}

void span_change(struct span *from, struct span *to) {
    int64_t switches = thread_switches(), before = now_ns(), cpu = thread_cpu_ns(), at = now_ns();
    publish(to);
    from->slack += at - before;
    to->slack += at - before;
    finish(from, at, cpu, switches);
    begin(to, cpu, switches, at);
}

void span_keep(const struct span *s) {
    unsigned place = atomic_fetch_add(&spans_used, 1);
    if (place >= SPANS_MAX)
        fail("too many spans");
    spans[place] = *s;
}

void span_warm_up(void) {
    struct span s;
    span_init(&s, "warm-up", "running", NULL);
    span_enter(&s);
    span_leave(&s);
    span_keep(&s);
}

void span_keep_open(struct span *s) {
    int64_t at = now_ns(), cpu = thread_cpu_ns();
    finish(s, at, cpu, thread_switches());
    s->open = 1;
    span_keep(s);
}

/* ---- Threads and processes ---- */

/* Both read again if the thread lost its CPU between the account and the time. */
static void thread_begin(struct thread *t) {
    t->tid = (pid_t)syscall(SYS_gettid);
    for (int attempt = 0; attempt < 8; attempt++) {
        int64_t before = thread_switches();
        uint64_t run;
        schedstat(&run, &t->delay_at_start);
        t->cpu_at_start = thread_cpu_ns();
        t->start = now_ns();
        if (thread_switches() == before)
            break;
    }
}

static void thread_end(struct thread *t) {
    for (int attempt = 0; attempt < 8; attempt++) {
        t->switches = thread_switches();
        schedstat(&t->run, &t->delay);
        t->cpu = thread_cpu_ns();
        t->end = now_ns();
        if (thread_switches() == t->switches)
            break;
    }
}

static void *thread_main(void *argument) {
    struct thread *t = argument;
    thread_begin(t);
    t->function(t->argument);
    thread_end(t);
    return NULL;
}

thread_handle thread_start(thread_function *function, void *argument) {
    unsigned place = atomic_fetch_add(&threads_used, 1);
    if (place >= THREADS_MAX)
        fail("too many threads");
    struct thread *t = &threads[place];
    t->function = function;
    t->argument = argument;
    if (pthread_create(&t->pthread, NULL, thread_main, t) != 0)
        fail("pthread_create");
    return t;
}

void thread_join(thread_handle t) {
    if (pthread_join(t->pthread, NULL) != 0)
        fail("pthread_join");
}

static struct thread *main_thread;

pid_t process_fork(void) {
    pid_t pid = must(fork(), "fork");
    if (pid == 0) {
        is_child = 1;
        is_warm = 0;
        spans_used = 0;
        threads_used = 1;
        main_thread = &threads[0];
        memset(main_thread, 0, sizeof *main_thread);
        main_thread->is_main = 1;
        thread_begin(main_thread);
    }
    return pid;
}

static void hex(FILE *out, const char *key, const uint8_t *bytes, int len) {
    int set = 0;
    for (int i = 0; i < len; i++)
        set |= bytes[i];
    fprintf(out, "\"%s\":\"", key);
    for (int i = 0; set && i < len; i++)
        fprintf(out, "%02x", bytes[i]);
    fprintf(out, "\",");
}

/* The main process writes FILE, every other one FILE.PID, so that none waits for another. An exec
 * chain writes one per program. */
void truth_write(void) {
    char path[4096];
    thread_end(main_thread);
    if (is_child || strncmp(scenario, "exec_", 5) == 0)
        snprintf(path, sizeof path, "%s.%d%s", truth_file, getpid(), scenario);
    else
        snprintf(path, sizeof path, "%s", truth_file);
    FILE *out = fopen(path, "we");
    if (!out)
        fail(path);
    fprintf(out, "{\"scenario\":\"%s\",\"language\":\"c\",\"pid\":%d,\"spans\":[", scenario,
            getpid());
    for (unsigned i = 0; i < spans_used; i++) {
        const struct span *s = &spans[i];
        fprintf(out, "%s\n{", i ? "," : "");
        hex(out, "trace_id", s->trace_id, 16);
        hex(out, "span_id", s->span_id, 8);
        hex(out, "parent_span_id", s->parent_id, 8);
        hex(out, "waker_span_id", s->waker_span_id, 8);
        fprintf(out,
                "\"name\":\"%s\",\"intended_state\":\"%s\",\"wall_ns\":%lld,\"cpu_ns\":%lld,"
                "\"slack_ns\":%lld,\"intended_wait_ns\":%lld,\"waits\":%u,\"switch_ins\":%lld,\"activations\":%u,"
                "\"pid\":%d,\"tid\":%d,\"waker_tid\":%d,\"start_ns\":%lld,\"end_ns\":%lld,"
                "\"open\":%s,\"cold\":%s}",
                s->name, s->state, (long long)s->wall, (long long)s->cpu,
                (long long)s->slack, (long long)s->intended_wait, s->waits, (long long)s->switches, s->activations,
                s->pid, s->tid, s->waker_tid, (long long)s->start, (long long)s->end,
                s->open ? "true" : "false", s->cold ? "true" : "false");
    }
    fprintf(out, "],\n\"threads\":[");
    for (unsigned i = 0; i < threads_used; i++) {
        const struct thread *t = &threads[i];
        fprintf(out,
                "%s\n{\"pid\":%d,\"tid\":%d,\"is_main\":%s,\"start_ns\":%lld,\"end_ns\":%lld,"
                "\"cpu_ns\":%lld,\"switch_ins\":%lld,\"run_ns\":%llu,\"delay_ns\":%llu,"
                "\"delay_at_start_ns\":%llu,\"cpu_at_start_ns\":%lld}",
                i ? "," : "", getpid(), t->tid, t->is_main ? "true" : "false",
                (long long)t->start, (long long)t->end, (long long)t->cpu, (long long)t->switches,
                (unsigned long long)t->run, (unsigned long long)t->delay,
                (unsigned long long)t->delay_at_start, (long long)t->cpu_at_start);
    }
    fprintf(out, "]}\n");
    if (fclose(out) != 0)
        fail(path);
}

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"burn", scenario_burn},
    {"sleep", scenario_sleep},
    {"mutex", scenario_mutex},
    {"condvar", scenario_condvar},
    {"pipe", scenario_pipe},
    {"unix_socket", scenario_unix_socket},
    {"tcp_socket", scenario_tcp_socket},
    {"poll", scenario_poll},
    {"fsync", scenario_fsync},
    {"waitpid", scenario_waitpid},
    {"producers", scenario_producers},
    {"contention", scenario_contention},
    {"nested", scenario_nested},
    {"two_threads", scenario_two_threads},
    {"no_switch", scenario_no_switch},
    {"many", scenario_many},
    {"storm", scenario_storm},
    {"migrate", scenario_migrate},
    {"before_attach", scenario_before_attach},
    {"exit_in_span", scenario_exit_in_span},
    {"exec", scenario_exec},
    {"exec_again", scenario_exec_again},
    {"exec_last", scenario_exec_last},
    {"fork", scenario_fork},
    {"short", scenario_short},
};

static const char *option(char **arguments, const char *name) {
    for (char **at = arguments; at[0] && at[1]; at++)
        if (strcmp(at[0], name) == 0)
            return at[1];
    return NULL;
}

int main(int argc, char **argv) {
    main_thread = &threads[0];
    main_thread->is_main = 1;
    threads_used = 1;
    thread_begin(main_thread);
    own_arguments = argv;
    truth_file = option(argv, "--truth");
    if (option(argv, "--dir"))
        work_dir = option(argv, "--dir");
    ready_file = option(argv, "--ready");
    go_file = option(argv, "--go");
    for (size_t i = 0; argc > 1 && truth_file && i < sizeof scenarios / sizeof *scenarios; i++) {
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            scenario = scenarios[i].name;
            scenarios[i].run();
            truth_write();
            return 0;
        }
    }
    fprintf(stderr, "usage: truth_c SCENARIO --truth FILE [--dir DIR] [--ready FILE --go FILE]\n");
    return 2;
}
