// SPDX-License-Identifier: GPL-2.0
/* Two struct_ops of one type, which share a program: TCP congestion control. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct sock;

struct tcp_congestion_ops___mine {
	char name[16];
	__u32 (*ssthresh)(struct sock *sk);
	void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
	__u32 (*undo_cwnd)(struct sock *sk);
	void (*not_in_this_kernel)(void);
};

SEC("struct_ops/ssthresh")
int ssthresh(__u64 *ctx)
{
	return 2;
}

SEC("struct_ops")
void cong_avoid(__u64 *ctx)
{
}

SEC("struct_ops/undo_cwnd")
int undo_cwnd(__u64 *ctx)
{
	return 2;
}

SEC("struct_ops/undo_cwnd")
int undo_other(__u64 *ctx)
{
	return 3;
}

SEC("struct_ops/ssthresh")
int referred_by_nobody(__u64 *ctx)
{
	return 2;
}

SEC(".struct_ops.link")
struct tcp_congestion_ops___mine one = {
	.name = "fanfp_one",
	.ssthresh = (void *)ssthresh,
	.cong_avoid = (void *)cong_avoid,
	.undo_cwnd = (void *)undo_cwnd,
};

SEC(".struct_ops.link")
struct tcp_congestion_ops___mine two = {
	.name = "fanfp_two",
	.ssthresh = (void *)ssthresh,
	.cong_avoid = (void *)cong_avoid,
	.undo_cwnd = (void *)undo_other,
};
