// SPDX-License-Identifier: GPL-2.0
/* A program that reads a field which no kernel has, and another only if there is one. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

struct task_struct {
	int no_such_field;
	int if_there_is_one;
} __attribute__((preserve_access_index));

SEC("raw_tp/sys_enter")
int reads(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	if (bpf_core_field_exists(task->if_there_is_one))
		return BPF_CORE_READ(task, if_there_is_one);
	return BPF_CORE_READ(task, no_such_field);
}
