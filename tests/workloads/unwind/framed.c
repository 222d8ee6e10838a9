/* Of `mixed`: always built with a frame pointer and without tables. */
#include "unwind.h"

FRAME void framed_outer(void) {
    int zero = 0;
    tabled_inner();
    KEEP(zero);
}

FRAME void framed_inner(void) {
    int zero = 0;
    ready();
    wait_here();
    KEEP(zero);
}
