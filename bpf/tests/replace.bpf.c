// SPDX-License-Identifier: GPL-2.0
/* A program one of whose functions is replaced by another object's. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

__noinline int replaced(struct __sk_buff *skb)
{
	volatile int answer = 1;

	return answer;
}

SEC("tc")
int whole(struct __sk_buff *skb)
{
	return replaced(skb);
}

SEC("?freplace/replaced")
int replacement(struct __sk_buff *skb)
{
	return 42;
}
