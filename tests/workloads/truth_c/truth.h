/*
 * What the scenarios of the C workload share: the recorder of their own truth.
 *
 * A span's truth is read beside its markers, always in this order, so that what is outside of the
 * marker pair is the same everywhere:
 *     rusage, thread CPU clock, CLOCK_MONOTONIC, set  ...work...  clear, CLOCK_MONOTONIC, CPU, rusage
 * The time around the read of the CPU clock is its slack.
 */
#ifndef TRUTH_H
#define TRUTH_H

#include <stdint.h>
#include <sys/types.h>

enum { MS = 1000000, WAITS = 40 };

/* One span on one thread. Several activations of it add up. */
struct span {
    uint8_t trace_id[16], span_id[8], parent_id[8];
    const char *name, *state;
    uint32_t name_id, waits, activations;
    int64_t wall, cpu, slack, switches, start, end; /* of what is finished */
    int64_t since, since_cpu, since_switches;       /* of the present activation */
    int64_t intended_wait;
    pid_t pid, tid, waker_tid;
    uint8_t waker_span_id[8];
    int open; /* nobody closes it: the thread dies in it */
    int cold; /* the first this thread published */
};

/* Clocks. */
int64_t now_ns(void);
int64_t thread_cpu_ns(void);

/* Spans. */
void span_init(struct span *s, const char *name, const char *state, const struct span *parent);
void span_enter(struct span *s);
void span_leave(struct span *s);
void span_change(struct span *from, struct span *to);
void span_keep(const struct span *s);
/* Gives a short-lived thread its lane, so that its next span's truth is exact. */
void span_warm_up(void);
/* For a span nobody will close: its truth up to now. */
void span_keep_open(struct span *s);

/* Threads: the function runs between the two clock reads of the thread's own truth. */
typedef void thread_function(void *argument);
typedef struct thread *thread_handle;
thread_handle thread_start(thread_function *function, void *argument);
void thread_join(thread_handle thread);

/* Processes: a child starts with an empty truth and writes FILE.PID. */
pid_t process_fork(void);
void truth_write(void);
extern const char *truth_file, *work_dir, *ready_file, *go_file;
extern char **own_arguments;

/* Small tools; all of them end the program with a message when they fail. */
void fail(const char *what) __attribute__((noreturn));
int must(int result, const char *what);
void sleep_ns(int64_t ns);
void burn_ns(int64_t cpu_ns);
void burn_wall_ns(int64_t ns);
void pin_to(int cpu);
int64_t length_of_wait(int turn);

/* Scenarios. */
void scenario_sleep(void), scenario_mutex(void), scenario_condvar(void), scenario_pipe(void),
    scenario_unix_socket(void), scenario_tcp_socket(void), scenario_poll(void),
    scenario_fsync(void), scenario_waitpid(void), scenario_producers(void);
void scenario_burn(void), scenario_contention(void), scenario_nested(void),
    scenario_two_threads(void), scenario_no_switch(void), scenario_many(void),
    scenario_storm(void), scenario_migrate(void);
void scenario_before_attach(void), scenario_exit_in_span(void), scenario_exec(void),
    scenario_exec_again(void), scenario_exec_last(void), scenario_fork(void), scenario_short(void);

#endif
