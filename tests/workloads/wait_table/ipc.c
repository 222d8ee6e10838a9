/* Futexes, file locks, System V and POSIX queues. */
#include "table.h"

#include <linux/futex.h>
#include <mqueue.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

static int word;

static void wake(long argument) {
    (void)argument;
    syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void futex(int value) {
    word = value;
    once_asleep(wake, 0);
    begin();
    must(syscall(SYS_futex, &word, FUTEX_WAIT, value, NULL, NULL, 0), "futex");
    end();
}

static void futex_lock(void) { futex(2); }
static void futex_notify(void) { futex(1); }

static void *take(void *mutex) {
    pthread_mutex_lock(mutex);
    nap(PAUSE);
    pthread_mutex_unlock(mutex);
    return NULL;
}

static void lock(pthread_mutex_t *mutex) {
    until_asleep(tid_of(take, mutex, NULL));
    begin();
    pthread_mutex_lock(mutex);
    end();
}

static void mutex(void) {
    static pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER;
    lock(&plain);
}

static void pi_mutex(void) {
    static pthread_mutex_t inheriting;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&inheriting, &attributes);
    lock(&inheriting);
}

static void condvar(void) {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    pthread_mutex_lock(&mutex);
    begin();
    pthread_cond_timedwait(&condition, &mutex, &until);
    end();
}

static void waitv(void) {
    struct futex_waitv one = {0, (uintptr_t)&word, 2 /* 32 bits */, 0};
    once_asleep(wake, 0);
    begin();
    maybe(syscall(449, &one, 1, 0, NULL, 0), "futex_waitv");
    end();
}

/* futex_wait of Linux 6.7: word, value, mask, flags (32 bits), limit, clock. */
static void futex2(long value) {
    word = value;
    once_asleep(wake, 0);
    begin();
    maybe(syscall(455, &word, value, 0xfffffffful, 2, NULL, 0), "futex_wait");
    end();
}

static void futex2_lock(void) { futex2(2); }
static void futex2_notify(void) { futex2(1); }

static int open_own(void) {
    char path[4200];
    snprintf(path, sizeof path, "%s/locked", folder());
    return must(open(path, O_CREAT | O_RDWR, 0600), path);
}

static void unlock_flock(long file) { must(flock(file, LOCK_UN), "flock"); }

static void flock_call(void) {
    int mine = open_own(), other = open_own();
    must(flock(other, LOCK_EX), "flock");
    once_asleep(unlock_flock, other);
    begin();
    must(flock(mine, LOCK_EX), "flock");
    end();
}

static struct flock whole(short type) { return (struct flock){.l_type = type, .l_whence = SEEK_SET}; }

static void unlock_ofd(long file) {
    struct flock range = whole(F_UNLCK);
    must(fcntl(file, F_OFD_SETLK, &range), "fcntl");
}

static void ofd_lock(void) {
    int mine = open_own(), other = open_own();
    struct flock range = whole(F_WRLCK);
    must(fcntl(other, F_OFD_SETLK, &range), "fcntl");
    once_asleep(unlock_ofd, other);
    begin();
    must(fcntl(mine, F_OFD_SETLKW, &range), "fcntl");
    end();
}

static void posix_lock(void) {
    int mine = open_own(), ready[2];
    struct flock range = whole(F_WRLCK);
    must(pipe(ready), "pipe");
    pid_t tid = gettid();
    if (must(fork(), "fork") == 0) {
        must(fcntl(mine, F_SETLK, &range), "fcntl");
        must(write(ready[1], "x", 1), "write");
        char path[64];
        int file;
        /* Until the lock's waiter shows in the kernel's list. */
        for (int seen = 0; !seen; nap(1)) {
            static char text[1 << 16];
            file = open("/proc/locks", O_RDONLY);
            ssize_t length = read(file, text, sizeof text - 1);
            close(file);
            text[length > 0 ? length : 0] = 0;
            snprintf(path, sizeof path, " %d ", tid);
            for (char *line = strstr(text, "-> "); line != NULL && !seen; line = strstr(line + 1, "-> ")) {
                char *end = strchr(line, '\n');
                char *pid = strstr(line, path);
                seen = pid != NULL && (end == NULL || pid < end);
            }
        }
        nap(PAUSE);
        _exit(0);
    }
    char byte;
    must(read(ready[0], &byte, 1), "read");
    begin();
    must(fcntl(mine, F_SETLKW, &range), "fcntl");
    end();
}

static void give_up_lease(long file) { must(fcntl(file, F_SETLEASE, F_UNLCK), "fcntl"); }

static void lease(void) {
    int file = open_own();
    signal(SIGIO, SIG_IGN);
    maybe(fcntl(file, F_SETLEASE, F_WRLCK), "F_SETLEASE");
    once_asleep(give_up_lease, file);
    char path[4200];
    snprintf(path, sizeof path, "%s/locked", folder());
    begin();
    must(open(path, O_RDONLY), path);
    end();
}

static void post(long set) {
    struct sembuf one = {0, 1, 0};
    must(semop(set, &one, 1), "semop");
    nap(20);
    semctl(set, 0, IPC_RMID);
}

static void semaphore(int timed) {
    int set = must(semget(IPC_PRIVATE, 1, 0600), "semget");
    struct sembuf one = {0, -1, 0};
    struct timespec some = {5, 0};
    once_asleep(post, set);
    begin();
    must(timed ? semtimedop(set, &one, 1, &some) : syscall(SYS_semop, set, &one, 1l), "semop");
    end();
    nap(100);
}

static void semop_call(void) { semaphore(0); }
static void semtimedop_call(void) { semaphore(1); }

struct message {
    long type;
    char text[4096];
};

static void send_one(long queue) {
    struct message one = {1, ""};
    must(msgsnd(queue, &one, 1, 0), "msgsnd");
}

static void take_all(long queue) {
    struct message one;
    while (msgrcv(queue, &one, sizeof one.text, 0, IPC_NOWAIT) >= 0) {
    }
}

static void receive(void) {
    int queue = must(msgget(IPC_PRIVATE, 0600), "msgget");
    struct message one;
    once_asleep(send_one, queue);
    begin();
    must(msgrcv(queue, &one, sizeof one.text, 0, 0), "msgrcv");
    end();
    msgctl(queue, IPC_RMID, NULL);
}

static void send(void) {
    int queue = must(msgget(IPC_PRIVATE, 0600), "msgget");
    struct message one = {1, ""};
    while (msgsnd(queue, &one, sizeof one.text, IPC_NOWAIT) == 0) {
    }
    once_asleep(take_all, queue);
    begin();
    must(msgsnd(queue, &one, sizeof one.text, 0), "msgsnd");
    end();
    nap(100);
    msgctl(queue, IPC_RMID, NULL);
}

static mqd_t queue(void) {
    char name[64];
    snprintf(name, sizeof name, "/wait_table.%d", getpid());
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 16};
    mqd_t queue = maybe(mq_open(name, O_CREAT | O_RDWR, 0600, &attributes), "mq_open");
    mq_unlink(name);
    return queue;
}

static void mq_put(long which) { must(mq_send(which, "x", 1, 0), "mq_send"); }

static void mq_get(long which) {
    char text[16];
    must(mq_receive(which, text, sizeof text, NULL), "mq_receive");
}

static void mq_receive_call(void) {
    mqd_t own = queue();
    once_asleep(mq_put, own);
    begin();
    mq_get(own);
    end();
}

static void mq_send_call(void) {
    mqd_t own = queue();
    mq_put(own);
    once_asleep(mq_get, own);
    begin();
    mq_put(own);
    end();
}

const struct row ipc_rows[] = {
    {"futex that expects 2", "lock", futex_lock, 0},
    {"futex that expects 1", "notify", futex_notify, 0},
    {"mutex", "lock", mutex, 0},
    {"mutex with priority inheritance", "lock", pi_mutex, 0},
    {"condition variable", "notify", condvar, 0},
    {"futex_waitv", "notify", waitv, 0},
    {"futex_wait that expects 2", "lock", futex2_lock, 0},
    {"futex_wait that expects 1", "notify", futex2_notify, 0},
    {"flock", "lock", flock_call, 0},
    {"fcntl lock of the process", "lock", posix_lock, 0},
    {"fcntl lock of the open file", "lock", ofd_lock, 0},
    {"open of a leased file", "lock", lease, 0},
    {"semop", "notify", semop_call, 0},
    {"semtimedop", "notify", semtimedop_call, 0},
    {"msgrcv", "notify", receive, 0},
    {"msgsnd to a full queue", "notify", send, 0},
    {"mq_timedreceive", "notify", mq_receive_call, 0},
    {"mq_timedsend to a full queue", "notify", mq_send_call, 0},
    {NULL, NULL, NULL, 0},
};
