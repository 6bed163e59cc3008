/* A QEMU plugin (qemu-aarch64 -plugin): how often each run of instructions was executed.
 *
 * Writes a line "address instructions executions" for each to the file named by out=. The few
 * declarations it needs are here, so that no QEMU headers have to be installed; they are those of
 * version 1 of the plugin interface (QEMU 6 to 8.1). One thread, no locks. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
typedef struct qemu_info_t qemu_info_t;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*tb_cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*vcpu_cb)(unsigned int cpu, void *user);
typedef void (*exit_cb)(qemu_plugin_id_t id, void *user);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_cb cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, vcpu_cb cb,
                                          enum qemu_plugin_cb_flags flags, void *user);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, exit_cb cb, void *user);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv);

typedef struct run {
    uint64_t address, n_instructions, n_executed;
    struct run *next;
} run;

static run *runs;
static char path[4096];

static void executed(unsigned int cpu, void *user) {
    (void)cpu;
    ((run *)user)->n_executed++;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    run *new = calloc(1, sizeof *new);
    if (new == NULL) {
        abort();
    }
    new->address = qemu_plugin_tb_vaddr(tb);
    new->n_instructions = qemu_plugin_tb_n_insns(tb);
    new->next = runs;
    runs = new;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, QEMU_PLUGIN_CB_NO_REGS, new);
}

static void finished(qemu_plugin_id_t id, void *user) {
    (void)id, (void)user;
    FILE *file = fopen(path, "w");
    for (const run *r = runs; file != NULL && r != NULL; r = r->next) {
        fprintf(file, "%llx %llu %llu\n", (unsigned long long)r->address,
                (unsigned long long)r->n_instructions, (unsigned long long)r->n_executed);
    }
    if (file == NULL || fclose(file) != 0) {
        fprintf(stderr, "executed: cannot write %s\n", path);
    }
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || strlen(argv[0] + 4) >= sizeof path) {
        fprintf(stderr, "executed: wants out=PATH\n");
        return 1;
    }
    strcpy(path, argv[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
