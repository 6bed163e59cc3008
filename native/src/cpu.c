/* CPU feature detection. gcc and clang check XGETBV inside __builtin_cpu_supports. */
#include "cpu.h"

#include "edgesparse.h"

#include <string.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* __builtin_cpu_supports does not know AVX-VNNI in older compilers: leaf 7, sub-leaf 1, EAX bit 4. */
static int32_t has_avx_vnni(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
           ((a >> 4) & 1u);
}

/* Tiles must be in the CPU (leaf 7, EDX bits 24 and 25), saved by the system (XCR0 bits 17 and 18), and
 * on Linux asked for once per process; threads that exist already are included. */
static int32_t has_amx_int8(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ((d >> 24) & 3u) != 3u) {
        return 0;
    }
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (((low >> 17) & 3u) != 3u) {
        return 0;
    }
#if defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return 0;
#endif
}
#endif

int32_t es_cpu_has(int32_t isa) {
    if (isa == ES_ISA_SCALAR) {
        return 1;
    }
#if defined(__x86_64__)
    __builtin_cpu_init();
    /* F16C came with Ivy Bridge, one generation before AVX2: every AVX2 machine has it. */
    if (isa == ES_ISA_AVX2) {
        return __builtin_cpu_supports("avx2") != 0;
    }
    if (isa == ES_ISA_AVXVNNI) {
        return has_avx_vnni();
    }
    if (isa == ES_ISA_AVX512VNNI) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni");
    }
    if (isa == ES_ISA_AMX) {
        return es_cpu_has(ES_ISA_AVX512VNNI) && has_amx_int8();
    }
#elif defined(__aarch64__)
    if (isa == ES_ISA_NEON) {
        return 1;
    }
    if (isa == ES_ISA_NEONDOT) {
#if defined(__linux__)
        return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
        return 1;
#endif
    }
#endif
    return 0;
}

int32_t es_cpu_is_amd(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("amd") != 0;
#else
    return 0;
#endif
}

int32_t es_isa_supported(int32_t isa) {
    return es_cpu_has(isa);
}

int32_t es_isa_best(void) {
    for (int32_t isa = ES_ISA_COUNT - 1; isa > ES_ISA_SCALAR; isa--) {
        if (es_cpu_has(isa)) {
            return isa;
        }
    }
    return ES_ISA_SCALAR;
}

const char *es_isa_name(int32_t isa) {
    static const char *const names[ES_ISA_COUNT] = {"scalar", "avx2", "avxvnni", "avx512vnni",
                                                    "amx",    "neon", "neondot"};
    return isa >= 0 && isa < ES_ISA_COUNT ? names[isa] : NULL;
}
