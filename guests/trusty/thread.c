/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "thread.h"

static struct thread idle = {.name = "idle"};
static struct thread *current = &idle;
static struct queue runnable;
static struct thread *sleepers; /* by deadline, earliest first */

u64 thread_switches;

static void append(struct queue *queue, struct thread *thread)
{
	thread->next = NULL;
	if (queue->last)
		queue->last->next = thread;
	else
		queue->first = thread;
	queue->last = thread;
}

static struct thread *take(struct queue *queue)
{
	struct thread *thread = queue->first;

	if (thread) {
		queue->first = thread->next;
		if (!queue->first)
			queue->last = NULL;
	}
	return thread;
}

static void switch_to(struct thread *thread)
{
	struct thread *from = current;

	current = thread;
	thread_switches++;
	arch_switch(&from->sp, thread->sp);
}

/* The running thread is on some queue by now, or is the idle thread. */
static void reschedule(void)
{
	struct thread *thread = take(&runnable);

	switch_to(thread ? thread : &idle);
}

void thread_init(void)
{
	current = &idle;
}

void thread_start(struct thread *thread, const char *name, void (*function)(void *),
		  void *argument)
{
	bool unmasked = arch_irq_save();

	thread->name = name;
	thread->sp = arch_thread_prepare(thread->stack + STACK_SIZE, function, argument);
	append(&runnable, thread);
	arch_irq_restore(unmasked);
}

void thread_block(struct queue *queue)
{
	bool unmasked = arch_irq_save();

	append(queue, current);
	reschedule();
	arch_irq_restore(unmasked);
}

bool thread_wake(struct queue *queue)
{
	bool unmasked = arch_irq_save();
	struct thread *thread = take(queue);

	if (thread)
		append(&runnable, thread);
	arch_irq_restore(unmasked);
	return thread != NULL;
}

void thread_wake_all(struct queue *queue)
{
	while (thread_wake(queue))
		;
}

void thread_sleep(u64 deadline)
{
	bool unmasked = arch_irq_save();
	struct thread **place = &sleepers;

	while (*place && (*place)->deadline <= deadline)
		place = &(*place)->next;
	current->deadline = deadline;
	current->next = *place;
	*place = current;
	if (sleepers == current)
		arch_timer_start(deadline);
	reschedule();
	arch_irq_restore(unmasked);
}

void thread_timer(void)
{
	bool unmasked = arch_irq_save();
	u64 now = arch_counter();

	while (sleepers && sleepers->deadline <= now) {
		struct thread *thread = sleepers;

		sleepers = thread->next;
		append(&runnable, thread);
	}
	/* The hypervisor masked the timer when it expired; starting it anew unmasks it. */
	if (sleepers)
		arch_timer_start(sleepers->deadline);
	else
		arch_timer_stop();
	arch_irq_restore(unmasked);
}

bool thread_run_others(void)
{
	struct thread *thread = take(&runnable);

	if (thread)
		switch_to(thread);
	return thread != NULL;
}
