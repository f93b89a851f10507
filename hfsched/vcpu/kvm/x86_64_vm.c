/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * x86-64: what a VM and its vCPUs need before the first run.
 */
#include "x86_64.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#define VMX (1U << 5)
#define SVM (1U << 2)

/* Return what CPUID reports to a guest, to be freed, NULL with errno: nothing of KVM, and no nested
   virtualization, whose state is not saved and would survive a reset. */
static struct kvm_cpuid2 *features(int kvm_fd)
{
	enum { ENTRIES = 256 };
	struct kvm_cpuid2 *all = calloc(1, sizeof(*all) + ENTRIES * sizeof(all->entries[0]));
	unsigned int index, kept = 0;

	if (!all)
		return NULL;
	all->nent = ENTRIES;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, all)) {
		free(all);
		return NULL;
	}
	for (index = 0; index < all->nent; index++) {
		struct kvm_cpuid_entry2 entry = all->entries[index];

		if (entry.function == 1)
			entry.ecx &= ~VMX;
		if (entry.function == 0x80000001)
			entry.ecx &= ~SVM;
		if (entry.function >> 16 != 0x4000)
			all->entries[kept++] = entry;
	}
	all->nent = kept;
	return all;
}

int hfs_arch_open(struct hfs_cpu *cpu, int kvm_fd)
{
	struct kvm_cpuid2 *known = features(kvm_fd);
	int error = 0;

	if (!known)
		return errno ? -errno : -ENOMEM;
	if (ioctl(cpu->fd, KVM_SET_CPUID2, known))
		error = -errno;
	free(known);
	cpu->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	return error;
}

void hfs_arch_close(struct hfs_cpu *cpu)
{
	hfs_free_alarm(cpu);
}

int hfs_prepare_vm(int vm_fd)
{
	/* Three pages that some Intel CPUs need; on others the call fails, which is harmless. */
	ioctl(vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000UL);
	return 0;
}
