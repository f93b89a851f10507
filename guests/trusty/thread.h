/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Cooperative threads of one vCPU. A thread runs until it blocks; an interrupt handler may make
 * threads runnable and never switches. Everything here masks interrupts while it looks, and
 * leaves the caller's mask as it was.
 */
#ifndef TRUSTY_THREAD_H
#define TRUSTY_THREAD_H

#include "arch.h"

#include <stddef.h>

#define STACK_SIZE 8192

struct thread {
	void *sp;
	struct thread *next; /* in the queue it is on */
	const char *name;
	u64 deadline; /* while asleep: counter value */
	u8 stack[STACK_SIZE] __attribute__((aligned(16)));
};

/* Threads that wait for the same thing, first come first served. */
struct queue {
	struct thread *first, *last;
};

/* The boot stack becomes the idle thread, which runs when nothing else can. */
void thread_init(void);
void thread_start(struct thread *thread, const char *name, void (*function)(void *),
		  void *argument);

/* Wait on the queue until this thread is woken. The caller must have tested its condition with
 * interrupts masked, and keep them masked: else a wake-up between the test and the sleep is lost. */
void thread_block(struct queue *queue);

/* Make the first waiter, or all, runnable; from interrupt handlers too. */
bool thread_wake(struct queue *queue);
void thread_wake_all(struct queue *queue);

/* Wait until the counter reaches deadline. */
void thread_sleep(u64 deadline);

/* From the timer's interrupt: wake the threads that are due, arm the timer for the next. */
void thread_timer(void);

/* For the idle thread alone, interrupts masked: run what is runnable until all of it blocks.
 * False if nothing was. */
bool thread_run_others(void);

extern u64 thread_switches;

#endif
