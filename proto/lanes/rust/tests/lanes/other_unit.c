/* See one_unit.c. */
#include "hotspan_lanes.h"

#ifdef __cplusplus
extern "C"
#endif
int other_unit(const void *record);

int other_unit(const void *record) {
    if (hotspan_name("one") != 1 || hotspan_name("two") != 2)
        return 1;
    if (otel_thread_ctx_v1 != record)
        return 2;
    hotspan_span_clear();
    return 0;
}
