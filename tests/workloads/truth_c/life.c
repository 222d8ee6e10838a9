/*
 * Scenarios about the life of processes and threads: spans older than the agent, deaths inside of
 * spans, fork, exec, and a process that lives 5 ms.
 */
#define _GNU_SOURCE
#include "truth.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void wait_for(pid_t child) {
    int status;
    must(waitpid(child, &status, 0), "waitpid");
}

static void sleep_span(const char *name, int64_t ns) {
    struct span s;
    span_init(&s, name, "sleep", NULL);
    s.intended_wait = ns;
    s.waits = 1;
    span_enter(&s);
    sleep_ns(ns);
    span_leave(&s);
    span_keep(&s);
}

/* ---- A span that is open when the agent comes ---- */

static void early(void *unused) {
    struct span s;
    (void)unused;
    if (!ready_file || !go_file)
        fail("--ready and --go");
    span_init(&s, "before attach", "sleep", NULL);
    span_enter(&s);
    close(must(open(ready_file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600), ready_file));
    int64_t deadline = now_ns() + 30000 * (int64_t)MS;
    while (access(go_file, F_OK) != 0) {
        if (now_ns() > deadline)
            fail("nobody said go");
        sleep_ns(MS);
    }
    sleep_ns(20 * MS);
    span_leave(&s);
    span_keep(&s);
    for (int turn = 0; turn < 10; turn++)
        sleep_span("after attach", length_of_wait(turn));
}

void scenario_before_attach(void) { thread_join(thread_start(early, NULL)); }

/* ---- Deaths inside of a span ---- */

static void dies_in_span(void *unused) {
    static struct span s;
    (void)unused;
    span_warm_up();
    span_init(&s, "thread dies", "sleep", NULL);
    span_enter(&s);
    sleep_ns(5 * MS);
    span_keep_open(&s);
}

static pid_t dying_process(const char *name, int by_signal) {
    pid_t child = process_fork();
    if (child == 0) {
        struct span s;
        span_warm_up();
        span_init(&s, name, "sleep", NULL);
        span_enter(&s);
        sleep_ns(5 * MS);
        span_keep_open(&s);
        truth_write();
        if (by_signal)
            kill(getpid(), SIGKILL);
        _exit(0);
    }
    return child;
}

void scenario_exit_in_span(void) {
    for (int turn = 0; turn < 5; turn++) {
        thread_join(thread_start(dies_in_span, NULL));
        wait_for(dying_process("process exits", 0));
        wait_for(dying_process("process is killed", 1));
    }
}

/* ---- One process, three programs ---- */

static void exec_as(char *next) {
    own_arguments[1] = next;
    execv("/proc/self/exe", own_arguments);
    fail("execv");
}

void scenario_exec(void) {
    pid_t child = must(fork(), "fork");
    if (child == 0) {
        exec_as("exec_again");
    }
    sleep_span("first program", 5 * MS);
    wait_for(child);
}

void scenario_exec_again(void) {
    sleep_span("second program", 5 * MS);
    struct span s;
    span_init(&s, "open at exec", "sleep", NULL);
    span_enter(&s);
    sleep_ns(5 * MS);
    span_keep_open(&s);
    truth_write();
    exec_as("exec_last");
}

void scenario_exec_last(void) { sleep_span("third program", 5 * MS); }

/* ---- A parent and a child that publish ---- */

void scenario_fork(void) {
    for (int turn = 0; turn < 5; turn++) {
        sleep_span("in parent", 3 * MS);
        pid_t child = process_fork();
        if (child == 0) {
            sleep_span("in child", 4 * MS);
            sleep_span("in child again", 3 * MS);
            truth_write();
            _exit(0);
        }
        sleep_span("in parent again", 3 * MS);
        wait_for(child);
    }
}

/* ---- Gone before anybody looks ---- */

void scenario_short(void) {
    for (int turn = 0; turn < 3; turn++)
        sleep_span("short life", MS + MS / 2);
}
