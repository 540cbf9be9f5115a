/*
 * pingpong INTERVAL_US COUNT: what a probe costs at the least. One process is woken by a timer,
 * sends a packet to another over a unix socket, and waits for the answer; COUNT times. Prints the
 * nanoseconds of processor time that both took for each.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

static long long used(void)
{
	long long ns;
	FILE *f = fopen("/proc/self/schedstat", "r");

	if (!f || fscanf(f, "%lld", &ns) != 1)
		exit(1);
	fclose(f);
	return ns;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	long interval = atol(argv[1]), count = atol(argv[2]);
	int s[2], result[2];
	char packet[64] = { 0 };

	if (interval <= 0 || count <= 0)
		return 2;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) || pipe(result))
		return 1;
	pid_t pid = fork();
	if (pid < 0)
		return 1;
	if (pid == 0) {
		close(s[0]);
		long long before = used();
		while (read(s[1], packet, sizeof packet) > 0)
			if (write(s[1], packet, 35) != 35)
				_exit(1);
		long long ns = used() - before;
		_exit(write(result[1], &ns, sizeof ns) != sizeof ns);
	}
	close(s[1]);
	int timer = timerfd_create(CLOCK_MONOTONIC, 0);
	long long before = used(), theirs;
	for (long i = 0; i < count; i++) {
		struct itimerspec spec = { .it_value = { interval / 1000000, interval % 1000000 * 1000 } };
		uint64_t ticks;
		if (timerfd_settime(timer, 0, &spec, NULL) || read(timer, &ticks, 8) != 8 ||
		    write(s[0], packet, 6) != 6 || read(s[0], packet, sizeof packet) != 35)
			return 1;
	}
	long long ours = used() - before;
	close(s[0]);
	if (read(result[0], &theirs, sizeof theirs) != sizeof theirs || waitpid(pid, NULL, 0) != pid)
		return 1;
	printf("%lld\n", (ours + theirs) / count);
	return 0;
}
