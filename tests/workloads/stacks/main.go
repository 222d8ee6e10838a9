// Spans in which Go leaves the goroutine's stack: for the runtime, for C, for Go called by C, for a signal,
// and because the stack is too small. Each is named after what is on the other stack.
package main

/*
#include "span.h"

#define APART __attribute__((noinline))
#define NO_TAIL_CALL __asm__ volatile("")

static const char *const names[] = {"callers", "cgo burn", "cgo wait", "callback", "signal", "morestack"};
static void begin_span(unsigned id, int kind) { begin(id, id < 6 ? "first" : names[kind]); }
static void end_span(void) { end(); }

static volatile unsigned long sink;
APART static void c_burn_leaf(int ms) {
	for (uint64_t until = now() + (unsigned)ms * 1000000ull; now() < until;)
		for (int i = 0; i < 1000; i++) sink += (unsigned long)i;
	NO_TAIL_CALL;
}
APART static void c_burn(int ms) { c_burn_leaf(ms); NO_TAIL_CALL; }
APART static void c_wait(int ms) { doze((unsigned)ms); NO_TAIL_CALL; }

extern int goBurn(int);
APART static int c_calls_go(int ms) { int r = goBurn(ms); NO_TAIL_CALL; return r; }
*/
import "C"

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

var pcs [64]uintptr

//go:noinline
func callersLeaf(d time.Duration) (n int) {
	for t := time.Now(); time.Since(t) < d; {
		for i := 0; i < 100; i++ {
			n += runtime.Callers(0, pcs[:])
		}
	}
	return n
}

//go:noinline
func callersTop(ms int) int { return callersLeaf(time.Duration(ms)*time.Millisecond) + 1 }

//go:noinline
func cgoBurnTop(ms int) int { C.c_burn(C.int(ms)); return ms + 1 }

//go:noinline
func cgoWaitTop(ms int) int { C.c_wait(C.int(ms)); return ms + 1 }

//export goBurn
func goBurn(ms C.int) C.int { return C.int(cgoBurnTop(int(ms))) }

//go:noinline
func callbackTop(ms int) int { return int(C.c_calls_go(C.int(ms))) + 1 }

//go:noinline
func signalTop(ms int) (n int) {
	process, thread := os.Getpid(), syscall.Gettid()
	for t := time.Now(); time.Since(t) < time.Duration(ms)*time.Millisecond; n++ {
		syscall.Tgkill(process, thread, syscall.SIGUSR1)
	}
	return n
}

//go:noinline
func deep(n int) int {
	var room [256]byte
	room[n%256] = 1
	if n == 0 {
		return int(room[3])
	}
	return deep(n-1) + int(room[n%256])
}

// A new goroutine has a small stack.
func grow(ms int) (n int) {
	for t := time.Now(); time.Since(t) < time.Duration(ms)*time.Millisecond; {
		grown := make(chan int)
		go func() {
			runtime.LockOSThread()
			C.begin_span(9000, 5)
			r := deep(20000)
			C.end_span()
			grown <- r
		}()
		n += <-grown
	}
	return n
}

func main() {
	runtime.LockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	go func() {
		for range signals {
		}
	}()
	works := []func(int) int{callersTop, cgoBurnTop, cgoWaitTop, callbackTop, signalTop}
	id := 0
	// The first round is there to be seen: tables are made of what it comes by.
	for round := 0; round < 10; round++ {
		for kind, work := range works {
			id++
			C.begin_span(C.uint(id), C.int(kind))
			work(40)
			C.end_span()
		}
	}
	grow(500)
}
