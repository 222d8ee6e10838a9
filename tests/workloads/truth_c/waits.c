/*
 * Scenarios whose spans wait, each for one known reason. A helper thread makes the wait end; the
 * two meet on semaphores outside of the spans.
 */
#define _GNU_SOURCE
#include "truth.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A wait that another thread ends. */
struct handoff {
    const char *name, *state;
    void (*wait)(struct handoff *); /* inside of the span */
    void (*wake)(struct handoff *); /* by the helper, after the length of the wait */
    int waker_in_span;
    int turn, read_fd, write_fd, epoll_fd, ready;
    sem_t entering;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    pid_t waker_tid;
    struct span wakers[WAITS];
};

static void sem_take(sem_t *sem) {
    while (sem_wait(sem) != 0)
        if (errno != EINTR)
            fail("sem_wait");
}

static void handoff_waiter(void *argument) {
    struct handoff *h = argument;
    for (h->turn = 0; h->turn < WAITS; h->turn++) {
        struct span s;
        int turn = h->turn;
        span_init(&s, h->name, h->state, NULL);
        s.intended_wait = length_of_wait(turn);
        s.waits = 1;
        sem_post(&h->entering);
        span_enter(&s);
        h->wait(h);
        span_leave(&s);
        s.waker_tid = h->waker_tid;
        if (h->waker_in_span)
            memcpy(s.waker_span_id, h->wakers[turn].span_id, 8);
        span_keep(&s);
    }
}

static void handoff_waker(void *argument) {
    struct handoff *h = argument;
    h->waker_tid = (pid_t)syscall(SYS_gettid);
    for (int turn = 0; turn < WAITS; turn++) {
        sem_take(&h->entering);
        if (h->waker_in_span)
            span_enter(&h->wakers[turn]);
        sleep_ns(length_of_wait(turn));
        h->wake(h);
        if (h->waker_in_span) {
            span_leave(&h->wakers[turn]);
            span_keep(&h->wakers[turn]);
        }
    }
}

static void handoff_run(struct handoff *h) {
    sem_init(&h->entering, 0, 0);
    pthread_mutex_init(&h->mutex, NULL);
    pthread_cond_init(&h->cond, NULL);
    for (int turn = 0; turn < WAITS; turn++) {
        span_init(&h->wakers[turn], "produce", "sleep", NULL);
        h->wakers[turn].waits = 1;
        h->wakers[turn].intended_wait = length_of_wait(turn);
    }
    thread_handle waker = thread_start(handoff_waker, h);
    thread_handle waiter = thread_start(handoff_waiter, h);
    thread_join(waiter);
    thread_join(waker);
}

static void write_byte(struct handoff *h) { must((int)write(h->write_fd, "x", 1), "write"); }

static void read_byte(struct handoff *h) {
    char byte;
    if (must((int)read(h->read_fd, &byte, 1), "read") != 1)
        fail("end of stream");
}

static void handoff_fds(const char *name, const char *state, int read_fd, int write_fd) {
    static struct handoff h;
    h = (struct handoff){.name = name, .state = state, .wait = read_byte, .wake = write_byte};
    h.read_fd = read_fd;
    h.write_fd = write_fd;
    handoff_run(&h);
    close(read_fd);
    close(write_fd);
}

void scenario_pipe(void) {
    int fds[2];
    must(pipe2(fds, O_CLOEXEC), "pipe2");
    handoff_fds("pipe read", "notify", fds[0], fds[1]);
}

void scenario_unix_socket(void) {
    int fds[2];
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), "socketpair");
    handoff_fds("unix socket read", "socket", fds[0], fds[1]);
}

void scenario_tcp_socket(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof address;
    int listener = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    must(bind(listener, (struct sockaddr *)&address, sizeof address), "bind");
    must(listen(listener, 1), "listen");
    must(getsockname(listener, (struct sockaddr *)&address, &len), "getsockname");
    int client = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    must(connect(client, (struct sockaddr *)&address, sizeof address), "connect");
    int served = must(accept4(listener, NULL, NULL, SOCK_CLOEXEC), "accept");
    handoff_fds("tcp socket read", "socket", served, client);
    close(listener);
}

/* poll(2) and epoll_wait(2) in turn. */
static void poll_wait(struct handoff *h) {
    int ready;
    if (h->turn % 2 == 0) {
        struct pollfd watched = {.fd = h->read_fd, .events = POLLIN};
        ready = poll(&watched, 1, 1000);
    } else {
        struct epoll_event event;
        ready = epoll_wait(h->epoll_fd, &event, 1, 1000);
    }
    if (ready != 1)
        fail("nothing came");
    read_byte(h);
}

void scenario_poll(void) {
    static struct handoff h = {
        .name = "poll", .state = "poll", .wait = poll_wait, .wake = write_byte};
    int fds[2];
    must(pipe2(fds, O_CLOEXEC), "pipe2");
    h.read_fd = fds[0];
    h.write_fd = fds[1];
    h.epoll_fd = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    struct epoll_event event = {.events = EPOLLIN};
    must(epoll_ctl(h.epoll_fd, EPOLL_CTL_ADD, h.read_fd, &event), "epoll_ctl");
    handoff_run(&h);
}

static void condvar_wait(struct handoff *h) {
    pthread_mutex_lock(&h->mutex);
    while (!h->ready)
        pthread_cond_wait(&h->cond, &h->mutex);
    h->ready = 0;
    pthread_mutex_unlock(&h->mutex);
}

/* Signals after unlocking, so that the woken thread does not meet the mutex. */
static void condvar_wake(struct handoff *h) {
    pthread_mutex_lock(&h->mutex);
    h->ready = 1;
    pthread_mutex_unlock(&h->mutex);
    pthread_cond_signal(&h->cond);
}

void scenario_condvar(void) {
    static struct handoff h = {
        .name = "condvar", .state = "notify", .wait = condvar_wait, .wake = condvar_wake};
    handoff_run(&h);
}

void scenario_producers(void) {
    static struct handoff h = {.name = "consume",
                               .state = "notify",
                               .wait = condvar_wait,
                               .wake = condvar_wake,
                               .waker_in_span = 1};
    handoff_run(&h);
}

/* ---- The mutex: its holder is in a span, and that is the cause ---- */

static struct {
    pthread_mutex_t mutex;
    sem_t held, again;
    pid_t holder;
    uint8_t span_id[8];
} lock = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void mutex_holder(void *unused) {
    (void)unused;
    lock.holder = (pid_t)syscall(SYS_gettid);
    for (int turn = 0; turn < WAITS; turn++) {
        struct span s;
        span_init(&s, "hold lock", "sleep", NULL);
        s.intended_wait = length_of_wait(turn);
        s.waits = 1;
        memcpy(lock.span_id, s.span_id, 8);
        span_enter(&s);
        pthread_mutex_lock(&lock.mutex);
        sem_post(&lock.held);
        sleep_ns(length_of_wait(turn));
        pthread_mutex_unlock(&lock.mutex);
        span_leave(&s);
        span_keep(&s);
        sem_take(&lock.again);
    }
}

static void mutex_waiter(void *unused) {
    (void)unused;
    for (int turn = 0; turn < WAITS; turn++) {
        struct span s;
        span_init(&s, "want lock", "lock", NULL);
        s.intended_wait = length_of_wait(turn);
        s.waits = 1;
        sem_take(&lock.held);
        span_enter(&s);
        pthread_mutex_lock(&lock.mutex);
        pthread_mutex_unlock(&lock.mutex);
        span_leave(&s);
        s.waker_tid = lock.holder;
        memcpy(s.waker_span_id, lock.span_id, 8);
        span_keep(&s);
        sem_post(&lock.again);
    }
}

void scenario_mutex(void) {
    sem_init(&lock.held, 0, 0);
    sem_init(&lock.again, 0, 0);
    thread_handle holder = thread_start(mutex_holder, NULL);
    thread_handle waiter = thread_start(mutex_waiter, NULL);
    thread_join(waiter);
    thread_join(holder);
}

/* ---- Waits a thread makes alone ---- */

static void sleeper(void *unused) {
    (void)unused;
    for (int turn = 0; turn < WAITS; turn++) {
        struct span s;
        span_init(&s, "sleep", "sleep", NULL);
        s.intended_wait = length_of_wait(turn);
        s.waits = 1;
        span_enter(&s);
        sleep_ns(length_of_wait(turn));
        span_leave(&s);
        span_keep(&s);
    }
}

void scenario_sleep(void) { thread_join(thread_start(sleeper, NULL)); }

static void fsyncer(void *unused) {
    (void)unused;
    static char block[256 * 1024];
    char path[4096];
    snprintf(path, sizeof path, "%s/truth_c.%d", work_dir, getpid());
    int fd = must(open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600), path);
    unlink(path);
    for (int turn = 0; turn < WAITS; turn++) {
        struct span s;
        span_init(&s, "fsync", "disk", NULL);
        s.waits = 1;
        memset(block, turn, sizeof block);
        span_enter(&s);
        must((int)write(fd, block, sizeof block), "write");
        must(fsync(fd), "fsync");
        span_leave(&s);
        span_keep(&s);
    }
    close(fd);
}

void scenario_fsync(void) { thread_join(thread_start(fsyncer, NULL)); }

static void reaper(void *unused) {
    (void)unused;
    for (int turn = 0; turn < WAITS; turn++) {
        struct span s;
        int status;
        span_init(&s, "waitpid", "child", NULL);
        s.intended_wait = length_of_wait(turn);
        s.waits = 1;
        pid_t child = must(fork(), "fork");
        if (child == 0) {
            sleep_ns(length_of_wait(turn));
            _exit(0);
        }
        span_enter(&s);
        must(waitpid(child, &status, 0), "waitpid");
        span_leave(&s);
        span_keep(&s);
    }
}

void scenario_waitpid(void) { thread_join(thread_start(reaper, NULL)); }
