using System.Runtime.Intrinsics.X86;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>Moves a program's registers between the processor's state and a helper: all that a program can see, and nothing of who ran there before.</summary>
internal sealed unsafe class DirectRegisters(ProcessorState* s)
{
    /// <summary>Selectors of a 64-bit program on Linux, as host: arch/x86/include/asm/segment.h.</summary>
    public const ushort Code64 = 0x33, Code32 = 0x23, Data = 0x2B, ProcessorNumber = 0x7B;

    /// <summary>Flags that are the same in the helper as in the guest; all others must have one value.</summary>
    public const uint Free = (uint)(Rflags.Arithmetic | Rflags.Df);
    public const uint Required = (uint)(Rflags.If | Rflags.Fixed1);

    // Intel SDM vol. 1, "XSAVE Area": legacy region, header, and where CPUID says that the upper halves of YMM lie.
    private const int ControlLength = 24, MxcsrOffset = 24, RegistersOffset = 32, XmmOffset = 160, HeaderOffset = 512, XmmCount = 16;
    private const ulong Components = 7;
    private const int PkruComponent = 9;
    private static readonly int s_pkruOffset = X86Base.CpuId(0xD, PkruComponent).Ebx;
    private static readonly int s_upperOffset = X86Base.CpuId(0xD, 2).Ebx;

    private readonly byte[] _area = new byte[16384];
    private nuint _areaLength;
    private TracedProcess? _known; // its registers are those in the area; null: nobody's
    private ulong _left; // the components in use that it was left with

    private static void Copy(byte* from, byte* to, int length) => new ReadOnlySpan<byte>(from, length).CopyTo(new Span<byte>(to, length));

    /// <summary>Copies. True: it was the same.</summary>
    private static bool Update(byte* from, byte* to, int length)
    {
        var wanted = new ReadOnlySpan<byte>(from, length);
        var there = new Span<byte>(to, length);
        if (wanted.SequenceEqual(there)) return true;
        wanted.CopyTo(there);
        return false;
    }

    private bool TryPrepareArea(TracedProcess process, byte* area)
    {
        if (_areaLength != 0) return true;
        nuint length = (nuint)_area.Length;
        if (!process.TryGetExtended(area, ref length)) return false;
        new Span<byte>(area + HeaderOffset, (int)length - HeaderOffset).Clear();
        _areaLength = length;
        return true;
    }

    /// <summary>With all rights to pages, whatever their protection key, and nothing else in particular. False: the process is gone.</summary>
    public bool TryShowAll(TracedProcess process)
    {
        fixed (byte* area = _area)
        {
            if (!TryPrepareArea(process, area)) return false;
            _known = null;
            *(ulong*)(area + HeaderOffset) = 0;
            return process.TrySetExtended(area, _areaLength);
        }
    }

    /// <summary>Reads vector registers and x87 state for nothing. False: the process is gone.</summary>
    public bool TryReadArea(TracedProcess process)
    {
        fixed (byte* area = _area)
        {
            nuint length = _areaLength;
            _known = null;
            return process.TryGetExtended(area, ref length);
        }
    }

    /// <summary>PKRU with all rights but those to pages with a protection key; 0: there is none.</summary>
    public static uint RightsWithout(int key) => key == 0 ? 0 : 3u << 2 * key;

    /// <summary>Into the helper. False: it is gone.</summary>
    /// <param name="hiddenBy">Protection key of pages to which the program has no right; 0: none.</param>
    public bool TrySet(TracedProcess process, int hiddenBy)
    {
        TracedRegisters r;
        fixed (byte* area = _area)
        {
            if (!TryPrepareArea(process, area)) return false;
            ulong components = Components | (hiddenBy == 0 ? 0 : 1ul << PkruComponent);
            // Kernels seldom touch these registers: most programs go on with what they were left with.
            bool same = _known == process && (_left & ~components) == 0;
            same &= Update(s->Fxsave, area, ControlLength);
            same &= *(uint*)(area + MxcsrOffset) == s->Mxcsr;
            *(uint*)(area + MxcsrOffset) = s->Mxcsr;
            same &= Update(s->Fxsave + RegistersOffset, area + RegistersOffset, XmmOffset - RegistersOffset);
            for (int n = 0; n < XmmCount; n++)
            {
                byte* register = ProcessorState.SimdRegister(s, n);
                same &= Update(register, area + XmmOffset + 16 * n, 16);
                same &= Update(register + 16, area + s_upperOffset + 16 * n, 16);
            }
            if (hiddenBy != 0)
            {
                uint rights = RightsWithout(hiddenBy);
                same &= *(uint*)(area + s_pkruOffset) == rights;
                *(uint*)(area + s_pkruOffset) = rights;
            }
            if (!same)
            {
                // What is not listed here gets its initial value.
                *(ulong*)(area + HeaderOffset) = components;
                _known = null;
                if (!process.TrySetExtended(area, _areaLength)) return false;
            }
        }
        (r.R15, r.R14, r.R13, r.R12, r.Rbp, r.Rbx, r.R11, r.R10) = (s->R15, s->R14, s->R13, s->R12, s->Rbp, s->Rbx, s->R11, s->R10);
        (r.R9, r.R8, r.Rax, r.Rcx, r.Rdx, r.Rsi, r.Rdi) = (s->R9, s->R8, s->Rax, s->Rcx, s->Rdx, s->Rsi, s->Rdi);
        r.OriginalRax = ulong.MaxValue;
        (r.Rip, r.Cs, r.Rflags, r.Rsp, r.Ss) = (s->Rip, Code64, Flags.Get(s), s->Rsp, Data);
        (r.FsBase, r.GsBase, r.Ds, r.Es, r.Fs, r.Gs) = (s->Fs.Base, s->Gs.Base, s->Ds.Selector, s->Es.Selector, 0, 0);
        return process.TrySetRegisters(&r);
    }

    /// <summary>Out of the helper, as they are; of RFLAGS what a program can change. False: it is gone, and the state is as it was.</summary>
    /// <param name="inSystemCall">It stands behind a system call that the host did not carry out.</param>
    public bool TryGet(TracedProcess process, bool inSystemCall, out TracedRegisters registers)
    {
        TracedRegisters r;
        registers = default;
        if (!process.TryGetRegisters(&r)) return false;
        fixed (byte* area = _area)
        {
            nuint length = _areaLength;
            _known = null;
            if (!process.TryGetExtended(area, ref length)) return false;
            (_known, _left) = (process, *(ulong*)(area + HeaderOffset));
            Copy(area, s->Fxsave, ControlLength);
            s->Mxcsr = *(uint*)(area + MxcsrOffset);
            Copy(area + RegistersOffset, s->Fxsave + RegistersOffset, XmmOffset - RegistersOffset);
            for (int n = 0; n < XmmCount; n++)
            {
                byte* register = ProcessorState.SimdRegister(s, n);
                Copy(area + XmmOffset + 16 * n, register, 16);
                Copy(area + s_upperOffset + 16 * n, register + 16, 16);
            }
        }
        (s->R15, s->R14, s->R13, s->R12, s->Rbp, s->Rbx, s->R11, s->R10) = (r.R15, r.R14, r.R13, r.R12, r.Rbp, r.Rbx, r.R11, r.R10);
        (s->R9, s->R8, s->Rcx, s->Rdx, s->Rsi, s->Rdi) = (r.R9, r.R8, r.Rcx, r.Rdx, r.Rsi, r.Rdi);
        // In a system call RAX is the host's answer already.
        s->Rax = inSystemCall ? r.OriginalRax : r.Rax;
        (s->Rip, s->Rsp) = (r.Rip, r.Rsp);
        const uint fromProgram = (uint)(Rflags.Arithmetic | Rflags.Df | Rflags.Tf | Rflags.Nt | Rflags.Ac | Rflags.Id);
        Flags.Set(s, Flags.Get(s) & ~fromProgram | (uint)r.Rflags & fromProgram);
        (s->Fs.Base, s->Gs.Base) = (r.FsBase, r.GsBase);
        registers = r;
        return true;
    }
}
