// SPDX-License-Identifier: GPL-2.0-only
/* The least a watcher can do: mark a file system, as fanfp does, and read the queue.
 *
 *     readqueue DIRECTORY
 *
 * Prints "ready" on standard error; reads, waiting 5 ms between reads as fanfp does under load,
 * so that both get buffers as full; on SIGTERM prints how many events and reads there were.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/fanotify.h>
#include <unistd.h>

#ifndef FAN_REPORT_TARGET_FID
#define FAN_REPORT_TARGET_FID 0x1000
#endif
#ifndef FAN_REPORT_DIR_FID
#define FAN_REPORT_DIR_FID 0x400
#endif
#ifndef FAN_REPORT_NAME
#define FAN_REPORT_NAME 0x800
#endif
#ifndef FAN_RENAME
#define FAN_RENAME 0x10000000
#endif

static char buffer[1 << 16] __attribute__((aligned(8)));
static volatile sig_atomic_t stopped;

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = stop };
	unsigned long events = 0, reads = 0;
	uint64_t mask = FAN_CREATE | FAN_DELETE | FAN_MODIFY | FAN_CLOSE_WRITE | FAN_MOVED_FROM |
			FAN_MOVED_TO | FAN_RENAME | FAN_ONDIR;
	struct pollfd waiting = { .events = POLLIN };

	waiting.fd = fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID | FAN_REPORT_DIR_FID |
				   FAN_REPORT_NAME | FAN_REPORT_TARGET_FID |
				   FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS, O_RDONLY);
	if (argc != 2 || waiting.fd < 0 ||
	    fanotify_mark(waiting.fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, mask, AT_FDCWD, argv[1])) {
		perror("readqueue");
		return 1;
	}
	sigaction(SIGTERM, &action, NULL);
	fprintf(stderr, "ready\n");
	while (!stopped) {
		ssize_t left = read(waiting.fd, buffer, sizeof(buffer));
		struct fanotify_event_metadata *event = (void *)buffer;

		if (left < 0 && errno == EAGAIN) {
			poll(&waiting, 1, -1);
			usleep(5000);
			continue;
		}
		reads++;
		for (; FAN_EVENT_OK(event, left); event = FAN_EVENT_NEXT(event, left))
			events++;
	}
	printf("%lu events %lu reads\n", events, reads);
	return 0;
}
