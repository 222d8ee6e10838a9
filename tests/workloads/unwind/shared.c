/*
 * A shared object. With PLUGIN it is one to be opened: 1 and 2 have frames of other sizes at about
 * the same place, so that the tables of the one are wrong for the other.
 */
#include "unwind.h"

#ifdef PLUGIN
FRAME void plugin_inner(void (*wait)(void)) {
    volatile char room[PLUGIN * 1000];
    room[0] = 1;
    wait();
    room[PLUGIN * 1000 - 1] = 1;
}

void plugin_waits(void (*wait)(void)) {
    volatile long room[PLUGIN * 10];
#if PLUGIN == 2
    __asm__ volatile("" ::: "rbx", "r12", "r13", "r14", "r15");
#endif
    room[1] = 1;
    plugin_inner(wait);
    room[2] = 1;
}
#else
FRAME unsigned long shared_leaf(unsigned long x) {
    unsigned long y = x * 2654435761u;
    KEEP(y);
    return y ^ y >> 7;
}
#endif
