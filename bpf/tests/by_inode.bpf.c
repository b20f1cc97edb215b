// SPDX-License-Identifier: GPL-2.0
/*
 * A filter of the first kind: one root, and each answer kept on the inode that an event
 * is on.  It knows nothing of moves and links; it is here to be counted against.
 *
 * User space sets root_ino, puts a 0 for the root into inode_storage_map, attaches, and
 * opens the root once.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define CORE __attribute__((preserve_access_index))

struct inode {
	unsigned long i_ino;
} CORE;

struct dentry {
	struct inode *d_inode;
} CORE;

struct fanotify_fastpath_event {
	__u32 mask;
} CORE;

struct fanotify_fastpath_ops {
	int (*fp_handler)(void *group, void *hook, struct fanotify_fastpath_event *event);
	int (*fp_init)(void *hook, void *args);
	void (*fp_free)(void *hook);
	char name[64];
} CORE;

extern struct dentry *bpf_fanotify_data_dentry(struct fanotify_fastpath_event *event) __ksym;
extern struct inode *bpf_fanotify_data_inode(struct fanotify_fastpath_event *event) __ksym;
extern void bpf_dput(struct dentry *dentry) __ksym;
extern void bpf_iput(struct inode *inode) __ksym;
extern _Bool bpf_is_subdir(struct dentry *new_dentry, struct dentry *old_dentry) __ksym;
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

struct pinned_root {
	struct dentry __kptr *dentry;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct pinned_root);
} subdir_root SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} inode_storage_map SEC(".maps");

enum { SEND = 0, SKIP = 1 };

__u64 root_ino;
_Bool initialized;
__u32 cache_hit;
__u32 cache_miss;

static __noinline void pin(struct fanotify_fastpath_event *event, struct inode *inode)
{
	struct pinned_root *pinned;
	struct dentry *dentry;
	int slot = 0;

	if (initialized || inode->i_ino != root_ino)
		return;
	pinned = bpf_map_lookup_elem(&subdir_root, &slot);
	dentry = pinned ? bpf_fanotify_data_dentry(event) : NULL;
	if (!dentry)
		return;
	dentry = bpf_kptr_xchg(&pinned->dentry, dentry);
	if (dentry)
		bpf_dput(dentry);
	initialized = 1;
}

static __noinline int ask(struct fanotify_fastpath_event *event)
{
	struct dentry *dentry, *root;
	struct pinned_root *pinned;
	int slot = 0, answer = SEND;

	pinned = bpf_map_lookup_elem(&subdir_root, &slot);
	dentry = pinned ? bpf_fanotify_data_dentry(event) : NULL;
	if (!dentry)
		return SEND;
	bpf_rcu_read_lock();
	root = pinned->dentry;
	if (root && !bpf_is_subdir(dentry, root))
		answer = SKIP;
	bpf_rcu_read_unlock();
	bpf_dput(dentry);
	return answer;
}

SEC("struct_ops.s/fp_handler")
int bpf_fp_handler(__u64 *ctx)
{
	struct fanotify_fastpath_event *event = (void *)ctx[2];
	int answer = SEND;
	struct inode *inode;
	__u32 *known;

	inode = bpf_fanotify_data_inode(event);
	if (!inode)
		return SEND;
	pin(event, inode);
	known = bpf_inode_storage_get(&inode_storage_map, inode, 0, 0);
	if (known) {
		__sync_fetch_and_add(&cache_hit, 1);
		answer = *known;
	} else {
		__sync_fetch_and_add(&cache_miss, 1);
		answer = ask(event);
		known = bpf_inode_storage_get(&inode_storage_map, inode, 0,
					      BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (known)
			*known = answer;
	}
	bpf_iput(inode);
	return answer;
}

SEC("struct_ops/fp_init")
int bpf_fp_init(__u64 *ctx)
{
	return 0;
}

SEC("struct_ops/fp_free")
void bpf_fp_free(__u64 *ctx)
{
}

SEC(".struct_ops.link")
struct fanotify_fastpath_ops bpf_fanotify_fastpath_ops = {
	.fp_handler = (void *)bpf_fp_handler,
	.fp_init = (void *)bpf_fp_init,
	.fp_free = (void *)bpf_fp_free,
	.name = "by_inode",
};
