// SPDX-License-Identifier: GPL-2.0
/* Programs in sections that are easily taken for others. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

SEC("xdp")
int xdp_1(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp.frags")
int xdp_2(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp/devmap")
int xdp_3(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp.frags/devmap")
int xdp_4(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp/cpumap")
int xdp_5(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp.frags/cpumap")
int xdp_6(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("tc")
int skb_1(struct __sk_buff *ctx)
{
	return 0;
}

SEC("classifier")
int skb_2(struct __sk_buff *ctx)
{
	return 0;
}

SEC("tc/ingress")
int skb_3(struct __sk_buff *ctx)
{
	return 0;
}

SEC("tc/egress")
int skb_4(struct __sk_buff *ctx)
{
	return 0;
}

SEC("tcx/ingress")
int skb_5(struct __sk_buff *ctx)
{
	return 0;
}

SEC("tcx/egress")
int skb_6(struct __sk_buff *ctx)
{
	return 0;
}

SEC("sk_skb")
int skb_7(struct __sk_buff *ctx)
{
	return 0;
}

SEC("sk_skb/stream_parser")
int skb_8(struct __sk_buff *ctx)
{
	return 0;
}

SEC("sk_skb/stream_verdict")
int skb_9(struct __sk_buff *ctx)
{
	return 0;
}

SEC("sk_skb/verdict")
int skb_10(struct __sk_buff *ctx)
{
	return 0;
}

SEC("socket")
int skb_11(struct __sk_buff *ctx)
{
	return 0;
}
