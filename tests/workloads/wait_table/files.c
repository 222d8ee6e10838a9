/* Storage, and the freeze of a file system. */
#include "table.h"

#include <linux/fs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum { TIMES = 16 };
static char block[1 << 16] __attribute__((aligned(4096)));

static int open_own(int flags) {
    char path[4200];
    snprintf(path, sizeof path, "%s/stored", folder());
    int file = open(path, O_CREAT | O_RDWR | flags, 0600);
    if (file < 0 && errno == EINVAL)
        skip("the file system of the test's folder has no O_DIRECT");
    return must(file, path);
}

static void each_time(void (*call)(int), int flags) {
    int file = open_own(flags);
    begin();
    for (int i = 0; i < TIMES; i++)
        call(file);
    end();
}

static void dirty(int file) { must(pwrite(file, block, sizeof block, 0), "pwrite"); }

static void fsync_once(int file) {
    dirty(file);
    must(fsync(file), "fsync");
}

static void fdatasync_once(int file) {
    dirty(file);
    must(fdatasync(file), "fdatasync");
}

static void range_once(int file) {
    dirty(file);
    must(sync_file_range(file, 0, sizeof block, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER),
         "sync_file_range");
}

static void syncfs_once(int file) {
    dirty(file);
    must(syncfs(file), "syncfs");
}

static void sync_once(int file) {
    dirty(file);
    sync();
}

static void direct_write_once(int file) { must(pwrite(file, block, sizeof block, 0), "pwrite"); }
static void direct_read_once(int file) { must(pread(file, block, sizeof block, 0), "pread"); }

static void fsync_call(void) { each_time(fsync_once, 0); }
static void fdatasync_call(void) { each_time(fdatasync_once, 0); }
static void range_call(void) { each_time(range_once, 0); }
static void syncfs_call(void) { each_time(syncfs_once, 0); }
static void sync_call(void) { each_time(sync_once, 0); }
static void o_sync(void) { each_time(direct_write_once, O_SYNC); }
static void direct_write(void) { each_time(direct_write_once, O_DIRECT); }

static void direct_read(void) {
    dirty(open_own(0));
    sync();
    each_time(direct_read_once, O_DIRECT);
}

static void msync_call(void) {
    int file = open_own(0);
    dirty(file);
    char *pages = mmap(NULL, sizeof block, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    must(pages == MAP_FAILED ? -1 : 0, "mmap");
    begin();
    for (int i = 0; i < TIMES; i++) {
        pages[0]++;
        must(msync(pages, sizeof block, MS_SYNC), "msync");
    }
    end();
}

static void cold_read(void) {
    int file = open_own(0);
    for (int i = 0; i < 64; i++)
        must(write(file, block, sizeof block), "write");
    must(fsync(file), "fsync");
    must(-posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
    must(-posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM), "posix_fadvise");
    begin();
    for (long at = 0; at < 4 << 20; at += 16384)
        must(pread(file, block, 4096, at), "pread");
    end();
}

/* A file system of this process's own, in an image. */
static const char *own_file_system(void) {
    static char path[4300];
    char command[16384];
    maybe(unshare(CLONE_NEWNS), "unshare");
    maybe(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount");
    snprintf(path, sizeof path, "%s/frozen", folder());
    must(mkdir(path, 0700), path);
    snprintf(command, sizeof command,
             "truncate -s 16M %s/image && mkfs.ext4 -q %s/image >/dev/null 2>&1 && "
             "mount -o loop %s/image %s >/dev/null 2>&1",
             folder(), folder(), folder(), path);
    if (system(command) != 0)
        skip("cannot make and mount an ext4 image here");
    return path;
}

static int freeze_own(void) {
    int root = must(open(own_file_system(), O_RDONLY | O_DIRECTORY), "open");
    must(ioctl(root, FIFREEZE, 0), "FIFREEZE");
    return root;
}

static void thaw(long root) { must(ioctl(root, FITHAW, 0), "FITHAW"); }

static int frozen_root, frozen_file;

static void make_frozen(void) {
    char path[4400];
    frozen_root = must(open(own_file_system(), O_RDONLY | O_DIRECTORY), "open");
    snprintf(path, sizeof path, "%s/frozen/file", folder());
    frozen_file = must(open(path, O_CREAT | O_RDWR, 0600), path);
    must(ioctl(frozen_root, FIFREEZE, 0), "FIFREEZE");
}

static void write_frozen(void) {
    make_frozen();
    once_asleep(thaw, frozen_root);
    begin();
    must(write(frozen_file, "x", 1), "write");
    end();
}

static void create_frozen(void) {
    char path[4400];
    int root = freeze_own();
    snprintf(path, sizeof path, "%s/frozen/new", folder());
    once_asleep(thaw, root);
    begin();
    must(mkdir(path, 0700), path);
    end();
}

static void *stuck(void *argument) {
    (void)!write(frozen_file, "x", 1);
    return argument;
}

/* exec ends the siblings first; this one cannot end before it has written. */
static void exec_with_sibling(void) {
    make_frozen();
    pid_t child = must(fork(), "fork");
    if (child == 0) {
        begin_thread();
        spin_until_asleep(stuck);
        execl("/bin/true", "true", NULL);
        _exit(3);
    }
    nap(3 * PAUSE);
    thaw(frozen_root);
    must(waitpid(child, NULL, 0), "waitpid");
}

const struct row file_rows[] = {
    {"fsync", "disk", fsync_call, 0},
    {"fdatasync", "disk", fdatasync_call, 0},
    {"sync_file_range", "disk", range_call, 0},
    /* These take the locks of file systems, in which others sync, too. */
    {"syncfs", "disk,lock", syncfs_call, 0},
    {"sync", "disk,lock", sync_call, 0},
    {"msync", "disk", msync_call, 0},
    {"write with O_SYNC", "disk", o_sync, 0},
    {"write with O_DIRECT", "disk", direct_write, 0},
    {"read with O_DIRECT", "disk", direct_read, 0},
    {"read of a file on disk", "disk", cold_read, 0},
    {"write to a frozen file system", "lock", write_frozen, 0},
    {"mkdir in a frozen file system", "lock", create_frozen, 0},
    {"exec that waits for a sibling", "notify", exec_with_sibling, 0},
    {NULL, NULL, NULL, 0},
};
