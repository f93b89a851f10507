/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Port 1: text.
 */
#include "boot.h"
#include "log.h"
#include "string.h"
#include "text.h"
#include "thread.h"
#include "trusty.h"

#define ANSWER_MAX 512

static const char help[] = "help, version, echo TEXT, stats, time, sleep MS";

static size_t stats(char *to)
{
	return format(to, ANSWER_MAX,
		      "received %lu sent %lu busy %lu fast %lu std %lu text %lu interrupts %lu "
		      "switches %lu",
		      counters.received, counters.sent, counters.busy, counters.fast,
		      counters.standard, counters.text, counters.interrupts, thread_switches);
}

static size_t sleep_ms(char *to, u64 ms)
{
	u64 frequency = arch_counter_frequency();
	u64 start = arch_counter();

	thread_sleep(start + ms * frequency / 1000);
	return format(to, ANSWER_MAX, "slept %lu ms", (arch_counter() - start) * 1000 / frequency);
}

void text_command(struct job *job)
{
	static const char said[] = "you said: ";
	char answer[ANSWER_MAX];
	const char *text = (const char *)job->payload;
	size_t size = 0;
	u64 ms;

	text_end((char *)job->payload, job->size);
	if (text_word(&text, "echo")) {
		send_answer(job->sender, &job->ports, text, strlen(text));
		return;
	}
	if (equal(text, "help"))
		size = format(answer, ANSWER_MAX, "%s", help);
	else if (equal(text, "version"))
		size = format(answer, ANSWER_MAX, "%s", TRUSTY_VERSION);
	else if (equal(text, "stats"))
		size = stats(answer);
	else if (equal(text, "time"))
		size = format(answer, ANSWER_MAX, "counter %lu frequency %lu", arch_counter(),
			      arch_counter_frequency());
	else if (text_word(&text, "sleep") && text_number(&text, &ms) && ms <= 86400000)
		size = sleep_ms(answer, ms);
	if (!size) {
		/* In place: nothing else needs the payload any more. What does not fit is cut. */
		size_t length = strlen((const char *)job->payload), prefix = sizeof(said) - 1;

		if (length > PAYLOAD_MAX - prefix)
			length = PAYLOAD_MAX - prefix;
		memmove(job->payload + prefix, job->payload, length);
		memcpy(job->payload, said, prefix);
		send_answer(job->sender, &job->ports, job->payload, prefix + length);
		return;
	}
	send_answer(job->sender, &job->ports, answer, size);
}
