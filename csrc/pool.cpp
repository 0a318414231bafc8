#include "pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>

#ifdef TW_LIBRARY  // not where sanitizers put functions of their own before those of glibc
#include "glibc.h"
#endif

namespace {

struct Pool {
    std::mutex in_use;  // by one call at a time
    std::mutex guard;
    std::condition_variable wake, idle;
    int started = 0;    // threads that exist
    int wanted = 0;     // how many of them may still join the present call
    int working = 0;
    void (*run)(void *, int64_t, int64_t) = nullptr;
    void *context = nullptr;
    int64_t units = 0, threads = 1;
    std::atomic<int64_t> next{0};

    // Long ranges first, as a kernel asks for the memory of a range in advance, and short ones at the end, so that nobody waits long.
    int64_t share(int64_t left) const {
        const int64_t least = std::max<int64_t>(1, std::min<int64_t>(16, units / (4 * threads)));
        return std::min(left, std::max(least, left / (2 * threads)));
    }

    void work() {
        for (int64_t begin = next.load(); begin < units;) {
            const int64_t end = begin + share(units - begin);
            if (next.compare_exchange_weak(begin, end)) run(context, begin, end), begin = end;
        }
    }

    void serve() {
        std::unique_lock<std::mutex> lock(guard);
        for (;;) {
            wake.wait(lock, [&] { return wanted > 0; });
            wanted--, working++;
            lock.unlock();
            work();
            lock.lock();
            if (--working == 0) idle.notify_one();
        }
    }

    static void *enter(void *pool) {
        static_cast<Pool *>(pool)->serve();
        return nullptr;
    }

    // Threads take no signals: the interpreter's handlers belong to the main thread.
    void start_until(int count) {
        sigset_t every, before;
        sigfillset(&every);
        pthread_sigmask(SIG_SETMASK, &every, &before);
        while (started < count) {
            pthread_t thread;
            if (pthread_create(&thread, nullptr, enter, this)) break;  // fewer threads: the same result, later
            pthread_detach(thread);
            started++;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    void parallel() {
        {
            const int others = (int)threads - 1;
            std::lock_guard<std::mutex> lock(guard);
            start_until(others);
            wanted = std::min(others, started);
        }
        wake.notify_all();
        work();
        std::unique_lock<std::mutex> lock(guard);
        wanted = 0;  // who has not come yet is not needed any more
        idle.wait(lock, [&] { return working == 0; });
    }
};

// Never destroyed: threads may be parked in it when the process ends. A forked child leaves the parent's pool, which may be locked.
std::atomic<Pool *> the_pool{nullptr};

Pool &pool() {
    static const bool once = [] {
        the_pool.store(new Pool);
        pthread_atfork(nullptr, nullptr, [] { the_pool.store(new Pool); });
        return true;
    }();
    (void)once;
    return *the_pool.load();
}

}  // namespace

void tw_parallel(int threads, int64_t units, void (*run)(void *context, int64_t begin, int64_t end), void *context) {
    threads = (int)std::min<int64_t>(threads, units);
    if (threads > 1) {
        Pool &p = pool();
        std::unique_lock<std::mutex> mine(p.in_use, std::try_to_lock);
        if (mine.owns_lock()) {
            p.run = run, p.context = context, p.units = units, p.threads = threads;
            p.next.store(0);
            p.parallel();
            return;
        }
    }
    if (units > 0) run(context, 0, units);
}
