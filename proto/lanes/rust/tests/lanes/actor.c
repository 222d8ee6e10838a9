/*
 * A program with known behaviour, for the tests to watch: it does one thing, named by its first
 * argument, and says on standard output how far it is. It publishes either by the C header or by
 * a table of functions given to it (the Rust crate).
 */
#include "hotspan_lanes.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

struct lanes {
    uint32_t (*name)(const char *operation);
    int (*set)(const uint8_t trace_id[16], const uint8_t span_id[8], const uint8_t parent_id[8],
               const uint8_t root_id[8], uint32_t name, uint8_t flags);
    void (*clear)(void);
    uint64_t (*refused)(void);
};

static uint32_t own_name(const char *operation) { return hotspan_name(operation); }
static int own_set(const uint8_t t[16], const uint8_t s[8], const uint8_t p[8], const uint8_t r[8],
                   uint32_t name, uint8_t flags) {
    return hotspan_span_set(t, s, p, r, name, flags);
}
static void own_clear(void) { hotspan_span_clear(); }
static uint64_t own_refused(void) { return hotspan__module.counters.publishes_refused; }

static const struct lanes own = {own_name, own_set, own_clear, own_refused};
static struct lanes lanes;

int actor(const char *verb, uint64_t amount, const struct lanes *given);
int actor_publishes_first(void);

/* Makes the C header the publisher of this process. */
int actor_publishes_first(void) {
    const uint8_t trace[16] = {1}, span[8] = {2};
    return hotspan_name("from C") != 1 || hotspan_span_set(trace, span, NULL, NULL, 1, 0);
}

/* Every field follows from one number, so that a reader can tell a torn event. */
static int publish(uint64_t number) {
    uint64_t trace[2] = {number, ~number}, root = number * 5, parent = number * 3;
    return lanes.set((uint8_t *)trace, (uint8_t *)&number, (uint8_t *)&parent, (uint8_t *)&root,
                     (uint32_t)(number % 1000), (uint8_t)number);
}

static void say(const char *word, long number) {
    printf("%s %ld\n", word, number);
    fflush(stdout);
}

/* Until the test closes our standard input. */
static int wait_for_test(void) {
    char byte;
    say("ready", getpid());
    while (read(0, &byte, 1) > 0) {
    }
    return 0;
}

static int spans(void) {
    uint8_t trace[16] = {0xAA, 1}, outer[8] = {1}, inner[8] = {2};
    uint32_t cart = lanes.name("GET /cart"), pay = lanes.name("POST /pay");
    char long_name[200];
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    if (lanes.name("GET /cart") != cart || lanes.name(long_name) != 0 || lanes.name("") != 0)
        return 1;
    errno = 77;
    if (lanes.set(trace, outer, NULL, outer, cart, 1) || errno != 77)
        return 2;
    for (int again = 0; again < 10; again++)
        lanes.set(trace, outer, NULL, outer, cart, 1); /* changes nothing */
    lanes.set(trace, inner, outer, outer, pay, 1);
    lanes.set(trace, outer, NULL, outer, cart, 1);
    lanes.clear();
    lanes.clear();
    lanes.set(trace, outer, NULL, NULL, 0, 0);
    lanes.name("added later");
    return wait_for_test();
}

static int events(uint64_t amount) {
    for (uint64_t number = 1; number <= amount; number++)
        if (publish(number))
            return 1;
    return wait_for_test();
}

/* The same with a pause after every 64: slow laps. */
static int slow_events(uint64_t amount) {
    for (uint64_t number = 1; number <= amount; number++) {
        publish(number);
        if (number % 64 == 0)
            usleep(10000);
    }
    return wait_for_test();
}

static void *short_thread(void *number) {
    publish((uint64_t)(uintptr_t)number);
    return NULL;
}

static int short_threads(uint64_t amount) {
    for (uint64_t number = 1; number <= amount; number += 4) {
        pthread_t threads[4];
        for (uint64_t i = 0; i < 4; i++)
            if (pthread_create(&threads[i], NULL, short_thread, (void *)(uintptr_t)(number + i)))
                return 1;
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
    }
    return wait_for_test();
}

static pthread_barrier_t all_published, test_is_done;
static void *standing_thread(void *number) {
    int answer = publish((uint64_t)(uintptr_t)number);
    pthread_barrier_wait(&all_published);
    pthread_barrier_wait(&test_is_done);
    return (void *)(intptr_t)answer;
}

static int standing_threads(uint64_t amount) {
    pthread_t threads[1024];
    pthread_barrier_init(&all_published, NULL, (unsigned)amount + 1);
    pthread_barrier_init(&test_is_done, NULL, (unsigned)amount + 1);
    for (uint64_t i = 0; i < amount; i++)
        if (pthread_create(&threads[i], NULL, standing_thread, (void *)(uintptr_t)(i + 1)))
            return 1;
    pthread_barrier_wait(&all_published);
    wait_for_test();
    pthread_barrier_wait(&test_is_done);
    for (uint64_t i = 0; i < amount; i++) {
        void *answer;
        pthread_join(threads[i], &answer);
        if (answer)
            return 2;
    }
    return 0;
}

static _Atomic uint64_t gone;
static void *orphaning_thread(void *number) {
    publish((uint64_t)(uintptr_t)number);
    gone++;
    syscall(SYS_exit, 0); /* past every destructor */
    return NULL;
}

static long threads(void) {
    char line[128];
    long count = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "Threads: %ld", &count);
    if (status)
        fclose(status);
    return count;
}

/* Threads that never give their lanes back, then one that finds them. */
static int orphans(uint64_t amount) {
    pthread_attr_t detached;
    pthread_t thread;
    long before = threads();
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (uint64_t number = 1; number <= amount; number++) {
        if (pthread_create(&thread, &detached, orphaning_thread, (void *)(uintptr_t)number))
            return 1;
        while (gone < number)
            sched_yield();
    }
    while (threads() > before) /* until the kernel has forgotten the last of them */
        sched_yield();
    if (publish(amount + 1))
        return 2;
    return wait_for_test();
}

static int child_publishes(long child, uint64_t number) {
    if (child == 0) {
        int answer = publish(number) || (lanes.name("GET /cart") != 1);
        if (number % 2)
            wait_for_test();
        syscall(SYS_exit_group, answer);
    }
    return child < 0;
}

static int reap(long child) {
    int status = -1;
    return waitpid((pid_t)child, &status, 0) != child || status != 0;
}

static int forks(int raw) {
    char long_name[200];
    long child;
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    lanes.name("GET /cart");
    lanes.name(long_name);
    publish(100);
    child = raw ? syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L) : (long)fork();
    if (child_publishes(child, 101))
        return 1;
    say("child", child);
    publish(102);
    wait_for_test();
    return reap(child);
}

static volatile int stop;
static void *loading_thread(void *first) {
    for (uint64_t number = (uint64_t)(uintptr_t)first; !stop; number++)
        publish(number);
    return NULL;
}

static long vfork_and_exec(void) {
    long child = vfork();
    if (child == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    return child;
}

/* Children of every kind, while two other threads publish. */
static int children_under_load(uint64_t amount) {
    pthread_t load[2];
    int failed = 0;
    lanes.name("GET /cart");
    for (int i = 0; i < 2; i++)
        pthread_create(&load[i], NULL, loading_thread, (void *)((uintptr_t)(i + 1) << 40));
    for (uint64_t round = 0; round < amount; round++) {
        long child = -1;
        publish(round * 2 + 2);
        if (round % 3 == 0) {
            child = fork();
            failed += child_publishes(child, 2);
        } else if (round % 3 == 1) {
            child = syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L);
            failed += child_publishes(child, 4);
        } else {
            child = vfork_and_exec();
        }
        failed += reap(child);
    }
    stop = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(load[i], NULL);
    say("failed", failed);
    return wait_for_test() || failed;
}

static void handler(int signal) {
    static uint64_t number = (uint64_t)1 << 50;
    (void)signal;
    publish(number++);
    lanes.clear();
}

static pthread_t main_thread;
static void *signalling_thread(void *unused) {
    (void)unused;
    while (!stop)
        pthread_kill(main_thread, SIGUSR1);
    return NULL;
}

static void catch(int signal) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigaction(signal, &action, NULL);
}

/* A signal already on its way may still come after its timer is stopped. */
static void hush(void) {
    struct itimerval never;
    sigset_t signals;
    memset(&never, 0, sizeof never);
    setitimer(ITIMER_REAL, &never, NULL);
    sigemptyset(&signals);
    sigaddset(&signals, SIGALRM);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
}

static int storm(uint64_t amount) {
    struct itimerval timer = {{0, 50}, {0, 50}};
    pthread_t thread;
    uint64_t number = 0;
    catch (SIGUSR1);
    catch (SIGALRM);
    main_thread = pthread_self();
    setitimer(ITIMER_REAL, &timer, NULL);
    pthread_create(&thread, NULL, signalling_thread, NULL);
    while (number < amount || lanes.refused() < 100)
        publish(++number);
    stop = 1;
    pthread_join(thread, NULL);
    hush();
    lanes.clear();
    publish(7);
    say("refused", (long)lanes.refused());
    return wait_for_test();
}

static __attribute__((noreturn)) int for_ever(void) {
    uint64_t number = 1;
    publish(number++);
    say("ready", getpid());
    for (;;)
        publish(number++);
}

/* The first publish must fail, kindly, and the program must go on. */
static int refused(void) {
    int answer = publish(1);
    void *memory = malloc(1 << 20);
    lanes.clear();
    if (answer != -1 || lanes.refused() != 1 || publish(2) != -1 || !memory)
        return 1;
    free(memory);
    return wait_for_test();
}

static int limited(int resource, uint64_t amount) {
    struct rlimit limit = {amount, amount};
    return setrlimit(resource, &limit) ? 3 : refused();
}

static int denied(uint32_t error) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &program))
        return 3;
    return refused();
}

static int first_in_handler(void) {
    catch (SIGUSR1);
    raise(SIGUSR1);
    publish(5);
    return wait_for_test();
}

static int unlucky_first(void) { /* handlers that interrupt the very first publish */
    struct itimerval timer = {{0, 20}, {0, 20}};
    catch (SIGALRM);
    setitimer(ITIMER_REAL, &timer, NULL);
    publish(1);
    hush();
    lanes.clear();
    publish(5);
    return wait_for_test();
}

int actor(const char *verb, uint64_t amount, const struct lanes *given) {
    lanes = given ? *given : own;
    if (!strcmp(verb, "spans"))
        return spans();
    if (!strcmp(verb, "events"))
        return events(amount);
    if (!strcmp(verb, "slow-events"))
        return slow_events(amount);
    if (!strcmp(verb, "short-threads"))
        return short_threads(amount);
    if (!strcmp(verb, "standing-threads"))
        return standing_threads(amount);
    if (!strcmp(verb, "orphans"))
        return orphans(amount);
    if (!strcmp(verb, "fork"))
        return forks(0);
    if (!strcmp(verb, "raw-clone"))
        return forks(1);
    if (!strcmp(verb, "children-under-load"))
        return children_under_load(amount);
    if (!strcmp(verb, "storm"))
        return storm(amount);
    if (!strcmp(verb, "for-ever"))
        return for_ever();
    if (!strcmp(verb, "limit-file-size"))
        return limited(RLIMIT_FSIZE, amount);
    if (!strcmp(verb, "limit-address-space"))
        return limited(RLIMIT_AS, amount);
    if (!strcmp(verb, "deny-memfd"))
        return denied((uint32_t)amount);
    if (!strcmp(verb, "refused"))
        return refused();
    if (!strcmp(verb, "first-in-handler"))
        return first_in_handler();
    if (!strcmp(verb, "unlucky-first"))
        return unlucky_first();
    fprintf(stderr, "actor: unknown verb %s\n", verb);
    return 99;
}
