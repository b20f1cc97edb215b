// SPDX-License-Identifier: GPL-2.0
/* An arena, with variables in it. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define __arena __attribute__((address_space(1)))

struct {
	__uint(type, 33);			/* BPF_MAP_TYPE_ARENA */
	__uint(map_flags, 1 << 10);		/* BPF_F_MMAPABLE */
	__uint(max_entries, 4);
} arena SEC(".maps");

__u64 __arena counter = 5;
__u32 __arena numbers[3] = { 1, 2, 3 };

SEC("syscall")
int counts(void *ctx)
{
	__u64 __arena *place = &counter;

	/* The verifier knows the arena of a program by its map. */
	asm volatile("" :: "r"(&arena));
	*place += numbers[1];
	return *place;
}
