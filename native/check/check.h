/* es_check: every kernel in the table against its scalar twin, for every instruction set this machine
 * can run, without Python. Runs under the sanitizers and under emulators of other machines.
 *
 * A family's check_<family>() goes through the instruction sets itself, reports each with
 * check_report, and returns 0 if all was well. Buffers are malloc'ed at their exact sizes, so that
 * the address sanitizer sees a read beyond them. */
#ifndef ES_CHECK_H
#define ES_CHECK_H

#include "kernels.h"

#include <stddef.h>
#include <stdint.h>

int check_pool(void);          /* every chunk of every job runs once */
int check_ternary(void);       /* t2 and t5 products */
int check_lookup(void);        /* ternary products that are looked up */
int check_sparse(void);        /* lists of live neurons and their products */
int check_predict(void);       /* signs and their votes */
int check_dense(void);         /* block and float formats */
int check_columns(void);       /* block formats by columns */
int check_rows(void);          /* block formats by rows */
int check_bitmap(void);        /* block formats without zeros */
int check_bitslice(void);      /* bit slices, looked up and multiplied, */
int check_slice_columns(void); /* and by columns */
int check_vector(void);        /* norms, quantisers, activations, rotations, halfs */
int check_attention(void);
int check_kvsparse(void); /* pruned rows of the cache */
int check_storing(void);  /* what loading rounds, weaves and turns */
int check_proposal(void); /* the first pass of a two-stage head */
int check_repack(void);   /* file tensors into storage formats */

/* Whether to try an instruction set: this CPU has it, and no kernel of another is taken away. */
int check_has(int32_t isa);
/* The table of an instruction set, less the kernel of it that is taken away (--kernels). */
void check_fill(es_kernels *table, int32_t isa);

/* Prints the line of one family, or part of one, on one instruction set (ES_ISA_*, or -1: none).
 * Returns 1 if a case failed or none ran. */
int check_report(const char *family, int32_t isa, int64_t n_cases, int64_t n_failures);

/* Whether cases of a kernel are wanted: of every one, or of the one that is taken away. */
typedef void check_any_kernel(void);
int check_wants(check_any_kernel *kernel);

/* 1 for a case to leave out: with --quick, all but every seventh (reports start the count again), with
 * --kernels, what comes after enough cases have noticed. */
int check_skips(void);

/* The n_bytes of an array at a 64-byte boundary, ended by unreadable bytes under the address
 * sanitizer; the program ends with status 2 if there is no memory. Free with check_free. */
void *check_alloc(size_t n_bytes);
void check_free(void *p);

/* xorshift64*: the same sequence everywhere. */
static inline uint32_t check_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return (uint32_t)((x * 0x2545F4914F6CDD1DULL) >> 32);
}

#endif
