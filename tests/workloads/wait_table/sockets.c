/* Sockets: every call that can wait for a peer. */
#include "table.h"

#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

static char block[65536];

/* Small, so that full is soon, and fixed, so that full is what stays full. */
static void small(int file) {
    int bytes = 4096;
    must(setsockopt(file, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes), "SO_SNDBUF");
    must(setsockopt(file, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes), "SO_RCVBUF");
}

static int listener(struct sockaddr_in *address, int backlog) {
    int file = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    small(file);
    must(bind(file, (void *)address, sizeof *address), "bind");
    must(listen(file, backlog), "listen");
    socklen_t length = sizeof *address;
    must(getsockname(file, (void *)address, &length), "getsockname");
    return file;
}

static void tcp_pair(int ends[2]) {
    struct sockaddr_in address;
    int file = listener(&address, 4);
    ends[0] = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
    small(ends[0]);
    must(connect(ends[0], (void *)&address, sizeof address), "connect");
    ends[1] = must(accept(file, NULL, NULL), "accept");
}

static void unix_pair(int ends[2]) { must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair"); }
static void datagram_pair(int ends[2]) { must(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), "socketpair"); }

static void stuff(int file) {
    fcntl(file, F_SETFL, O_NONBLOCK);
    int misses = 0;
    /* TCP makes room while it sends: full is what stays full. */
    while (misses < 20)
        if (write(file, block, 1024) < 0) {
            misses++;
            nap(2);
        }
    fcntl(file, F_SETFL, 0);
}

static void put(long file) { must(write(file, "x", 1), "write"); }

static void drain(long file) {
    fcntl(file, F_SETFL, O_NONBLOCK);
    for (int misses = 0; misses < 20;)
        if (read(file, block, sizeof block) <= 0) {
            misses++;
            nap(2);
        }
}

static struct sockaddr_in server;

static void connect_to_server(long argument) {
    (void)argument;
    int file = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
    must(connect(file, (void *)&server, sizeof server), "connect");
}

static void accept_call(void) {
    int file = listener(&server, 4);
    once_asleep(connect_to_server, 0);
    begin();
    must(syscall(SYS_accept, file, NULL, NULL), "accept");
    end();
}

static void accept4_call(void) {
    int file = listener(&server, 4);
    once_asleep(connect_to_server, 0);
    begin();
    must(accept4(file, NULL, NULL, SOCK_CLOEXEC), "accept4");
    end();
}

/* A listener without room drops what comes: the connecting side waits for the limit it set. */
static void connect_tcp(void) {
    struct sockaddr_in address;
    listener(&address, 0);
    struct timeval some = {0, PAUSE * 1000};
    for (int i = 0; i < 8; i++) {
        int file = must(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket");
        connect(file, (void *)&address, sizeof address);
        nap(5);
    }
    int file = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
    must(setsockopt(file, SOL_SOCKET, SO_SNDTIMEO, &some, sizeof some), "SO_SNDTIMEO");
    begin();
    connect(file, (void *)&address, sizeof address);
    end();
}

static void accept_one(long file) { must(accept(file, NULL, NULL), "accept"); }

static void connect_unix(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "wait_table.%d", getpid());
    int file = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
    must(bind(file, (void *)&address, sizeof address), "bind");
    must(listen(file, 0), "listen");
    int first = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
    must(connect(first, (void *)&address, sizeof address), "connect");
    int second = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
    once_asleep(accept_one, file);
    begin();
    must(connect(second, (void *)&address, sizeof address), "connect");
    end();
}

#define WAITS_FOR_DATA(name, pair, call)                                                               \
    static void name(void) {                                                                           \
        int ends[2];                                                                                   \
        pair(ends);                                                                                    \
        once_asleep(put, ends[1]);                                                                     \
        int file = ends[0];                                                                            \
        begin();                                                                                       \
        must(call, #name);                                                                             \
        end();                                                                                         \
    }

static struct iovec part = {block, 1};
static struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
static struct mmsghdr several = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};

WAITS_FOR_DATA(read_tcp, tcp_pair, read(file, block, 1))
WAITS_FOR_DATA(read_unix, unix_pair, read(file, block, 1))
WAITS_FOR_DATA(recvfrom_tcp, tcp_pair, recvfrom(file, block, 1, 0, NULL, NULL))
WAITS_FOR_DATA(recvfrom_datagram, datagram_pair, recvfrom(file, block, 1, 0, NULL, NULL))
WAITS_FOR_DATA(recvmsg_unix, unix_pair, recvmsg(file, &header, 0))
WAITS_FOR_DATA(recvmmsg_datagram, datagram_pair, recvmmsg(file, &several, 1, 0, NULL))

#define WAITS_FOR_ROOM(name, pair, call)                                                               \
    static void name(void) {                                                                           \
        int ends[2];                                                                                   \
        pair(ends);                                                                                    \
        stuff(ends[0]);                                                                                \
        once_asleep(drain, ends[1]);                                                                   \
        int file = ends[0];                                                                            \
        begin();                                                                                       \
        must(call, #name);                                                                             \
        end();                                                                                         \
    }

WAITS_FOR_ROOM(write_tcp, tcp_pair, write(file, block, sizeof block))
WAITS_FOR_ROOM(write_unix, unix_pair, write(file, block, 1024))
WAITS_FOR_ROOM(sendto_datagram, datagram_pair, sendto(file, block, 1024, 0, NULL, 0))
WAITS_FOR_ROOM(sendmsg_unix, unix_pair, sendmsg(file, &header, 0))
WAITS_FOR_ROOM(sendmmsg_datagram, datagram_pair, sendmmsg(file, &several, 1, 0))

static void receive_udp(void) {
    struct timeval some = {0, PAUSE * 1000};
    int file = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    must(setsockopt(file, SOL_SOCKET, SO_RCVTIMEO, &some, sizeof some), "SO_RCVTIMEO");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    must(bind(file, (void *)&address, sizeof address), "bind");
    begin();
    recvfrom(file, block, 1, 0, NULL, NULL);
    end();
}

static void receive_netlink(void) {
    struct timeval some = {0, PAUSE * 1000};
    int file = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), "socket");
    must(setsockopt(file, SOL_SOCKET, SO_RCVTIMEO, &some, sizeof some), "SO_RCVTIMEO");
    begin();
    recvfrom(file, block, 1, 0, NULL, NULL);
    end();
}

static void lingering(int ends[2]) {
    tcp_pair(ends);
    stuff(ends[0]);
    struct linger some = {1, 5};
    must(setsockopt(ends[0], SOL_SOCKET, SO_LINGER, &some, sizeof some), "SO_LINGER");
}

static void close_lingering(void) {
    int ends[2];
    lingering(ends);
    once_asleep(drain, ends[1]);
    begin();
    must(close(ends[0]), "close");
    end();
}

/* Whoever holds the lock of a socket stays in its copy of a page. */
static int held[2];

static void *hold_socket(void *page) {
    recvfrom(held[0], page, 1, 0, NULL, NULL);
    return NULL;
}

static void lock_of_socket(void) {
    unix_pair(held);
    must(write(held[1], "xy", 2), "write");
    char *page = missing_page();
    until_asleep(tid_of(hold_socket, page, NULL));
    once_asleep(fill, (long)page);
    begin();
    must(recvfrom(held[0], block, 1, 0, NULL, NULL), "recvfrom");
    end();
}

static void lock_of_tcp_socket(void) {
    tcp_pair(held);
    must(write(held[1], "xy", 2), "write");
    char *page = missing_page();
    until_asleep(tid_of(hold_socket, page, NULL));
    once_asleep(fill, (long)page);
    begin();
    must(recvfrom(held[0], block, 1, 0, NULL, NULL), "recvfrom");
    end();
}

const struct row socket_rows[] = {
    {"accept", "socket", accept_call, 0},
    {"accept4", "socket", accept4_call, 0},
    {"connect of TCP", "socket", connect_tcp, 0},
    {"connect of a unix socket", "socket", connect_unix, 0},
    {"read of a TCP socket", "socket", read_tcp, 0},
    {"read of a unix socket", "socket", read_unix, 0},
    {"recvfrom of a TCP socket", "socket", recvfrom_tcp, 0},
    {"recvfrom of a datagram socket", "socket", recvfrom_datagram, 0},
    {"recvmsg", "socket", recvmsg_unix, 0},
    {"recvmmsg", "socket", recvmmsg_datagram, 0},
    {"write to a full TCP socket", "socket", write_tcp, 0},
    {"write to a full unix socket", "socket", write_unix, 0},
    {"sendto to a full datagram socket", "socket", sendto_datagram, 0},
    {"sendmsg to a full socket", "socket", sendmsg_unix, 0},
    {"sendmmsg to a full socket", "socket", sendmmsg_datagram, 0},
    {"recvfrom of UDP", "socket", receive_udp, 0},
    {"recvfrom of netlink", "socket", receive_netlink, 0},
    {"close of a lingering socket", "socket", close_lingering, 0},
    {"recvfrom of a unix socket whose lock is held", "lock", lock_of_socket, 0},
    {"recvfrom of a TCP socket whose lock is held", "lock", lock_of_tcp_socket, 0},
    {NULL, NULL, NULL, 0},
};
