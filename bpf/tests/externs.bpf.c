// SPDX-License-Identifier: GPL-2.0
/* What the kernel provides: functions, addresses, its configuration. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

/* A declaration would not do: it is of another kind than what the kernel has. */
struct task_struct {
	int pid;
} __attribute__((preserve_access_index));

/* Kernels have bpf_task_acquire() and bpf_task_release() since 6.2; nobody has the third. */
struct task_struct *bpf_task_acquire___one(struct task_struct *task) __ksym __weak;
void bpf_task_release___flavor(struct task_struct *task) __ksym __weak;
void bpf_no_such___flavor(struct task_struct *task) __ksym __weak;

extern const void schedule __ksym;
extern const void no_such_symbol_in_any_kernel __ksym __weak;

extern int LINUX_KERNEL_VERSION __kconfig;
extern _Bool LINUX_HAS_BPF_COOKIE __kconfig;
extern _Bool CONFIG_BPF_SYSCALL __kconfig __weak;
extern char CONFIG_BPF __kconfig __weak;
extern enum libbpf_tristate CONFIG_NET __kconfig __weak;
extern unsigned long CONFIG_HZ __kconfig __weak;
extern char CONFIG_DEFAULT_HOSTNAME[9] __kconfig __weak;
extern int CONFIG_NO_SUCH_OPTION __kconfig __weak;

__u64 out[16];

SEC("tp_btf/task_newtask")
int takes_task(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0], *taken;

	if (!bpf_task_acquire___one || !bpf_task_release___flavor)
		return 0;
	if (bpf_no_such___flavor)
		bpf_no_such___flavor(task);
	taken = bpf_task_acquire___one(task);
	if (taken) {
		out[0]++;
		bpf_task_release___flavor(taken);
	}
	return 0;
}

SEC("syscall")
int addresses(void *ctx)
{
	out[1] = (__u64)&schedule;
	out[2] = (__u64)&no_such_symbol_in_any_kernel;
	return 0;
}

SEC("syscall")
int configuration(void *ctx)
{
	out[3] = LINUX_KERNEL_VERSION;
	out[4] = LINUX_HAS_BPF_COOKIE;
	out[5] = CONFIG_BPF_SYSCALL;
	out[6] = CONFIG_BPF;
	out[7] = CONFIG_NET;
	out[8] = CONFIG_HZ;
	out[9] = CONFIG_DEFAULT_HOSTNAME[0];
	out[10] = CONFIG_NO_SUCH_OPTION;
	return 0;
}
