/* Built without `.eh_frame` and without frame pointers: its rules are debug information, or it is text that
   moves. Called by main.c. */
#include "span.h"

#define APART __attribute__((noinline))
#define NO_TAIL_CALL __asm__ volatile("")

static volatile unsigned long sink;

APART static void burn_leaf(unsigned ms) {
    for (uint64_t until = now() + ms * 1000000ull; now() < until;)
        for (int i = 0; i < 1000; i++) sink += (unsigned long)i;
    NO_TAIL_CALL;
}

APART static void burn_middle(unsigned ms) {
    char room[64];
    __asm__ volatile("" ::"r"(room));
    burn_leaf(ms);
    __asm__ volatile("" ::"r"(room));
}

APART void burn_top(unsigned ms) {
    burn_middle(ms);
    NO_TAIL_CALL;
}

APART static void wait_leaf(unsigned ms) {
    char room[128];
    __asm__ volatile("" ::"r"(room));
    doze(ms);
    __asm__ volatile("" ::"r"(room));
}

APART void wait_top(unsigned ms) {
    wait_leaf(ms);
    NO_TAIL_CALL;
}
