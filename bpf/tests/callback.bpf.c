// SPDX-License-Identifier: GPL-2.0
/* A function that only a tag names: the one that an exception calls. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

void bpf_throw(__u64 cookie) __ksym;

__noinline int twice(int number)
{
	return 2 * number;
}

int thrown(__u64 cookie)
{
	return twice(cookie) + 1;
}

SEC("tc")
__attribute__((btf_decl_tag("exception_callback:thrown")))
int throws(struct __sk_buff *skb)
{
	bpf_throw(20);
	return 0;
}
