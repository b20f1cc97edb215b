// SPDX-License-Identifier: GPL-2.0
/*
 * fan_fp: which fanotify events belong to the watched trees, decided in the kernel; at the end of
 * this file, who did it: the names of processes that have ended; and in trace.h, the events
 * themselves, recorded before fanotify has them.
 *
 * The three are groups of programs that share no map, no variable and no function that is called.
 * Each is loaded by itself, and what a kernel lacks for one is nothing to the others: the
 * struct_ops programs need a kernel with the fastpath, the raw tracepoint programs Linux 4.17, the
 * kprobe programs 5.10.
 *
 * Built at the top of the checkout, with libbpf's headers (libbpf-dev) at hand:
 *
 *	clang-19 -g -O2 -Wall -Werror -target bpf -mcpu=v3 -fdebug-compilation-dir=. \
 *		-c bpf/fan_fp.bpf.c -o fan_fp.bpf.o &&
 *	llvm-strip-19 -g -R .rel.BTF -R .rel.BTF.ext fan_fp.bpf.o
 *
 * The result is the same bytes wherever the checkout is.  clang before 17 loses the
 * type tag of a kptr, and the verifier then refuses the pinned roots.
 *
 * The rule that everything here serves: an event of a tree is never held back.  What
 * can't be decided is sent, and user space, which knows every path, drops it.
 *
 * Three things are known of an event: the directory it happened in (->dir), the dentry
 * and the inode it happened to.  Each may be missing:
 *
 *	event				->dir		dentry	inode
 *	CREATE, and on a child		parent		yes	yes
 *	CREATE of a hard link		parent		-	yes
 *	DELETE, MOVED_FROM, MOVED_TO	parent		-	yes
 *	RENAME				old parent	yes, at its new place
 *	on a directory itself		-, or parent	yes	yes
 *	*_SELF, ATTRIB of an unlink	-		-	yes
 *
 * Answers are kept on directories, in inode storage: one for each directory instead of
 * each file, so the first event of a new file finds one, and a file with names inside
 * and outside is judged by the name that was used.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "GPL";

/* ---- the kernel's types: only the fields used, found by name at load time ---- */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct super_block {
	__u32 s_dev;
	struct dentry *s_root;
};

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	__u32 i_generation;
	struct hlist_head i_dentry;
	void *i_fsnotify_marks;
};

struct qstr {
	const unsigned char *name;
};

struct dentry {
	unsigned int d_flags;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
	union {
		struct hlist_node d_alias;
	} d_u;
};

struct dentry___flat {			/* Linux 7 */
	struct hlist_node d_alias;
};

struct task_struct {
	unsigned int flags;
};

struct fanotify_fastpath_event {
	__u32 mask;
	struct inode *dir;
};

#pragma clang attribute pop

struct fsnotify_group;
struct fanotify_fastpath_hook;

struct fanotify_fastpath_ops {
	int (*fp_handler)(struct fsnotify_group *group, struct fanotify_fastpath_hook *hook,
			  struct fanotify_fastpath_event *event);
	int (*fp_init)(struct fanotify_fastpath_hook *hook, void *args);
	void (*fp_free)(struct fanotify_fastpath_hook *hook);
	char name[64];
};

enum {
	SEND = 0,		/* FAN_FP_RET_SEND_TO_USERSPACE */
	SKIP = 1,		/* FAN_FP_RET_SKIP_EVENT */
};

enum {
	FS_ACCESS		= 0x00000001,
	FS_MODIFY		= 0x00000002,
	FS_ATTRIB		= 0x00000004,
	FS_CLOSE_WRITE		= 0x00000008,
	FS_CLOSE_NOWRITE	= 0x00000010,
	FS_OPEN			= 0x00000020,
	FS_MOVED_FROM		= 0x00000040,
	FS_MOVED_TO		= 0x00000080,
	FS_CREATE		= 0x00000100,
	FS_DELETE		= 0x00000200,
	FS_DELETE_SELF		= 0x00000400,
	FS_MOVE_SELF		= 0x00000800,
	FS_ERROR		= 0x00008000,
	FS_OPEN_EXEC		= 0x00001000,
	FS_UNMOUNT		= 0x00002000,
	FS_RENAME		= 0x10000000,
	FS_EVENT_ON_CHILD	= 0x08000000,
	FS_ISDIR		= 0x40000000,	/* told to groups that report file ids */
};

#define S_IFMT		0170000
#define S_IFDIR		0040000
#define PF_EXITING	0x00000004

/* Typed by their pointers; what is acquired must be put, and putting may sleep. */
extern struct dentry *bpf_fanotify_data_dentry(struct fanotify_fastpath_event *event) __ksym;
extern struct inode *bpf_fanotify_data_inode(struct fanotify_fastpath_event *event) __ksym;
extern void bpf_dput(struct dentry *dentry) __ksym;
extern void bpf_iput(struct inode *inode) __ksym;
extern _Bool bpf_is_subdir(struct dentry *new_dentry, struct dentry *old_dentry) __ksym;
/* A loop that the verifier takes as one, in place of 64 turns of it. */
struct numbers {
	__u64 opaque;
} __attribute__((aligned(8)));

extern int bpf_iter_num_new(struct numbers *numbers, int start, int end) __ksym;
extern int *bpf_iter_num_next(struct numbers *numbers) __ksym;
extern void bpf_iter_num_destroy(struct numbers *numbers) __ksym;
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

/* The dentry that this member of its inode's list is of; 0: this kernel has it elsewhere. */
static __always_inline __u64 dentry_at(__u64 alias)
{
	if (bpf_core_field_exists(struct dentry, d_u.d_alias))
		return alias - bpf_core_field_offset(struct dentry, d_u.d_alias);
	if (bpf_core_field_exists(struct dentry___flat, d_alias))
		return alias - bpf_core_field_offset(struct dentry___flat, d_alias);
	return 0;
}

/* ---- what user space and the program tell each other ---- */

#define ROOTS	64		/* slots for roots */
#define DEPTH	8192		/* levels climbed before giving up */

/*
 * The roots, pinned.  Invariant: while a slot holds a dentry, the watcher holds an open
 * descriptor of that root, since a dentry alone doesn't keep its file system mounted and
 * one that outlives its superblock is a bug in the kernel's eyes.  The watcher's open
 * pins, and its close unpins: see knock().
 */
struct pinned_root {
	struct dentry __kptr *dentry;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ROOTS);
	__type(key, int);
	__type(value, struct pinned_root);
} subdir_root SEC(".maps");

/* The same by address, so that a climb finds out at each step at the price of a look-up. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ROOTS);
	__type(key, __u64);
	__type(value, __u32);
} pinned_at SEC(".maps");

/*
 * File systems that are inside as a whole, by s_dev: for a root that is one there is
 * nothing to pin, and so nothing that keeps it from being unmounted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} whole SEC(".maps");

/*
 * What is known of an inode.  The tag is user space's, by file descriptor: of a root its
 * slot, plus one.  The answer is the program's, a single word so that it is never seen
 * half-written: the generation it was found in, shifted left by one, and in bit 0 whether
 * the directory is inside.
 */
struct known {
	__u32 tag;
	__u32 unused;
	__u64 answer;
};

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct known);
} inode_storage_map SEC(".maps");

/*
 * A slot's life: user space makes it WANTED, tags the root and opens it; the program
 * pins it at that open; user space makes it RELEASED and closes the root; the program
 * unpins it at that close and it is FREE.
 */
enum slot_state { FREE, WANTED, PINNED, RELEASED };

__u64 root_ino;			/* the first root's, for whoever looks; the tags decide */
__u32 initialized;		/* roots pinned, counted by the program */
__u32 roots;			/* roots to be pinned, counted by user space */
__u32 slots;			/* slots in use: all below this number */
__u32 slot_state[ROOTS];
__u32 asked;			/* events wanted of what is no directory, 0 for all */
__u32 asked_dir;		/* events wanted of directories, 0 for all */
__u32 watcher;			/* the process that attached */
__u32 own_too;			/* whether its own events are sent, not dropped */

/*
 * Counts the moves of directories and the changes of roots; with user space's own count
 * added, it is the generation.  An answer is good in its own generation only.
 * Invariant: the generation is read before the question is asked, and bumped after the
 * tree has changed, so an answer from before a change never carries the generation after
 * it.  What remains is the time between a move and its bump.
 */
__u64 generation = 1;
__u64 changes;			/* the same, counted by user space, where it changes something */

/*
 * Moves of directories that were sent, since they may have left a tree, and how many of
 * them user space has read.  While some are unread, the moves and removals of directories
 * outside are sent as well: what was outside may by now be in one that was in a tree, and
 * what was in the tree may be gone, and user space would not know.
 */
__u64 left;
__u64 left_read;		/* user space's */

/* Counters, in a map of their own: who reads what stands above never waits for them. */
#define COUNTER SEC(".data.counters")

__u64 cache_hit COUNTER;	/* answered by what was known */
__u64 cache_miss COUNTER;	/* asked */
__u64 sent COUNTER;		/* to user space, undecided ones included */
__u64 undecided COUNTER;	/* sent for want of an answer */
__u64 skipped COUNTER;		/* outside */
__u64 unasked COUNTER;		/* inside or not, of a kind nobody wants */
__u64 own COUNTER;		/* the watcher's own */

static __always_inline void count(__u64 *counter)
{
	__sync_fetch_and_add(counter, 1);
}

/* ---- answers ---- */

enum place { UNKNOWN, OUTSIDE, INSIDE };

static __always_inline enum place answer_of(const struct known *known, __u64 now)
{
	__u64 answer = known->answer;

	if (answer >> 1 != now)
		return UNKNOWN;
	return answer & 1 ? INSIDE : OUTSIDE;
}

/* dir is a directory, and place is where it was at some moment in generation now. */
static __noinline void remember(struct inode *dir, enum place place, __u64 now)
{
	struct known *known;

	if (place == UNKNOWN)
		return;
	known = bpf_inode_storage_get(&inode_storage_map, dir, 0,
				      BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (known)
		known->answer = now << 1 | (place == INSIDE);
}

static __always_inline int wholly_inside(struct super_block *sb)
{
	__u32 dev = sb->s_dev;

	return !!bpf_map_lookup_elem(&whole, &dev);
}

/*
 * While a root is wanted and not pinned yet, nothing is known to be outside.  No answer
 * survives its pinning, which bumps the generation.
 */
static __always_inline int all_pinned(void)
{
	return *(volatile __u32 *)&initialized >= *(volatile __u32 *)&roots;
}

/* ---- climbing: from a dentry to the top, by plain reads ---- */

struct climb {
	__u64 at;		/* addresses, for nothing but reading and comparing */
	__u64 top;
	enum place place;
};

static int climb_step(__u32 level, struct climb *climb)
{
	struct dentry *dentry = (struct dentry *)climb->at;
	__u64 parent = 0;

	if (bpf_map_lookup_elem(&pinned_at, &climb->at)) {
		climb->place = INSIDE;
		return 1;
	}
	if (climb->at == climb->top) {
		climb->place = OUTSIDE;
		return 1;
	}
	if (bpf_core_read(&parent, sizeof(parent), &dentry->d_parent))
		return 1;
	if (parent == climb->at)
		return 1;
	climb->at = parent;
	return 0;
}

/*
 * Outside only when the climb ends at the root of the file system.  A top that is another
 * is a dentry not connected to the tree (made from a file handle), of which bpf_is_subdir
 * says "no" where the truth is "not known yet".  Dentries are freed after an RCU grace
 * period: the caller holds the read lock.
 */
static __noinline enum place climb(struct dentry *dentry, struct super_block *sb)
{
	struct climb climb = {
		.at = (__u64)dentry,
		.top = (__u64)sb->s_root,
		.place = UNKNOWN,
	};

	if (dentry)
		bpf_loop(DEPTH, climb_step, &climb, 0);
	return climb.place;
}

/* Where a dentry is: under a root by the kernel's own word, or seen to be under none. */
static __noinline enum place ask(struct dentry *dentry)
{
	enum place place = UNKNOWN;
	struct pinned_root *pinned;
	struct numbers numbers;
	struct dentry *root;
	int *next, slot;

	if (wholly_inside(dentry->d_sb))
		return INSIDE;
	bpf_rcu_read_lock();
	bpf_iter_num_new(&numbers, 0, slots);
	while (place == UNKNOWN && (next = bpf_iter_num_next(&numbers))) {
		slot = *next;
		pinned = bpf_map_lookup_elem(&subdir_root, &slot);
		root = pinned ? pinned->dentry : NULL;
		if (root && bpf_is_subdir(dentry, root))
			place = INSIDE;
	}
	bpf_iter_num_destroy(&numbers);
	if (place == UNKNOWN && all_pinned())
		place = climb(dentry, dentry->d_sb);
	bpf_rcu_read_unlock();
	return place;
}

/*
 * Learn where a directory is of which an event told no dentry.  It is climbed from its
 * own dentry by plain reads, which two moves at the same time could mislead, and both of
 * them will bump the generation: so the answer is for later events, while the present
 * one is sent.  With that, `rm -r` of what was never seen costs one event a directory.
 */
static __noinline void learn(struct inode *dir, __u64 now)
{
	struct super_block *sb = dir->i_sb;
	enum place place = UNKNOWN;
	struct hlist_node *alias;

	if (wholly_inside(sb)) {
		remember(dir, INSIDE, now);
		return;
	}
	if (!all_pinned())
		return;
	bpf_rcu_read_lock();
	alias = dir->i_dentry.first;
	if (alias)
		place = climb((void *)dentry_at((__u64)alias), sb);
	bpf_rcu_read_unlock();
	remember(dir, place, now);
}

/* ---- roots ---- */

static __noinline void pin(struct fanotify_fastpath_event *event, __u32 slot)
{
	__u32 *state = &slot_state[slot & (ROOTS - 1)];
	struct pinned_root *pinned;
	struct dentry *dentry;
	__u64 address;

	if (*state != WANTED)
		return;
	pinned = bpf_map_lookup_elem(&subdir_root, &slot);
	if (!pinned)
		return;
	dentry = bpf_fanotify_data_dentry(event);
	if (!dentry)
		return;
	address = (__u64)dentry;
	if (bpf_map_update_elem(&pinned_at, &address, &slot, BPF_NOEXIST)) {
		bpf_dput(dentry);	/* one directory is one root */
		return;
	}
	dentry = bpf_kptr_xchg(&pinned->dentry, dentry);
	if (dentry)			/* can't be: the slot was free */
		bpf_dput(dentry);
	*state = PINNED;
	__sync_fetch_and_add(&generation, 1);
	__sync_fetch_and_add(&initialized, 1);
}

static __noinline void unpin(__u32 slot)
{
	__u32 *state = &slot_state[slot & (ROOTS - 1)];
	struct pinned_root *pinned;
	struct dentry *dentry;
	__u64 address;

	pinned = bpf_map_lookup_elem(&subdir_root, &slot);
	if (!pinned)
		return;
	dentry = bpf_kptr_xchg(&pinned->dentry, NULL);
	*state = FREE;
	__sync_fetch_and_add(&generation, 1);
	if (!dentry)
		return;
	__sync_fetch_and_add(&initialized, -1);
	address = (__u64)dentry;
	bpf_map_delete_elem(&pinned_at, &address);
	bpf_dput(dentry);
}

/*
 * The watcher knocks: it opens a tagged root, and the root is pinned, or closes one that
 * it has released, and the root is unpinned.  A watcher that is killed closes its roots
 * as it exits, and that unpins as well: the close is told before the file lets go of its
 * mount, so the pin is gone before the file system can be.  For that the group must still
 * be there: an exiting task closes the highest descriptor first, and the watcher opens
 * its roots after its group.  Unpinning too early is safe: nothing more is found inside,
 * but the watcher is leaving, or wanted it.
 */
static __always_inline void knock(struct fanotify_fastpath_event *event, __u32 mask)
{
	struct task_struct *task;
	struct known *known;
	struct inode *inode;
	__u32 slot = 0;

	if (!(mask & FS_ISDIR) || !(mask & (FS_OPEN | FS_CLOSE_NOWRITE)))
		return;
	inode = bpf_fanotify_data_inode(event);
	if (!inode)
		return;
	known = bpf_inode_storage_get(&inode_storage_map, inode, 0, 0);
	if (known)
		slot = known->tag;
	if (slot && slot <= ROOTS) {
		task = bpf_get_current_task_btf();
		slot -= 1;
		if (mask & FS_OPEN) {
			pin(event, slot);
		} else if (slot_state[slot & (ROOTS - 1)] == RELEASED || (task->flags & PF_EXITING)) {
			unpin(slot);
			if (known)
				known->tag = 0;
		}
	}
	bpf_iput(inode);
}

/* ---- judging an event ---- */

/*
 * A RENAME of a directory from one parent to another, which is noted, changes what is
 * inside.  Returns the generation in which this event is judged: the one before its own
 * bump, since a move changes nothing for the directory it started from.
 */
static __always_inline __u64 generation_of(struct fanotify_fastpath_event *event, __u32 mask,
					   int *moves)
{
	__u64 mine = *(volatile __u64 *)&changes;
	__u64 now = *(volatile __u64 *)&generation + mine;
	struct dentry *dentry;

	if (!(mask & FS_RENAME))
		return now;
	dentry = bpf_fanotify_data_dentry(event);
	if (!dentry)
		return now;
	if ((dentry->d_inode->i_mode & S_IFMT) == S_IFDIR &&
	    dentry->d_parent->d_inode != event->dir) {
		now = __sync_fetch_and_add(&generation, 1) + mine;
		*moves = 1;
	}
	bpf_dput(dentry);
	return now;
}

/*
 * By the inode the event is on, for events on a directory, and those that tell no
 * directory: is it a root, or else (entry: no ->dir) what is known of the directory.
 * A root as an entry of its parent is wanted though its parent is outside.
 */
static __always_inline enum place judge_inode(struct fanotify_fastpath_event *event,
					      int entry, __u64 now)
{
	enum place place = UNKNOWN;
	struct known *known;
	struct inode *inode;

	inode = bpf_fanotify_data_inode(event);
	if (!inode)
		return UNKNOWN;
	known = bpf_inode_storage_get(&inode_storage_map, inode, 0, 0);
	if (known) {
		if (known->tag)
			place = INSIDE;
		else if (!entry)
			place = answer_of(known, now);
	}
	bpf_iput(inode);
	return place;
}

static __always_inline enum place judge_dir(struct inode *dir, __u64 now)
{
	struct known *known = bpf_inode_storage_get(&inode_storage_map, dir, 0, 0);

	if (!known)
		return UNKNOWN;
	if (known->tag)
		return INSIDE;
	return answer_of(known, now);
}

/*
 * By the dentry.  The answer may be kept on ->dir only if the dentry is dir's child: that
 * of a RENAME is already elsewhere, and the truth of one place says nothing of the other.
 */
static __always_inline enum place judge_dentry(struct dentry *dentry, struct inode *dir,
					       __u32 mask, enum place known, __u64 now)
{
	enum place place;

	if (dir && known == OUTSIDE && dentry->d_parent->d_inode == dir)
		return OUTSIDE;
	place = ask(dentry);
	if (!dir) {
		if (mask & FS_ISDIR)
			remember(dentry->d_inode, place, now);
		return place;
	}
	if (dentry->d_parent->d_inode == dir) {
		remember(dir, place, now);
		return place;
	}
	if (place == OUTSIDE && known != OUTSIDE) {
		learn(dir, now);
		return UNKNOWN;
	}
	return place;
}

static __always_inline enum place judge(struct fanotify_fastpath_event *event, __u32 mask,
					__u64 now)
{
	struct inode *dir = event->dir;
	enum place place = UNKNOWN;
	struct dentry *dentry;

	if (!dir || mask & FS_ISDIR)
		place = judge_inode(event, !!dir, now);
	if (dir && place == UNKNOWN)
		place = judge_dir(dir, now);
	if (place == INSIDE || (place == OUTSIDE && !(mask & FS_RENAME))) {
		count(&cache_hit);
		return place;
	}

	dentry = bpf_fanotify_data_dentry(event);
	if (dentry) {
		count(&cache_miss);
		place = judge_dentry(dentry, dir, mask, place, now);
		bpf_dput(dentry);
		return place;
	}
	if (dir) {
		count(&cache_miss);
		learn(dir, now);
		return UNKNOWN;
	}
	/* Neither dentry nor directory, and no root: nobody could tell where it was. */
	if (!(mask & FS_ISDIR) && mask & (FS_ATTRIB | FS_DELETE_SELF | FS_MOVE_SELF))
		return OUTSIDE;
	return UNKNOWN;
}

static __always_inline int is_asked(__u32 mask)
{
	__u32 wanted = mask & FS_ISDIR ? asked_dir : asked;

	return !wanted || mask & wanted & ~(FS_ISDIR | FS_EVENT_ON_CHILD);
}

/* Whether where directories were depends on an event outside: see `left`. */
static __always_inline int is_needed(__u32 mask)
{
	return mask & FS_ISDIR && mask & (FS_RENAME | FS_DELETE) &&
	       *(volatile __u64 *)&left != *(volatile __u64 *)&left_read;
}

SEC("struct_ops.s/fp_handler")
int bpf_fp_handler(__u64 *ctx)
{
	struct fanotify_fastpath_event *event = (void *)ctx[2];
	__u32 mask = event->mask;
	int moves = 0;
	__u64 now;

	/* Before anything is dropped: whoever moves a directory, the answers change. */
	now = generation_of(event, mask, &moves);

	/* Of a file system, whoever met it, and wherever. */
	if (mask & FS_ERROR) {
		count(&sent);
		return SEND;
	}
	if (bpf_get_current_pid_tgid() >> 32 == watcher) {
		knock(event, mask);
		if (!own_too) {
			count(&own);
			return SKIP;
		}
	}
	if (!is_asked(mask)) {
		count(&unasked);
		return SKIP;
	}
	switch (judge(event, mask, now)) {
	case OUTSIDE:
		if (is_needed(mask))
			break;
		count(&skipped);
		return SKIP;
	case UNKNOWN:
		count(&undecided);
		/* fallthrough */
	case INSIDE:
		if (moves)
			count(&left);
		break;
	}
	count(&sent);
	return SEND;
}

/* Runs in the process that attaches, which is the watcher, whatever pid it sees itself. */
SEC("struct_ops/fp_init")
int bpf_fp_init(__u64 *ctx)
{
	watcher = bpf_get_current_pid_tgid() >> 32;
	return 0;
}

/* May not sleep, so it can't put the roots: closing them has, or the map will. */
SEC("struct_ops/fp_free")
void bpf_fp_free(__u64 *ctx)
{
}

SEC(".struct_ops.link")
struct fanotify_fastpath_ops bpf_fanotify_fastpath_ops = {
	.fp_handler = (void *)bpf_fp_handler,
	.fp_init = (void *)bpf_fp_init,
	.fp_free = (void *)bpf_fp_free,
	.name = "fan_fp",
};

/* ---- processes that have ended ---- */

/*
 * For kernels from 4.17 on: no BTF, no types of the kernel, no globals (they are maps that those
 * kernels have not), and comparisons of 64 bits only (those of 32 came with 5.1).
 *
 * A process is noted when its first thread exits.  That is before its files are closed, so before
 * the last events that it makes, and before its pid can be another's: who finds the pid free, or
 * with another, finds the note.  Pids are those of the initial namespace.
 *
 * When another thread than the first executes a program, the first exits and the other takes its
 * place and its pid.  The process goes on, so that note is taken back.
 *
 * The table is an array in which a pid has the entry of its low bits, and the last to end wins.
 * User space maps it.  An entry is 64 bytes written without a lock, so `check` tells one that was
 * written half, or by two at once.
 */
#define ENDED_ENTRIES	32768	/* 2 MB, and as many pids as there are by default */

struct ended {
	__u64 pid;
	__u64 when;		/* bpf_ktime_get_ns() */
	__u64 before;		/* `when` of the note that was here until then */
	__u64 uid_gid;		/* the real ones, gid in the upper half */
	__u64 cgroup;		/* id in the cgroup2 hierarchy, 0: not known */
	__u64 comm[2];
	__u64 check;		/* of all above, see check_of() */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, ENDED_ENTRIES);
	__type(key, __u32);
	__type(value, struct ended);
} ended SEC(".maps");

static __always_inline __u64 check_of(const struct ended *note)
{
	const __u64 *word = (const void *)note;
	__u64 check = 1;

#pragma unroll
	for (int index = 0; index < 7; index++)
		check = (check ^ word[index]) * 0x9e3779b97f4a7c15ULL;
	return check;
}

static __always_inline int note_end(__u64 cgroup)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u64 pid = id >> 32;
	struct ended note = {}, *entry;
	__u32 key;

	if (pid != (id & 0xffffffff))
		return 0;
	key = pid & (ENDED_ENTRIES - 1);
	entry = bpf_map_lookup_elem(&ended, &key);
	if (!entry)
		return 0;
	note.pid = pid;
	note.when = bpf_ktime_get_ns();
	note.before = entry->when;
	note.uid_gid = bpf_get_current_uid_gid();
	note.cgroup = cgroup;
	bpf_get_current_comm(note.comm, sizeof(note.comm));
	note.check = check_of(&note);
	*entry = note;
	return 0;
}

/* A note of pid 0 is nobody's. */
SEC("raw_tp/sched_process_exec")
int take_back(__u64 *ctx)
{
	__u64 pid = bpf_get_current_pid_tgid() >> 32;
	__u64 thread = ctx[1] & 0xffffffff;		/* what it was until now */
	struct ended note, *entry;
	__u32 key = pid & (ENDED_ENTRIES - 1);

	if (thread == pid)
		return 0;
	entry = bpf_map_lookup_elem(&ended, &key);
	if (!entry || entry->pid != pid)
		return 0;
	note = *entry;
	note.pid = 0;
	note.when = note.before;
	note.check = check_of(&note);
	*entry = note;
	return 0;
}

/* One of the two is loaded, the second where the kernel has no control groups or is 4.17. */

SEC("raw_tp/sched_process_exit")
int note_ended(void *ctx)
{
	return note_end(bpf_get_current_cgroup_id());
}

SEC("raw_tp/sched_process_exit")
int note_ended_no_cgroup(void *ctx)
{
	return note_end(0);
}

#include "trace.h"
