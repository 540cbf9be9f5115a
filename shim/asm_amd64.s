#include "textflag.h"

// func rawVfork(flags uintptr) (pid, errno uintptr)
//
// The child runs on this very stack before the parent goes on, so the return
// address is kept in a register while the stack slot may be overwritten.
TEXT ·rawVfork(SB),NOSPLIT|NOFRAME,$0-24
	MOVQ	flags+0(FP), DI
	MOVQ	$0, SI
	MOVQ	$0, DX
	MOVQ	$0, R10
	MOVQ	$0, R8
	MOVQ	$0, R9
	MOVQ	$56, AX	// SYS_clone
	POPQ	R12
	SYSCALL
	PUSHQ	R12
	CMPQ	AX, $0xfffffffffffff001
	JLS	ok
	NEGQ	AX
	MOVQ	$-1, pid+8(FP)
	MOVQ	AX, errno+16(FP)
	RET
ok:
	MOVQ	AX, pid+8(FP)
	MOVQ	$0, errno+16(FP)
	RET

// signalHandler handles signal number DI: write(signalFD, &signalWeight[DI], 8).
// A handler is called with the number as its first argument, and everything but
// the memory is as it was when it has returned.
TEXT ·signalHandler(SB),NOSPLIT|NOFRAME|TOPFRAME,$0-0
	LEAQ	·signalWeight(SB), SI
	MOVLQSX	DI, DI
	LEAQ	(SI)(DI*8), SI
	MOVL	·signalFD(SB), DI
	MOVL	$8, DX
	MOVL	$1, AX	// SYS_write
	SYSCALL
	RET

// signalReturn is where a handler returns to.
TEXT ·signalReturn(SB),NOSPLIT|NOFRAME|TOPFRAME,$0-0
	MOVL	$15, AX	// SYS_rt_sigreturn
	SYSCALL
	INT	$3

// func signalEntries() (handler, restorer uintptr)
TEXT ·signalEntries(SB),NOSPLIT,$0-16
	LEAQ	·signalHandler(SB), AX
	MOVQ	AX, handler+0(FP)
	LEAQ	·signalReturn(SB), AX
	MOVQ	AX, restorer+8(FP)
	RET

// func idle()
//
// A page of 64 KiB is the largest there is, and the code may lie in two. Where the kernel
// has sealed a mapping munmap does nothing: madvise gives up the pages up to that one.
TEXT ·idle(SB),NOSPLIT|NOFRAME,$0-0
	LEAQ	·idle(SB), R12
	ANDQ	$~0xffff, R12
	MOVQ	R12, R13
	ADDQ	$0x20000, R13
	MOVQ	$0x7ffffffff000, R14	// TASK_SIZE
	SUBQ	R13, R14
	MOVQ	$0, DI
	MOVQ	R12, SI
	MOVQ	$11, AX	// SYS_munmap
	SYSCALL
	MOVQ	R13, DI
	MOVQ	R14, SI
	MOVQ	$11, AX	// SYS_munmap
	SYSCALL
	MOVQ	R13, DI
	MOVQ	R14, SI
	MOVQ	$4, DX	// MADV_DONTNEED
	MOVQ	$28, AX	// SYS_madvise
	SYSCALL
wait:
	MOVQ	$0, DI
	MOVQ	$0, SI
	MOVQ	$0, DX
	MOVQ	$0, R10
	MOVQ	$0, R8
	MOVQ	$271, AX	// SYS_ppoll
	SYSCALL
	JMP	wait
