/*
 * wait_table FILE FOLDER [NAME]: runs every row and writes one line of JSON for each into FILE.
 */
#include "table.h"

#include <sys/stat.h>

#include "hotspan_lanes.h"

static const struct row *areas[] = {time_rows, event_rows, pipe_rows, ipc_rows, socket_rows,
                                    file_rows, fuse_rows, memory_rows, process_rows};
static const struct row *row;
static unsigned number;
/* Another thread of this process ends the wait. */
static int helped;
static int out;
static char own_folder[4096];
enum { AT_ONCE = 6 };

static void say(const char *key, const char *value) {
    char line[1024];
    int length = snprintf(line, sizeof line,
                          "{\"name\":\"%s\",\"expected\":\"%s\",\"pid\":%d,\"tid\":%d,"
                          "\"helped\":%s,\"%s\":\"%s\"}\n",
                          row->name, row->expected, getpid(), gettid(), helped ? "true" : "false",
                          key, value);
    if (write(out, line, length) != length)
        _exit(3);
}

void skip(const char *why) {
    say("skipped", why);
    _exit(0);
}

static void failed(const char *what) {
    char why[256];
    snprintf(why, sizeof why, "%s: %s", what, strerror(errno));
    say("failed", why);
    _exit(0);
}

long must(long result, const char *what) {
    if (result < 0)
        failed(what);
    return result;
}

long maybe(long result, const char *what) {
    if (result < 0 && (errno == ENOSYS || errno == EPERM || errno == EOPNOTSUPP || errno == ENODEV)) {
        char why[256];
        snprintf(why, sizeof why, "this kernel refuses %s: %s", what, strerror(errno));
        skip(why);
    }
    return must(result, what);
}

static void set_span(void) {
    uint8_t trace[16] = {0xfe}, span[8] = {0xfe};
    trace[15] = 1;
    span[6] = number >> 8;
    span[7] = number;
    hotspan_span_set(trace, span, NULL, NULL, hotspan_name(row->name), 1);
}

void begin(void) {
    /* The lane is made outside of the span. */
    hotspan_span_clear();
    say("scope", "span");
    set_span();
}

void end(void) { hotspan_span_clear(); }

void begin_thread(void) { say("scope", "thread"); }

void nap(long ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

static int is_asleep(pid_t pid, pid_t tid) {
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", pid, tid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 1; /* it has ended */
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    const char *name_end = length > 0 ? strrchr(text, ')') : NULL;
    return name_end == NULL || name_end[2] != 'R';
}

static void until_asleep_in(pid_t pid, pid_t tid) {
    while (!is_asleep(pid, tid))
        nap(1);
}

void until_asleep(pid_t tid) { until_asleep_in(getpid(), tid); }

pthread_t thread(void *(*run)(void *), void *argument) {
    pthread_t handle;
    errno = pthread_create(&handle, NULL, run, argument);
    must(-errno, "pthread_create");
    return handle;
}

struct announced {
    void *(*run)(void *);
    void *argument;
    _Atomic pid_t tid;
};

static void *announce(void *argument) {
    struct announced *own = argument;
    void *(*run)(void *) = own->run;
    void *its = own->argument;
    own->tid = gettid();
    return run(its);
}

pid_t tid_of(void *(*run)(void *), void *argument, pthread_t *handle) {
    struct announced *own = calloc(1, sizeof *own);
    own->run = run;
    own->argument = argument;
    pthread_t thread_handle = thread(announce, own);
    if (handle != NULL)
        *handle = thread_handle;
    while (own->tid == 0)
        nap(1);
    return own->tid;
}

void spin_until_asleep(void *(*run)(void *)) {
    struct announced own = {run, NULL, 0};
    thread(announce, &own);
    while (own.tid == 0 || !is_asleep(getpid(), own.tid)) {
    }
}

struct act {
    void (*act)(long);
    long argument;
    pid_t tid;
};

static void *actor(void *argument) {
    struct act own = *(struct act *)argument;
    until_asleep(own.tid);
    nap(PAUSE);
    own.act(own.argument);
    return NULL;
}

void once_asleep(void (*act)(long), long argument) {
    struct act *own = malloc(sizeof *own);
    *own = (struct act){act, argument, gettid()};
    helped = 1;
    thread(actor, own);
}

void once_asleep_outside(void (*act)(pid_t), int wait_for_sleep) {
    pid_t pid = getpid(), tid = gettid();
    if (must(fork(), "fork") == 0) {
        if (wait_for_sleep)
            until_asleep_in(pid, tid);
        nap(20);
        act(pid);
        _exit(0);
    }
}

const char *folder(void) {
    if (mkdir(own_folder, 0700) != 0 && errno != EEXIST)
        failed(own_folder);
    return own_folder;
}

static void run(const struct row *which, const char *base) {
    row = which;
    snprintf(own_folder, sizeof own_folder, "%s/row-%u", base, number);
    /* A row that never ends is a failure of that row, not of all. */
    alarm(20);
    which->run();
    exit(0);
}

/* Waits for one row's process; a row that did not end by itself is told. */
static void one_ended(const struct row *rows_of[], const pid_t pids[]) {
    int status = 0;
    pid_t pid = wait(&status);
    for (unsigned i = 0; i < AT_ONCE; i++)
        if (pid > 0 && pids[i] == pid) {
            row = rows_of[i];
            rows_of[i] = NULL;
        }
    if (status != 0) {
        char why[64];
        snprintf(why, sizeof why, "its process ended with status 0x%x", status);
        say("failed", why);
    }
}

int main(int count, char **words) {
    if (count < 3)
        return 2;
    out = must(open(words[1], O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600), words[1]);
    const struct row *rows_of[AT_ONCE] = {NULL};
    pid_t pids[AT_ONCE] = {0};
    for (int alone = 0; alone < 2; alone++) {
        number = 0;
        for (unsigned area = 0; area < COUNT(areas); area++)
            for (const struct row *next = areas[area]; next->name != NULL; next++) {
                number++;
                if (next->alone != alone || (count > 3 && strcmp(next->name, words[3]) != 0))
                    continue;
                unsigned place = 0;
                /* A row that runs alone takes the first place, which is free once it is over. */
                while (rows_of[place] != NULL)
                    if (alone || ++place == AT_ONCE) {
                        one_ended(rows_of, pids);
                        place = 0;
                    }
                rows_of[place] = next;
                pids[place] = fork();
                if (pids[place] == 0)
                    run(next, words[2]);
            }
        for (unsigned place = 0; place < AT_ONCE; place++)
            while (rows_of[place] != NULL)
                one_ended(rows_of, pids);
    }
    return 0;
}
