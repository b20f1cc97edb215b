// SPDX-License-Identifier: GPL-2.0
/* A struct_ops that the kernel does not register: it lacks what must be there.  It demands its
 * program. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct sock;

struct tcp_congestion_ops {
	char name[16];
	__u32 (*undo_cwnd)(struct sock *sk);
};

SEC("?struct_ops/undo_cwnd")
int undo_cwnd(__u64 *ctx)
{
	return 2;
}

SEC(".struct_ops.link")
struct tcp_congestion_ops lacking = {
	.name = "fanfp_lacking",
	.undo_cwnd = (void *)undo_cwnd,
};
