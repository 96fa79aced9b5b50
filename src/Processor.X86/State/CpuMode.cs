using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>Which of the processor's modes is in force.</summary>
internal static unsafe class CpuMode
{
    /// <summary>CR0.PE set and RFLAGS.VM clear.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool IsProtected(ProcessorState* s) => (s->Cr0 & (ulong)Cr0.Pe) != 0 && (s->FlagsOther & (uint)Rflags.Vm) == 0;

    /// <summary>CR0.PE and RFLAGS.VM set.</summary>
    public static bool IsVirtual8086(ProcessorState* s) => (s->Cr0 & (ulong)Cr0.Pe) != 0 && (s->FlagsOther & (uint)Rflags.Vm) != 0;

    /// <summary>EFER.LMA: compatibility or 64-bit mode.</summary>
    public static bool IsLong(ProcessorState* s) => (s->Efer & (ulong)Efer.Lma) != 0;

    /// <summary>64-bit mode: EFER.LMA and CS.L.</summary>
    public static bool Is64Bit(ProcessorState* s) => (s->Efer & (ulong)Efer.Lma) != 0 && s->Cs.Long;
}
