/* Spans that call frameless.c. `move`: first moves its own text to memory without a file at the same place,
   as BOLT's -hugify, ClickHouse and `node --use-largepages` do; `move-part`: one page of it. */
#define _GNU_SOURCE
#include "span.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void burn_top(unsigned ms), wait_top(unsigned ms);

static void move(int part) {
    unsigned long from = 0, to = 0, here = (unsigned long)(part ? (void *)burn_top : (void *)move);
    char line[512], flags[8];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx %7s", &from, &to, flags) == 3 && from <= here && here < to) break;
    if (!maps || !(from <= here && here < to)) exit(2);
    fclose(maps);
    if (part) {
        from = here & ~4095ul;
        to = from + 4096;
    }
    size_t bytes = to - from;
    void *copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) exit(3);
    memcpy(copy, (void *)from, bytes);
    if (mprotect(copy, bytes, PROT_READ | PROT_EXEC)) exit(4);
    if (mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)from) != (void *)from) exit(5);
}

int main(int count, char **arguments) {
    if (count > 1 && !strncmp(arguments[1], "move", 4)) move(!strcmp(arguments[1], "move-part"));
    /* The first span is there to be seen: tables are made of what it comes by. */
    for (unsigned id = 1; id <= 20; id++) {
        begin(id, id == 1 ? "first" : "work");
        burn_top(40);
        wait_top(20);
        end();
    }
    return 0;
}
