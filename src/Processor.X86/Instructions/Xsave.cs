using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Bunraku.Processor.X86;

/// <summary>
/// FXSAVE, FXRSTOR and the XSAVE family. Intel SDM vol. 1, "Managing State Using the XSAVE Feature Set"; AMD APM vol. 2, "FXSAVE and FXRSTOR Instructions".
/// </summary>
internal static unsafe class Xsave
{
    /// <summary>Bytes of the legacy area that are written; the rest is the software's.</summary>
    private const int LegacyWritten = 416, X87End = 24, XmmOffset = 160;
    private const ulong CompactedFormat = 1ul << 63;
    private const int MaximumSize = XsaveLayout.PkruOffset + XsaveLayout.PkruSize;

    private static int Registers(ProcessorState* s) => (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 ? 16 : 8;

    // ---- FXSAVE, FXRSTOR ----

    public static Insn* Fxsave(Processor p, ProcessorState* s, Insn* i) => Fxsave(p, s, i, false);

    public static Insn* Fxsave64(Processor p, ProcessorState* s, Insn* i) => Fxsave(p, s, i, true);

    private static Insn* Fxsave(Processor p, ProcessorState* s, Insn* i, bool wide)
    {
        ulong address = Access.Address(s, i);
        CheckAlignment(p, address, 16);
        byte* image = stackalloc byte[XsaveLayout.LegacySize];
        int registers = Registers(s);
        SaveX87(p, s, image, wide);
        SaveMxcsr(s, image);
        SaveXmm(s, image, registers);
        p.Mmu.CheckWrite(address, XsaveLayout.LegacySize);
        p.Mmu.WriteBytes(address, new ReadOnlySpan<byte>(image, XmmOffset + registers * 16));
        return i + 1;
    }

    public static Insn* Fxrstor(Processor p, ProcessorState* s, Insn* i) => Fxrstor(p, s, i, false);

    public static Insn* Fxrstor64(Processor p, ProcessorState* s, Insn* i) => Fxrstor(p, s, i, true);

    private static Insn* Fxrstor(Processor p, ProcessorState* s, Insn* i, bool wide)
    {
        ulong address = Access.Address(s, i);
        CheckAlignment(p, address, 16);
        byte* image = stackalloc byte[XsaveLayout.LegacySize];
        p.Mmu.ReadBytes(address, new Span<byte>(image, XsaveLayout.LegacySize));
        uint mxcsr = *(uint*)(image + X87.MxcsrOffset);
        if ((mxcsr & ~Simd.MxcsrMask) != 0) throw p.GeneralProtection();
        LoadX87(s, image, wide);
        s->Mxcsr = mxcsr;
        LoadXmm(s, image, Registers(s));
        return i + 1;
    }

    // ---- XSAVE, XSAVEOPT, XSAVEC, XSAVES ----

    public static Insn* XsaveStandard(Processor p, ProcessorState* s, Insn* i) => Save(p, s, i, wide: false, optimised: false);

    public static Insn* XsaveStandard64(Processor p, ProcessorState* s, Insn* i) => Save(p, s, i, wide: true, optimised: false);

    public static Insn* Xsaveopt(Processor p, ProcessorState* s, Insn* i) => Save(p, s, i, wide: false, optimised: true);

    public static Insn* Xsaveopt64(Processor p, ProcessorState* s, Insn* i) => Save(p, s, i, wide: true, optimised: true);

    public static Insn* Xsavec(Processor p, ProcessorState* s, Insn* i) => SaveCompacted(p, s, i, s->Xcr0, wide: false);

    public static Insn* Xsavec64(Processor p, ProcessorState* s, Insn* i) => SaveCompacted(p, s, i, s->Xcr0, wide: true);

    public static Insn* Xsaves(Processor p, ProcessorState* s, Insn* i) => SaveCompacted(p, s, i, s->Xcr0 | s->Xss, wide: false);

    public static Insn* Xsaves64(Processor p, ProcessorState* s, Insn* i) => SaveCompacted(p, s, i, s->Xcr0 | s->Xss, wide: true);

    private static Insn* Save(Processor p, ProcessorState* s, Insn* i, bool wide, bool optimised)
    {
        ulong address = Begin(p, s, i), requested = Requested(s) & s->Xcr0, used = InUse(s);
        p.Mmu.CheckWrite(address, XsaveLayout.StandardSize(requested));
        ulong header = Access.ReadForWrite<ulong>(p, s, address + XsaveLayout.HeaderOffset);
        ulong written = optimised ? requested & used : requested;
        // MXCSR goes with SSE or AVX whether or not they are in their initial state.
        WriteLegacy(p, s, address, written, (requested & (XsaveLayout.Sse | XsaveLayout.Avx)) != 0, wide);
        WriteExtended(p, s, address, written, XsaveLayout.AvxOffset, XsaveLayout.PkruOffset);
        Access.Write(p, s, address + XsaveLayout.HeaderOffset, (header & ~requested) | (used & requested));
        return i + 1;
    }

    private static Insn* SaveCompacted(Processor p, ProcessorState* s, Insn* i, ulong enabled, bool wide)
    {
        ulong address = Begin(p, s, i), requested = Requested(s) & enabled, used = InUse(s);
        if (s->Mxcsr != Simd.DefaultMxcsr) used |= XsaveLayout.Sse;
        p.Mmu.CheckWrite(address, XsaveLayout.CompactSize(requested));
        ulong written = requested & used;
        WriteLegacy(p, s, address, written, (written & XsaveLayout.Sse) != 0, wide);
        WriteExtended(p, s, address, written, XsaveLayout.AvxOffset, CompactedPkru(requested));
        Access.Write(p, s, address + XsaveLayout.HeaderOffset, written);
        Access.Write(p, s, address + XsaveLayout.HeaderOffset + 8, requested | CompactedFormat);
        return i + 1;
    }

    private static int CompactedPkru(ulong components) => XsaveLayout.AvxOffset + ((components & XsaveLayout.Avx) != 0 ? XsaveLayout.AvxSize : 0);

    private static void WriteLegacy(Processor p, ProcessorState* s, ulong address, ulong components, bool mxcsr, bool wide)
    {
        byte* image = stackalloc byte[LegacyWritten];
        if ((components & XsaveLayout.X87) != 0)
        {
            SaveX87(p, s, image, wide);
            p.Mmu.WriteBytes(address, new ReadOnlySpan<byte>(image, X87End));
            p.Mmu.WriteBytes(address + X87.RegisterOffset, new ReadOnlySpan<byte>(image + X87.RegisterOffset, 128));
        }
        if (mxcsr)
        {
            SaveMxcsr(s, image);
            p.Mmu.WriteBytes(address + X87.MxcsrOffset, new ReadOnlySpan<byte>(image + X87.MxcsrOffset, 8));
        }
        if ((components & XsaveLayout.Sse) != 0)
        {
            SaveXmm(s, image, Registers(s));
            p.Mmu.WriteBytes(address + XmmOffset, new ReadOnlySpan<byte>(image + XmmOffset, Registers(s) * 16));
        }
    }

    private static void WriteExtended(Processor p, ProcessorState* s, ulong address, ulong components, int avx, int pkru)
    {
        if ((components & XsaveLayout.Avx) != 0)
        {
            byte* upper = stackalloc byte[XsaveLayout.AvxSize];
            for (int n = 0; n < 16; n++) Unsafe.CopyBlock(upper + n * 16, ProcessorState.SimdRegister(s, n) + 16, 16);
            p.Mmu.WriteBytes(address + (ulong)avx, new ReadOnlySpan<byte>(upper, Registers(s) * 16));
        }
        if ((components & XsaveLayout.Pkru) != 0) Access.Write<ulong>(p, s, address + (ulong)pkru, s->Pkru);
    }

    // ---- XRSTOR, XRSTORS ----

    public static Insn* Xrstor(Processor p, ProcessorState* s, Insn* i) => Restore(p, s, i, wide: false, supervisor: false);

    public static Insn* Xrstor64(Processor p, ProcessorState* s, Insn* i) => Restore(p, s, i, wide: true, supervisor: false);

    public static Insn* Xrstors(Processor p, ProcessorState* s, Insn* i) => Restore(p, s, i, wide: false, supervisor: true);

    public static Insn* Xrstors64(Processor p, ProcessorState* s, Insn* i) => Restore(p, s, i, wide: true, supervisor: true);

    private static Insn* Restore(Processor p, ProcessorState* s, Insn* i, bool wide, bool supervisor)
    {
        ulong address = Begin(p, s, i), enabled = supervisor ? s->Xcr0 | s->Xss : s->Xcr0, requested = Requested(s) & enabled;
        byte* image = stackalloc byte[MaximumSize];
        ulong* header = (ulong*)(image + XsaveLayout.HeaderOffset);
        p.Mmu.ReadBytes(address + XsaveLayout.HeaderOffset, new Span<byte>(header, XsaveLayout.HeaderSize));
        bool compacted = (header[1] & CompactedFormat) != 0;
        ulong present = header[0], format = header[1] & ~CompactedFormat;
        bool good = compacted ? (format & ~enabled) == 0 && (present & ~format) == 0 : !supervisor && (present & ~enabled) == 0 && format == 0;
        // The standard format requires only bytes 23:8 to be zero, the compacted one all of bytes 63:16.
        for (int n = 2; n < (compacted ? 8 : 3); n++) good &= header[n] == 0;
        if (!good) throw p.GeneralProtection();

        int size = compacted ? XsaveLayout.CompactSize(format & (requested | XsaveLayout.Avx)) : XsaveLayout.StandardSize(requested & present);
        p.Mmu.ReadBytes(address, new Span<byte>(image, XsaveLayout.LegacySize));
        if (size > XsaveLayout.AvxOffset)
            p.Mmu.ReadBytes(address + XsaveLayout.AvxOffset, new Span<byte>(image + XsaveLayout.AvxOffset, size - XsaveLayout.AvxOffset));
        ulong load = requested & present;
        bool loadMxcsr = compacted ? (load & XsaveLayout.Sse) != 0 : (requested & (XsaveLayout.Sse | XsaveLayout.Avx)) != 0;
        uint mxcsr = *(uint*)(image + X87.MxcsrOffset);
        if (loadMxcsr && (mxcsr & ~Simd.MxcsrMask) != 0) throw p.GeneralProtection();

        if (loadMxcsr) s->Mxcsr = mxcsr;
        else if (compacted && (requested & XsaveLayout.Sse) != 0) s->Mxcsr = Simd.DefaultMxcsr;
        Apply(s, image, requested, load, wide, compacted ? CompactedPkru(format) : XsaveLayout.PkruOffset, Registers(s));
        if ((requested & XsaveLayout.Pkru) != 0) p.ModeChanged();
        return Flow.Leave(s, i);
    }

    /// <summary>Loads the components in <paramref name="load"/>, initialises the others in <paramref name="requested"/>.</summary>
    private static void Apply(ProcessorState* s, byte* image, ulong requested, ulong load, bool wide, int pkru, int registers)
    {
        if ((load & XsaveLayout.X87) != 0)
        {
            LoadX87(s, image, wide);
        }
        else if ((requested & XsaveLayout.X87) != 0)
        {
            X87.Initialise(s);
            new Span<byte>(s->Fxsave + X87.RegisterOffset, 128).Clear();
        }
        if ((load & XsaveLayout.Sse) != 0) LoadXmm(s, image, registers);
        else if ((requested & XsaveLayout.Sse) != 0) for (int n = 0; n < registers; n++) *(Vector128<byte>*)ProcessorState.SimdRegister(s, n) = default;
        if ((requested & XsaveLayout.Avx) != 0)
        {
            for (int n = 0; n < registers; n++)
                *(Vector128<byte>*)(ProcessorState.SimdRegister(s, n) + 16) = (load & XsaveLayout.Avx) != 0
                    ? Vector128.Load(image + XsaveLayout.AvxOffset + n * 16) : default;
        }
        if ((requested & XsaveLayout.Pkru) != 0) s->Pkru = (load & XsaveLayout.Pkru) != 0 ? *(uint*)(image + pkru) : 0;
    }

    // ---- parts ----

    private static ulong Begin(Processor p, ProcessorState* s, Insn* i)
    {
        if ((s->Cr4 & (ulong)Cr4.Osxsave) == 0) throw p.InvalidOpcode();
        if ((s->Cr0 & (ulong)Cr0.Ts) != 0) throw p.Fault(Vector.Nm);
        ulong address = Access.Address(s, i);
        CheckAlignment(p, address, 64);
        return address;
    }

    private static void CheckAlignment(Processor p, ulong address, int alignment)
    {
        if ((address & (ulong)(alignment - 1)) != 0) throw p.GeneralProtection();
    }

    private static ulong Requested(ProcessorState* s) => (uint)s->Rax | (s->Rdx << 32);

    /// <summary>XINUSE: components that are not in their initial state.</summary>
    public static ulong InUse(ProcessorState* s)
    {
        ulong used = XsaveLayout.X87 * (X87InUse(s) ? 1ul : 0);
        Vector128<byte> low = default, high = default;
        for (int n = 0; n < 16; n++)
        {
            low |= *(Vector128<byte>*)ProcessorState.SimdRegister(s, n);
            high |= *(Vector128<byte>*)(ProcessorState.SimdRegister(s, n) + 16);
        }
        if (low != default) used |= XsaveLayout.Sse;
        if (high != default) used |= XsaveLayout.Avx;
        if (s->Pkru != 0) used |= XsaveLayout.Pkru;
        return used;
    }

    private static bool X87InUse(ProcessorState* s) =>
        X87.Control(s) != X87.DefaultControl || X87.Status(s) != 0 || X87.Tags(s) != 0 || X87.Opcode(s) != 0 || X87.InstructionPointer(s) != 0
            || X87.DataPointer(s) != 0
        || new ReadOnlySpan<byte>(s->Fxsave + X87.RegisterOffset, 128).ContainsAnyExcept((byte)0);

    private static void SaveX87(Processor p, ProcessorState* s, byte* image, bool wide)
    {
        Unsafe.CopyBlock(image, s->Fxsave, X87End);
        image[X87.TagOffset + 1] = 0;
        for (int n = 0; n < 8; n++)
        {
            Unsafe.CopyBlock(image + X87.RegisterOffset + n * 16, X87.St(s, n), 10);
            Unsafe.InitBlock(image + X87.RegisterOffset + n * 16 + 10, 0, 6);
        }
        if (p.Model.Behavior.SavesX87PointersForExceptionsOnly && !X87.IsPending(s))
        {
            *(ushort*)(image + X87.OpcodeOffset) = 0;
            *(ulong*)(image + X87.InstructionPointerOffset) = 0;
            *(ulong*)(image + X87.DataPointerOffset) = 0;
        }
        else if (!wide)
        {
            *(uint*)(image + X87.InstructionPointerOffset + 4) = s->X87Cs;
            *(uint*)(image + X87.DataPointerOffset + 4) = s->X87Ds;
        }
    }

    private static void LoadX87(ProcessorState* s, byte* image, bool wide)
    {
        Unsafe.CopyBlock(s->Fxsave, image, X87End);
        for (int n = 0; n < 8; n++) Unsafe.CopyBlock(X87.St(s, n), image + X87.RegisterOffset + n * 16, 10);
        s->Fxsave[X87.TagOffset + 1] = 0;
        X87.Opcode(s) &= 0x7FF;
        if (!wide)
        {
            s->X87Cs = (ushort)(X87.InstructionPointer(s) >> 32);
            s->X87Ds = (ushort)(X87.DataPointer(s) >> 32);
            X87.InstructionPointer(s) = (uint)X87.InstructionPointer(s);
            X87.DataPointer(s) = (uint)X87.DataPointer(s);
        }
        X87.SetControl(s, X87.Control(s)); // and the summary bits follow
    }

    private static void SaveMxcsr(ProcessorState* s, byte* image)
    {
        *(uint*)(image + X87.MxcsrOffset) = s->Mxcsr;
        *(uint*)(image + X87.MxcsrOffset + 4) = Simd.MxcsrMask;
    }

    private static void SaveXmm(ProcessorState* s, byte* image, int registers)
    {
        for (int n = 0; n < registers; n++) Unsafe.CopyBlock(image + XmmOffset + n * 16, ProcessorState.SimdRegister(s, n), 16);
    }

    private static void LoadXmm(ProcessorState* s, byte* image, int registers)
    {
        for (int n = 0; n < registers; n++) Unsafe.CopyBlock(ProcessorState.SimdRegister(s, n), image + XmmOffset + n * 16, 16);
    }
}
