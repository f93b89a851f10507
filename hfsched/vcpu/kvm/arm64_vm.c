/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * arm64: what a VM needs before its first vCPU runs.
 */
#include "internal.h"

#include <errno.h>
#include <sys/ioctl.h>

/* Since Linux 6.4; the headers here may be older. */
#ifndef KVM_HYPERCALL_EXIT_SMC
#define KVM_ARM_VM_SMCCC_CTRL 0
#define KVM_ARM_VM_SMCCC_FILTER 0
#define KVM_SMCCC_FILTER_FWD_TO_USER 2
struct kvm_smccc_filter {
	uint32_t base;
	uint32_t nr_functions;
	uint8_t action;
	uint8_t pad[15];
};
#endif

/* Forward `count` function ids from `base` on to user space.  Return 0 or -errno. */
static int forward(int vm_fd, uint32_t base, uint32_t count)
{
	struct kvm_smccc_filter filter = {
		.base = base,
		.nr_functions = count,
		.action = KVM_SMCCC_FILTER_FWD_TO_USER,
	};
	struct kvm_device_attr attribute = {
		.group = KVM_ARM_VM_SMCCC_CTRL,
		.attr = KVM_ARM_VM_SMCCC_FILTER,
		.addr = (uint64_t)(uintptr_t)&filter,
	};

	return ioctl(vm_fd, KVM_SET_DEVICE_ATTR, &attribute) ? -errno : 0;
}

/* The filter forwards all that it can, and the hypervisor refuses what it does not implement. */
int hfs_prepare_vm(int vm_fd)
{
	static const struct {
		uint32_t base, count;
	} ranges[] = {
		{0x00000000, 0x80000000}, /* yielding calls, and Hafnium's own */
		{0x81000000, 0x3f000000}, /* fast, 32 bits, but for the Arm architecture's */
		{0xc1000000, 0x3f000000}, /* fast, 64 bits, likewise */
	};
	struct kvm_enable_cap undecoded = {.cap = KVM_CAP_ARM_NISV_TO_USER};
	unsigned int index;
	int error = 0;

	for (index = 0; !error && index < sizeof(ranges) / sizeof(ranges[0]); index++)
		error = forward(vm_fd, ranges[index].base, ranges[index].count);
	/* Without it KVM_RUN fails at an access that it does not decode: a pair, an exclusive one. */
	if (!error && ioctl(vm_fd, KVM_ENABLE_CAP, &undecoded))
		error = -errno;
	return error;
}
