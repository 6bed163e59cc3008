/* Would a wrong kernel be noticed? Every kernel that a level brings is taken away in turn: its place in
 * the table gets a function that does nothing, and its family's checks must notice in N_NOTICED cases. */
#include "check/check_kernels.h"

#include "check/check_support.h"

#include <stdio.h>
#include <string.h>

/* That many random shapes, at least, are to depend on each kernel. */
enum { N_NOTICED = 2000 };

typedef struct kernel_entry {
    const char *name;
    size_t offset; /* in es_kernels */
    int (*check)(void);
} kernel_entry;

#define ENTRY(kernel, check) {#kernel, offsetof(es_kernels, kernel), check}

static const kernel_entry ENTRIES[] = {
    ENTRY(sign_bits, check_predict),
    ENTRY(sign_votes, check_predict),
    ENTRY(t2_dot, check_ternary),
    ENTRY(t5_dot, check_ternary),
    ENTRY(t2_list, check_sparse),
    ENTRY(t5_list, check_sparse),
    ENTRY(t2n_dot, check_sparse),
    ENTRY(t2_many, check_ternary),
    ENTRY(t5_many, check_ternary),
    ENTRY(t2n_many, check_sparse),
    ENTRY(t2_index, check_lookup),
    ENTRY(t2n_index, check_lookup),
    ENTRY(t2_lookup, check_lookup),
    ENTRY(t2n_lookup, check_lookup),
    ENTRY(turn_sums, check_lookup),
    ENTRY(t2n_sums, check_sparse),
    ENTRY(list_positive, check_sparse),
    ENTRY(list_nonzero, check_sparse),
    ENTRY(q8_dot, check_dense),
    ENTRY(q4_dot, check_dense),
    ENTRY(q8m_dot, check_dense),
    ENTRY(q4m_dot, check_dense),
    ENTRY(q6_dot, check_dense),
    ENTRY(q8n_dot, check_columns),
    ENTRY(q4n_dot, check_columns),
    ENTRY(q8mn_dot, check_columns),
    ENTRY(q4mn_dot, check_columns),
    ENTRY(q8n_list, check_columns),
    ENTRY(q4n_list, check_columns),
    ENTRY(q8mn_list, check_columns),
    ENTRY(q4mn_list, check_columns),
    ENTRY(list_columns, check_columns),
    ENTRY(row_list[0], check_rows),
    ENTRY(row_list[1], check_rows),
    ENTRY(row_list[2], check_rows),
    ENTRY(row_list[3], check_rows),
    ENTRY(row_tile[0], check_rows),
    ENTRY(row_tile[1], check_rows),
    ENTRY(row_tile[2], check_rows),
    ENTRY(row_tile[3], check_rows),
    ENTRY(bmp8_dot, check_bitmap),
    ENTRY(bmp4_dot, check_bitmap),
    ENTRY(csr_dot, check_bitmap),
    ENTRY(nm8_dot, check_bitmap),
    ENTRY(nm4_dot, check_bitmap),
    ENTRY(bmp8_expand, check_bitmap),
    ENTRY(bmp4_expand, check_bitmap),
    ENTRY(csr_expand, check_bitmap),
    ENTRY(nm8_expand, check_bitmap),
    ENTRY(nm4_expand, check_bitmap),
    ENTRY(split_q16, check_bitmap),
    ENTRY(f16_dot, check_dense),
    ENTRY(bf16_dot, check_dense),
    ENTRY(f32_dot, check_dense),
    ENTRY(slice_tables, check_bitslice),
    ENTRY(slice_lut, check_bitslice),
    ENTRY(rounded_tables, check_bitslice),
    ENTRY(slice_rounded, check_bitslice),
    ENTRY(slice_mad, check_bitslice),
    ENTRY(bst_lut, check_bitslice),
    ENTRY(bst_mad, check_bitslice),
    ENTRY(slice_list, check_slice_columns),
    ENTRY(slice_column_dot, check_slice_columns),
    ENTRY(list_bytes, check_slice_columns),
    ENTRY(rmsnorm, check_vector),
    ENTRY(quantize_i8, check_vector),
    ENTRY(quantize_i8_blocks, check_vector),
    ENTRY(quantize_i16, check_vector),
    ENTRY(glu_relu2, check_vector),
    ENTRY(glu_relu, check_vector),
    ENTRY(glu_silu, check_vector),
    ENTRY(glu_gelu, check_vector),
    ENTRY(add, check_vector),
    ENTRY(scale_sums, check_vector),
    ENTRY(rope_neox, check_vector),
    ENTRY(rope_norm, check_vector),
    ENTRY(f32_to_f16, check_vector),
    ENTRY(f16_to_f32, check_vector),
    ENTRY(store_q8_0, check_attention),
    ENTRY(attention, check_attention),
    ENTRY(prune_row, check_kvsparse),
    ENTRY(expand_rows, check_kvsparse),
    ENTRY(proposal_dot, check_proposal),
    ENTRY(requantize, check_storing),
    ENTRY(weave_six, check_storing),
    ENTRY(turn_lanes, check_storing),
};
enum { N_ENTRIES = sizeof ENTRIES / sizeof ENTRIES[0], N_VARIANTS = 22 };
/* many_tokens and attention_reads_pruned, padded to a pointer each. */
enum { N_NUMBERS = 2 };
_Static_assert((N_ENTRIES + N_VARIANTS + N_NUMBERS) * sizeof(check_any_kernel *) ==
                   sizeof(es_kernels),
               "a kernel of es_kernels is missing in ENTRIES");

/* What is taken away now; isa is negative when nothing is. */
static struct {
    const kernel_entry *entry;
    int32_t isa;
    int64_t n_cases, n_noticed;
} trial = {.isa = -1};

/* In place of any kernel, whatever it takes and gives: on all supported machines the caller removes the
 * arguments. */
static int64_t do_nothing(void) {
    return 0;
}

static check_any_kernel *kernel_of(const es_kernels *table, const kernel_entry *entry) {
    check_any_kernel *kernel;
    memcpy(&kernel, (const uint8_t *)table + entry->offset, sizeof kernel);
    return kernel;
}

void check_fill(es_kernels *table, int32_t isa) {
    es_kernels_fill(table, isa);
    if (isa == trial.isa) {
        check_any_kernel *nothing = (check_any_kernel *)do_nothing;
        memcpy((uint8_t *)table + trial.entry->offset, &nothing, sizeof nothing);
    }
}

int check_has(int32_t isa) {
    return es_isa_supported(isa) && (trial.isa < 0 || trial.isa == isa);
}

int check_wants(check_any_kernel *kernel) {
    return trial.isa < 0 || kernel == (check_any_kernel *)do_nothing;
}

int check_is_trial(void) {
    return trial.isa >= 0;
}

int check_trial_is_over(void) {
    return trial.n_noticed >= N_NOTICED;
}

void check_trial_case(int passed) {
    if (!check_trial_is_over()) {
        trial.n_cases++;
        trial.n_noticed += !passed;
    }
}

/* Whether a level brings this kernel, and no lower one does. */
static int is_own(const kernel_entry *entry, int32_t isa) {
    es_kernels table;
    es_kernels_fill(&table, isa);
    check_any_kernel *kernel = kernel_of(&table, entry);
    for (int32_t lower = ES_ISA_SCALAR; lower < isa; lower++) {
        if (es_isa_supported(lower)) {
            es_kernels_fill(&table, lower);
            if (kernel_of(&table, entry) == kernel) {
                return 0;
            }
        }
    }
    return kernel != NULL;
}

int check_kernels(void) {
    int64_t n_cases = 0;
    int n_kernels = 0, n_unnoticed = 0;
    for (int32_t isa = ES_ISA_SCALAR; isa < ES_ISA_COUNT; isa++) {
        for (int i = 0; i < N_ENTRIES && es_isa_supported(isa); i++) {
            const kernel_entry *entry = &ENTRIES[i];
            if (!is_own(entry, isa)) {
                continue;
            }
            printf("%-18s %-11s ", entry->name, es_isa_name(isa));
            fflush(stdout); /* should a check crash, this names the kernel */
            trial.entry = entry;
            trial.isa = isa;
            trial.n_cases = trial.n_noticed = 0;
            entry->check();
            trial.isa = -1;
            const int unnoticed = trial.n_noticed < N_NOTICED;
            printf("%5lld of %6lld cases notice%s\n", (long long)trial.n_noticed,
                   (long long)trial.n_cases, unnoticed ? "  FAILED: too few" : "");
            n_kernels++;
            n_cases += trial.n_cases;
            n_unnoticed += unnoticed;
        }
    }
    printf("%d kernels taken away, %lld cases, %d unnoticed by %d cases\n", n_kernels,
           (long long)n_cases, n_unnoticed, (int)N_NOTICED);
    return n_kernels == 0 || n_unnoticed > 0;
}
