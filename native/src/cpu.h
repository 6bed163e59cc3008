/* What this CPU and this build can run. */
#ifndef ES_CPU_H
#define ES_CPU_H

#include <stdint.h>

/* 1 if the CPU (and the operating system's saved registers) can run `isa` and the build holds it. */
int32_t es_cpu_has(int32_t isa);

/* 1 if this is a processor of AMD: its prefetchers want to be asked otherwise. */
int32_t es_cpu_is_amd(void);

/* Hint that the caller spins. */
static inline void es_cpu_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

#endif
