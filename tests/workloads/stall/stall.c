// A process that cannot be read: whoever opens its /proc/PID/maps waits, until standard input ends.
//
//   stall FOLDER    prints `hangs PID` when it does; 77 when this host cannot have such a process
//
// It has an asynchronous read under way from a file system whose answer does not come, and calls exec:
// that waits for the read (exit_aio, fs/aio.c) with the lock held that mm_access() takes (exec_update_lock,
// kernel/fork.c). Before that it names a lane that lies in no segment, so that an agent asks it again and
// again what it has mapped.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// proto/lanes/SPEC.md: the control line begins with magic, generation and owner.
enum { LANE_MAGIC = 0x454e414c, BREADCRUMB = 0x48535031 };
enum { SKIPPED = 77, FILE_NODE = 2, PAGE = 4096, LOOK_MS = 200 };

static long must(long result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static struct fuse_attr attributes(uint64_t node) {
    struct fuse_attr attr = {.ino = node, .nlink = 1, .blksize = PAGE};
    attr.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0700 : S_IFREG | 0600;
    attr.size = node == FUSE_ROOT_ID ? 0 : 1 << 20;
    return attr;
}

static void answer(int device, uint64_t unique, int error, const void *body, size_t length) {
    char out[256];
    struct fuse_out_header header = {.len = sizeof header + length, .error = error, .unique = unique};
    memcpy(out, &header, sizeof header);
    if (length > 0)
        memcpy(out + sizeof header, body, length);
    if (write(device, out, header.len) < 0 && errno != ENOENT)
        _exit(1);
}

// The file system: everything but the content of its file.
static void serve(int device) {
    static char in[1 << 18];
    for (;;) {
        if (read(device, in, sizeof in) < 0) {
            if (errno == EINTR || errno == ENOENT)
                continue;
            _exit(0);
        }
        const struct fuse_in_header *header = (void *)in;
        switch (header->opcode) {
        case FUSE_INIT: {
            struct fuse_init_out init = {.major = 7, .minor = 31, .max_background = 16,
                                         .congestion_threshold = 12, .max_write = 65536,
                                         .flags = FUSE_ASYNC_DIO | FUSE_ASYNC_READ};
            answer(device, header->unique, 0, &init, sizeof init);
            break;
        }
        case FUSE_LOOKUP: {
            struct fuse_entry_out entry = {.nodeid = FILE_NODE, .entry_valid = 60, .attr_valid = 60,
                                           .attr = attributes(FILE_NODE)};
            answer(device, header->unique, 0, &entry, sizeof entry);
            break;
        }
        case FUSE_GETATTR: {
            struct fuse_attr_out out = {.attr_valid = 60, .attr = attributes(header->nodeid)};
            answer(device, header->unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_OPEN: {
            struct fuse_open_out out = {0};
            answer(device, header->unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_READ:
        case FUSE_FORGET:
        case FUSE_INTERRUPT:
            break;
        case FUSE_RELEASE:
        case FUSE_FLUSH:
            answer(device, header->unique, 0, NULL, 0);
            break;
        default:
            answer(device, header->unique, -ENOSYS, NULL, 0);
        }
    }
}

// Mounts the file system; returns the process that serves it.
static pid_t file_system(const char *folder) {
    int device = open("/dev/fuse", O_RDWR);
    char options[96];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
    if (device < 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("stall", folder, "fuse", 0, options) < 0) {
        perror("no file system in user space");
        exit(SKIPPED);
    }
    pid_t server = must(fork(), "fork");
    if (server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(device);
    }
    close(device);
    return server;
}

// A lane by its magic, in memory that is no segment.
static void name_lane(void) {
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        _exit(1);
    uint32_t line[] = {LANE_MAGIC, 1, (uint32_t)getpid()};
    memcpy(page, line, sizeof line);
    prctl(BREADCRUMB, page, 0, 0, "HOTSPANLANE1");
}

static void hang(const char *folder) {
    char path[4300];
    snprintf(path, sizeof path, "%s/file", folder);
    int file = (int)must(open(path, O_RDONLY | O_DIRECT), path);
    void *block;
    if (posix_memalign(&block, PAGE, PAGE))
        _exit(1);
    aio_context_t context = 0;
    must(syscall(SYS_io_setup, 4, &context), "io_setup");
    struct iocb read = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)file,
                        .aio_buf = (uintptr_t)block, .aio_nbytes = PAGE};
    struct iocb *reads[] = {&read};
    must(syscall(SYS_io_submit, context, 1, reads), "io_submit");
    name_lane();
    execl("/bin/sleep", "sleep", "1000", (char *)NULL);
    _exit(1);
}

// A process that opens the maps of another, and ends then.
static pid_t look(pid_t pid) {
    pid_t looker = must(fork(), "fork");
    if (looker == 0) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/maps", pid);
        _exit(open(path, O_RDONLY) < 0);
    }
    return looker;
}

int main(int count, char **words) {
    if (count < 2)
        return 2;
    pid_t server = file_system(words[1]);
    pid_t pid = must(fork(), "fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        hang(words[1]);
    }
    // Until one of them waits for longer than any that does not have to.
    pid_t looker;
    do {
        looker = look(pid);
        poll(NULL, 0, LOOK_MS);
    } while (waitpid(looker, NULL, WNOHANG) != 0);
    printf("hangs %d\n", pid);
    fflush(stdout);

    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    int hung = waitpid(looker, NULL, WNOHANG) == 0;
    // Without its server every request fails: the exec goes on.
    kill(server, SIGKILL);
    waitpid(looker, NULL, 0);
    kill(pid, SIGKILL);
    while (wait(NULL) > 0)
        ;
    return hung ? 0 : 3;
}
