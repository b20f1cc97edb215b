// SPDX-License-Identifier: GPL-2.0
/* An address by a typeless declaration that no kernel has. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

extern const void no_such_symbol_in_any_kernel __ksym;

SEC("syscall")
int address(void *ctx)
{
	return (__u64)&no_such_symbol_in_any_kernel >> 32;
}
