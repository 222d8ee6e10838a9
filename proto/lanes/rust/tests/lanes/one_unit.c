/* With other_unit.c: two translation units are one publisher. */
#include "hotspan_lanes.h"

#ifdef __cplusplus
extern "C"
#endif
int other_unit(const void *record);

int main(void) {
    const uint8_t trace[16] = {1}, span[8] = {2};
    const uint32_t name = hotspan_name("one");
    if (otel_thread_ctx_v1)
        return 1; /* no lane, no record */
    if (name != 1 || hotspan_span_set(trace, span, NULL, NULL, name, 1))
        return 2;
    if (!otel_thread_ctx_v1 || memcmp(otel_thread_ctx_v1, trace, 16))
        return 3;
    if (((const uint8_t *)otel_thread_ctx_v1)[24] != 1)
        return 4;
    if (other_unit(otel_thread_ctx_v1))
        return 5;
    return ((const uint8_t *)otel_thread_ctx_v1)[24] ? 6 : 0;
}
