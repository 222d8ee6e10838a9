/* Pipes, FIFOs, terminals, and what is moved between files inside the kernel. */
#include "table.h"

#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

static char block[65536];

static void full_pipe(int ends[2]) {
    must(pipe(ends), "pipe");
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    while (write(ends[1], block, sizeof block) > 0) {
    }
    fcntl(ends[1], F_SETFL, 0);
}

static void empty_pipe(int ends[2]) { must(pipe(ends), "pipe"); }

static void full_socket(int ends[2]) {
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    while (write(ends[1], block, sizeof block) > 0) {
    }
    fcntl(ends[1], F_SETFL, 0);
}

static void drain(long file) {
    fcntl(file, F_SETFL, O_NONBLOCK);
    while (read(file, block, sizeof block) > 0) {
    }
}

static void put(long file) { must(write(file, "x", 1), "write"); }

static void read_call(void) {
    int ends[2];
    empty_pipe(ends);
    once_asleep(put, ends[1]);
    char byte;
    begin();
    must(read(ends[0], &byte, 1), "read");
    end();
}

static void readv_call(void) {
    int ends[2];
    empty_pipe(ends);
    once_asleep(put, ends[1]);
    char byte;
    struct iovec one = {&byte, 1};
    begin();
    must(readv(ends[0], &one, 1), "readv");
    end();
}

static void preadv2_call(void) {
    int ends[2];
    empty_pipe(ends);
    once_asleep(put, ends[1]);
    char byte;
    struct iovec one = {&byte, 1};
    begin();
    must(preadv2(ends[0], &one, 1, -1, 0), "preadv2");
    end();
}

static void write_call(void) {
    int ends[2];
    full_pipe(ends);
    once_asleep(drain, ends[0]);
    begin();
    put(ends[1]);
    end();
}

static void writev_call(void) {
    int ends[2];
    full_pipe(ends);
    once_asleep(drain, ends[0]);
    struct iovec one = {block, 1};
    begin();
    must(writev(ends[1], &one, 1), "writev");
    end();
}

static char fifo[4200];

static void open_writer(long argument) {
    (void)argument;
    must(open(fifo, O_WRONLY), fifo);
}

static void open_fifo(void) {
    snprintf(fifo, sizeof fifo, "%s/fifo", folder());
    must(mkfifo(fifo, 0600), "mkfifo");
    once_asleep(open_writer, 0);
    begin();
    must(open(fifo, O_RDONLY), fifo);
    end();
}

static void splice_from_empty(void) {
    int from[2], to[2];
    empty_pipe(from);
    empty_pipe(to);
    once_asleep(put, from[1]);
    begin();
    must(splice(from[0], NULL, to[1], NULL, 1, 0), "splice");
    end();
}

static void splice_to_full_pipe(void) {
    int from[2], to[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, from), "socketpair");
    full_pipe(to);
    put(from[1]);
    once_asleep(drain, to[0]);
    begin();
    must(splice(from[0], NULL, to[1], NULL, 1, 0), "splice");
    end();
}

static void splice_from_empty_socket(void) {
    int from[2], to[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, from), "socketpair");
    empty_pipe(to);
    once_asleep(put, from[1]);
    begin();
    must(splice(from[0], NULL, to[1], NULL, 1, 0), "splice");
    end();
}

static void splice_to_full_socket(void) {
    int from[2], to[2];
    empty_pipe(from);
    put(from[1]);
    full_socket(to);
    once_asleep(drain, to[0]);
    begin();
    must(splice(from[0], NULL, to[1], NULL, 1, 0), "splice");
    end();
}

static void tee_call(void) {
    int from[2], to[2];
    empty_pipe(from);
    empty_pipe(to);
    once_asleep(put, from[1]);
    begin();
    must(tee(from[0], to[1], 1, 0), "tee");
    end();
}

static void vmsplice_call(void) {
    int ends[2];
    full_pipe(ends);
    once_asleep(drain, ends[0]);
    struct iovec one = {block, 4096};
    begin();
    must(vmsplice(ends[1], &one, 1, 0), "vmsplice");
    end();
}

static int some_file(void) {
    char path[4200];
    snprintf(path, sizeof path, "%s/some", folder());
    int file = must(open(path, O_CREAT | O_RDWR, 0600), path);
    must(write(file, block, sizeof block), "write");
    lseek(file, 0, SEEK_SET);
    return file;
}

static void sendfile_to_pipe(void) {
    int ends[2];
    full_pipe(ends);
    int file = some_file();
    once_asleep(drain, ends[0]);
    begin();
    must(sendfile(ends[1], file, NULL, 4096), "sendfile");
    end();
}

static void sendfile_to_socket(void) {
    int ends[2];
    full_socket(ends);
    int file = some_file();
    once_asleep(drain, ends[0]);
    begin();
    must(sendfile(ends[1], file, NULL, 4096), "sendfile");
    end();
}

static int terminal(int *master) {
    *master = must(posix_openpt(O_RDWR | O_NOCTTY), "posix_openpt");
    must(grantpt(*master), "grantpt");
    must(unlockpt(*master), "unlockpt");
    return must(open(ptsname(*master), O_RDWR | O_NOCTTY), "ptsname");
}

static void put_line(long file) { must(write(file, "x\n", 2), "write"); }

static void terminal_read(void) {
    int master, slave = terminal(&master);
    once_asleep(put_line, master);
    char line[16];
    begin();
    must(read(slave, line, sizeof line), "read");
    end();
}

static void terminal_write(void) {
    int master, slave = terminal(&master);
    fcntl(slave, F_SETFL, O_NONBLOCK);
    /* What is written moves on to the other end meanwhile: full is what stays full. */
    for (int misses = 0; misses < 20;)
        if (write(slave, block, 1) < 0) {
            misses++;
            nap(2);
        }
    fcntl(slave, F_SETFL, 0);
    once_asleep(drain, master);
    begin();
    must(write(slave, block, 1), "write");
    end();
}

/* The other end stays in its copy of a page, with the pipe's mutex. */
static int held[2];

static void *hold_pipe(void *page) {
    must(write(held[1], page, 1), "write");
    return NULL;
}

static void pipe_mutex(void) {
    empty_pipe(held);
    char *page = missing_page();
    until_asleep(tid_of(hold_pipe, page, NULL));
    once_asleep(fill, (long)page);
    char byte;
    begin();
    must(read(held[0], &byte, 1), "read");
    end();
}

const struct row pipe_rows[] = {
    {"read of a pipe", "notify", read_call, 0},
    {"readv of a pipe", "notify", readv_call, 0},
    {"preadv2 of a pipe", "notify", preadv2_call, 0},
    {"write to a full pipe", "notify", write_call, 0},
    {"writev to a full pipe", "notify", writev_call, 0},
    {"open of a FIFO", "notify", open_fifo, 0},
    {"splice from an empty pipe", "notify", splice_from_empty, 0},
    {"splice from a socket to a full pipe", "notify", splice_to_full_pipe, 0},
    {"splice from an empty socket", "socket", splice_from_empty_socket, 0},
    {"splice from a pipe to a full socket", "socket", splice_to_full_socket, 0},
    {"tee", "notify", tee_call, 0},
    {"vmsplice", "notify", vmsplice_call, 0},
    {"sendfile to a full pipe", "notify", sendfile_to_pipe, 0},
    {"sendfile to a full socket", "socket", sendfile_to_socket, 0},
    {"read of a terminal", "notify", terminal_read, 0},
    {"write to a full terminal", "notify", terminal_write, 0},
    {"read of a pipe whose mutex is held", "lock", pipe_mutex, 0},
    {NULL, NULL, NULL, 0},
};
