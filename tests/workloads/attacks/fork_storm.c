// fork_storm SECONDS RATE: short processes, one after the other, so many a second; prints how many.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    double begin = now(), end = begin + atof(argv[1]), rate = atof(argv[2]);
    unsigned long made = 0;
    while (now() < end) {
        pid_t child = vfork();
        if (child == 0)
            _exit(0);
        if (child < 0)
            return 1;
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
        made++;
        double early = (double)made / rate - (now() - begin);
        if (early > 0.001) {
            struct timespec pause = {0, (long)(early * 1e9) % 1000000000};
            nanosleep(&pause, NULL);
        }
    }
    printf("%lu\n", made);
    return 0;
}
