/* A file system in user space whose answers take PAUSE: storage that is slow by construction. */
#include "table.h"

#include <linux/fuse.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>

enum { FILE_NODE = 2, SIZE = 1 << 20, LARGEST = 1 << 17 };

static struct fuse_attr attributes(uint64_t node) {
    struct fuse_attr attr = {.ino = node, .nlink = 1, .blksize = 4096};
    attr.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0700 : S_IFREG | 0600;
    attr.size = node == FUSE_ROOT_ID ? 0 : SIZE;
    return attr;
}

static void answer(int device, uint64_t unique, int error, const void *body, size_t length) {
    static char out[LARGEST + sizeof(struct fuse_out_header)];
    struct fuse_out_header header = {.len = sizeof header + length, .error = error, .unique = unique};
    memcpy(out, &header, sizeof header);
    if (length > 0)
        memcpy(out + sizeof header, body, length);
    if (write(device, out, header.len) < 0 && errno != ENOENT)
        _exit(3);
}

static void serve(int device) {
    static char in[LARGEST + 4096], zeros[LARGEST];
    for (;;) {
        if (read(device, in, sizeof in) < 0) {
            if (errno == EINTR || errno == ENOENT)
                continue;
            _exit(0);
        }
        const struct fuse_in_header *header = (void *)in;
        const void *body = in + sizeof *header;
        uint64_t unique = header->unique;
        switch (header->opcode) {
        case FUSE_INIT: {
            struct fuse_init_out init = {.major = 7, .minor = 31, .max_background = 16,
                                         .congestion_threshold = 12, .max_write = 65536};
            answer(device, unique, 0, &init, sizeof init);
            break;
        }
        case FUSE_LOOKUP: {
            struct fuse_entry_out entry = {.nodeid = FILE_NODE, .entry_valid = 60, .attr_valid = 60,
                                           .attr = attributes(FILE_NODE)};
            if (strcmp(body, "file") == 0) {
                answer(device, unique, 0, &entry, sizeof entry);
            } else {
                nap(PAUSE);
                answer(device, unique, -ENOENT, NULL, 0);
            }
            break;
        }
        case FUSE_GETATTR:
        case FUSE_SETATTR: {
            struct fuse_attr_out out = {.attr_valid = 60, .attr = attributes(header->nodeid)};
            answer(device, unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_OPEN:
        case FUSE_OPENDIR: {
            struct fuse_open_out out = {0};
            answer(device, unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_READ: {
            const struct fuse_read_in *asked = body;
            nap(PAUSE);
            answer(device, unique, 0, zeros, asked->size < LARGEST ? asked->size : LARGEST);
            break;
        }
        case FUSE_WRITE: {
            struct fuse_write_out out = {.size = ((const struct fuse_write_in *)body)->size};
            nap(PAUSE);
            answer(device, unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_STATFS: {
            struct fuse_statfs_out out = {.st = {.bsize = 4096, .namelen = 255}};
            nap(PAUSE);
            answer(device, unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_READDIR:
        case FUSE_FSYNC:
        case FUSE_FLUSH:
            nap(PAUSE);
            answer(device, unique, 0, NULL, 0);
            break;
        case FUSE_RELEASE:
        case FUSE_RELEASEDIR:
            answer(device, unique, 0, NULL, 0);
            break;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            break;
        default:
            answer(device, unique, -ENOSYS, NULL, 0);
        }
    }
}

static char mounted[4200];

static const char *slow_folder(void) {
    int device = open("/dev/fuse", O_RDWR);
    if (device < 0)
        skip("no file systems in user space here: /dev/fuse does not open");
    maybe(unshare(CLONE_NEWNS), "unshare");
    maybe(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount");
    snprintf(mounted, sizeof mounted, "%s/fuse", folder());
    must(mkdir(mounted, 0700), mounted);
    char options[128];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
    maybe(mount("wait_table", mounted, "fuse", 0, options), "mount of a file system in user space");
    if (must(fork(), "fork") == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(device);
    }
    close(device);
    return mounted;
}

const char *slow_file(void) {
    static char path[4300];
    snprintf(path, sizeof path, "%s/file", slow_folder());
    return path;
}

static char block[4096];

static int open_slow(int flags) {
    const char *path = slow_file();
    return must(open(path, flags), path);
}

static void read_call(void) {
    int file = open_slow(O_RDONLY);
    begin();
    must(read(file, block, sizeof block), "read");
    end();
}

static void write_call(void) {
    int file = open_slow(O_RDWR);
    begin();
    must(write(file, block, sizeof block), "write");
    end();
}

static void fsync_call(void) {
    int file = open_slow(O_RDWR);
    begin();
    must(fsync(file), "fsync");
    end();
}

static void close_call(void) {
    int file = open_slow(O_RDONLY);
    begin();
    close(file);
    end();
}

/* Nothing but the exit closes it in that process. */
static void exit_call(void) {
    open_slow(O_RDONLY);
    pid_t child = must(fork(), "fork");
    if (child == 0) {
        begin_thread();
        _exit(0);
    }
    must(waitpid(child, NULL, 0), "waitpid");
}

static void access_call(void) {
    char path[4300];
    snprintf(path, sizeof path, "%s/missing", slow_folder());
    begin();
    access(path, F_OK);
    end();
}

static void statfs_call(void) {
    const char *path = slow_folder();
    struct statfs what;
    begin();
    must(statfs(path, &what), "statfs");
    end();
}

static void getdents_call(void) {
    int file = must(open(slow_folder(), O_RDONLY | O_DIRECTORY), "open");
    begin();
    must(syscall(SYS_getdents64, file, block, sizeof block), "getdents64");
    end();
}

static void sendfile_call(void) {
    int ends[2], file = open_slow(O_RDONLY);
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
    begin();
    must(sendfile(ends[0], file, NULL, sizeof block), "sendfile");
    end();
}

static char *map_slow(int flags) {
    int file = open_slow(O_RDONLY);
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | flags, file, 0);
    must(page == MAP_FAILED ? -1 : 0, "mmap");
    return page;
}

static volatile char sink;

static void touch(void) {
    char *page = map_slow(0);
    begin();
    sink = *page;
    end();
}

static void write_from_mapping(void) {
    int ends[2];
    must(pipe(ends), "pipe");
    char *page = map_slow(0);
    begin();
    must(write(ends[1], page, 1), "write");
    end();
}

static void populate(void) {
    int file = open_slow(O_RDONLY);
    begin();
    mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    end();
}

static int held;

static void *hold_inode(void *argument) {
    must(write(held, block, 1), "write");
    return argument;
}

static void lock_of_inode(void) {
    held = open_slow(O_RDWR);
    until_asleep(tid_of(hold_inode, NULL, NULL));
    /* Its own write takes as long again: truncate waits for the lock and is then answered at once. */
    begin();
    must(ftruncate(held, SIZE), "ftruncate");
    end();
}

const struct row fuse_rows[] = {
    {"read of a slow file", "disk", read_call, 0},
    {"write of a slow file", "disk", write_call, 0},
    {"fsync of a slow file", "disk", fsync_call, 0},
    {"close of a slow file", "disk", close_call, 0},
    {"exit with a slow file", "disk", exit_call, 0},
    {"access to a slow folder", "disk", access_call, 0},
    {"statfs of a slow folder", "disk", statfs_call, 0},
    {"getdents of a slow folder", "disk", getdents_call, 0},
    {"sendfile from a slow file", "disk", sendfile_call, 0},
    {"touch of a page of a slow file", "memory", touch, 0},
    {"write from a page of a slow file", "memory", write_from_mapping, 0},
    {"mmap that populates from a slow file", "memory", populate, 0},
    {"ftruncate of a file whose lock is held", "lock", lock_of_inode, 0},
    {NULL, NULL, NULL, 0},
};
