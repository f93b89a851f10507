/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A guest's side of the utility services (docs/services.md): messages, and the state of a daemon.
 * services.h, services.c and arch.h are all that a guest of one's own needs.
 *
 * Each function that makes a message writes it to `to`, 4-byte aligned and of SERVICE_MESSAGE_MAX
 * bytes, and returns its size. It goes to the primary behind the 16 bytes of ports, both
 * SERVICE_PORT; all of one guest by one vCPU, which keeps their order.
 */
#ifndef GUESTS_SERVICES_H
#define GUESTS_SERVICES_H

#include "arch.h"

#define SERVICE_PORT 0x6c697475UL /* "util": the host's port, and the guest's */
#define SERVICE_MESSAGE_MAX 4080U
#define SERVICE_BODY_MAX (SERVICE_MESSAGE_MAX - 24U)

enum service_kind {
	SERVICE_OFFER = 1,
	SERVICE_ACCEPT,
	SERVICE_REFUSE,
	SERVICE_GOODBYE,
	SERVICE_REQUEST,
	SERVICE_REPLY,
	SERVICE_STALE,
};

enum service_id {
	SERVICE_KVP = 1,
	SERVICE_FREEZE,
	SERVICE_FILE,
	SERVICE_HEARTBEAT,
	SERVICE_TIME,
	SERVICE_SHUTDOWN,
};

enum service_status {
	SERVICE_OK,
	SERVICE_FAILED, /* the body may say why */
	SERVICE_NOT_FOUND,
	SERVICE_MALFORMED,
	SERVICE_UNSUPPORTED,
	SERVICE_STATUS_MAX = 10, /* the others are the host's */
};

/* Why a daemon goes. */
enum service_end { SERVICE_EXIT, SERVICE_HIBERNATE };

/* All numbers are little endian, as both architectures are. */
struct service_message {
	u8 magic[2], format, kind, service, version, flag, zero;
	u32 epoch, id, length, rest;
	u8 body[];
};

enum service_state { SERVICE_AWAY, SERVICE_OFFERED, SERVICE_READY, SERVICE_REFUSED };

/* One daemon. Set the first three fields, leave the others 0. */
struct service {
	u8 id, lowest, highest; /* versions, both included */
	u8 version;		/* the one agreed on */
	enum service_state state;
	bool asking;	   /* a request of our own has no answer yet */
	u32 epoch;	   /* of our own requests */
	u32 host_epoch;	   /* of the last negotiation: earlier requests are dropped */
	u32 last_id;	   /* of our own requests */
	u64 stale;	   /* replies of ours that came too late */
	u64 dropped;	   /* messages that were for an earlier negotiation, or for nobody */
};

/* What a message means for the daemon. */
enum service_news {
	SERVICE_NOTHING,
	SERVICE_SERVE,	  /* a request: answer it with service_reply() */
	SERVICE_ANSWERED, /* our own request: `flag` is its status, and the body its answer */
	SERVICE_GONE,	  /* our own request will have no answer */
};

/* Bytes behind the ports as a message, NULL if they are none. The payload is 4-byte aligned. */
const struct service_message *service_parse(const void *payload, u32 size);

/* Register: at first, after a crash, and after a hibernation. */
u32 service_offer(struct service *service, void *to);

/* Go. Before a hibernation: thaw, and remove what is half copied. */
u32 service_goodbye(struct service *service, enum service_end why, void *to);

/* Take a message of this service. */
enum service_news service_receive(struct service *service, const struct service_message *message);

/* Answer a request, whenever it is done; of it the header alone is read. */
u32 service_reply(const struct service_message *request, u8 status, const void *body, u32 size,
		  void *to);

/* Ask the host, in SERVICE_READY and while nothing is asked. */
u32 service_ask(struct service *service, const void *body, u32 size, void *to);

#endif
