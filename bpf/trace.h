/* SPDX-License-Identifier: GPL-2.0 */
/*
 * trace: the events of the watched trees as they happen, from the two functions that all events
 * pass before any group sees them.  For kernels from 5.10 on, by kprobes.
 *
 *	int fsnotify(__u32 mask, const void *data, int data_type, struct inode *dir,
 *		     const struct qstr *file_name, struct inode *inode, u32 cookie)
 *	int __fsnotify_parent(struct dentry *dentry, __u32 mask, const void *data, int data_type)
 *
 * Which calls are events, each of them once:
 *
 *	an entry's			fsnotify() with dir, file_name and CREATE, DELETE or RENAME
 *	a file's own			__fsnotify_parent()
 *	a directory's own		fsnotify() without such a bit: __fsnotify_parent(), if it
 *					is called for a directory at all, calls that in turn
 *	a root's own *_SELF, ATTRIB	fsnotify() with an inode and nothing else
 *	  of a link count, UNMOUNT
 *
 * All else is the same event once more, or one of which nobody can tell where it was.  Of a
 * rename RENAME has all: `data` has the dentry, at its new place, dir and file_name are the old.
 *
 * The kernel calls them only for a super block on which somebody watches something.  User space
 * has an inotify watch on each root, and so each root's inode has marks: only such an inode is
 * looked for among the roots.  The watch holds the inode until its file system is unmounted.
 *
 * kprobe programs run with preemption off, and none is entered on a CPU where another runs.  So
 * what a program needs is kept in an entry of its CPU, and nothing there takes a lock.
 *
 * Sections have a ? before their names, so that who loads the object as a whole, as bpftool does
 * for the handler of the fastpath, needs no kernel that has what these need.
 *
 * NFS and AFS give a file that somebody has open another name in place of removing it, which they
 * do when it is closed: a "silly rename".  The event of the removal comes after that, and has the
 * new name.  So what the name was is kept when d_move() changes it.
 *
 *	void d_move(struct dentry *dentry, struct dentry *target)
 *
 * The kernel's memory is read by bpf_probe_read_kernel(), which reads nothing, and says zero,
 * where there is nothing.  What was read in pieces counts only if no directory was renamed
 * meanwhile: rename_lock, a sequence counter, tells.
 */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct path {
	struct dentry *dentry;
};

struct file {
	struct path f_path;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct fsnotify_rename_data {
	struct dentry *moved;
};

struct rcu_state {
	unsigned long gp_seq;
};

struct task_struct___files {
	struct files_struct *files;
	struct task_struct___files *group_leader;
	char comm[16];
};

/* The registers of a function's parameters, by machine. */
struct pt_regs___x86_64 {
	unsigned long di, si, dx, cx, r8;
};

struct pt_regs___arm64 {
	unsigned long regs[31];
};

struct pt_regs___s390x {
	unsigned long gprs[16];
};

struct pt_regs___riscv64 {
	unsigned long a0, a1, a2, a3, a4;
};

struct pt_regs___ppc64 {
	unsigned long gpr[32];
};

#pragma clang attribute pop

/* As <linux/dcache.h> has it: hash and length are one word. */
struct name {
	__u64 hash_len;
	const char *name;
};

enum fsnotify_data_type {
	FSNOTIFY_EVENT_PATH,
	FSNOTIFY_EVENT_INODE,
	FSNOTIFY_EVENT_DENTRY,
	FSNOTIFY_EVENT_RENAME,
};

/* A #define, with this value, before it was one of an enum. */
enum dentry_flags {
	DCACHE_NFSFS_RENAMED = 1 << 12,
};

#define DATA_IS(type, kind)	((type) == bpf_core_enum_value(enum fsnotify_data_type, kind))

#define FS_MERGED	(FS_ACCESS | FS_MODIFY | FS_ATTRIB | FS_CLOSE_WRITE | FS_CLOSE_NOWRITE | \
			 FS_OPEN | FS_OPEN_EXEC)
#define FS_ENTRY	(FS_CREATE | FS_DELETE | FS_RENAME)
#define FS_THROUGH	(FS_MERGED & ~FS_ATTRIB)	/* what is done by way of an open file */
#define S_IFCHR		0020000
#define S_IFBLK		0060000

#define TRACE_ROOTS	4096
#define PATH_ROOM	65536
#define NAME_ROOM	1024	/* a name takes less; with vfat, up to 765 bytes */
#define SILLY_ROOM	256	/* a name takes less, with NFS and AFS */
#define TRACE_DEPTH	65536	/* levels, with bpf_loop() */
#define TRACE_TURNS	32	/* levels for each of the climbs that follow, without */
#define TRACE_CLIMBS	4	/* for each of 33 tail calls */
#define TRIES		64	/* climbs while directories are renamed */

/* What a climb found: the slot of a root, or one of these. */
enum { CLIMBING = -1, ABOVE_ALL = -2, DETACHED = -3 };

/* Why a record is not whole. */
enum { TOO_LONG = 1, UNSETTLED = 2, TOO_DEEP = 4, UNKNOWN_DATA = 8 };

/*
 * What user space gets.  A path is its names from the last to the first, each with a NUL; there
 * are `length` bytes of the path, then `old_length` of the old one.
 */
struct trace_record {
	__u64 time;		/* bpf_ktime_get_boot_ns() */
	__u32 mask;
	/* Who did it. */
	__u32 pid;		/* 0: of another pid namespace */
	__u64 cgroup;
	__u64 uid_gid;
	char comm[16];
	/* Where, with the paths. */
	__s32 slot;		/* -1: not known */
	__s32 old_slot;
	__u32 length;
	__u32 old_length;
	__u32 flags;
	__u32 moved;		/* of a move: tells what was moved from what else there is */
	__u32 more;		/* number of its entry in trace_more; NO_MORE: it has none */
	__u32 doubt;		/* that of a record by which it may have been told, or NO_MORE */
};

#define NO_MORE	0xffffffff

enum trace_count {
	TRACE_SENT, TRACE_OUTSIDE, TRACE_MERGED, TRACE_OWN, TRACE_DETACHED, TRACE_TOO_LONG,
	TRACE_UNSETTLED, TRACE_TOO_DEEP, TRACE_UNKNOWN_DATA, TRACE_COUNTS,
};

/* The last record of an inode, if it is one that further events may be merged into. */
struct trace_last {
	__u64 inode;
	__u64 parent;
	__u64 name;
	__u64 process;
	__u64 paths;		/* as in struct work */
	__u64 before;		/* where the ring ended before it */
	__u32 mask;
	__u32 more;
	__u64 check;		/* of all above: it is written without a lock */
};

/*
 * What has been merged into a record since it was sent: a byte for each of MERGED_BITS, 0: not.
 * It is added to, which takes no lock and is one instruction on each kernel; two processors that
 * find the same 0 both add.
 */
struct trace_more {
	__u64 bits;
	__u64 after;		/* where the ring ended after the record */
};

#define TRACE_LASTS_BITS 11

/*
 * A directory whose entries were found to be outside.  They still are while no directory was renamed
 * and no root came or went; and it is the same directory while no grace period of RCU has begun,
 * since before the end of one no dentry takes the memory of another.
 */
struct outside {
	__u64 directory;	/* its dentry */
	__u64 paths;		/* as in struct work */
	__u64 grace;		/* grace_now(), then */
};

#define OUTSIDE_BITS 8

enum { CLIMB = 1, TELL = 2 };		/* what is to be done of an event */

struct work {
	__u64 counts[TRACE_COUNTS];
	__s64 result;			/* for user space, of trace_place */
	__u64 order;			/* for nothing but order_reads() */
	__u64 at;			/* the dentry that was climbed to */
	__u64 start[2];			/* where it starts; of a rename the old side, too, or 0 */
	__u64 leaf[2];			/* struct qstr of a name below that, or 0 */
	__u64 entry;			/* the same, until it is copied */
	__u64 end[2];			/* the dentry of the root */
	__u64 subject;			/* the inode that an entry's event is about */
	struct trace_last last;		/* what will be the inode's last, if it is recorded */
	__s32 slots[2];
	__s32 found;
	__u32 side;
	__u32 copying;			/* 0: only finding out whether it is inside */
	__u32 used;			/* bytes of path[] */
	__u32 renames;			/* rename_lock's counter when it began */
	__u64 paths;			/* no path is another while this is the same; 0: not known */
	__u64 directory[2];		/* where what the event is about is an entry, or 0 */
	struct outside outside[1 << OUTSIDE_BITS];	/* by outside_of() */
	__u32 tries;
	__u32 was_inside;		/* in one of those that were disturbed */
	__u32 todo;
	__s32 removed;			/* the slot of a root that the event removes, or -1 */
	__u32 sent;			/* by this CPU: whose turn it is in trace_more */
	__u32 level;			/* names between `at` and what the event is about */
	struct trace_record record;
	char path[PATH_ROOM + NAME_ROOM];
};

/* For each CPU, and the last for user space's own; the loader sets how many. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} trace_works SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} trace_ring SEC(".maps");

/*
 * The roots by the address of their inode; the rest tells that it is still that inode.  Of a flat
 * one only what happens to itself and to its own entries counts.
 */
struct trace_root {
	__u32 slot;
	__u32 dev;
	__u64 ino;
	__u32 generation;
	__u32 flat;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TRACE_ROOTS);
	__type(key, __u64);
	__type(value, struct trace_root);
} trace_roots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TRACE_ROOTS);
	__type(key, __u32);
	__type(value, __u64);
} trace_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << TRACE_LASTS_BITS);
	__type(key, __u32);
	__type(value, struct trace_last);
} trace_lasts SEC(".maps");

/* The name of a dentry before its silly rename.  It is needed in the same system call only. */
struct silly {
	struct name name;
	char text[SILLY_ROOM];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, struct silly);
} trace_silly SEC(".maps");

/* For each CPU 1 << trace_more_bits entries, which it uses in turn; the loader sets how many. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace_more);
} trace_more SEC(".maps");

/* Known before the programs are verified. */
#define CONSTANT SEC(".rodata.trace")
const volatile __u32 trace_asked CONSTANT = 0;		/* with RENAME for all three of a move */
const volatile __u32 trace_asked_dir CONSTANT = 0;
const volatile __u32 trace_told CONSTANT = 0;		/* the same as user space said it */
const volatile __u32 trace_told_dir CONSTANT = 0;
const volatile __u32 trace_own_too CONSTANT = 0;
const volatile __u32 trace_devices CONSTANT = 0;	/* also what is done to them when open */
const volatile __u32 trace_cpus CONSTANT = 0;		/* and the entry of user space in trace_works */
const volatile __u32 trace_more_bits CONSTANT = 0;
const volatile __u64 trace_pidns_dev CONSTANT = 0;
const volatile __u64 trace_pidns_ino CONSTANT = 0;	/* 0: the first */

__u64 trace_rename_lock SEC(".data.trace") = 0;		/* its address, 0: not known */
__u64 trace_rcu_state SEC(".data.trace") = 0;		/* the same */
__u64 trace_read SEC(".data.trace") = 0;	/* up to there no entry of trace_more is in use */
__u64 trace_full SEC(".data.trace") = 0;	/* records for which the ring had no room */
__u32 trace_watcher SEC(".data.trace") = 0;
__u32 trace_roots_changed SEC(".data.trace") = 0;

/* ---- reading ---- */

/* Whether the machine reads in order, and has what was added in place before it reads on. */
static __always_inline int keeps_order(void)
{
	return bpf_core_field_exists(((struct pt_regs___x86_64 *)0)->di);
}

/*
 * What is read before this is read before what is read after it, on machines that would not have
 * it so: by an atomic operation that returns something.  Linux 5.12 takes a program with that.
 */
static __always_inline void order_reads(struct work *work)
{
	__u64 had;

	if (keeps_order())
		return;
	had = __sync_fetch_and_add(&work->order, 0);
	asm volatile("" : : "r"(had));
}

static __always_inline __u32 renames_now(void)
{
	__u32 now = 0;

	if (trace_rename_lock)
		bpf_probe_read_kernel(&now, sizeof(now), (void *)trace_rename_lock);
	return now;
}

/* RCU's counter of grace periods, which changes when one begins; 0: not known. */
static __always_inline __u64 grace_now(void)
{
	unsigned long now = 0;

	if (trace_rcu_state && bpf_core_field_exists(((struct rcu_state *)0)->gp_seq))
		bpf_core_read(&now, sizeof(now), &((struct rcu_state *)trace_rcu_state)->gp_seq);
	return now;
}

/* The slot of a root's inode so many levels up, or CLIMBING. */
static __always_inline __s32 slot_of(struct inode *inode, __u32 level)
{
	__u64 key = (__u64)inode, marks = 0, ino = 0;
	__u32 dev = 0, generation = 0;
	struct super_block *sb = NULL;
	struct trace_root *root;

	bpf_core_read(&marks, sizeof(marks), &inode->i_fsnotify_marks);
	if (!marks)
		return CLIMBING;
	root = bpf_map_lookup_elem(&trace_roots, &key);
	if (!root)
		return CLIMBING;
	bpf_core_read(&ino, sizeof(ino), &inode->i_ino);
	bpf_core_read(&generation, sizeof(generation), &inode->i_generation);
	bpf_core_read(&sb, sizeof(sb), &inode->i_sb);
	bpf_core_read(&dev, sizeof(dev), &sb->s_dev);
	if (root->ino != ino || root->generation != generation || root->dev != dev)
		return CLIMBING;
	if (root->flat && level > 1)
		return CLIMBING;
	return root->slot & (TRACE_ROOTS - 1);
}

static __always_inline void forget_root(__u64 inode)
{
	bpf_map_delete_elem(&trace_roots, &inode);
	trace_roots_changed++;
}

static __always_inline struct inode *inode_of(struct dentry *dentry)
{
	struct inode *inode = NULL;

	bpf_core_read(&inode, sizeof(inode), &dentry->d_inode);
	return inode;
}

static __always_inline struct dentry *parent_of(struct dentry *dentry)
{
	struct dentry *parent = NULL;

	bpf_core_read(&parent, sizeof(parent), &dentry->d_parent);
	return parent;
}

/* What a climb needs of a dentry; in every kernel so far it lies there as here. */
struct head {
	struct dentry *parent;
	struct name name;
	struct inode *inode;
};

#define LIES_AT(field, there)	(bpf_core_field_offset(struct dentry, field) == \
				 bpf_core_field_offset(struct dentry, d_parent) + (there))

static __always_inline void read_head(struct dentry *dentry, struct head *head)
{
	if (LIES_AT(d_name, offsetof(struct head, name)) &&
	    LIES_AT(d_inode, offsetof(struct head, inode))) {
		bpf_probe_read_kernel(head, sizeof(*head), (void *)dentry +
				      bpf_core_field_offset(struct dentry, d_parent));
		return;
	}
	head->parent = parent_of(dentry);
	head->inode = inode_of(dentry);
	bpf_probe_read_kernel(&head->name, sizeof(head->name), (void *)dentry +
			      bpf_core_field_offset(struct dentry, d_name));
}

/* A directory has one dentry at most. */
static __always_inline struct dentry *dentry_of(struct inode *dir)
{
	__u64 alias = 0;

	bpf_core_read(&alias, sizeof(alias), &dir->i_dentry.first);
	return (struct dentry *)dentry_at(alias);
}

static __always_inline __u32 length_of(const struct name *name)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return name->hash_len >> 32;
#else
	return name->hash_len;
#endif
}

/* ---- climbing ---- */

static __always_inline int append(struct work *work, struct name *name)
{
	__u32 used = work->used, length = length_of(name);

	if (used >= PATH_ROOM || length >= NAME_ROOM) {
		work->record.flags |= TOO_LONG;
		return 1;
	}
	/* What the compiler knows of the two by now, the verifier does not. */
	asm volatile("" : "+r"(used), "+r"(length));
	used &= PATH_ROOM - 1;
	length &= NAME_ROOM - 1;
	bpf_probe_read_kernel(work->path + used, length, name->name);
	used += length;
	work->path[used] = 0;
	work->used = used + 1;
	return 0;
}

static __always_inline void climb_from(struct work *work, __u32 side)
{
	work->side = side;
	work->at = work->start[side];
	work->entry = work->leaf[side];
	work->level = !!work->entry;
	work->found = CLIMBING;
}

static __always_inline void begin(struct work *work)
{
	work->renames = renames_now();
	work->paths = 0;
	if (trace_rename_lock && !(work->renames & 1))
		work->paths = (__u64)trace_roots_changed << 32 | work->renames | 1;
	work->copying = 0;
	work->directory[0] = work->directory[1] = 0;
	work->used = 0;
	work->slots[0] = work->slots[1] = ABOVE_ALL;
	work->record.flags = 0;
	work->record.length = work->record.old_length = 0;
	climb_from(work, 0);
}

/*
 * One level, or the name below the first.  1: it ends here.  The second time, for the names, it is
 * known where.
 */
static __always_inline int climb_turn(struct work *work)
{
	struct dentry *dentry = (struct dentry *)work->at, *top = NULL;
	struct super_block *sb = NULL;
	struct head head = {};
	__u32 side = work->side & 1;

	if (work->copying && work->entry) {
		bpf_probe_read_kernel(&head.name, sizeof(head.name), (void *)work->entry);
		work->entry = 0;
		return append(work, &head.name);
	}
	if (work->copying && work->at == work->end[side]) {
		work->found = work->slots[side];
		return 1;
	}
	read_head(dentry, &head);
	if (!work->copying) {
		if (work->level == 1)
			work->directory[side] = work->at;
		work->found = slot_of(head.inode, work->level);
		if (work->found >= 0) {
			work->end[side] = work->at;
			return 1;
		}
	}
	if (!head.parent || head.parent == dentry) {
		bpf_core_read(&sb, sizeof(sb), &dentry->d_sb);
		bpf_core_read(&top, sizeof(top), &sb->s_root);
		work->found = dentry == top ? ABOVE_ALL : DETACHED;
		return 1;
	}
	work->at = (__u64)head.parent;
	work->level++;
	return work->copying && append(work, &head.name);
}

/* ---- what is known to be outside ---- */

static __always_inline struct outside *outside_of(struct work *work, __u64 directory)
{
	return &work->outside[directory * 0x9e3779b97f4a7c15ULL >> (64 - OUTSIDE_BITS)];
}

/* Whether the entries of a directory are, by one of the climbs before; of each begin(). */
static __always_inline int is_outside(struct work *work, __u64 directory)
{
	struct outside *known = outside_of(work, directory);

	return known->directory == directory && work->paths && known->paths == work->paths &&
	       known->grace == grace_now();
}

/* The event is outside, as a climb that nothing disturbed has found: its directories are. */
static __always_inline void keep_outside(struct work *work)
{
	__u64 grace = grace_now();

	if (!work->paths || !grace)
		return;
	for (int side = 0; side < 2; side++) {
		__u64 directory = work->directory[side];
		struct outside *known = outside_of(work, directory);

		if (directory) {
			known->directory = directory;
			known->paths = work->paths;
			known->grace = grace;
		}
	}
}

/* ---- recording ---- */

static __always_inline __u32 pid_here(__u32 pid)
{
	struct bpf_pidns_info info = {};

	if (!trace_pidns_ino)
		return pid;
	if (bpf_get_ns_current_pid_tgid(trace_pidns_dev, trace_pidns_ino, &info, sizeof(info)))
		return 0;
	return info.tgid;
}

static __always_inline __u64 check_of_last(const struct trace_last *last)
{
	const __u64 *word = (const void *)last;
	__u64 check = 1;

#pragma unroll
	for (int index = 0; index < 7; index++)
		check = (check ^ word[index]) * 0x9e3779b97f4a7c15ULL;
	return check;
}

static __always_inline struct trace_last *last_of(__u64 inode)
{
	__u32 key = (inode * 0x9e3779b97f4a7c15ULL) >> (64 - TRACE_LASTS_BITS);

	return bpf_map_lookup_elem(&trace_lasts, &key);
}

/* The entry for what is merged into the record to be sent, NULL if the next one is in use. */
static __always_inline struct trace_more *next_more(struct work *work)
{
	__u32 turn = work->sent & ((1U << trace_more_bits) - 1);
	__u32 key = bpf_get_smp_processor_id() << trace_more_bits | turn;
	struct trace_more *more = bpf_map_lookup_elem(&trace_more, &key);

	if (!more || more->after > trace_read)
		return NULL;
	work->sent++;
	work->record.more = key;
	more->bits = 0;
	return more;
}

/* What the record that was just sent is, for what may be merged into it. */
static __always_inline void keep_last(struct work *work, __u64 before)
{
	struct trace_last *last = last_of(work->last.inode);

	if (!last)
		return;
	work->last.paths = work->paths;
	work->last.before = before;
	work->last.mask = work->record.mask;
	work->last.more = work->record.more;
	work->last.check = check_of_last(&work->last);
	*last = work->last;
}

static __always_inline void send(struct work *work)
{
	struct task_struct___files *task = (void *)bpf_get_current_task(), *leader;
	struct trace_record *record = &work->record;
	struct trace_more *more = NULL;
	__u64 before;
	__u32 size;

	record->time = bpf_ktime_get_boot_ns();
	record->cgroup = bpf_get_current_cgroup_id();
	record->uid_gid = bpf_get_current_uid_gid();
	record->pid = pid_here(bpf_get_current_pid_tgid() >> 32);
	record->moved = 0;
	if (record->mask & (FS_RENAME | FS_MOVED_FROM | FS_MOVED_TO))
		record->moved = work->subject >> 3;
	leader = NULL;
	bpf_core_read(&leader, sizeof(leader), &task->group_leader);
	bpf_core_read(record->comm, sizeof(record->comm), &leader->comm);
	if (record->flags)
		for (int flag = 0; flag < 4; flag++)
			work->counts[TRACE_TOO_LONG + flag] += record->flags >> flag & 1;
	size = record->length + record->old_length;
	if (size > PATH_ROOM + NAME_ROOM)
		return;
	record->more = NO_MORE;
	if (work->last.inode && !record->flags)
		more = next_more(work);
	before = bpf_ringbuf_query(&trace_ring, BPF_RB_PROD_POS);
	if (bpf_ringbuf_output(&trace_ring, record, sizeof(*record) + size, 0)) {
		__sync_fetch_and_add(&trace_full, 1);
		return;
	}
	work->counts[TRACE_SENT]++;
	if (more) {
		more->after = bpf_ringbuf_query(&trace_ring, BPF_RB_PROD_POS);
		keep_last(work, before);
	}
}

/* ---- merging ---- */

/* Prepare work->last for an event of an inode, by the name that was used. */
static __always_inline void name_last(struct work *work, struct inode *inode,
				      struct dentry *parent, __u64 name)
{
	work->last.inode = (__u64)inode;
	work->last.parent = (__u64)parent;
	work->last.name = name;
	work->last.process = bpf_get_current_pid_tgid() >> 32;
}

/* Nothing is merged any more into what is recorded of an inode. */
static __always_inline void forget_last(__u64 inode)
{
	struct trace_last *last = inode ? last_of(inode) : NULL;

	if (last)
		last->inode = 0;
}

static __always_inline int is_unread(const struct trace_last *last)
{
	return bpf_ringbuf_query(&trace_ring, BPF_RB_CONS_POS) <= last->before;
}

/* A byte for each of MERGED_BITS. */
static __always_inline __u64 spread(__u32 mask)
{
	__u64 bits = (__u64)!!(mask & FS_OPEN_EXEC) << 48 | (__u64)!!(mask & FS_DELETE) << 56;

#pragma unroll
	for (int bit = 0; bit < 6; bit++)	/* FS_ACCESS to FS_OPEN */
		bits |= (__u64)(mask >> bit & 1) << 8 * bit;
	return bits;
}

/*
 * Whether the event is told by the last record of its inode, which is one by the same name and
 * process and not read yet.  As fanotify does while events wait.
 *
 * User space says how far it has read before it looks at the bits, and here they are added before
 * that is looked at again.  If it was read meanwhile the event is sent, with the number of the
 * entry: user space, which knows what it saw there, finds out whether it was in time.  Where that
 * order can't be had, before bpf_loop() on machines that would not keep it, nothing is merged.
 */
static __always_inline int is_merged(struct work *work, int has_loop)
{
	struct trace_last *mine = &work->last, *found = last_of(mine->inode), last;
	struct trace_more *more;
	__u64 bits, had;
	__u32 key;

	if (!found || found->inode != mine->inode || !(has_loop || keeps_order()))
		return 0;
	last = *found;
	asm volatile("" : : : "memory");	/* what is compared is what was copied */
	if (last.inode != mine->inode || last.parent != mine->parent ||
	    last.name != mine->name || last.process != mine->process || !last.paths ||
	    last.paths != work->paths || last.check != check_of_last(&last))
		return 0;
	key = last.more;
	more = bpf_map_lookup_elem(&trace_more, &key);
	if (!more || !is_unread(&last))
		return 0;
	bits = spread(work->record.mask & ~last.mask);
	had = more->bits;
#pragma unroll
	for (int byte = 0; byte < 64; byte += 8)
		if (had >> byte & 0xff)
			bits &= ~(0xffULL << byte);
	if (bits) {
		__sync_fetch_and_add(&more->bits, bits);
		if (has_loop)
			order_reads(work);
		if (!is_unread(&last)) {
			work->record.doubt = key;
			return 0;
		}
	}
	work->counts[TRACE_MERGED]++;
	return 1;
}

/*
 * What an entry's event is for those of its inode.  CREATE is the first of its name.  DELETE of a
 * file is the last, and is told by what came before it.  A move is alone.
 */
static __always_inline void name_entry(struct work *work, int has_loop)
{
	__u32 mask = work->record.mask;
	__u64 name = 0;

	bpf_probe_read_kernel(&name, sizeof(name), (void *)work->leaf[0]);
	name_last(work, (struct inode *)work->subject, (struct dentry *)work->start[0], name);
	if (mask & FS_DELETE && !(mask & FS_ISDIR) && is_merged(work, has_loop))
		work->todo = 0;
	if (!(mask & FS_CREATE)) {
		forget_last(work->subject);
		work->last.inode = 0;
	}
}

/* A record of what nobody knows where it is. */
static __always_inline void be_unplaced(struct work *work, __u32 flag)
{
	work->record.flags = flag;
	work->record.slot = work->record.old_slot = -1;
	work->record.length = work->record.old_length = 0;
	work->last.inode = 0;
	work->todo = TELL;
}

/* A record of a root's own, which has no path. */
static __always_inline void be_of_root(struct work *work, __s32 slot, __u32 mask)
{
	work->record.mask = mask;
	work->record.slot = slot;
	work->record.old_slot = -1;
	work->record.flags = work->record.length = work->record.old_length = 0;
	work->last.inode = 0;
	work->todo = TELL;
}

/*
 * Send the record, if there is one, and then that of a root that was removed.  What is still to be
 * climbed by now is too deep.
 */
static __always_inline void deliver(struct work *work)
{
	if (work->todo & CLIMB)
		be_unplaced(work, TOO_DEEP);
#pragma nounroll
	for (int record = 0; record < 2; record++) {
		if (work->todo & TELL)
			send(work);
		if (work->removed < 0)
			break;
		be_of_root(work, work->removed, FS_DELETE_SELF | FS_ISDIR);
		work->removed = -1;
	}
}

/* A rename is what it is for the trees.  0: nobody asked for that. */
static __always_inline int name_move(struct work *work)
{
	__u32 mask = work->record.mask, told, bit;

	if (!(mask & FS_RENAME))
		return 1;
	bit = FS_MOVED_FROM;
	if (work->slots[0] >= 0)
		bit = work->slots[1] >= 0 ? FS_RENAME : FS_MOVED_TO;
	told = mask & FS_ISDIR ? trace_told_dir : trace_told;
	return !!(told & bit);
}

static __always_inline void finish(struct work *work)
{
	struct trace_record *record = &work->record;
	__s32 slot = work->slots[0], old_slot = work->slots[1];

	if (record->mask & FS_RENAME && (slot < 0 || old_slot < 0)) {
		record->mask ^= FS_RENAME | (slot < 0 ? FS_MOVED_FROM : FS_MOVED_TO);
		if (slot < 0) {
			slot = old_slot;
			record->length = record->old_length;
		}
		record->old_length = 0;
		old_slot = -1;
	}
	record->slot = slot;
	record->old_slot = old_slot < 0 ? -1 : old_slot;
	if (record->flags & TOO_LONG)
		record->length = record->old_length = 0;
	work->todo = TELL;
}

static __always_inline int is_disturbed(struct work *work)
{
	return work->record.flags & UNSETTLED ||
	       (trace_rename_lock && (work->renames & 1 || work->renames != renames_now()));
}

/*
 * What comes after a climb.  First each side is climbed to find out whether it is inside, which
 * for most events is all; then the sides that are, with names.  1: that was all.
 */
static __always_inline int settle(struct work *work)
{
	__u32 side = work->side & 1;

	if (!work->copying)
		work->slots[side] = work->found;
	else if (!side)
		work->record.length = work->used;
	else
		work->record.old_length = work->used - work->record.length;
	if (work->copying && work->found < 0 && !(work->record.flags & TOO_LONG))
		work->record.flags |= UNSETTLED;	/* the root is elsewhere by now */
	if (!side && work->start[1] && !(work->copying && work->slots[1] < 0)) {
		climb_from(work, 1);
		return 0;
	}

	if (is_disturbed(work)) {
		if (work->slots[0] >= 0 || work->slots[1] >= 0)
			work->was_inside = 1;
		if (work->tries < TRIES) {
			work->tries++;
			begin(work);
			return 0;
		}
		work->record.flags |= UNSETTLED;
	}
	if (work->copying) {
		finish(work);
		return 1;
	}

	work->todo = 0;
	if (work->slots[0] < 0 && work->slots[1] < 0) {
		if (work->slots[0] == CLIMBING || work->slots[1] == CLIMBING)
			be_unplaced(work, TOO_DEEP);
		else if (work->record.flags & UNSETTLED && work->was_inside)
			be_unplaced(work, UNSETTLED);		/* else it never was, in all tries */
		else if (work->slots[0] == DETACHED || work->slots[1] == DETACHED)
			work->counts[TRACE_DETACHED]++;
		else {
			work->counts[TRACE_OUTSIDE]++;
			if (!(work->record.flags & UNSETTLED))
				keep_outside(work);
		}
		return 1;
	}
	if (!name_move(work))
		return 1;
	work->todo = CLIMB;
	work->copying = 1;
	climb_from(work, work->slots[0] < 0);
	return 0;
}

/* ---- which calls are events ---- */

struct parameters {
	__u64 at[5];
};

#define FIRST_FIVE(flavor, a, b, c, d, e) do {						\
	const volatile struct pt_regs___##flavor *regs = ctx;				\
	if (bpf_core_field_exists(((struct pt_regs___##flavor *)0)->a)) {		\
		parameters->at[0] = regs->a;						\
		parameters->at[1] = regs->b;						\
		parameters->at[2] = regs->c;						\
		parameters->at[3] = regs->d;						\
		parameters->at[4] = regs->e;						\
		asm volatile("");	/* or clang makes one load of two machines' */	\
		return;									\
	}										\
} while (0)

static __always_inline void read_parameters(struct parameters *parameters, void *ctx)
{
	FIRST_FIVE(x86_64, di, si, dx, cx, r8);
	FIRST_FIVE(arm64, regs[0], regs[1], regs[2], regs[3], regs[4]);
	FIRST_FIVE(s390x, gprs[2], gprs[3], gprs[4], gprs[5], gprs[6]);
	FIRST_FIVE(riscv64, a0, a1, a2, a3, a4);
	FIRST_FIVE(ppc64, gpr[3], gpr[4], gpr[5], gpr[6], gpr[7]);
}

static __always_inline struct work *work_here(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&trace_works, &cpu);
}

/* The same with nothing to do, NULL if there is nothing. */
static __always_inline struct work *work_on(__u32 bits)
{
	struct work *work = bits ? work_here() : NULL;

	if (work) {
		work->todo = 0;
		work->removed = -1;
		work->record.doubt = NO_MORE;
	}
	return work;
}

/* The bits of a mask that were asked for, but for UNMOUNT, which is never in the way. */
static __always_inline __u32 asked_of(__u32 mask)
{
	return mask & (mask & FS_ISDIR ? trace_asked_dir : trace_asked);
}

/* Whether these bits of an event are to be recorded. */
static __always_inline int is_taken(struct work *work, __u32 mask, __u32 bits)
{
	if (!bits)
		return 0;
	if (!trace_own_too && bpf_get_current_pid_tgid() >> 32 == trace_watcher) {
		work->counts[TRACE_OWN]++;
		return 0;
	}
	work->record.mask = bits | (mask & FS_ISDIR);
	work->start[1] = work->leaf[0] = work->leaf[1] = 0;
	work->tries = work->was_inside = 0;
	work->todo = CLIMB;
	return 1;
}

static __always_inline int is_device(struct inode *inode)
{
	unsigned short mode = 0;

	bpf_core_read(&mode, sizeof(mode), &inode->i_mode);
	mode &= S_IFMT;
	return mode == S_IFCHR || mode == S_IFBLK;
}

static __always_inline struct work *take_own(struct dentry *dentry, __u32 mask, int has_loop)
{
	__u32 bits = asked_of(mask) & FS_MERGED;
	struct work *work = work_on(bits);
	struct inode *inode;
	struct head head;
	int is_root;

	if (!work || !is_taken(work, mask, bits))
		return NULL;
	read_head(dentry, &head);
	inode = head.inode;
	work->start[0] = (__u64)dentry;
	begin(work);
	is_root = slot_of(inode, 0) >= 0;
	if (!is_root && is_outside(work, (__u64)head.parent)) {
		work->counts[TRACE_OUTSIDE]++;
		return NULL;
	}
	if (is_root && !(mask & FS_ISDIR)) {
		/* A file that is a root: by which name, too. */
		work->start[1] = (__u64)head.parent;
		work->leaf[1] = (__u64)dentry + bpf_core_field_offset(dentry->d_name);
	}
	if (!trace_devices && !(mask & FS_ISDIR) && is_device(inode)) {
		work->record.mask &= ~FS_THROUGH;
		if (!work->record.mask)
			return NULL;
	}
	/* A record of an entry, as of its CREATE, does not tell what happens to a root. */
	name_last(work, inode, head.parent, head.name.hash_len + is_root);
	return is_merged(work, has_loop) ? NULL : work;
}

/* An event that names an inode alone is of no interest, unless that is a root. */
static __always_inline struct work *take_inode(struct inode *inode, __u32 mask)
{
	__u32 bits = asked_of(mask) | (mask & FS_UNMOUNT);
	__u64 key = (__u64)inode;
	struct work *work;
	__s32 slot;

	if (!bits)
		return NULL;
	slot = slot_of(inode, 0);
	if (slot < 0)
		return NULL;
	if (mask & (FS_UNMOUNT | FS_DELETE_SELF))	/* its memory will soon be another's */
		forget_root(key);
	work = work_on(bits);
	if (!work || !(mask & FS_UNMOUNT || is_taken(work, mask, bits)))
		return NULL;
	be_of_root(work, slot, bits | (mask & FS_ISDIR));
	return work;
}

static __always_inline int is_silly(struct dentry *dentry)
{
	__u32 bit = DCACHE_NFSFS_RENAMED, flags = 0;

	if (bpf_core_enum_value_exists(enum dentry_flags, DCACHE_NFSFS_RENAMED))
		bit = bpf_core_enum_value(enum dentry_flags, DCACHE_NFSFS_RENAMED);
	bpf_core_read(&flags, sizeof(flags), &dentry->d_flags);
	return !!(flags & bit);
}

/* The name that an event's entry had, which is that in its dentry, or was before a silly rename. */
static __always_inline __u64 name_before(__u64 name)
{
	__u64 key = name - bpf_core_field_offset(struct dentry, d_name);
	struct silly *silly;

	if (!is_silly((struct dentry *)key))
		return name;
	silly = bpf_map_lookup_elem(&trace_silly, &key);
	if (!silly)
		return name;
	silly->name.name = silly->text;
	return (__u64)&silly->name;
}

/* The dentry that a RENAME is of: until Linux 7.2 it is the data itself. */
static __always_inline struct dentry *moved_of(__u64 data, __u32 type)
{
	struct dentry *moved = NULL;

	if (DATA_IS(type, FSNOTIFY_EVENT_DENTRY))
		return (struct dentry *)data;
	if (bpf_core_enum_value_exists(enum fsnotify_data_type, FSNOTIFY_EVENT_RENAME) &&
	    DATA_IS(type, FSNOTIFY_EVENT_RENAME))
		bpf_core_read(&moved, sizeof(moved), &((struct fsnotify_rename_data *)data)->moved);
	return moved;
}

/* Where an entry's event begins.  Of a RENAME dir and name are the old, and the data has the new. */
static __always_inline int start_entry(struct work *work, struct parameters *parameters)
{
	__u64 data = parameters->at[1], dir = (__u64)dentry_of((struct inode *)parameters->at[3]);
	__u32 type = parameters->at[2], side = !!(parameters->at[0] & FS_RENAME);
	struct dentry *moved;

	work->start[side] = dir;
	work->leaf[side] = parameters->at[4];
	work->subject = 0;
	if (side) {
		moved = moved_of(data, type);
		if (!moved)
			return 0;
		work->start[0] = (__u64)parent_of(moved);
		work->leaf[0] = (__u64)moved + bpf_core_field_offset(moved->d_name);
		work->subject = (__u64)inode_of(moved);
	} else if (DATA_IS(type, FSNOTIFY_EVENT_DENTRY)) {
		work->subject = (__u64)inode_of((struct dentry *)data);
	} else if (DATA_IS(type, FSNOTIFY_EVENT_INODE)) {
		work->subject = data;
	}
	return 1;
}

static __always_inline struct work *take_entry(struct parameters *parameters, int has_loop)
{
	__u32 mask = parameters->at[0], type = parameters->at[2];
	__u32 bits = asked_of(mask) & FS_ENTRY;
	struct work *work;
	__s32 removed = -1;

	/* A root that the watcher holds open gets no DELETE_SELF when its entry is removed. */
	if (mask & FS_DELETE && mask & FS_ISDIR && DATA_IS(type, FSNOTIFY_EVENT_INODE))
		removed = slot_of((struct inode *)parameters->at[1], 0);
	work = work_on(bits || removed >= 0);
	if (!work)
		return NULL;
	work->removed = removed;
	if (!is_taken(work, mask, bits))
		return work;
	if (!start_entry(work, parameters)) {
		be_unplaced(work, UNKNOWN_DATA);
		return work;
	}
	begin(work);
	if (!(mask & FS_RENAME) && is_outside(work, work->start[0])) {
		work->counts[TRACE_OUTSIDE]++;
		work->todo = 0;
		return work;
	}
	if (mask & FS_DELETE)
		work->leaf[0] = name_before(work->leaf[0]);
	name_entry(work, has_loop);
	return work;
}

/* fsnotify(): the entry to work with, or NULL. */
static __always_inline struct work *take_event(void *ctx, int has_loop)
{
	struct parameters parameters = {};
	struct dentry *dentry;
	struct path *path;
	__u32 mask, type;

	read_parameters(&parameters, ctx);
	mask = parameters.at[0];
	type = parameters.at[2];
	if (parameters.at[3] && parameters.at[4] && mask & FS_ENTRY)
		return take_entry(&parameters, has_loop);
	if (DATA_IS(type, FSNOTIFY_EVENT_INODE))
		return take_inode((struct inode *)parameters.at[1], mask);
	if (!(asked_of(mask) & FS_MERGED))
		return NULL;
	if (DATA_IS(type, FSNOTIFY_EVENT_PATH)) {
		path = (struct path *)parameters.at[1];
		dentry = NULL;
		bpf_core_read(&dentry, sizeof(dentry), &path->dentry);
	} else if (DATA_IS(type, FSNOTIFY_EVENT_DENTRY)) {
		dentry = (struct dentry *)parameters.at[1];
	} else {
		return NULL;
	}
	/* A file that has no parent is all there is of its file system. */
	if (!(mask & FS_ISDIR) && parent_of(dentry) != dentry)
		return NULL;
	return take_own(dentry, mask, has_loop);
}

/* __fsnotify_parent(): the same. */
static __always_inline struct work *take_child(void *ctx, int has_loop)
{
	struct parameters parameters = {};
	__u32 mask;

	read_parameters(&parameters, ctx);
	mask = parameters.at[1];
	if (mask & FS_ISDIR)
		return NULL;
	return take_own((struct dentry *)parameters.at[0], mask, has_loop);
}

/* The flag is set before. */
SEC("?kprobe/d_move")
int trace_move(void *ctx)
{
	struct parameters parameters = {};
	struct silly silly = {};
	struct dentry *dentry;
	struct head head;
	__u64 key;

	read_parameters(&parameters, ctx);
	key = parameters.at[0];
	dentry = (struct dentry *)key;
	if (!is_silly(dentry))
		return 0;
	read_head(dentry, &head);
	silly.name = head.name;
	bpf_probe_read_kernel(silly.text, length_of(&head.name) & (SILLY_ROOM - 1), head.name.name);
	bpf_map_update_elem(&trace_silly, &key, &silly, BPF_ANY);
	return 0;
}

/* ---- what user space asks ---- */

enum { PLACE_START, PLACE_PIN, PLACE_UNPIN, PLACE_LOCATE, PLACE_ON, PLACE_PIN_FLAT, PLACE_ABOVE };

static __always_inline struct dentry *dentry_of_fd(__u32 fd)
{
	struct task_struct___files *task = (void *)bpf_get_current_task();
	struct files_struct *files = NULL;
	struct dentry *dentry = NULL;
	struct file **table = NULL, *file = NULL;
	struct fdtable *fdt = NULL;
	__u32 count = 0;

	bpf_core_read(&files, sizeof(files), &task->files);
	bpf_core_read(&fdt, sizeof(fdt), &files->fdt);
	bpf_core_read(&count, sizeof(count), &fdt->max_fds);
	bpf_core_read(&table, sizeof(table), &fdt->fd);
	if (fd >= count)
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), table + fd);
	bpf_core_read(&dentry, sizeof(dentry), &file->f_path.dentry);
	return dentry;
}

/* The slot that the inode has from now on, which is another if it has one; below 0: no way. */
static __always_inline __s64 pin_root(struct inode *inode, __u32 slot, __u32 flat)
{
	struct super_block *sb = NULL;
	struct trace_root root = { .slot = slot, .flat = flat };
	__u64 key = (__u64)inode, marks = 0;
	__s32 had;

	bpf_core_read(&marks, sizeof(marks), &inode->i_fsnotify_marks);
	if (!marks || slot >= TRACE_ROOTS)
		return -1;
	had = slot_of(inode, 0);
	if (had >= 0)
		return had;
	bpf_core_read(&root.ino, sizeof(root.ino), &inode->i_ino);
	bpf_core_read(&root.generation, sizeof(root.generation), &inode->i_generation);
	bpf_core_read(&sb, sizeof(sb), &inode->i_sb);
	bpf_core_read(&root.dev, sizeof(root.dev), &sb->s_dev);
	if (bpf_map_update_elem(&trace_slots, &slot, &key, BPF_ANY) ||
	    bpf_map_update_elem(&trace_roots, &key, &root, BPF_ANY))
		return -2;
	trace_roots_changed++;
	return slot;
}

static __always_inline void unpin_root(__u32 slot)
{
	__u64 *key = bpf_map_lookup_elem(&trace_slots, &slot), inode;
	struct trace_root *root;

	if (!key || !*key)
		return;
	inode = *key;
	*key = 0;
	root = bpf_map_lookup_elem(&trace_roots, &inode);
	if (root && root->slot == slot)		/* its memory may be another root's by now */
		forget_root(inode);
}

/* The entry to climb with, or NULL. */
static __always_inline struct work *take_place(__u64 *ctx)
{
	__u32 entry = trace_cpus, fd = ctx[1], slot = ctx[2];
	struct work *work = bpf_map_lookup_elem(&trace_works, &entry);
	struct dentry *dentry, *above;

	if (!work)
		return NULL;
	switch (ctx[0]) {
	case PLACE_START:
		trace_watcher = bpf_get_current_pid_tgid() >> 32;
		return NULL;
	case PLACE_PIN:
	case PLACE_PIN_FLAT:
		work->result = pin_root(inode_of(dentry_of_fd(fd)), slot, ctx[0] == PLACE_PIN_FLAT);
		return NULL;
	case PLACE_UNPIN:
		unpin_root(slot);
		return NULL;
	case PLACE_LOCATE:
	case PLACE_ABOVE:
		dentry = dentry_of_fd(fd);
		above = ctx[0] == PLACE_ABOVE ? parent_of(dentry) : NULL;
		work->result = 0;
		if (above == dentry)
			return NULL;
		work->start[0] = (__u64)(above ?: dentry);
		work->start[1] = work->leaf[0] = work->leaf[1] = work->subject = 0;
		work->last.inode = 0;
		work->record.mask = work->tries = work->was_inside = 0;
		work->todo = CLIMB;
		begin(work);
		return work;
	case PLACE_ON:
		return work;
	}
	return NULL;
}

static __always_inline void tell_place(struct work *work)
{
	work->result = work->todo & TELL && work->record.slot >= 0;
}

/* ---- the programs where there is bpf_loop(), from Linux 5.17 on ---- */

struct looping {
	struct work *work;
};

static int climb_level(__u32 level, struct looping *looping)
{
	return climb_turn(looping->work);
}

static int climb_once(__u32 round, struct looping *looping)
{
	order_reads(looping->work);
	bpf_loop(TRACE_DEPTH, climb_level, looping, 0);
	order_reads(looping->work);
	return settle(looping->work);
}

static __noinline int climb_by_loop(struct work *work)
{
	struct looping looping = { .work = work };

	if (work->todo & CLIMB)
		bpf_loop(4 * (TRIES + 1), climb_once, &looping, 0);
	return 0;
}

static __noinline int record_by_loop(struct work *work)
{
	climb_by_loop(work);
	deliver(work);
	return 0;
}

SEC("?kprobe/fsnotify")
int trace_event(void *ctx)
{
	struct work *work = take_event(ctx, 1);

	return work ? record_by_loop(work) : 0;
}

SEC("?kprobe/__fsnotify_parent")
int trace_child(void *ctx)
{
	struct work *work = take_child(ctx, 1);

	return work ? record_by_loop(work) : 0;
}

SEC("?raw_tp/trace_place")
int trace_place(__u64 *ctx)
{
	struct work *work = take_place(ctx);

	if (work) {
		climb_by_loop(work);
		tell_place(work);
	}
	return 0;
}

/* ---- and where there is none: a plain loop, and the rest of it by a tail call ---- */

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} trace_on SEC(".maps");

/* So many climbs, of so many levels each.  1: all is done. */
static __always_inline int climb_some(struct work *work, int climbs)
{
	for (int climb = 0; climb < climbs; climb++) {
		int is_over = 0;

		for (int turn = 0; turn < TRACE_TURNS && !is_over; turn++)
			is_over = climb_turn(work);
		if (is_over && settle(work))
			return 1;
	}
	return 0;
}

SEC("?kprobe")
int trace_climb(void *ctx)
{
	struct work *work = work_here();

	if (!work)
		return 0;
	if (work->todo & CLIMB && !climb_some(work, TRACE_CLIMBS))
		bpf_tail_call(ctx, &trace_on, 0);
	deliver(work);
	return 0;
}

SEC("?kprobe/fsnotify")
int trace_event_tail(void *ctx)
{
	if (take_event(ctx, 0))
		bpf_tail_call(ctx, &trace_on, 0);
	return 0;
}

SEC("?kprobe/__fsnotify_parent")
int trace_child_tail(void *ctx)
{
	if (take_child(ctx, 0))
		bpf_tail_call(ctx, &trace_on, 0);
	return 0;
}

/* User space calls it again, with PLACE_ON, until the result is none of CLIMBING's. */
SEC("?raw_tp/trace_place")
int trace_place_tail(__u64 *ctx)
{
	struct work *work = take_place(ctx);

	if (!work)
		return 0;
	if (climb_some(work, 1))
		tell_place(work);
	else
		work->result = 2;
	return 0;
}

/* ---- where those two are, from Linux 5.16 on ---- */

const char trace_lock_name[12] CONSTANT = "rename_lock";
const char trace_rcu_name[10] CONSTANT = "rcu_state";

SEC("?syscall")
int trace_find_symbols(void *ctx)
{
	__u64 address = 0;

	if (!bpf_kallsyms_lookup_name(trace_lock_name, sizeof(trace_lock_name), 0, &address))
		trace_rename_lock = address;
	if (!bpf_kallsyms_lookup_name(trace_rcu_name, sizeof(trace_rcu_name), 0, &address))
		trace_rcu_state = address;
	return 0;
}
