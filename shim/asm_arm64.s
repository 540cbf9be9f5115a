#include "textflag.h"

// func rawVfork(flags uintptr) (pid, errno uintptr)
//
// The child runs on this very stack before the parent goes on. The return
// address is in the link register, so nothing on the stack needs saving.
TEXT ·rawVfork(SB),NOSPLIT,$0-24
	MOVD	flags+0(FP), R0
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$0, R5
	MOVD	$220, R8	// SYS_clone
	SVC
	CMN	$4095, R0
	BCC	ok
	MOVD	$-1, R4
	MOVD	R4, pid+8(FP)
	NEG	R0, R0
	MOVD	R0, errno+16(FP)
	RET
ok:
	MOVD	R0, pid+8(FP)
	MOVD	ZR, errno+16(FP)
	RET

// signalHandler handles signal number R0: write(signalFD, &signalWeight[R0], 8).
// A handler is called with the number as its first argument, and everything but
// the memory is as it was when it has returned.
TEXT ·signalHandler(SB),NOSPLIT|NOFRAME|TOPFRAME,$0-0
	MOVD	$·signalWeight(SB), R1
	ADD	R0.SXTW<<3, R1, R1
	MOVW	·signalFD(SB), R0
	MOVD	$8, R2
	MOVD	$64, R8	// SYS_write
	SVC
	RET

// signalReturn is where a handler returns to.
TEXT ·signalReturn(SB),NOSPLIT|NOFRAME|TOPFRAME,$0-0
	MOVD	$139, R8	// SYS_rt_sigreturn
	SVC
	BRK

// func signalEntries() (handler, restorer uintptr)
TEXT ·signalEntries(SB),NOSPLIT,$0-16
	MOVD	$·signalHandler(SB), R0
	MOVD	R0, handler+0(FP)
	MOVD	$·signalReturn(SB), R0
	MOVD	R0, restorer+8(FP)
	RET

// func idle()
//
// A page of 64 KiB is the largest there is, and the code may lie in two. How far the
// memory of a process goes differs from kernel to kernel: one that is too far is EINVAL.
// Where the kernel has sealed a mapping munmap does nothing: madvise gives up the pages up
// to that one.
TEXT ·idle(SB),NOSPLIT|NOFRAME,$0-0
	MOVD	$·idle(SB), R12
	AND	$~0xffff, R12, R12
	ADD	$0x20000, R12, R13
	MOVD	$0, R0
	MOVD	R12, R1
	MOVD	$215, R8	// SYS_munmap
	SVC
	MOVD	$(1<<52), R14
above:
	SUB	R13, R14, R15
	MOVD	R13, R0
	MOVD	R15, R1
	MOVD	$215, R8	// SYS_munmap
	SVC
	MOVD	R13, R0
	MOVD	R15, R1
	MOVD	$4, R2	// MADV_DONTNEED
	MOVD	$233, R8	// SYS_madvise
	SVC
	LSR	$1, R14, R14
	MOVD	$(1<<36), R15
	CMP	R15, R14
	BHS	above
wait:
	MOVD	$0, R0
	MOVD	$0, R1
	MOVD	$0, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$73, R8	// SYS_ppoll
	SVC
	B	wait
