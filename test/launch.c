// launch runs a command as another would have it run: with orphans for children, or
// without some system calls.
//
//   init CMD…              as the first process of a pid namespace, with a /proc of its
//                          own; launch passes signals on and ends as it does
//   subreaper IN OUT CMD…  as a subreaper, beside a child that does `strew N CODE` for
//                          each line "N CODE" of the fifo IN, with its output to OUT
//   without CALLS ERRNO CMD…  with a filter by which pidfd_open fails with the errno, and if
//                          CALLS is "all" so do pidfd_send_signal and waitid of a pidfd
//   strew N CODE           makes N children, says their pids, and ends; then they end
//                          with CODE, or by the signal CODE-128
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void __attribute__((noreturn)) die(const char *what)
{
	dprintf(STDERR_FILENO, "launch: %s: %s\n", what, strerror(errno));
	_exit(125);
}

static pid_t fork_or_die(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	return pid;
}

static void __attribute__((noreturn)) run(char **cmd)
{
	execvp(cmd[0], cmd);
	die(cmd[0]);
}

static pid_t child;

static void pass_on(int sig)
{
	kill(child, sig);
}

static void __attribute__((noreturn)) init(char **cmd)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1};
	sigset_t set, old;
	int status;

	if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		die("unshare");
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
		sigaddset(&set, signals[i]);
	sigprocmask(SIG_BLOCK, &set, &old);
	child = fork_or_die();
	if (child == 0) {
		// Its namespace, and so all that it leaves, ends with it.
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || mount("proc", "/proc", "proc", 0, NULL) < 0)
			die("first process");
		sigprocmask(SIG_SETMASK, &old, NULL);
		run(cmd);
	}
	for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
		signal(signals[i], pass_on);
	sigprocmask(SIG_SETMASK, &old, NULL);
	while (waitpid(child, &status, 0) < 0) {
		if (errno != EINTR)
			die("waitpid");
	}
	_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void __attribute__((noreturn)) strew(int n, int code)
{
	int hold[2];

	if (pipe(hold) < 0)
		die("pipe");
	for (int i = 0; i < n; i++) {
		pid_t pid = fork_or_die();

		if (pid == 0) {
			char c;
			// Until the parent is gone.
			close(hold[1]);
			if (read(hold[0], &c, 1) != 0)
				die("read");
			if (code > 128)
				kill(getpid(), code - 128);
			_exit(code);
		}
		if (dprintf(STDOUT_FILENO, "%d\n", pid) < 0)
			die("stdout");
	}
	_exit(0);
}

static void __attribute__((noreturn)) strew_as_told(const char *in, const char *out)
{
	for (;;) {
		FILE *f = fopen(in, "r");
		int n, code;

		if (!f)
			die(in);
		if (fscanf(f, "%d %d", &n, &code) != 2)
			die("order");
		fclose(f);
		pid_t pid = fork_or_die();
		if (pid == 0) {
			int fd = open(out, O_WRONLY);

			if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0)
				die(out);
			close(fd);
			strew(n, code);
		}
		if (waitpid(pid, NULL, 0) != pid)
			die("waitpid");
	}
}

static void __attribute__((noreturn)) subreaper(char *in, char *out, char **cmd)
{
	pid_t self = getpid();

	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		die("subreaper");
	if (fork_or_die() == 0) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
			die("pdeathsig");
		if (getppid() != self)
			_exit(0); // it has gone before
		strew_as_told(in, out);
	}
	run(cmd);
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
// The next N instructions are for the value alone.
#define IF(value, n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, n)
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)

static void __attribute__((noreturn)) without(const char *calls, const char *errno_name, char **cmd)
{
	int all = !strcmp(calls, "all");
	int no = !strcmp(errno_name, "EPERM") ? EPERM : !strcmp(errno_name, "ENOSYS") ? ENOSYS : 0;
	unsigned int refuse = SECCOMP_RET_ERRNO | no;
	struct sock_filter open_only[] = {
		LOAD(nr),
		IF(SYS_pidfd_open, 1), RETURN(refuse),
		RETURN(SECCOMP_RET_ALLOW),
	}, all_of_them[] = {
		LOAD(nr),
		IF(SYS_pidfd_open, 1), RETURN(refuse),
		IF(SYS_pidfd_send_signal, 1), RETURN(refuse),
		IF(SYS_waitid, 3), LOAD(args[0]), IF(P_PIDFD, 1), RETURN(refuse),
		RETURN(SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {
		.len = all ? sizeof all_of_them / sizeof *all_of_them : sizeof open_only / sizeof *open_only,
		.filter = all ? all_of_them : open_only,
	};

	if (!no || (!all && strcmp(calls, "open"))) {
		errno = EINVAL;
		die(errno_name);
	}
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
		die("seccomp");
	run(cmd);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	if (!strcmp(mode, "init") && argc > 2)
		init(argv + 2);
	else if (!strcmp(mode, "subreaper") && argc > 4)
		subreaper(argv[2], argv[3], argv + 4);
	else if (!strcmp(mode, "without") && argc > 4)
		without(argv[2], argv[3], argv + 4);
	else if (!strcmp(mode, "strew") && argc == 4)
		strew(atoi(argv[2]), atoi(argv[3]));
	dprintf(STDERR_FILENO, "launch: no such mode\n");
	return 125;
}
