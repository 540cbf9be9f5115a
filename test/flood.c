// What a user of the host does to the control filesystem to hold up others, one a mode:
//
//   flood every THREADS DIR        stat, open and read all below DIR, and try to make
//                                  names there, from so many threads, until it is killed;
//                                  "ready" is printed when each has gone round once
//   flood open COUNT FILE…         open the files in turn, COUNT in all, each read once;
//                                  prints how many it got, and why no more
//   flood connect COUNT PORT       as many connections to a port of loopback, kept open;
//                                  prints how many were accepted and not closed at once
//   flood read THREADS FILE        so many threads in a read of FILE, which blocks, and is
//                                  read again after each answer; "ready" when all are in it
//
// open and connect keep what they have until they are killed.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static void say(const char *text)
{
	puts(text);
	fflush(stdout);
}

static int threads;
static atomic_int begun;

static void start(void *(*work)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	for (int i = 0; i < threads; i++) {
		pthread_t t;
		errno = pthread_create(&t, &attr, work, arg);
		if (errno)
			die("pthread_create");
	}
}

// --- every -------------------------------------------------------------------

static struct {
	char *path;
	int dir;
} *files;
static int nfiles;

static int collect(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st, (void)at;
	files = realloc(files, (nfiles + 1) * sizeof *files);
	files[nfiles].path = strdup(path);
	files[nfiles++].dir = type == FTW_D;
	return 0;
}

static void use(int i)
{
	char buf[1 << 14];
	char path[4096];
	struct stat st;
	stat(files[i].path, &st);
	if (!files[i].dir) {
		int fd = open(files[i].path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0) {
			while (read(fd, buf, sizeof buf) > 0)
				;
			close(fd);
		}
		return;
	}
	DIR *d = opendir(files[i].path);
	if (d) {
		while (readdir(d))
			;
		closedir(d);
	}
	// A name that is not there is asked for anew each time.
	snprintf(path, sizeof path, "%s/none", files[i].path);
	mkdir(path, 0755);
	stat(path, &st);
}

static void *every(void *arg)
{
	(void)arg;
	int first = rand() % nfiles;
	for (int i = 0; i < nfiles; i++)
		use((first + i) % nfiles);
	begun++;
	for (;; first++)
		use(first % nfiles);
	return NULL;
}

// --- open and connect ----------------------------------------------------------

static void more_descriptors(void)
{
	struct rlimit l;
	getrlimit(RLIMIT_NOFILE, &l);
	l.rlim_cur = l.rlim_max;
	setrlimit(RLIMIT_NOFILE, &l);
}

static void open_all(long count, char **names, int n)
{
	char c;
	long i;
	more_descriptors();
	for (i = 0; i < count; i++) {
		int fd = open(names[i % n], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			break;
		if (read(fd, &c, 1) < 0 && errno != EAGAIN)
			break;
	}
	if (i < count)
		printf("%ld %s\n", i, strerrorname_np(errno));
	else
		printf("%ld\n", i);
	fflush(stdout);
	pause();
}

static void connect_all(long count, int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int *fds = calloc(count, sizeof *fds);
	long n;
	more_descriptors();
	for (n = 0; n < count; n++) {
		fds[n] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (fds[n] < 0)
			break;
		if (connect(fds[n], (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
			break;
	}
	printf("%ld\n", n);
	fflush(stdout);
	pause();
}

// --- read --------------------------------------------------------------------

static void *reader(void *arg)
{
	char buf[4096];
	int fd = open(arg, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(arg);
	begun++;
	while (read(fd, buf, sizeof buf) > 0)
		;
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	threads = atoi(argv[2]);
	if (!strcmp(argv[1], "open")) {
		open_all(atol(argv[2]), argv + 3, argc - 3);
	} else if (!strcmp(argv[1], "connect")) {
		connect_all(atol(argv[2]), atoi(argv[3]));
	} else if (!strcmp(argv[1], "every")) {
		if (nftw(argv[3], collect, 16, FTW_PHYS) < 0 || !nfiles)
			die(argv[3]);
		start(every, NULL);
	} else if (!strcmp(argv[1], "read")) {
		more_descriptors();
		start(reader, argv[3]);
	} else {
		return 2;
	}
	while (begun < threads)
		usleep(1000);
	say("ready");
	pause();
}
