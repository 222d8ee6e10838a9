/*
 * One row per way to block: a name, the states its wait has by construction, and a function that blocks
 * that way in a span of that name. Each row runs in a process of its own.
 */
#ifndef TABLE_H
#define TABLE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* How long a wait lasts once it has begun, ms. */
enum { PAUSE = 200 };

struct row {
    const char *name;
    /* States by comma: together at least 95 % of what it blocked, the first at least half. */
    const char *expected;
    void (*run)(void);
    /* Keeps both CPUs busy: nothing runs beside it. */
    int alone;
};

/* The areas, each ended by a row without a name. */
extern const struct row time_rows[], event_rows[], pipe_rows[], ipc_rows[], socket_rows[], file_rows[],
    fuse_rows[], memory_rows[], process_rows[];

/* The span of the row, on the thread that calls. */
void begin(void);
void end(void);
/* The row is about the whole of the calling thread, which may end in its wait. */
void begin_thread(void);

/* Once the calling thread sleeps, and PAUSE later, another thread calls act(argument). */
void once_asleep(void (*act)(long), long argument);
/* The same from another process, for what stops this one: it gets the pid. */
void once_asleep_outside(void (*act)(pid_t), int wait_for_sleep);
/* Returns once that thread of this process sleeps. */
void until_asleep(pid_t tid);
pthread_t thread(void *(*run)(void *), void *argument);
/* The thread asks to be waited for by `until_asleep`: its tid, once it runs. */
pid_t tid_of(void *(*run)(void *), void *argument, pthread_t *handle);

/* Starts a thread and returns once it sleeps; never sleeps itself. */
void spin_until_asleep(void *(*run)(void *));

void nap(long ms);
int64_t now_ms(void);
/* Ends the process: this machine has no such thing. */
void skip(const char *why) __attribute__((noreturn));
/* Ends the process with a message when the result is negative. */
long must(long result, const char *what);
/* As must, but skips the row when the kernel does not know or allow it. */
long maybe(long result, const char *what);
/* A folder on a disk, this process's own. */
const char *folder(void);

/* A page that nobody has filled yet: whoever touches it waits until `fill` (memory.c). */
char *missing_page(void);
void fill(long page);
/* A file of a file system whose answers take PAUSE (fuse.c). */
const char *slow_file(void);

#define COUNT(array) (sizeof(array) / sizeof *(array))
#endif
