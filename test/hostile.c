// hostile is what a supervisor has to get rid of, in one program: each mode is a
// tree of processes that does not want to end, or that ends in great numbers.
//
//   bomb N               forks until there are N processes, says "full", stays
//   churn N              N chains of processes in which each forks the next and ends
//   daemon               a child made a daemon by two forks, tied to nothing, says "ready"
//   deaf DEPTH WIDTH     a tree in which every process ignores and blocks all signals
//   traced               a tree whose processes are stopped by a tracer among them
//   tracer reap|deaf|idle|exit PID…  traces the processes from where it runs, and says
//                        "ready". One that is to reap and a deaf one stop them, and the
//                        deaf one never waits for them; an idle one does neither; "exit"
//                        holds them when they have begun to end
//   orphans TOTAL BATCH  makes TOTAL orphans, and children of its own whose status
//                        it checks; says "done", and exits on SIGTERM: 42 if none
//                        of its own was lost, else 1
//
// It says what it has to say on stdout, a line at a time.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	dprintf(STDERR_FILENO, "hostile: %s: %s\n", what, strerror(errno));
	_exit(1);
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	if (vdprintf(STDOUT_FILENO, format, args) < 0)
		die("stdout");
	va_end(args);
}

static void __attribute__((noreturn)) stay(void)
{
	for (;;)
		pause();
}

static pid_t fork_or_die(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	return pid;
}

static int number(const char *text)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (*text == '\0' || *end != '\0' || n < 1 || n > 10000000) {
		errno = EINVAL;
		die(text);
	}
	return n;
}

// shared returns memory that all processes of the tree have in common.
static atomic_int *shared(int counters)
{
	void *p = mmap(NULL, counters * sizeof(atomic_int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void bomb(int n)
{
	atomic_int *made = shared(2), *refused = made + 1;

	*made = 1;
	for (;;) {
		int i = atomic_fetch_add(made, 1);

		if (i == n)
			say("full\n");
		if (i >= n)
			stay();
		if (fork() < 0) {
			if (errno != EAGAIN)
				die("fork");
			atomic_fetch_sub(made, 1);
			// A limit holds it. It goes on trying.
			if (atomic_fetch_add(refused, 1) == 200)
				say("held\n");
			nap();
		}
	}
}

static void churn(int n)
{
	for (int i = 0; i < n; i++) {
		if (fork_or_die() > 0)
			continue;
		for (;;) {
			if (fork_or_die() > 0)
				_exit(0);
		}
	}
	say("ready\n");
	stay();
}

static void block_all(void)
{
	sigset_t all;

	sigfillset(&all);
	if (sigprocmask(SIG_SETMASK, &all, NULL) < 0)
		die("sigprocmask");
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_IGN); // SIGKILL and SIGSTOP refuse it
}

static void daemonise(void)
{
	int ready[2];
	char c;

	if (pipe(ready) < 0)
		die("pipe");
	pid_t child = fork_or_die();
	if (child == 0) {
		if (setsid() < 0)
			die("setsid");
		if (fork_or_die() > 0)
			_exit(0);
		if (chdir("/") < 0)
			die("chdir");
		block_all();
		if (dup2(ready[1], 0) < 0)
			die("dup2");
		for (int fd = 1; fd < 1024; fd++)
			close(fd);
		if (write(0, "", 1) != 1)
			_exit(1);
		close(0);
		stay();
	}
	close(ready[1]);
	if (waitpid(child, NULL, 0) != child)
		die("waitpid");
	if (read(ready[0], &c, 1) != 1)
		die("the daemon did not come up");
	say("ready\n");
	stay();
}

static void deaf(int depth, int width)
{
	atomic_int *up = shared(1);
	int all = 1;

	for (int d = 0, level = 1; d < depth; d++)
		all += level *= width;
	block_all();
	for (int d = 0; d < depth; d++) {
		int child = 0;

		for (int i = 0; i < width && !child; i++)
			child = fork_or_die() == 0;
		if (!child)
			break;
	}
	if (atomic_fetch_add(up, 1) == all - 1)
		say("ready\n");
	stay();
}

static void seize(pid_t pid, long options)
{
	if (ptrace(PTRACE_SEIZE, pid, 0, options) < 0)
		die("ptrace");
}

// stop_traced makes the caller the tracer of a process, and waits until it stands.
static void stop_traced(pid_t pid)
{
	int status;

	seize(pid, 0);
	if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0)
		die("ptrace");
	if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status)) {
		errno = EIO;
		die("the traced process does not stop");
	}
}

// The command, a child and a grandchild are stopped by another child.
static void traced(void)
{
	int pids[2];
	pid_t victim[3] = {getpid()};

	if (pipe(pids) < 0)
		die("pipe");
	victim[1] = fork_or_die();
	if (victim[1] == 0) {
		pid_t child = fork_or_die();

		if (child > 0 && write(pids[1], &child, sizeof child) != sizeof child)
			die("write");
		stay();
	}
	if (read(pids[0], &victim[2], sizeof victim[2]) != sizeof victim[2])
		die("read");
	if (fork_or_die() == 0) {
		for (int i = 2; i >= 0; i--)
			stop_traced(victim[i]);
		say("ready\n");
		stay();
	}
	stay();
}

static void tracer(const char *how, char **pids)
{
	for (; *pids; pids++) {
		if (!strcmp(how, "idle"))
			seize(number(*pids), 0);
		else if (!strcmp(how, "exit"))
			seize(number(*pids), PTRACE_O_TRACEEXIT);
		else
			stop_traced(number(*pids));
	}
	say("ready\n");
	while (!strcmp(how, "reap")) {
		if (waitpid(-1, NULL, __WALL) < 0)
			_exit(0); // none is left
	}
	stay();
}

// orphans. The middle process of each batch is a child of the command, and its
// status is checked like that of the others; what it leaves behind is the init's.
static void orphans(int total, int batch)
{
	int left, made = 0, own = 0, lost = 0;
	sigset_t term;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &term, NULL) < 0)
		die("sigprocmask");
	for (int round = 0; (left = total - made) > 0; round++) {
		int hold[2], n = left < batch ? left : batch, code = round % 200;
		pid_t child[4];

		if (pipe(hold) < 0)
			die("pipe");
		child[0] = fork_or_die();
		if (child[0] == 0) {
			for (int i = 0; i < n; i++) {
				if (fork_or_die() == 0) {
					char c;
					// Until the parent is gone.
					close(hold[1]);
					if (read(hold[0], &c, 1) != 0)
						die("read");
					_exit(201);
				}
			}
			_exit(code);
		}
		close(hold[0]);
		close(hold[1]);
		for (int i = 1; i < 4; i++) {
			child[i] = fork_or_die();
			if (child[i] == 0) {
				if (i == 3)
					raise(SIGKILL);
				_exit((code + i) % 200);
			}
		}
		for (int i = 0; i < 4; i++, own++) {
			int status;
			pid_t pid = waitpid(child[i], &status, 0);

			if (pid != child[i] ||
			    (i == 3 ? !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL
				    : !WIFEXITED(status) || WEXITSTATUS(status) != (code + i) % 200)) {
				say("lost: child %d of round %d: waitpid gave %d (%s), status %x\n", i, round, pid,
				    pid < 0 ? strerror(errno) : "ok", status);
				lost++;
			}
		}
		made += n;
	}
	if (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD) {
		say("there is a child that was never made\n");
		lost++;
	}
	say("done: %d orphans, %d children of its own, %d lost\n", made, own, lost);
	int sig;
	sigwait(&term, &sig);
	_exit(lost ? 1 : 42);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	if (!strcmp(mode, "bomb") && argc == 3)
		bomb(number(argv[2]));
	else if (!strcmp(mode, "churn") && argc == 3)
		churn(number(argv[2]));
	else if (!strcmp(mode, "daemon") && argc == 2)
		daemonise();
	else if (!strcmp(mode, "deaf") && argc == 4)
		deaf(number(argv[2]), number(argv[3]));
	else if (!strcmp(mode, "traced") && argc == 2)
		traced();
	else if (!strcmp(mode, "tracer") && argc > 3)
		tracer(argv[2], argv + 3);
	else if (!strcmp(mode, "orphans") && argc == 4)
		orphans(number(argv[2]), number(argv[3]));
	dprintf(STDERR_FILENO, "hostile: no such mode\n");
	return 2;
}
