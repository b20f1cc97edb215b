// SPDX-License-Identifier: GPL-2.0
/* Every kind of CO-RE relocation, on types that every kernel with BTF has. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

#define CORE __attribute__((preserve_access_index))

struct list_head {
	struct list_head *next, *prev;
} CORE;

struct sched_statistics___none {
	int nothing;
} CORE;

/* Fields in another order, and one of another width. */
struct task_struct {
	int tgid;
	int pid;
	char comm[16];
	unsigned int flags;
	struct task_struct *group_leader;
	struct list_head tasks;
	unsigned in_execve : 1;
	unsigned sched_reset_on_fork : 1;
} CORE;

struct task_struct___other {
	int pid;
	int no_such_field;
	unsigned int start_time;	/* u64 in the kernel */
} CORE;

struct no_such_struct {
	int field;
	int array[4];
} CORE;

struct qstr {
	union {
		struct {
			unsigned int hash;
			unsigned int len;
		};
		unsigned long hash_len;
	};
	const unsigned char *name;
} CORE;

struct dentry {
	struct qstr d_name;
	struct dentry *d_parent;
} CORE;

struct list_head___wrong {
	struct list_head___wrong *next, *prev, *third;
};

enum pid_type {
	PIDTYPE_PID___local = 7,
	PIDTYPE_SID = 9,
};

enum no_such_enum {
	NO_SUCH_VALUE = 1,
};

enum bpf_prog_type___few {
	BPF_PROG_TYPE_XDP___few = 1,
	BPF_PROG_TYPE_UNSPEC___few = 2,
};

typedef int (*initcall_t)(void);
typedef struct {
	int counter;
} atomic_t;

__u64 out[64];

#define NUMBER(i, value) out[i] = (value)

SEC("raw_tp/sys_enter")
int fields(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct___other *other = (void *)task;
	struct dentry *dentry = (void *)task;
	struct no_such_struct *none = (void *)task;

	NUMBER(0, bpf_core_field_offset(task->pid));
	NUMBER(1, bpf_core_field_size(task->comm));
	NUMBER(2, bpf_core_field_exists(task->tgid));
	NUMBER(3, bpf_core_field_exists(other->no_such_field));
	NUMBER(4, bpf_core_field_exists(none->field));
	NUMBER(5, bpf_core_field_offset(task->comm[3]));
	NUMBER(6, bpf_core_field_size(task->comm[0]));
	NUMBER(7, BPF_CORE_READ(task, group_leader, tgid));
	NUMBER(8, BPF_CORE_READ_BITFIELD_PROBED(task, sched_reset_on_fork));
	NUMBER(9, BPF_CORE_READ_BITFIELD_PROBED(task, in_execve));
	NUMBER(10, bpf_core_field_offset(dentry->d_name.len));
	NUMBER(11, bpf_core_field_offset(dentry->d_name.hash_len));
	NUMBER(12, bpf_core_field_size(dentry->d_name));
	NUMBER(13, __builtin_preserve_field_info(task->pid, BPF_FIELD_SIGNED));
	NUMBER(14, __builtin_preserve_field_info(task->flags, BPF_FIELD_SIGNED));
	NUMBER(15, bpf_core_field_offset(task->tasks.prev));
	if (bpf_core_field_exists(other->no_such_field))
		NUMBER(16, BPF_CORE_READ(other, no_such_field));
	NUMBER(17, BPF_CORE_READ(other, pid));
	return 0;
}

SEC("raw_tp/sys_enter")
int types(void *ctx)
{
	NUMBER(20, bpf_core_type_exists(struct task_struct));
	NUMBER(21, bpf_core_type_exists(struct no_such_struct));
	NUMBER(22, bpf_core_type_size(struct task_struct));
	NUMBER(23, bpf_core_type_size(struct no_such_struct));
	NUMBER(24, bpf_core_type_id_kernel(struct task_struct));
	NUMBER(25, bpf_core_type_id_kernel(struct no_such_struct));
	NUMBER(26, bpf_core_type_exists(initcall_t));
	NUMBER(27, bpf_core_type_size(atomic_t));
	NUMBER(28, bpf_core_type_exists(enum pid_type));
	NUMBER(29, bpf_core_type_id_local(struct task_struct));
#if __has_builtin(__builtin_preserve_type_info) && __clang_major__ >= 15
	NUMBER(30, __builtin_preserve_type_info(*(struct list_head *)0, 2));
	NUMBER(31, __builtin_preserve_type_info(*(struct list_head___wrong *)0, 2));
	NUMBER(32, __builtin_preserve_type_info(*(struct task_struct *)0, 2));
	NUMBER(33, __builtin_preserve_type_info(*(atomic_t *)0, 2));
	NUMBER(34, __builtin_preserve_type_info(*(enum bpf_prog_type___few *)0, 2));
#endif
	return 0;
}

SEC("raw_tp/sys_enter")
int enums(void *ctx)
{
	NUMBER(40, bpf_core_enum_value_exists(enum pid_type, PIDTYPE_SID));
	NUMBER(41, bpf_core_enum_value(enum pid_type, PIDTYPE_SID));
	NUMBER(42, bpf_core_enum_value_exists(enum pid_type, PIDTYPE_PID___local));
	NUMBER(43, bpf_core_enum_value(enum pid_type, PIDTYPE_PID___local));
	NUMBER(44, bpf_core_enum_value_exists(enum no_such_enum, NO_SUCH_VALUE));
	NUMBER(45, bpf_core_enum_value(enum bpf_prog_type___few, BPF_PROG_TYPE_XDP___few));
	if (bpf_core_enum_value_exists(enum no_such_enum, NO_SUCH_VALUE))
		NUMBER(46, bpf_core_enum_value(enum no_such_enum, NO_SUCH_VALUE));
	return 0;
}
