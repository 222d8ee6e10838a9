/* Sleeps, waits for a signal, and both going on after a stop. */
#include "table.h"

#include <poll.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/timerfd.h>

static const struct timespec pause_time = {0, PAUSE * 1000000};

static void plain(void) {
    begin();
    nanosleep(&pause_time, NULL);
    end();
}

static void absolute(void) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    begin();
    clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL);
    end();
}

static void *burn(void *argument) {
    for (volatile long n = 0;; n++) {
    }
    return argument;
}

static void cpu_clock(void) {
    struct timespec some = {0, 50000000};
    thread(burn, NULL);
    begin();
    clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, 0, &some, NULL);
    end();
}

static void poll_none(void) {
    begin();
    poll(NULL, 0, PAUSE);
    end();
}

static void ppoll_none(void) {
    begin();
    ppoll(NULL, 0, &pause_time, NULL);
    end();
}

static void select_none(void) {
    struct timeval some = {0, PAUSE * 1000};
    begin();
    must(syscall(SYS_select, 0, NULL, NULL, NULL, &some), "select");
    end();
}

static void pselect_none(void) {
    begin();
    pselect(0, NULL, NULL, NULL, &pause_time, NULL);
    end();
}

static void timer_file(void) {
    int file = must(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create");
    struct itimerspec once = {{0, 0}, pause_time};
    must(timerfd_settime(file, 0, &once, NULL), "timerfd_settime");
    uint64_t count;
    begin();
    must(read(file, &count, sizeof count), "read");
    end();
}

static void on_signal(int number) { (void)number; }

static void alarm_later(void) {
    struct itimerval once = {{0, 0}, {0, PAUSE * 1000}};
    signal(SIGVTALRM, on_signal);
    signal(SIGALRM, on_signal);
    must(setitimer(ITIMER_REAL, &once, NULL), "setitimer");
}

static void pause_call(void) {
    alarm_later();
    begin();
    syscall(SYS_pause);
    end();
}

static void suspend(void) {
    sigset_t none;
    sigemptyset(&none);
    alarm_later();
    begin();
    sigsuspend(&none);
    end();
}

static void timed_wait(void) {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    sigprocmask(SIG_BLOCK, &one, NULL);
    begin();
    sigtimedwait(&one, NULL, &pause_time);
    end();
}

/* A stop as short as can be told, PAUSE before the end: what follows is restart_syscall. */
static void stop_shortly(pid_t pid) {
    kill(pid, SIGSTOP);
    int status;
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    do {
        FILE *file = fopen(path, "r");
        if (file == NULL || fgets(text, sizeof text, file) == NULL)
            _exit(3);
        fclose(file);
        status = strrchr(text, ')')[2];
    } while (status != 'T');
    kill(pid, SIGCONT);
}

static void restarted_sleep(void) {
    struct timespec some = {0, 600000000};
    once_asleep_outside(stop_shortly, 1);
    begin();
    nanosleep(&some, NULL);
    end();
}

static void restarted_clock(void) {
    struct timespec some = {0, 600000000};
    once_asleep_outside(stop_shortly, 1);
    begin();
    clock_nanosleep(CLOCK_MONOTONIC, 0, &some, NULL);
    end();
}

static void restarted_futex(int value) {
    int word = value;
    struct timespec some = {0, 600000000};
    once_asleep_outside(stop_shortly, 1);
    begin();
    syscall(SYS_futex, &word, 0, value, &some, NULL, 0);
    end();
}

static void restarted_condvar(void) { restarted_futex(0); }
static void restarted_lock(void) { restarted_futex(2); }

static void restarted_poll(void) {
    int ends[2];
    must(pipe(ends), "pipe");
    struct pollfd one = {ends[0], POLLIN, 0};
    once_asleep_outside(stop_shortly, 1);
    begin();
    poll(&one, 1, 600);
    end();
}

static void restarted_poll_none(void) {
    once_asleep_outside(stop_shortly, 1);
    begin();
    poll(NULL, 0, 600);
    end();
}

const struct row time_rows[] = {
    {"nanosleep", "sleep", plain, 0},
    {"clock_nanosleep", "sleep", absolute, 0},
    {"clock_nanosleep of a CPU clock", "sleep", cpu_clock, 0},
    {"poll without files", "sleep", poll_none, 0},
    {"ppoll without files", "sleep", ppoll_none, 0},
    {"select without files", "sleep", select_none, 0},
    {"pselect without files", "sleep", pselect_none, 0},
    {"read of a timerfd", "sleep", timer_file, 0},
    {"pause", "notify", pause_call, 0},
    {"rt_sigsuspend", "notify", suspend, 0},
    {"rt_sigtimedwait", "notify", timed_wait, 0},
    {"restarted nanosleep", "sleep,stopped", restarted_sleep, 0},
    {"restarted clock_nanosleep", "sleep,stopped", restarted_clock, 0},
    {"restarted futex", "notify,stopped", restarted_condvar, 0},
    {"restarted futex of a lock", "lock,stopped", restarted_lock, 0},
    {"restarted poll", "poll,stopped", restarted_poll, 0},
    {"restarted poll without files", "sleep,stopped", restarted_poll_none, 0},
    {NULL, NULL, NULL, 0},
};
