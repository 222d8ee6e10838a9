/* Throws through known functions all the time: most samples hit the C++ runtime's own unwinder. */
#include "unwind.h"

namespace {
volatile unsigned long dropped;

struct Guard {
    ~Guard() { dropped = dropped + 1; }
};
} // namespace

extern "C" FRAME void dive(int left) {
    Guard guard;
    if (left == 0)
        throw left;
    dive(left - 1);
}

extern "C" FRAME int catcher(int depth) {
    try {
        dive(depth);
    } catch (int thrown) {
        return thrown;
    }
    return 1;
}

void scenario_exceptions(void) {
    span_begin();
    ready();
    do
        for (int i = 0; i < 50; i++)
            if (catcher(i % 30) != 0)
                fail("catch");
    while (!called());
}
