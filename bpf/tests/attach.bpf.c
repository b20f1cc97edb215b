// SPDX-License-Identifier: GPL-2.0
/* Programs that attach to something in the kernel's BTF; and a .bss of its own name. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

__u64 counter SEC(".bss.own");

SEC("fentry/vfs_unlink")
int at_entry(__u64 *ctx)
{
	counter += 3;
	return 0;
}

SEC("fexit/vfs_unlink")
int at_exit(__u64 *ctx)
{
	counter += 4;
	return 0;
}

SEC("lsm.s/file_open")
int at_open(__u64 *ctx)
{
	return 0;
}

SEC("iter/task")
int each_task(__u64 *ctx)
{
	counter++;
	return 0;
}

SEC("kprobe/vfs_unlink")
int at_probe(void *ctx)
{
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int at_tracepoint(void *ctx)
{
	return 0;
}

SEC("cgroup_skb/egress")
int at_egress(struct __sk_buff *skb)
{
	return 1;
}
