using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// The facts that decoding depends on, packed in 21 bits (<see cref="ProcessorState.Mode"/>): blocks are cached by physical address and this key,
/// so that handlers need not test what the decoder has already decided.
/// </summary>
internal static unsafe class ModeKey
{
    /// <summary>Bits 1:0: code size 0 = 16, 1 = 32, 2 = 64 bits.</summary>
    public const uint CodeSizeMask = 3, Code16 = 0, Code32 = 1, Code64 = 2;
    /// <summary>SS.B = 1: 32-bit stack pointer (in 64-bit mode always 64).</summary>
    public const uint Stack32 = 1 << 2;
    /// <summary>CS, DS, ES and SS are usable, with base 0 and no limit; always in 64-bit mode.</summary>
    public const uint Flat = 1 << 3;
    /// <summary>Bits 5:4: CPL.</summary>
    public const int CplShift = 4;
    /// <summary>CR0.PE.</summary>
    public const uint Protected = 1 << 6;
    /// <summary>RFLAGS.VM in protected mode.</summary>
    public const uint Virtual8086 = 1 << 7;
    /// <summary>EFER.LMA.</summary>
    public const uint LongMode = 1 << 8;
    public const uint Em = 1 << 9, Ts = 1 << 10, Mp = 1 << 11;
    /// <summary>CR4.OSFXSR.</summary>
    public const uint Osfxsr = 1 << 12;
    /// <summary>CR4.OSXSAVE and XCR0[2:1] = 11b.</summary>
    public const uint AvxEnabled = 1 << 13;
    /// <summary>One instruction a block, not chained: TF, breakpoints, interrupt shadow.</summary>
    public const uint Single = 1 << 14;

    /// <summary>CPL below 3 and RFLAGS.AC: translated code has another first-level TLB then.</summary>
    public const uint SmapOverride = 1 << 15;

    /// <summary>Bits 19:16: number of the set of intercepted instructions, see <see cref="InterceptSets"/>.</summary>
    public const int InterceptShift = 16, InterceptBits = 4;

    /// <summary>A guest of a hypervisor inside the guest runs: translated code has first-level tables of its own then.</summary>
    public const uint Guest = 1 << 20;

    /// <summary>Bits of a key.</summary>
    public const int Bits = 21;

    /// <summary>EIP has 32 bits in 16-bit code too: running past FFFFh meets the limit of CS and does not wrap.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong RipMask(uint mode) => (mode & CodeSizeMask) == Code64 ? ulong.MaxValue : uint.MaxValue;

    /// <summary>The key of the state as it is, without the number of the intercepted instructions.</summary>
    public static uint Of(ProcessorState* s)
    {
        uint mode = 0;
        bool protectedMode = (s->Cr0 & (ulong)Cr0.Pe) != 0, v86 = protectedMode && (s->FlagsOther & (uint)Rflags.Vm) != 0;
        bool longMode = (s->Efer & (ulong)Efer.Lma) != 0;
        bool code64 = longMode && s->Cs.Long && !v86;
        mode |= code64 ? Code64 : s->Cs.Default32 ? Code32 : Code16;
        if (s->Ss.Default32) mode |= Stack32;
        if (code64 || (IsFlat(s->Cs) && IsFlat(s->Ds) && IsFlat(s->Es) && IsFlat(s->Ss))) mode |= Flat;
        mode |= (uint)s->Cpl << CplShift;
        if (protectedMode) mode |= Protected;
        if (v86) mode |= Virtual8086;
        if (longMode) mode |= LongMode;
        if ((s->Cr0 & (ulong)Cr0.Em) != 0) mode |= Em;
        if ((s->Cr0 & (ulong)Cr0.Ts) != 0) mode |= Ts;
        if ((s->Cr0 & (ulong)Cr0.Mp) != 0) mode |= Mp;
        if ((s->Cr4 & (ulong)Cr4.Osfxsr) != 0) mode |= Osfxsr;
        if ((s->Cr4 & (ulong)Cr4.Osxsave) != 0 && (s->Xcr0 & 6) == 6) mode |= AvxEnabled;
        if (s->Cpl != 3 && (s->FlagsOther & (uint)Rflags.Ac) != 0) mode |= SmapOverride;
        return mode;

        static bool IsFlat(in SegmentRegister r) =>
            r.Base == 0 && r.Limit == uint.MaxValue && (r.Attributes & SegmentRegister.Unusable) == 0 && r.Present && !r.IsSystem
            && (r.IsCode ? r.ReadWrite : r.ReadWrite && !r.ExpandDownOrConforming);
    }

    public static int Cpl(uint mode) => (int)(mode >> CplShift) & 3;

    /// <summary>Bitness as Iced takes it.</summary>
    public static int Bitness(uint mode) => (mode & CodeSizeMask) switch { Code16 => 16, Code32 => 32, _ => 64 };
}
