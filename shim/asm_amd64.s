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
