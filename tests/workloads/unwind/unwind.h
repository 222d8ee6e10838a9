/*
 * What the scenarios of the unwinding fixture share.
 *
 * Functions whose frames a test looks for are FRAME: never inlined, cloned, or analysed from outside,
 * so that the stack in the machine is the one in the source. The build has no sibling calls for the
 * same reason. KEEP after a call keeps a compiler from making it the last thing a function does.
 */
#ifndef UNWIND_H
#define UNWIND_H

#define FRAME __attribute__((noipa))
#define KEEP(value) __asm__ volatile("" : "+r"(value)::"memory")

#ifdef __cplusplus
extern "C" {
#endif

/* Publishes a span on this thread and never ends it. */
void span_begin(void);
/* Prints `ready PID TID` for the calling thread. */
void ready(void);
/* Whether the test wants the next stage: a byte on standard input, or its end. */
int called(void);
/* Sleeps again and again at one place until called. */
void wait_here(void);
/* Ends the program with a message. */
void fail(const char *what) __attribute__((noreturn));

/* Where a thread waits at a known place. */
void scenario_recursion(void), scenario_qsort(void), scenario_signal(void), scenario_vfork(void),
    scenario_alloca(void), scenario_thread(void), scenario_mixed(void), scenario_dlopen(void);
/* Where it burns CPU in known functions. */
void scenario_burn(void), scenario_plt(void), scenario_short(void), scenario_deep(void),
    scenario_exceptions(void);

/* Frames of `recursion` and `deep`. */
extern int depth;

/* One function after the other: with tables and without frame pointer, and the reverse. */
void tabled_outer(void), framed_outer(void), tabled_inner(void), framed_inner(void);

#ifdef __cplusplus
}
#endif

#endif
