using System.Buffers.Binary;

namespace Bunraku.Sessions.Debugging;

/// <summary>
/// The registers of a vCPU for a debugger, in the order of its packets. Where CS has a base, the program counter is the linear address of the instruction:
/// GDB knows no segments, and could neither show the code nor find its breakpoints by an offset. The stack pointer stays an offset in SS.
/// </summary>
/// <remarks>
/// GDB manual, appendix "Target Descriptions", section "i386 Features". Control registers that decide how code is run cannot be set, nor can segments in
/// protected mode, whose descriptors would have to be read.
/// </remarks>
internal sealed class DebugRegisters
{
    private const int StOffset = 32, XmmOffset = 160, MxcsrOffset = 24;
    private const int StatusOffset = 2, TagOffset = 4, OpcodeOffset = 6, InstructionOffset = 8, DataOffset = 16;
    private const ulong Cr0Pe = 1, FlagVm = 1 << 17;
    /// <summary>RFLAGS that a debugger may change: all that exist but VM, which with the segments makes another mode.</summary>
    private const ulong SettableFlags = 0x003D_7FD5;
    private const uint MxcsrBits = 0xFFFF;

    // GDB's order, which is not that of the encodings in CpuState.Gpr.
    private static readonly (string Name, int Number)[] s_general =
        [("ax", 0), ("bx", 3), ("cx", 1), ("dx", 2), ("si", 6), ("di", 7), ("bp", 5), ("sp", 4)];
    private static readonly (string Name, int Number)[] s_general32 =
        [("ax", 0), ("cx", 1), ("dx", 2), ("bx", 3), ("sp", 4), ("bp", 5), ("si", 6), ("di", 7)];

    private DebugRegisters(DebugArchitecture architecture)
    {
        Architecture = architecture;
        bool wide = architecture == DebugArchitecture.X64;
        Features =
        [
            ("org.gnu.gdb.i386.core", [.. General(wide), .. Segments(), .. X87(wide)]),
            ("org.gnu.gdb.i386.sse", [.. Sse(wide ? 16 : 8)]),
            ("org.gnu.gdb.i386.avx", [.. Avx(wide ? 16 : 8)]),
            // GDB has the bases in its 64-bit description alone.
            .. wide ? ((string, DebugRegister[])[])[("org.gnu.gdb.i386.segments", [.. Bases()])] : [],
            ("org.bunraku.gdb.i386.system", [.. wide ? [] : Bases(), .. System(wide)]),
        ];
        All = [.. Features.SelectMany(f => f.Registers)];
        Size = All.Sum(r => r.Size);
        ProgramCounter = All.First(r => r.Name is "rip" or "eip");
    }

    private static readonly DebugRegisters[] s_sets = [.. Enum.GetValues<DebugArchitecture>().Select(a => new DebugRegisters(a))];

    /// <summary>The registers of an architecture.</summary>
    public static DebugRegisters Of(DebugArchitecture architecture) => s_sets[(int)architecture];

    public DebugArchitecture Architecture { get; }

    /// <summary>The target description's features with their registers.</summary>
    public IReadOnlyList<(string Name, DebugRegister[] Registers)> Features { get; }

    /// <summary>All of them by number.</summary>
    public IReadOnlyList<DebugRegister> All { get; }

    /// <summary>Bytes of all.</summary>
    public int Size { get; }

    /// <summary>RIP or EIP.</summary>
    public DebugRegister ProgramCounter { get; }

    /// <summary>All registers one behind the other.</summary>
    public byte[] Read(CpuState state)
    {
        var all = new byte[Size];
        int at = 0;
        foreach (DebugRegister register in All)
        {
            register.Read(state, all.AsSpan(at, register.Size));
            at += register.Size;
        }
        return all;
    }

    /// <summary>Sets all registers that can be set.</summary>
    /// <param name="all"><see cref="Size"/> bytes.</param>
    public void Write(CpuState state, ReadOnlySpan<byte> all)
    {
        foreach (DebugRegister register in All)
        {
            register.Write(state, all[..register.Size]);
            all = all[register.Size..];
        }
    }

    // ---- core

    private static IEnumerable<DebugRegister> General(bool wide)
    {
        int size = wide ? 8 : 4;
        char letter = wide ? 'r' : 'e';
        foreach ((string name, int number) in wide ? s_general : s_general32)
        {
            string type = number is 4 or 5 ? "data_ptr" : wide ? "int64" : "int32";
            yield return DebugRegister.Number(letter + name, size, type, s => s.Gpr[number], (s, v) => Set(ref s.Gpr[number], v));
        }
        for (int n = 8; wide && n < 16; n++)
        {
            int number = n;
            yield return DebugRegister.Number($"r{n}", size, "int64", s => s.Gpr[number], (s, v) => Set(ref s.Gpr[number], v));
        }
        yield return DebugRegister.Number(letter + "ip", size, "code_ptr", s => s.InstructionAddress, SetInstructionAddress);
        yield return DebugRegister.Number("eflags", 4, "i386_eflags", s => s.Rflags,
            (s, v) => Set(ref s.Rflags, (s.Rflags & ~SettableFlags) | (v & SettableFlags)));
    }

    private static bool Set(ref ulong register, ulong value)
    {
        register = value;
        return true;
    }

    /// <summary>Another instruction comes next: what had begun is given up.</summary>
    private static bool SetInstructionAddress(CpuState state, ulong address)
    {
        state.Rip = state.Is64BitMode ? address : (uint)(address - state.Cs.Base);
        state.HalfDone = null;
        state.MmioValues.Clear();
        state.InterruptShadow = state.MovSsShadow = false;
        return true;
    }

    private static IEnumerable<DebugRegister> Segments() =>
    [
        Segment("cs", s => s.Cs, (s, v) => s.Cs = v), Segment("ss", s => s.Ss, (s, v) => s.Ss = v), Segment("ds", s => s.Ds, (s, v) => s.Ds = v),
        Segment("es", s => s.Es, (s, v) => s.Es = v), Segment("fs", s => s.Fs, (s, v) => s.Fs = v), Segment("gs", s => s.Gs, (s, v) => s.Gs = v),
    ];

    private static DebugRegister Segment(string name, Func<CpuState, SegmentState> get, Action<CpuState, SegmentState> set) =>
        DebugRegister.Number(name, 4, "int32", s => get(s).Selector, (s, v) =>
        {
            if (v > ushort.MaxValue || ((s.Cr0 & Cr0Pe) != 0 && (s.Rflags & FlagVm) == 0)) return false;
            set(s, get(s) with { Selector = (ushort)v, Base = v << 4 });
            return true;
        });

    private static IEnumerable<DebugRegister> X87(bool wide)
    {
        for (int n = 0; n < 8; n++) yield return DebugRegister.Image($"st{n}", 10, "i387_ext", StOffset + 16 * n);
        // In 64-bit mode the pointers have 64 bits and no selectors: GDB has their upper halves there.
        DebugRegister[] control =
        [
            Word("fctrl", 0),
            Word("fstat", StatusOffset),
            DebugRegister.Number("ftag", 4, "int", s => X87Tags.Full(s.Xsave), (s, v) => X87Tags.Set(s.Xsave, (ushort)v)),
            wide ? Doubleword("fiseg", InstructionOffset + 4) : DebugRegister.Number("fiseg", 4, "int", s => s.X87Cs, (s, v) => Set(ref s.X87Cs, v)),
            Doubleword("fioff", InstructionOffset),
            wide ? Doubleword("foseg", DataOffset + 4) : DebugRegister.Number("foseg", 4, "int", s => s.X87Ds, (s, v) => Set(ref s.X87Ds, v)),
            Doubleword("fooff", DataOffset),
            Word("fop", OpcodeOffset),
        ];
        foreach (DebugRegister register in control) yield return register with { Group = "float" };
    }

    private static bool Set(ref ushort register, ulong value)
    {
        register = (ushort)value;
        return true;
    }

    /// <summary>A doubleword of the XSAVE image.</summary>
    private static DebugRegister Doubleword(string name, int at) =>
        DebugRegister.Number(name, 4, "int", s => BinaryPrimitives.ReadUInt32LittleEndian(s.Xsave.AsSpan(at)), (s, v) => Store32(s, at, v));

    /// <summary>A word of the XSAVE image.</summary>
    private static DebugRegister Word(string name, int at) =>
        DebugRegister.Number(name, 4, "int", s => BinaryPrimitives.ReadUInt16LittleEndian(s.Xsave.AsSpan(at)), (s, v) => Store16(s, at, v));

    private static bool Store16(CpuState state, int at, ulong value)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(state.Xsave.AsSpan(at), (ushort)value);
        return true;
    }

    private static bool Store32(CpuState state, int at, ulong value)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(state.Xsave.AsSpan(at), (uint)value);
        return true;
    }

    // ---- vectors

    private static IEnumerable<DebugRegister> Sse(int count)
    {
        for (int n = 0; n < count; n++) yield return DebugRegister.Image($"xmm{n}", 16, "vec128", XmmOffset + 16 * n);
        DebugRegister control = Doubleword("mxcsr", MxcsrOffset);
        DebugRegister.Writer write = (s, v) => Store32(s, MxcsrOffset, BinaryPrimitives.ReadUInt32LittleEndian(v) & MxcsrBits);
        yield return control with { Type = "i386_mxcsr", Group = "vector", Write = write };
    }

    private static IEnumerable<DebugRegister> Avx(int count)
    {
        for (int n = 0; n < count; n++) yield return DebugRegister.Image($"ymm{n}h", 16, "uint128", XsaveLayout.AvxOffset + 16 * n);
    }

    // ---- system registers

    private static IEnumerable<DebugRegister> Bases() =>
    [
        DebugRegister.Number("fs_base", 8, "int", s => s.Fs.Base, (s, v) => SetBase(s, MsrIndex.FsBase, v, () => s.Fs = s.Fs with { Base = v })),
        DebugRegister.Number("gs_base", 8, "int", s => s.Gs.Base, (s, v) => SetBase(s, MsrIndex.GsBase, v, () => s.Gs = s.Gs with { Base = v })),
    ];

    /// <summary>Bases have 48 bits at least, and a sign.</summary>
    private static bool SetBase(CpuState state, uint msr, ulong value, Action set)
    {
        const int unused = 16;
        if ((ulong)((long)(value << unused) >> unused) != value) return false;
        if (state.Msrs.ContainsKey(msr)) state.Msrs[msr] = value;
        set();
        return true;
    }

    private static IEnumerable<DebugRegister> System(bool wide)
    {
        int size = wide ? 8 : 4;
        return
        [
            DebugRegister.Number("k_gs_base", 8, "int", s => s.Msrs.GetValueOrDefault(MsrIndex.KernelGsBase),
                (s, v) => s.Msrs.ContainsKey(MsrIndex.KernelGsBase) && SetBase(s, MsrIndex.KernelGsBase, v, () => { })),
            DebugRegister.Number("cr0", size, "bunraku_cr0", s => s.Cr0, null),
            DebugRegister.Number("cr2", size, "data_ptr", s => s.Cr2, (s, v) => Set(ref s.Cr2, v)),
            DebugRegister.Number("cr3", size, "int", s => s.Cr3, null),
            DebugRegister.Number("cr4", size, "bunraku_cr4", s => s.Cr4, null),
            DebugRegister.Number("cr8", size, "int", s => s.Cr8, (s, v) => v <= 0xF && Set(ref s.Cr8, v)),
            DebugRegister.Number("efer", 8, "bunraku_efer", s => s.Efer, null),
        ];
    }
}

/// <summary>The x87 tag word, of which the FXSAVE image has one bit a register. Intel SDM vol. 2, FXSAVE, "Recreating FSAVE Format".</summary>
internal static class X87Tags
{
    private const int StatusOffset = 2, TagOffset = 4, RegisterOffset = 32, Valid = 0, Zero = 1, Special = 2, Empty = 3;

    private static int Top(ReadOnlySpan<byte> image) => (BinaryPrimitives.ReadUInt16LittleEndian(image[StatusOffset..]) >> 11) & 7;

    /// <summary>Two bits for each physical register: valid, zero, special, empty.</summary>
    public static ulong Full(ReadOnlySpan<byte> image)
    {
        ulong tags = 0;
        for (int n = 0; n < 8; n++)
        {
            ReadOnlySpan<byte> st = image[(RegisterOffset + 16 * ((n - Top(image)) & 7))..];
            ulong significand = BinaryPrimitives.ReadUInt64LittleEndian(st);
            int exponent = BinaryPrimitives.ReadUInt16LittleEndian(st[8..]) & 0x7FFF;
            int tag = (image[TagOffset] >> n & 1) == 0 ? Empty
                : exponent == 0 && significand == 0 ? Zero
                : exponent is 0 or 0x7FFF || significand >> 63 == 0 ? Special
                : Valid;
            tags |= (ulong)tag << (2 * n);
        }
        return tags;
    }

    /// <summary>Empty or not is all that the image keeps.</summary>
    public static bool Set(Span<byte> image, ushort tags)
    {
        int kept = 0;
        for (int n = 0; n < 8; n++)
        {
            if ((tags >> (2 * n) & 3) != Empty) kept |= 1 << n;
        }
        image[TagOffset] = (byte)kept;
        return true;
    }
}
