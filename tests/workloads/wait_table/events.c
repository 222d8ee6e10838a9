/* Waits for any of several, and event files. */
#include "table.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/signalfd.h>

static const struct timespec pause_time = {0, PAUSE * 1000000};

static int empty_pipe(void) {
    int ends[2];
    must(pipe(ends), "pipe");
    return ends[0];
}

static void poll_call(void) {
    struct pollfd one = {empty_pipe(), POLLIN, 0};
    begin();
    poll(&one, 1, PAUSE);
    end();
}

static void ppoll_call(void) {
    struct pollfd one = {empty_pipe(), POLLIN, 0};
    begin();
    ppoll(&one, 1, &pause_time, NULL);
    end();
}

static void select_call(void) {
    int file = empty_pipe();
    fd_set set;
    FD_ZERO(&set);
    FD_SET(file, &set);
    struct timeval some = {0, PAUSE * 1000};
    begin();
    must(syscall(SYS_select, file + 1, &set, NULL, NULL, &some), "select");
    end();
}

static void pselect_call(void) {
    int file = empty_pipe();
    fd_set set;
    FD_ZERO(&set);
    FD_SET(file, &set);
    begin();
    pselect(file + 1, &set, NULL, NULL, &pause_time, NULL);
    end();
}

static int epoll_of_pipe(void) {
    int epoll = must(epoll_create1(0), "epoll_create1");
    struct epoll_event event = {EPOLLIN, {0}};
    must(epoll_ctl(epoll, EPOLL_CTL_ADD, empty_pipe(), &event), "epoll_ctl");
    return epoll;
}

static void epoll_wait_call(void) {
    int epoll = epoll_of_pipe();
    struct epoll_event event;
    begin();
    must(syscall(SYS_epoll_wait, epoll, &event, 1, PAUSE), "epoll_wait");
    end();
}

static void epoll_pwait_call(void) {
    int epoll = epoll_of_pipe();
    struct epoll_event event;
    begin();
    must(syscall(SYS_epoll_pwait, epoll, &event, 1, PAUSE, NULL, 8), "epoll_pwait");
    end();
}

static void epoll_pwait2_call(void) {
    int epoll = epoll_of_pipe();
    struct epoll_event event;
    begin();
    maybe(syscall(441, epoll, &event, 1, &pause_time, NULL, 8), "epoll_pwait2");
    end();
}

static void io_uring(void) {
    struct io_uring_params parameters = {0};
    int ring = maybe(syscall(SYS_io_uring_setup, 4, &parameters), "io_uring_setup");
    struct __kernel_timespec some = {0, PAUSE * 1000000};
    struct io_uring_getevents_arg argument = {0, 8, 0, (uintptr_t)&some};
    begin();
    syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument,
            sizeof argument);
    end();
}

static void aio(void) {
    aio_context_t context = 0;
    maybe(syscall(SYS_io_setup, 4, &context), "io_setup");
    struct io_event event;
    struct timespec some = pause_time;
    begin();
    must(syscall(SYS_io_getevents, context, 1, 1, &event, &some), "io_getevents");
    end();
}

static void aio_signals(void) {
    aio_context_t context = 0;
    maybe(syscall(SYS_io_setup, 4, &context), "io_setup");
    struct io_event event;
    struct timespec some = pause_time;
    begin();
    must(syscall(SYS_io_pgetevents, context, 1, 1, &event, &some, NULL), "io_pgetevents");
    end();
}

static void add_one(long file) {
    uint64_t one = 1;
    must(write(file, &one, sizeof one), "write");
}

static void take_all(long file) {
    uint64_t all;
    must(read(file, &all, sizeof all), "read");
}

static void eventfd_read_call(void) {
    int file = must(eventfd(0, 0), "eventfd");
    once_asleep(add_one, file);
    begin();
    take_all(file);
    end();
}

static void eventfd_write_call(void) {
    int file = must(eventfd(0, 0), "eventfd");
    uint64_t most = UINT64_MAX - 1;
    must(write(file, &most, sizeof most), "write");
    once_asleep(take_all, file);
    begin();
    add_one(file);
    end();
}

static void signal_process(long number) { kill(getpid(), number); }

static void signal_file(void) {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    sigprocmask(SIG_BLOCK, &one, NULL);
    int file = must(signalfd(-1, &one, 0), "signalfd");
    struct signalfd_siginfo info;
    once_asleep(signal_process, SIGUSR1);
    begin();
    must(read(file, &info, sizeof info), "read");
    end();
}

static void make_file(long argument) {
    (void)argument;
    char path[4200];
    snprintf(path, sizeof path, "%s/made", folder());
    close(must(open(path, O_CREAT | O_RDWR, 0600), path));
}

static void watch(void) {
    int file = must(inotify_init1(0), "inotify_init");
    must(inotify_add_watch(file, folder(), IN_CREATE), "inotify_add_watch");
    char event[512];
    once_asleep(make_file, 0);
    begin();
    must(read(file, event, sizeof event), "read");
    end();
}

static void watch_files(void) {
    int file = maybe(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY), "fanotify_init");
    maybe(fanotify_mark(file, FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, -1, folder()), "fanotify_mark");
    char event[512];
    once_asleep(make_file, 0);
    begin();
    must(read(file, event, sizeof event), "read");
    end();
}

static void permit(long file) {
    struct fanotify_event_metadata event;
    must(read(file, &event, sizeof event), "read");
    struct fanotify_response response = {event.fd, FAN_ALLOW};
    must(write(file, &response, sizeof response), "write");
}

static void open_by_permission(void) {
    make_file(0);
    int file = maybe(fanotify_init(FAN_CLASS_CONTENT, O_RDONLY), "fanotify_init");
    if (fanotify_mark(file, FAN_MARK_ADD, FAN_OPEN_PERM | FAN_EVENT_ON_CHILD, -1, folder()) != 0)
        skip("this kernel is built without permission events of fanotify");
    once_asleep(permit, file);
    char path[4200];
    snprintf(path, sizeof path, "%s/made", folder());
    begin();
    must(open(path, O_RDONLY), path);
    end();
}

const struct row event_rows[] = {
    {"poll", "poll", poll_call, 0},
    {"ppoll", "poll", ppoll_call, 0},
    {"select", "poll", select_call, 0},
    {"pselect6", "poll", pselect_call, 0},
    {"epoll_wait", "poll", epoll_wait_call, 0},
    {"epoll_pwait", "poll", epoll_pwait_call, 0},
    {"epoll_pwait2", "poll", epoll_pwait2_call, 0},
    {"io_uring_enter", "poll", io_uring, 0},
    {"io_getevents", "poll", aio, 0},
    {"io_pgetevents", "poll", aio_signals, 0},
    {"read of an eventfd", "notify", eventfd_read_call, 0},
    {"write of an eventfd", "notify", eventfd_write_call, 0},
    {"read of a signalfd", "notify", signal_file, 0},
    {"read of an inotify", "notify", watch, 0},
    {"read of a fanotify", "notify", watch_files, 0},
    {"open that needs a permission", "notify", open_by_permission, 0},
    {NULL, NULL, NULL, 0},
};
