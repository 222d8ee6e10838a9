/* Pages that are not there, in user mode and below system calls, and the lock of the address space. */
#include "table.h"

#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

static int faults;

char *missing_page(void) {
    faults = maybe(syscall(SYS_userfaultfd, O_CLOEXEC), "userfaultfd");
    struct uffdio_api api = {.api = UFFD_API};
    maybe(ioctl(faults, UFFDIO_API, &api), "UFFDIO_API");
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(page == MAP_FAILED ? -1 : 0, "mmap");
    struct uffdio_register range = {{(uintptr_t)page, 4096}, UFFDIO_REGISTER_MODE_MISSING, 0};
    maybe(ioctl(faults, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
    return page;
}

void fill(long page) {
    struct uffdio_zeropage range = {{page, 4096}, 0, 0};
    must(ioctl(faults, UFFDIO_ZEROPAGE, &range), "UFFDIO_ZEROPAGE");
}

static volatile char sink;

static char *missing(void) {
    char *page = missing_page();
    once_asleep(fill, (long)page);
    return page;
}

static void touch(void) {
    char *page = missing();
    begin();
    sink = *page;
    end();
}

static void read_into(void) {
    int ends[2];
    must(pipe(ends), "pipe");
    must(write(ends[1], "x", 1), "write");
    char *page = missing();
    begin();
    must(read(ends[0], page, 1), "read");
    end();
}

static void read_file_into(void) {
    int file = must(open("/proc/self/exe", O_RDONLY), "/proc/self/exe");
    char *page = missing();
    begin();
    must(read(file, page, 64), "read");
    end();
}

static void write_from(void) {
    int ends[2];
    must(pipe(ends), "pipe");
    char *page = missing();
    begin();
    must(write(ends[1], page, 1), "write");
    end();
}

static void stat_into(void) {
    char *page = missing();
    begin();
    must(fstat(0, (struct stat *)page), "fstat");
    end();
}

static void open_by_name_in(void) {
    char *page = missing();
    begin();
    open(page, O_RDONLY);
    end();
}

static void futex_on(void) {
    char *page = missing();
    begin();
    syscall(SYS_futex, page, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
    end();
}

static void nanosleep_until_in(void) {
    char *page = missing();
    begin();
    nanosleep((struct timespec *)page, NULL);
    end();
}

static void read_of_process(void) {
    char *page = missing(), byte;
    struct iovec to = {&byte, 1}, from = {page, 1};
    begin();
    maybe(process_vm_readv(getpid(), &to, 1, &from, 1, 0), "process_vm_readv");
    end();
}

static void populate(void) {
    char *page = missing();
    begin();
    maybe(madvise(page, 4096, 23 /* MADV_POPULATE_WRITE */), "MADV_POPULATE_WRITE");
    end();
}

static void *toucher(void *page) {
    nap(PAUSE);
    sink = *(char *)page;
    return NULL;
}

static void read_faults(void) {
    char *page = missing_page();
    struct uffd_msg fault;
    thread(toucher, page);
    begin();
    must(read(faults, &fault, sizeof fault), "read");
    end();
    fill((long)page);
}

static void major_faults(void) {
    enum { SIZE = 8 << 20 };
    char path[4200];
    snprintf(path, sizeof path, "%s/cold", folder());
    int file = must(open(path, O_CREAT | O_RDWR, 0600), path);
    static char block[1 << 20];
    for (int i = 0; i < SIZE >> 20; i++)
        must(write(file, block, sizeof block), "write");
    must(fsync(file), "fsync");
    must(-posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), "posix_fadvise");
    char *pages = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, file, 0);
    must(pages == MAP_FAILED ? -1 : 0, "mmap");
    must(madvise(pages, SIZE, MADV_RANDOM), "madvise");
    begin();
    for (long at = 0; at < SIZE; at += 4096)
        sink = pages[at];
    end();
    unlink(path);
}

/* The lock of the address space: one thread holds it most of the time, for writing and for reading. */
static volatile int stop;

static void *populator(void *argument) {
    enum { LARGE = 64 << 20 };
    while (!stop) {
        char *large = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        must(large == MAP_FAILED ? -1 : 0, "mmap");
        munmap(large, LARGE);
    }
    return argument;
}

static void against_populator(void (*call)(char *)) {
    char *pages = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(pages == MAP_FAILED ? -1 : 0, "mmap");
    pthread_t other = thread(populator, NULL);
    nap(20);
    begin();
    int64_t until = now_ms() + 2 * PAUSE;
    while (now_ms() < until)
        call(pages);
    end();
    stop = 1;
    pthread_join(other, NULL);
}

static void map_once(char *pages) {
    (void)pages;
    mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void unmap_once(char *pages) {
    munmap(pages, 4096);
    mmap(pages, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void protect_once(char *pages) {
    mprotect(pages, 4096, PROT_READ);
    mprotect(pages, 4096, PROT_READ | PROT_WRITE);
}

static void advise_once(char *pages) {
    madvise(pages, 4096, MADV_RANDOM);
    madvise(pages, 4096, MADV_NORMAL);
}

static void break_once(char *pages) {
    (void)pages;
    sbrk(4096);
    sbrk(-4096);
}

static void remap_once(char *pages) {
    char *there = mremap(pages + 4096, 4096, 8192, MREMAP_MAYMOVE);
    if (there != MAP_FAILED)
        munmap(there, 8192);
    mmap(pages + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void lock_once(char *pages) {
    mlock(pages, 4096);
    munlock(pages, 4096);
}

static void mmap_lock_of_mmap(void) { against_populator(map_once); }
static void mmap_lock_of_munmap(void) { against_populator(unmap_once); }
static void mmap_lock_of_mprotect(void) { against_populator(protect_once); }
static void mmap_lock_of_madvise(void) { against_populator(advise_once); }
static void mmap_lock_of_brk(void) { against_populator(break_once); }
static void mmap_lock_of_mremap(void) { against_populator(remap_once); }
static void mmap_lock_of_mlock(void) { against_populator(lock_once); }

static void not_here(void) { skip("no swap on this machine: a test must not add any to a host"); }

const struct row memory_rows[] = {
    {"touch of a missing page", "memory", touch, 0},
    {"read of a pipe into a missing page", "memory", read_into, 0},
    {"read of a file into a missing page", "memory", read_file_into, 0},
    {"write from a missing page", "memory", write_from, 0},
    {"fstat into a missing page", "memory", stat_into, 0},
    {"open by a name in a missing page", "memory", open_by_name_in, 0},
    {"futex on a missing page", "memory", futex_on, 0},
    {"nanosleep by a time in a missing page", "memory", nanosleep_until_in, 0},
    {"process_vm_readv of a missing page", "memory", read_of_process, 0},
    {"madvise that populates a missing page", "memory", populate, 0},
    {"read of a userfaultfd", "notify", read_faults, 0},
    {"touch of pages on disk", "memory", major_faults, 0},
    {"mmap against the lock of the address space", "lock", mmap_lock_of_mmap, 1},
    {"munmap against the lock of the address space", "lock", mmap_lock_of_munmap, 1},
    {"mprotect against the lock of the address space", "lock", mmap_lock_of_mprotect, 1},
    {"madvise against the lock of the address space", "lock", mmap_lock_of_madvise, 1},
    {"brk against the lock of the address space", "lock", mmap_lock_of_brk, 1},
    {"mremap against the lock of the address space", "lock", mmap_lock_of_mremap, 1},
    {"mlock against the lock of the address space", "lock", mmap_lock_of_mlock, 1},
    {"touch of a swapped page", "memory", not_here, 0},
    {NULL, NULL, NULL, 0},
};
