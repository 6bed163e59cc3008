/* Trials of the checks: one kernel at a time is taken away, and they must notice. */
#ifndef ES_CHECK_KERNELS_H
#define ES_CHECK_KERNELS_H

/* Takes every kernel of every level away in turn; prints a line for each and the sums. Returns 0 if each
 * was missed in enough cases. */
int check_kernels(void);

/* A kernel is taken away at the moment: failures are what is hoped for. */
int check_is_trial(void);
/* Enough cases have noticed: the rest may be left out. */
int check_trial_is_over(void);
/* Counts a case of the trial. */
void check_trial_case(int passed);

#endif
