/* Of `mixed`: always built with tables and without a frame pointer, whose register holds a value. */
#include "unwind.h"

FRAME void tabled_outer(void) {
    long here = 1;
    __asm__ volatile("mov $7, %%rbp" ::: "rbp");
    framed_outer();
    KEEP(here);
}

FRAME void tabled_inner(void) {
    char room[200];
    __asm__ volatile("mov $9, %%rbp" : : "r"(room) : "rbp", "memory");
    framed_inner();
    __asm__ volatile("" : : "r"(room) : "memory");
}
