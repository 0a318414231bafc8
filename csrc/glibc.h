// Included once in the library: what glibc 2.32 and 2.34 gave new versions of is asked for by its first one, which all later ones still have.
// So the library that a new system has linked runs on old ones: the wheel is for glibc 2.24 instead of 2.34 (docs/releasing.md).
#pragma once

#include <cstdlib>  // defines __GLIBC__

#if defined(__x86_64__) && defined(__GLIBC__)
__asm__(".symver pthread_create,pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_detach,pthread_detach@GLIBC_2.2.5");
__asm__(".symver pthread_mutex_trylock,pthread_mutex_trylock@GLIBC_2.2.5");
__asm__(".symver pthread_sigmask,pthread_sigmask@GLIBC_2.2.5");

// libstdc++ asks whether there is one thread only, to save atomic operations; glibc tells since 2.32. Here there are always several.
extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
#endif
