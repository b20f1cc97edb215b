// SPDX-License-Identifier: GPL-2.0
/* A program that the verifier refuses. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, __u64);
} hash SEC(".maps");

SEC("socket")
int reads_through_null(struct __sk_buff *skb)
{
	int key = 0;
	__u64 *value = bpf_map_lookup_elem(&hash, &key);

	return *value;
}
