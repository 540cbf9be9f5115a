// killtree is the least that a force-stop can cost: it makes inits in new pid,
// mount, ipc and uts namespaces with a tree below each, kills those inits, and times
// kill(SIGKILL) until waitpid(2) has returned for all of them.
//
// usage: killtree SHELL_COMMAND
//
// Each line read from stdin is one step, and each step answers with one line:
//   start   makes one more init with its tree; prints the init's pid
//   kill    kills and reaps all; prints the nanoseconds that took
// The end of stdin ends the program, and with it what is left of the tree.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char stack[64 * 1024] __attribute__((aligned(16)));

static void die(const char *what)
{
	fprintf(stderr, "killtree: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec t;

	if (clock_gettime(CLOCK_MONOTONIC, &t) < 0)
		die("clock_gettime");
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

// init_main is pid 1 of the new namespaces. It has a mount namespace with a /proc
// of its own, because taking that down is part of what a kill costs.
static int init_main(void *command)
{
	pid_t shell;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		die("prctl");
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		die("make / a slave");
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		die("mount /proc");
	shell = fork();
	if (shell < 0)
		die("fork");
	if (shell == 0) {
		execl("/bin/sh", "sh", "-c", (char *)command, (char *)NULL);
		die("exec /bin/sh");
	}
	for (;;) {
		if (wait(NULL) < 0 && errno == ECHILD)
			return 0;
	}
}

enum { MOST = 2000 };

int main(int argc, char **argv)
{
	static pid_t inits[MOST];
	char line[64];
	int count = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: killtree SHELL_COMMAND\n");
		return 2;
	}
	while (fgets(line, sizeof line, stdin)) {
		if (!strcmp(line, "start\n") && count < MOST) {
			pid_t init = clone(init_main, stack + sizeof stack,
					   CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD,
					   argv[1]);
			if (init < 0)
				die("clone");
			inits[count++] = init;
			printf("%d\n", init);
		} else if (!strcmp(line, "kill\n") && count > 0) {
			int64_t begin = now_ns();
			int i, status;

			for (i = 0; i < count; i++)
				if (kill(inits[i], SIGKILL) < 0)
					die("kill");
			for (i = 0; i < count; i++) {
				if (waitpid(inits[i], &status, 0) != inits[i])
					die("waitpid");
				if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
					fprintf(stderr, "killtree: an init ended by itself, status %#x\n", status);
					return 1;
				}
			}
			printf("%lld\n", (long long)(now_ns() - begin));
			count = 0;
		} else {
			fprintf(stderr, "killtree: unexpected step: %s", line);
			return 2;
		}
		if (fflush(stdout) != 0)
			die("stdout");
	}
	return 0;
}
