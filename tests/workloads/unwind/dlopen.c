/* Waits inside a plugin, then inside another one that comes where the first was. */
#define _GNU_SOURCE
#include "unwind.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef void plugin(void (*wait)(void));

static void wait_ready(void) {
    ready();
    wait_here();
}

/* A plugin lies beside the program. */
static void *open_beside(const char *name) {
    char path[PATH_MAX + 32];
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
    if (length <= 0)
        fail("/proc/self/exe");
    path[length] = 0;
    strcpy(strrchr(path, '/') + 1, name);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static FRAME void inside(const char *name) {
    void *library = open_beside(name);
    plugin *waits = library ? (plugin *)dlsym(library, "plugin_waits") : NULL;
    if (!waits)
        fail(dlerror());
    printf("plugin %p\n", (void *)waits);
    waits(wait_ready);
    if (dlclose(library) != 0)
        fail("dlclose");
}

void scenario_dlopen(void) {
    span_begin();
    inside("libplugin1.so");
    inside("libplugin2.so");
}
