/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the host asks for, by service.
 */
#include "string.h"
#include "utility.h"

/* Freeze and thaw, shut down. */
struct timed {
	u8 op, zero;
	u16 more;
	u32 ms;
};

enum { DO = 1, UNDO = 2 }; /* freeze and thaw, power off and reboot */

struct guest guest;

void answer_say(struct answer *answer, u8 status, const char *text)
{
	answer->status = status;
	answer->size = (u32)strlen(text);
	memcpy(answer->body, text, answer->size);
}

void thaw(void)
{
	guest.frozen = false;
	arch_timer_stop();
}

static void freeze(const struct timed *request)
{
	if (request->op == UNDO) {
		thaw();
		return;
	}
	guest.frozen = true;
	guest.thaw_at = arch_counter() + arch_counter_frequency() / 1000 * request->ms;
}

static void timed(u8 service, const struct timed *request, struct answer *answer)
{
	if (request->zero || request->more || request->op < DO || request->op > UNDO)
		answer->status = SERVICE_MALFORMED;
	else if (service == SERVICE_FREEZE)
		freeze(request);
	else if (request->op == DO)
		guest.down = true;
	else
		answer_say(answer, SERVICE_FAILED, "it cannot start again");
}

/* Whether a request changes what a freeze is to keep. */
static bool changes(u8 service, const u8 *body)
{
	return (service == SERVICE_KVP && (body[0] == KVP_SET || body[0] == KVP_DELETE)) ||
	       (service == SERVICE_FILE && body[0] != FILE_CANCEL);
}

void serve(const struct service_message *request, struct answer *answer)
{
	static const u32 fixed[] = {
		[SERVICE_KVP] = sizeof(struct kvp),
		[SERVICE_FREEZE] = sizeof(struct timed),
		[SERVICE_FILE] = sizeof(struct file_request),
		[SERVICE_HEARTBEAT] = sizeof(u64),
		[SERVICE_TIME] = sizeof(u64),
		[SERVICE_SHUTDOWN] = sizeof(struct timed),
	};
	const u8 *body = request->body;
	u32 size = request->length;
	bool more = request->service == SERVICE_KVP || request->service == SERVICE_FILE;

	answer->status = SERVICE_OK;
	answer->size = 0;
	if (size < fixed[request->service] || (!more && size > fixed[request->service])) {
		answer->status = SERVICE_MALFORMED;
		return;
	}
	if (guest.frozen && changes(request->service, body)) {
		answer_say(answer, SERVICE_FAILED, "frozen");
		return;
	}
	switch (request->service) {
	case SERVICE_KVP:
		keys_serve((const struct kvp *)body, size, answer);
		break;
	case SERVICE_FILE:
		files_serve((const struct file_request *)body, size, answer);
		break;
	case SERVICE_HEARTBEAT:
		answer->size = size;
		memcpy(answer->body, body, size);
		break;
	case SERVICE_TIME:
		memcpy(&guest.time, body, size);
		break;
	default:
		timed(request->service, (const struct timed *)body, answer);
	}
}
