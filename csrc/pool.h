// A few parked threads of our own. libgomp hangs in a forked child, and hivemind forks: here a child starts with a fresh pool.
#pragma once
#include <cstdint>

// Calls run(context, begin, end) for parts of [0, units) on at most `threads` threads, the caller among them. While another call has the
// pool, the caller works alone.
void tw_parallel(int threads, int64_t units, void (*run)(void *context, int64_t begin, int64_t end), void *context);
