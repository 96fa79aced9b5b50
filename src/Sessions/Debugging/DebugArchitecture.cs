namespace Bunraku.Sessions.Debugging;

/// <summary>The processor that a debugger is told of, which decides what registers it sees and how it reads code.</summary>
internal enum DebugArchitecture
{
    /// <summary>16-bit code: real mode, virtual-8086 mode, 16-bit segments.</summary>
    I8086,
    /// <summary>32-bit code without long mode.</summary>
    I386,
    /// <summary>Long mode, whatever the code's size.</summary>
    X64,
}

/// <summary>Which architecture it is, and what a debugger calls it.</summary>
internal static class DebugArchitectures
{
    private const ulong EferLma = 1 << 10, Cr0Pe = 1, FlagVm = 1 << 17;
    private const uint Default32 = 1 << 14;

    /// <summary>What a processor in this state is best described as.</summary>
    public static DebugArchitecture Of(CpuState state)
    {
        if ((state.Efer & EferLma) != 0) return DebugArchitecture.X64;
        bool is32 = (state.Cr0 & Cr0Pe) != 0 && (state.Rflags & FlagVm) == 0 && (state.Cs.Attributes & Default32) != 0;
        return is32 ? DebugArchitecture.I386 : DebugArchitecture.I8086;
    }

    /// <summary>GDB's and LLDB's word for it.</summary>
    public static string Name(this DebugArchitecture architecture) => architecture switch
    {
        DebugArchitecture.I8086 => "i8086",
        DebugArchitecture.I386 => "i386",
        _ => "i386:x86-64",
    };
}
