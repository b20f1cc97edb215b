// SPDX-License-Identifier: GPL-2.0
/* Global functions that are hidden: the verifier is to take them for static ones. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct pair {
	__u64 *one, *other;
};

__hidden __noinline int sum(struct pair *pair)
{
	return *pair->one + *pair->other;
}

SEC("syscall")
int sums(void *ctx)
{
	__u64 one = 3, other = 4;
	struct pair pair = { &one, &other };

	return sum(&pair);
}
