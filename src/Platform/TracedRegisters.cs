using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>General registers of a traced x86-64 process: struct user_regs_struct of sys/user.h.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct TracedRegisters
{
    /// <summary>General-purpose registers, and RAX as it was when a system call was made (-1 outside of one).</summary>
    public ulong R15, R14, R13, R12, Rbp, Rbx, R11, R10, R9, R8, Rax, Rcx, Rdx, Rsi, Rdi, OriginalRax;
    /// <summary>Instruction pointer, code segment, flags, stack.</summary>
    public ulong Rip, Cs, Rflags, Rsp, Ss;
    /// <summary>Bases of FS and GS, and the selectors of the data segments.</summary>
    public ulong FsBase, GsBase, Ds, Es, Fs, Gs;
}
