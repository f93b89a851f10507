/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * trusty: the shape of Trusty's kernel on Hafnium, which is the guest that showed how a message
 * can be left lying: interrupts are masked while the kernel idles, a message arrives either as
 * the result of MSG_WAIT or as an interrupt, and a fast call is answered without ever unmasking,
 * so that the interrupt which announced it stays pending.
 */
#include "boot.h"
#include "log.h"
#include "string.h"
#include "thread.h"
#include "trusty.h"

#define WORKERS 8

const char guest_name[] = "trusty";
struct counters counters;

static struct thread reader_thread, worker_threads[WORKERS];
static struct job jobs[WORKERS];

static struct queue reader_waits; /* for a message */
static struct queue workers_wait; /* for a job */
static struct queue reader_waits_for_job;
static struct job *free_jobs, *first_job, *last_job;

/* What the idle thread's MSG_WAIT returned, for the reader; sender 0 is none. */
static struct message handed_over;

void guest_interrupt(u32 intid)
{
	counters.interrupts++;
	if (intid == HF_INTID_MAILBOX_READABLE)
		thread_wake(&reader_waits);
	else if (intid == HF_INTID_MAILBOX_WRITABLE)
		send_writable();
	else if (intid == HF_INTID_VIRTUAL_TIMER)
		thread_timer();
	else
		log_line("trusty: interrupt %u is nobody's", intid);
}

static void answer_smc(u32 sender, const struct ports *ports, u64 id, u64 result)
{
	struct smc_message answer = {.id = id, .r = {result}};

	send_answer(sender, ports, &answer, sizeof(answer));
}

static void standard_call(const struct job *job)
{
	struct smc_message call;

	memcpy(&call, job->payload, sizeof(call));
	answer_smc(job->sender, &job->ports, call.id, smc_standard(call.r));
}

/* Interrupts are unmasked while a worker handles its job, and while nothing else is. */
static void worker(void *unused)
{
	(void)unused;
	for (;;) {
		struct job *job;

		while (!first_job)
			thread_block(&workers_wait);
		job = first_job;
		first_job = job->next;

		arch_irq_unmask();
		if (job->ports.destination == PORT_SMC)
			standard_call(job);
		else
			text_command(job);
		arch_irq_mask();

		job->next = free_jobs;
		free_jobs = job;
		thread_wake(&reader_waits_for_job);
	}
}

/* Give the message in the mailbox to a worker. With none free the reader waits, the mailbox
 * stays full, and senders see that it is. */
static void hand_to_worker(const struct message *message)
{
	struct job *job;

	while (!free_jobs)
		thread_block(&reader_waits_for_job);
	job = free_jobs;
	free_jobs = job->next;
	job->next = NULL;
	job->sender = message->sender;
	job->size = message->size - (u32)sizeof(struct ports);
	memcpy(&job->ports, mailbox_rx, sizeof(job->ports));
	memcpy(job->payload, mailbox_rx + sizeof(job->ports), job->size);
	mailbox_release();
	if (first_job)
		last_job->next = job;
	else
		first_job = job;
	last_job = job;
	thread_wake(&workers_wait);
}

/* Handle and release the message in the mailbox. Interrupts stay masked. */
static void handle(const struct message *message)
{
	const struct ports *ports = (const struct ports *)mailbox_rx;

	counters.received++;
	if (message->size < sizeof(*ports)) {
		log_line("trusty: a message of %u bytes has no ports", message->size);
	} else if (ports->destination == PORT_SMC &&
		   message->size == sizeof(*ports) + sizeof(struct smc_message)) {
		struct ports copied = *ports;
		struct smc_message call;

		memcpy(&call, ports + 1, sizeof(call));
		if (!smc_is_fast(call.r[0])) {
			counters.standard++;
			hand_to_worker(message);
			return;
		}
		counters.fast++;
		mailbox_release();
		answer_smc(message->sender, &copied, call.id, smc_fast(call.r));
		return;
	} else if (ports->destination == PORT_TEXT) {
		counters.text++;
		hand_to_worker(message);
		return;
	} else {
		log_line("trusty: port %lu, %u bytes: not for me", ports->destination,
			 message->size);
	}
	mailbox_release();
}

/* Runs with interrupts masked. */
static void reader(void *unused)
{
	(void)unused;
	for (;;) {
		struct message message = handed_over;

		if (message.sender) {
			handed_over.sender = 0;
			handle(&message);
			continue;
		}
		if (mailbox_poll(&message))
			handle(&message);
		else
			thread_block(&reader_waits);
	}
}

static void idle(void)
{
	for (;;) {
		struct message message;

		if (thread_run_others())
			continue;
		if (mailbox_wait(&message)) {
			/* The reader may be busy with an answer and come to this later. There is no
			 * second one to remember: none arrives before this one is released. */
			handed_over = message;
			thread_wake(&reader_waits);
		} else {
			arch_irq_window();
		}
	}
}

void guest_main(void)
{
	thread_init();
	mailbox_open();
	hf_interrupt_enable(HF_INTID_MAILBOX_READABLE, true);
	hf_interrupt_enable(HF_INTID_VIRTUAL_TIMER, true);
	send_init();

	for (unsigned int i = 0; i < WORKERS; i++) {
		jobs[i].next = free_jobs;
		free_jobs = &jobs[i];
		thread_start(&worker_threads[i], "worker", worker, NULL);
	}
	thread_start(&reader_thread, "reader", reader, NULL);
	log_line("trusty: up, %lu KiB, MMU on, port %u smc, port %u text", memory.size / 1024,
		 PORT_SMC, PORT_TEXT);
	idle();
}
