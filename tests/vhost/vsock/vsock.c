/*
 * Runs a shell command of a Linux guest with a vsock connection as its input and output:
 *
 *     vsock connect CID PORT COMMAND
 *     vsock listen PORT COMMAND          accepts one connection; says "listening" first
 *
 * It has no libc, so that it is small enough to be typed at a serial port.  It ends with status 1 when there is no connection.
 */

typedef unsigned int u32;

struct address {
	unsigned short family, reserved;
	u32 port, cid, zero;
};

enum { SYS_WRITE = 1, SYS_DUP2 = 33, SYS_SOCKET = 41, SYS_CONNECT, SYS_ACCEPT };
enum { SYS_BIND = 49, SYS_LISTEN, SYS_EXECVE = 59, SYS_EXIT };
enum { AF_VSOCK = 40, SOCK_STREAM = 1 };
#define ANY_CID 0xffffffffu

static long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return result;
}

static u32 number(const char *text)
{
	u32 value = 0;

	while (*text)
		value = value * 10 + (u32)(*text++ - '0');
	return value;
}

static void need(long result)
{
	if (result < 0)
		call(SYS_EXIT, 1, 0, 0);
}

__attribute__((used)) void begin(long *stack)
{
	char **arguments = (char **)(stack + 1);
	char **environment = arguments + stack[0] + 1;
	long listens = arguments[1][0] == 'l';
	struct address at = { AF_VSOCK, 0, 0, ANY_CID, 0 };
	long fd = call(SYS_SOCKET, AF_VSOCK, SOCK_STREAM, 0);
	char *shell[] = { "/bin/busybox", "sh", "-c", arguments[listens ? 3 : 4], 0 };

	need(fd);
	at.port = number(arguments[listens ? 2 : 3]);
	if (listens) {
		need(call(SYS_BIND, fd, (long)&at, sizeof(at)));
		need(call(SYS_LISTEN, fd, 8, 0));
		call(SYS_WRITE, 1, (long)"listening\n", 10);
		fd = call(SYS_ACCEPT, fd, 0, 0);
	} else {
		at.cid = number(arguments[2]);
		need(call(SYS_CONNECT, fd, (long)&at, sizeof(at)));
	}
	need(fd);
	call(SYS_DUP2, fd, 0, 0);
	call(SYS_DUP2, fd, 1, 0);
	call(SYS_EXECVE, (long)shell[0], (long)shell, (long)environment);
	call(SYS_EXIT, 1, 0, 0);
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
