/*
 * What `calls` calls through its PLT: functions that do next to nothing but call the next one through
 * the PLT of this library, so that half of the instructions are those of stubs.
 */
#define HOP(name, next)                                                                              \
    int name(int x);                                                                                 \
    int next(int x);                                                                                 \
    __attribute__((noinline)) int name(int x) { return next(x + 1); }

HOP(hop_a, hop_b)
HOP(hop_b, hop_c)
HOP(hop_c, hop_d)
HOP(hop_d, hop_e)
HOP(hop_e, hop_f)
HOP(hop_f, hop_g)
HOP(hop_g, hop_end)

int hop_end(int x) { return x; }
