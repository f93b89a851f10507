/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Key-value pairs, in the order of their keys' bytes, which is that of their characters.
 */
#include "string.h"
#include "utility.h"

#define KEYS 64
#define KEY_MAX 512U
#define VALUE_MAX 1024U

struct key {
	u32 length, size;
	u8 name[KEY_MAX];
	u8 value[VALUE_MAX];
};

static struct key keys[KEYS];
static u32 count;

static int compare(const struct key *key, const u8 *name, u32 length)
{
	u32 shorter = key->length < length ? key->length : length;
	int order = memcmp(key->name, name, shorter);

	if (order)
		return order;
	return key->length == length ? 0 : key->length < length ? -1 : 1;
}

/* The index of the first key that is not before this one. */
static u32 place_of(const u8 *name, u32 length)
{
	u32 at = 0;

	while (at < count && compare(&keys[at], name, length) < 0)
		at++;
	return at;
}

static void set(u32 at, bool there, const struct kvp *request, u32 size, struct answer *answer)
{
	const u8 *value = request->bytes + request->length;

	if (size > VALUE_MAX || (!there && count == KEYS)) {
		answer_say(answer, SERVICE_FAILED, there ? "value too long" : "no room");
		return;
	}
	if (!there) {
		memmove(&keys[at + 1], &keys[at], (count - at) * sizeof(*keys));
		count++;
		keys[at].length = request->length;
		memcpy(keys[at].name, request->bytes, request->length);
	}
	keys[at].size = size;
	memcpy(keys[at].value, value, size);
}

static void list(u32 at, struct answer *answer)
{
	for (; at < count; at++) {
		const struct key *key = &keys[at];

		if (answer->size + key->length + 1 > SERVICE_BODY_MAX)
			return;
		memcpy(answer->body + answer->size, key->name, key->length);
		answer->size += key->length;
		answer->body[answer->size++] = 0;
	}
}

/* A list of keys ends each with a 0. */
static bool has_zero(const u8 *bytes, u32 size)
{
	while (size--)
		if (!bytes[size])
			return true;
	return false;
}

void keys_serve(const struct kvp *request, u32 size, struct answer *answer)
{
	u32 length = request->length, rest = size - (u32)sizeof(*request) - length, at;
	bool there;

	if (request->zero || request->rest || length > KEY_MAX ||
	    length > size - sizeof(*request) || (request->op != KVP_SET && rest) ||
	    has_zero(request->bytes, length)) {
		answer->status = SERVICE_MALFORMED;
		return;
	}
	at = place_of(request->bytes, length);
	there = at < count && !compare(&keys[at], request->bytes, length);
	switch (request->op) {
	case KVP_SET:
		set(at, there, request, rest, answer);
		break;
	case KVP_LIST:
		list(at + there, answer);
		break;
	case KVP_GET:
	case KVP_DELETE:
		if (!there) {
			answer->status = SERVICE_NOT_FOUND;
		} else if (request->op == KVP_GET) {
			answer->size = keys[at].size;
			memcpy(answer->body, keys[at].value, answer->size);
		} else {
			count--;
			memmove(&keys[at], &keys[at + 1], (count - at) * sizeof(*keys));
		}
		break;
	default:
		answer->status = SERVICE_MALFORMED;
	}
}

void keys_open(void)
{
	keys[0] = (struct key){2, 7, "os", "utility"};
	count = 1;
}
