// SPDX-License-Identifier: GPL-2.0
/* What an object can be made of: sections with several programs, subprograms, data, maps, externs. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct pair {
	int key;
	__u64 value;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, int);
	__type(value, struct pair);
} array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, int);
	__type(value, __u64);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
} percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 100);	/* made a page */
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 3);
	__uint(key_size, 4);
	__uint(value_size, 4);
} jumps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, int);
} of_task SEC(".maps");

__u64 counter;
int negative = -5;
char text[16] = "hello";
unsigned short table[4] = { 1, 2, 3, 4 };
struct pair pair = { 3, 4 };
const volatile int limit = 7;
const char constant[8] = "const";
static volatile int hidden = 11;
int in_own_section SEC(".data.own") = 21;

extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;
extern int bpf_no_such_kfunc(int) __ksym __weak;

static __noinline int twice(int x)
{
	return x + x + hidden;
}

__noinline int thrice(int x)
{
	return twice(x) + x;
}

static int each(__u32 index, __u64 *sum)
{
	*sum += twice(index);
	return 0;
}

SEC("socket")
int first(struct __sk_buff *skb)
{
	int key = 1;
	__u64 *value = bpf_map_lookup_elem(&hash, &key);
	struct pair *there = bpf_map_lookup_elem(&array, &key);

	if (value)
		*value += thrice(skb->len);
	if (there)
		there->value += limit;
	return twice(counter) + pair.value + table[skb->len & 3];
}

SEC("socket")
int second(struct __sk_buff *skb)
{
	__u64 sum = 0;

	bpf_loop(5, each, &sum, 0);
	counter += sum;
	in_own_section += negative;
	bpf_tail_call(skb, &jumps, 1);
	return text[skb->len & 15] + constant[skb->len & 7];
}

SEC("xdp")
int third(struct xdp_md *ctx)
{
	int *there = bpf_ringbuf_reserve(&ring, 4, 0);
	int key = 0;
	int *mine = bpf_map_lookup_elem(&percpu, &key);

	if (there) {
		*there = mine ? *mine : 0;
		bpf_ringbuf_submit(there, 0);
	}
	return thrice(2) > 3 ? XDP_PASS : XDP_DROP;
}

SEC("tp_btf/task_newtask")
int fourth(__u64 *ctx)
{
	bpf_rcu_read_lock();
	counter++;
	bpf_rcu_read_unlock();
	if (bpf_no_such_kfunc)
		return bpf_no_such_kfunc(1);
	return 0;
}

SEC("syscall")
int fifth(void *ctx)
{
	counter += 2;
	bpf_printk("counter %llu", counter);
	return thrice(limit);
}

SEC("?kprobe/optional")
int unwanted(void *ctx)
{
	return 0;
}
