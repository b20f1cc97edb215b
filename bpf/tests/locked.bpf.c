// SPDX-License-Identifier: GPL-2.0
/* Variables that the kernel looks after can't be mapped, nor those beside them. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct task_struct;

struct bpf_spin_lock lock SEC(".bss.locked");
__u64 counter SEC(".bss.locked");
__u32 numbers[4] SEC(".data.kept") = { 1, 2, 3, 4 };
struct task_struct __attribute__((btf_type_tag("kptr"))) *task SEC(".data.kept");
static struct bpf_spin_lock own SEC(".bss.own");
static __u64 unseen SEC(".bss.own");
__u64 seen;

SEC("tc")
int counts(struct __sk_buff *skb)
{
	bpf_spin_lock(&lock);
	counter += 3;
	bpf_spin_unlock(&lock);
	bpf_spin_lock(&own);
	unseen++;
	bpf_spin_unlock(&own);
	if (task)
		seen++;
	seen += numbers[2];
	return 0;
}
