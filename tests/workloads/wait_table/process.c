/* Children, stops and freezers, and what the kernel itself makes a thread wait for. */
#include "table.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>

static pid_t child_of_pause(void) {
    pid_t child = must(fork(), "fork");
    if (child == 0) {
        nap(PAUSE);
        _exit(0);
    }
    return child;
}

static void wait4_call(void) {
    pid_t child = child_of_pause();
    begin();
    must(waitpid(child, NULL, 0), "waitpid");
    end();
}

static void waitid_call(void) {
    pid_t child = child_of_pause();
    siginfo_t info;
    begin();
    must(waitid(P_PID, child, &info, WEXITED), "waitid");
    end();
}

static void waitid_pidfd(void) {
    int file = maybe(syscall(SYS_pidfd_open, child_of_pause(), 0), "pidfd_open");
    siginfo_t info;
    begin();
    must(waitid(3 /* P_PIDFD */, file, &info, WEXITED), "waitid");
    end();
}

static void vfork_call(void) {
    begin();
    pid_t child = vfork();
    if (child == 0) {
        struct timespec some = {0, PAUSE * 1000000};
        nanosleep(&some, NULL);
        _exit(0);
    }
    end();
    must(child, "vfork");
}

/* Runs in user mode until something outside has been done to it. */
static volatile int *done;

static void burn(void (*outside)(pid_t)) {
    done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(done == MAP_FAILED ? -1 : 0, "mmap");
    begin();
    once_asleep_outside(outside, 0);
    while (!*done) {
    }
    end();
}

static void stop_outside(pid_t pid) {
    must(kill(pid, SIGSTOP), "SIGSTOP");
    nap(2 * PAUSE);
    *done = 1;
    must(kill(pid, SIGCONT), "SIGCONT");
}

static void trace_outside(pid_t pid) {
    int status;
    maybe(ptrace(PTRACE_SEIZE, pid, 0, 0), "PTRACE_SEIZE");
    must(ptrace(PTRACE_INTERRUPT, pid, 0, 0), "PTRACE_INTERRUPT");
    must(waitpid(pid, &status, __WALL), "waitpid");
    nap(2 * PAUSE);
    *done = 1;
    must(ptrace(PTRACE_DETACH, pid, 0, 0), "PTRACE_DETACH");
}

static long try_put(const char *folder, const char *file, const char *text) {
    char path[4400];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int out = must(open(path, O_WRONLY), path);
    long result = write(out, text, strlen(text));
    close(out);
    return result;
}

static void put(const char *folder, const char *file, const char *text) {
    must(try_put(folder, file, text), file);
}

/* The first mount of that kind with that option, else one of our own. */
static void cgroup(const char *kind, const char *option, char path[4200]) {
    char line[4096], type[64], options[1024];
    FILE *mounts = fopen("/proc/self/mounts", "r");
    int found = 0;
    while (!found && mounts != NULL && fgets(line, sizeof line, mounts) != NULL)
        found = sscanf(line, "%*s %4095s %63s %1023s", path, type, options) == 3 &&
                strcmp(type, kind) == 0 && strstr(options, option) != NULL;
    if (mounts != NULL)
        fclose(mounts);
    if (found)
        return;
    maybe(unshare(CLONE_NEWNS), "unshare");
    maybe(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount");
    snprintf(path, 4200, "%s/cgroup", folder());
    must(mkdir(path, 0700), path);
    maybe(mount("none", path, kind, 0, strcmp(kind, "cgroup") == 0 ? option : NULL), "mount of cgroups");
}

static char base[4200];

/* Freezes, and lets go after twice PAUSE. */
static void freeze(pid_t pid, const char *file, const char *on, const char *off) {
    char group[4300], number[16];
    snprintf(group, sizeof group, "%s/wait_table.%d", base, pid);
    snprintf(number, sizeof number, "%d", pid);
    must(mkdir(group, 0700), group);
    put(group, "cgroup.procs", number);
    put(group, file, on);
    nap(2 * PAUSE);
    if (done != NULL)
        *done = 1;
    put(group, file, off);
    (void)try_put(base, "cgroup.procs", number); /* it may have ended */
    while (rmdir(group) != 0 && errno == EBUSY)
        nap(1);
}

static void freeze_v2(pid_t pid) { freeze(pid, "cgroup.freeze", "1", "0"); }
static void freeze_v1(pid_t pid) { freeze(pid, "freezer.state", "FROZEN", "THAWED"); }

static void stopped(void) { burn(stop_outside); }
static void traced(void) { burn(trace_outside); }

static void frozen_v2(void) {
    cgroup("cgroup2", "", base);
    burn(freeze_v2);
}

static void frozen_v1(void) {
    cgroup("cgroup", "freezer", base);
    burn(freeze_v1);
}

static void frozen_sleeper(void) {
    struct timespec some = {0, 500000000};
    cgroup("cgroup2", "", base);
    once_asleep_outside(freeze_v2, 1);
    begin();
    nanosleep(&some, NULL);
    end();
}

static void frozen_reader(void) {
    int ends[2];
    char byte;
    must(pipe(ends), "pipe");
    cgroup("cgroup2", "", base);
    once_asleep_outside(freeze_v2, 1);
    if (must(fork(), "fork") == 0) {
        nap(500);
        (void)!write(ends[1], "x", 1);
        _exit(0);
    }
    begin();
    must(read(ends[0], &byte, 1), "read");
    end();
}

static void frozen_poller(void) {
    int ends[2];
    must(pipe(ends), "pipe");
    struct pollfd one = {ends[0], POLLIN, 0};
    cgroup("cgroup2", "", base);
    once_asleep_outside(freeze_v2, 1);
    begin();
    poll(&one, 1, 500);
    end();
}

static void frozen_vfork(void) {
    cgroup("cgroup2", "", base);
    pid_t parent = getpid();
    begin();
    pid_t child = vfork();
    if (child == 0) {
        struct timespec some = {0, PAUSE * 1000000};
        char group[4300], number[16];
        /* The parent's group freezes and thaws while it waits for this child. */
        snprintf(group, sizeof group, "%s/wait_table.%d", base, parent);
        snprintf(number, sizeof number, "%d", parent);
        mkdir(group, 0700);
        put(group, "cgroup.procs", number);
        put(group, "cgroup.freeze", "1");
        nanosleep(&some, NULL);
        put(group, "cgroup.freeze", "0");
        put(base, "cgroup.procs", number);
        nanosleep(&some, NULL);
        rmdir(group);
        _exit(0);
    }
    end();
    must(child, "vfork");
}

static int listener;

static void judge(long argument) {
    (void)argument;
    struct seccomp_notif asked = {0};
    must(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked), "NOTIF_RECV");
    struct seccomp_notif_resp answer = {.id = asked.id};
    must(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer), "NOTIF_SEND");
}

static void judged(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_chdir, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {COUNT(filter), filter};
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
    listener = maybe(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                             &program), "seccomp");
    once_asleep(judge, 0);
    begin();
    syscall(SYS_chdir, "/");
    end();
}

static void barrier(void) {
    begin();
    for (int i = 0; i < 8; i++)
        maybe(syscall(SYS_membarrier, 1 /* MEMBARRIER_CMD_GLOBAL */, 0, 0), "membarrier");
    end();
}

#ifdef __x86_64__
/* nanosleep of a 32-bit program: through a far call into a 32-bit code segment, all of it below 4 GiB. */
static void compat(void) {
    static const unsigned char code64[] = {
        0x53, 0x41, 0x54,             /* push rbx, r12 */
        0x49, 0x89, 0xe4,             /* mov r12, rsp */
        0x48, 0x89, 0xd4,             /* mov rsp, rdx */
        0x89, 0xfb, 0x31, 0xc9,       /* mov ebx, edi; xor ecx, ecx */
        0xb8, 162, 0, 0, 0,           /* mov eax, nanosleep */
        0xff, 0x1e,                   /* lcall [rsi] */
        0x4c, 0x89, 0xe4,             /* mov rsp, r12 */
        0x41, 0x5c, 0x5b, 0xc3,       /* pop r12, rbx; ret */
    };
    static const unsigned char code32[] = {0xcd, 0x80, 0xcb}; /* int 0x80; lret */
    char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    must(low == MAP_FAILED ? -1 : 0, "mmap");
    memcpy(low, code64, sizeof code64);
    memcpy(low + 256, code32, sizeof code32);
    struct far {
        uint32_t offset;
        uint16_t segment;
    } *target = (void *)(low + 512);
    *target = (struct far){(uint32_t)(uintptr_t)low + 256, 0x23};
    int32_t *some = (void *)(low + 640);
    some[0] = 0;
    some[1] = PAUSE * 1000000;
    int (*enter)(void *, void *, void *) = (int (*)(void *, void *, void *))(uintptr_t)low;
    begin();
    int result = enter(some, target, low + 8192);
    end();
    errno = -result;
    must(result, "nanosleep of a 32-bit program");
}
#else
static void compat(void) { skip("32-bit programs are of x86-64 only"); }
#endif

static void never(void) { skip("does not block: it only gives the CPU up"); }
static void seeded(void) { skip("the kernel's pool of random numbers is filled soon after boot"); }
static void core(void) { skip("core_pattern, which says where a dump goes, is the host's"); }
static void namespace_end(void) { skip("the end of a pid namespace kills all in it at once"); }

const struct row process_rows[] = {
    {"wait4", "child", wait4_call, 0},
    {"waitid", "child", waitid_call, 0},
    {"waitid of a pidfd", "child", waitid_pidfd, 0},
    {"vfork", "child", vfork_call, 0},
    {"stop by a signal", "stopped", stopped, 0},
    {"stop by a tracer", "stopped", traced, 0},
    {"freeze by cgroup v2", "stopped", frozen_v2, 0},
    {"freeze by cgroup v1", "stopped", frozen_v1, 0},
    {"freeze of a sleeper", "stopped,sleep", frozen_sleeper, 0},
    {"freeze of a reader", "stopped,notify", frozen_reader, 0},
    {"freeze of a poller", "stopped,poll", frozen_poller, 0},
    {"freeze in vfork", "child", frozen_vfork, 0},
    {"system call that another process judges", "notify", judged, 0},
    {"membarrier", "notify", barrier, 0},
    {"nanosleep of a 32-bit program", "sleep", compat, 0},
    {"sched_yield", "", never, 0},
    {"getrandom", "notify", seeded, 0},
    {"exit while a core is written", "stopped", core, 0},
    {"exit of a pid namespace's first process", "child", namespace_end, 0},
    {NULL, NULL, NULL, 0},
};
