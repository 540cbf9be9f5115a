// hello_ll is a FUSE filesystem of one file, written with libfuse's low-level API:
// what a status file costs when a C program serves it. It asks the kernel for the same as boxlited
// does: direct I/O, no FLUSH, entries and attributes that stay valid for long.
//
// usage: hello_ll single|multi MOUNTPOINT
//
// single answers in one thread, multi in as many as libfuse takes by default. It
// prints "ready" once it is mounted; SIGTERM unmounts it.
#define FUSE_USE_VERSION 34
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_INO = 2 };

static const char file_name[] = "status";
static const char content[] = "running\n";
static const double valid_for = 86400.0; // seconds

static int fill(fuse_ino_t ino, struct stat *st)
{
	memset(st, 0, sizeof *st);
	st->st_ino = ino;
	switch (ino) {
	case FUSE_ROOT_ID:
		st->st_mode = S_IFDIR | 0755;
		st->st_nlink = 2;
		return 0;
	case FILE_INO:
		st->st_mode = S_IFREG | 0444;
		st->st_nlink = 1;
		st->st_size = sizeof content - 1;
		return 0;
	}
	return -1;
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	if (fill(ino, &st) < 0)
		fuse_reply_err(req, ENOENT);
	else
		fuse_reply_attr(req, &st, valid_for);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;

	if (parent != FUSE_ROOT_ID || strcmp(name, file_name) != 0) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	memset(&e, 0, sizeof e);
	e.ino = FILE_INO;
	e.attr_timeout = valid_for;
	e.entry_timeout = valid_for;
	fill(e.ino, &e.attr);
	fuse_reply_entry(req, &e);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (ino != FILE_INO) {
		fuse_reply_err(req, EISDIR);
		return;
	}
	fi->direct_io = 1;
	fi->noflush = 1;
	fuse_reply_open(req, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	const size_t len = sizeof content - 1;

	(void)ino;
	(void)fi;
	if (off < 0 || (size_t)off >= len) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	if (size > len - (size_t)off)
		size = len - (size_t)off;
	fuse_reply_buf(req, content + off, size);
}

static const struct fuse_lowlevel_ops ops = {
	.lookup = op_lookup,
	.getattr = op_getattr,
	.open = op_open,
	.read = op_read,
};

int main(int argc, char **argv)
{
	char *opts[] = { argv[0], "-o", "default_permissions,allow_other,fsname=hello_ll" };
	struct fuse_args args = FUSE_ARGS_INIT(3, opts);
	struct fuse_loop_config config = { .clone_fd = 0, .max_idle_threads = 10 };
	struct fuse_session *se;
	int err;

	if (argc != 3 || (strcmp(argv[1], "single") != 0 && strcmp(argv[1], "multi") != 0)) {
		fprintf(stderr, "usage: hello_ll single|multi MOUNTPOINT\n");
		return 2;
	}
	se = fuse_session_new(&args, &ops, sizeof ops, NULL);
	if (!se)
		return 1;
	if (fuse_set_signal_handlers(se) != 0 || fuse_session_mount(se, argv[2]) != 0)
		return 1;
	puts("ready");
	fflush(stdout);
	if (strcmp(argv[1], "single") == 0)
		err = fuse_session_loop(se);
	else
		err = fuse_session_loop_mt(se, &config);
	fuse_session_unmount(se);
	fuse_remove_signal_handlers(se);
	fuse_session_destroy(se);
	fuse_opt_free_args(&args);
	// The loop's value is the signal that ended it, or a negative errno.
	return err < 0;
}
