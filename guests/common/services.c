/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "services.h"

#define FORMAT 1

_Static_assert(sizeof(struct service_message) == 24, "the header");

const struct service_message *service_parse(const void *payload, u32 size)
{
	const struct service_message *message = payload;

	if (size < sizeof(*message) || message->magic[0] != 'H' || message->magic[1] != 'U' ||
	    message->format != FORMAT || message->zero || message->rest ||
	    message->length != size - sizeof(*message) || message->length > SERVICE_BODY_MAX)
		return 0;
	return message;
}

static u32 make(void *to, u8 kind, u8 service, u8 version, u8 flag, u32 epoch, u32 id,
		const void *body, u32 size)
{
	struct service_message *message = to;
	const u8 *from = body;

	if (size > SERVICE_BODY_MAX)
		size = SERVICE_BODY_MAX;
	*message = (struct service_message){
		.magic = {'H', 'U'},
		.format = FORMAT,
		.kind = kind,
		.service = service,
		.version = version,
		.flag = flag,
		.epoch = epoch,
		.id = id,
		.length = size,
	};
	for (u32 i = 0; i < size; i++)
		message->body[i] = from[i];
	return (u32)sizeof(*message) + size;
}

u32 service_offer(struct service *service, void *to)
{
	service->state = SERVICE_OFFERED;
	return make(to, SERVICE_OFFER, service->id, service->highest, service->lowest, 0, 0, 0, 0);
}

u32 service_goodbye(struct service *service, enum service_end why, void *to)
{
	service->state = SERVICE_AWAY;
	service->asking = false;
	return make(to, SERVICE_GOODBYE, service->id, service->version, (u8)why, 0, 0, 0, 0);
}

static enum service_news accepted(struct service *service, const struct service_message *message)
{
	/* What was asked before an offer has no answer. */
	enum service_news news = service->asking ? SERVICE_GONE : SERVICE_NOTHING;

	service->asking = false;
	service->state = SERVICE_READY;
	service->version = message->version;
	service->epoch = message->epoch;
	service->host_epoch = message->id;
	return news;
}

enum service_news service_receive(struct service *service, const struct service_message *message)
{
	enum service_state state = service->state;

	switch (message->kind) {
	case SERVICE_ACCEPT:
		if (state == SERVICE_OFFERED || state == SERVICE_READY)
			return accepted(service, message);
		break;
	case SERVICE_REFUSE:
		if (state == SERVICE_OFFERED) {
			service->state = SERVICE_REFUSED;
			return SERVICE_NOTHING;
		}
		break;
	case SERVICE_STALE:
		service->stale++;
		return SERVICE_NOTHING;
	case SERVICE_REQUEST:
		/* A restore raises the host's epoch without a negotiation: not before, then. */
		if (state == SERVICE_READY && (s32)(message->epoch - service->host_epoch) >= 0)
			return SERVICE_SERVE;
		break;
	case SERVICE_REPLY:
		if (service->asking && message->epoch == service->epoch &&
		    message->id == service->last_id && message->flag <= SERVICE_STATUS_MAX) {
			service->asking = false;
			return SERVICE_ANSWERED;
		}
		break;
	default:
		break;
	}
	service->dropped++;
	return SERVICE_NOTHING;
}

u32 service_reply(const struct service_message *request, u8 status, const void *body, u32 size,
		  void *to)
{
	return make(to, SERVICE_REPLY, request->service, request->version, status, request->epoch,
		    request->id, body, size);
}

u32 service_ask(struct service *service, const void *body, u32 size, void *to)
{
	service->asking = true;
	service->last_id++;
	return make(to, SERVICE_REQUEST, service->id, service->version, 0, service->epoch,
		    service->last_id, body, size);
}
