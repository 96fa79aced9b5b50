using Bunraku.Engines;
using Bunraku.Platform;
using Bunraku.Testing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// A small guest without firmware: tables, a HLT stub for each vector, and the code of a test. It meets an engine through the exit boundary alone, so that
/// every fixture runs on every engine.
/// </summary>
internal sealed class Guest : IDisposable
{
    public const int ReportPort = 0xE0;
    /// <summary>A guest that has not come to its end by then has lost its way.</summary>
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(30);
    private const int LookMilliseconds = 1000;

    private readonly Mode _mode;
    private readonly int _cpl;
    private readonly Dictionary<string, ulong> _marks = [];
    private readonly List<(string, Label)> _newMarks = [];
    private readonly VirtualClock _clock = new();
    private IX86Vm? _vm;

    public Guest(Mode mode, int cpl = 0, string model = "max")
    {
        _mode = mode;
        _cpl = mode == Mode.Virtual8086 ? 3 : cpl;
        Model = CpuModels.Parse(model);
        Memory = new GuestMemory(Layout.MemorySize);
        Tables = new PageTables(Memory, mode);
        BuildTables();
        BuildPages();
        BuildState();
    }

    public CpuModel Model { get; }
    public GuestMemory Memory { get; }
    public PageTables Tables { get; }
    /// <summary>Where the guest starts; to be changed before the first run.</summary>
    public CpuState State { get; } = new();

    /// <summary>Answers exits; true ends the run with that exit. Reads that it leaves alone give all ones.</summary>
    public Func<X86Exit, bool>? OnExit { get; set; }

    /// <summary>The vCPU, once the guest has met an engine.</summary>
    public IX86Cpu Cpu => _cpu ?? throw new InvalidOperationException("the guest did not run yet");
    private IX86Cpu? _cpu;
    public IX86Vm Vm => _vm ?? throw new InvalidOperationException("the guest did not run yet");

    private bool IsLong => _mode is Mode.Compatibility or Mode.Long or Mode.Long5;
    private bool HasPaging => _mode >= Mode.Paged32;
    private bool IsSegmented => _mode is Mode.Real or Mode.Virtual8086 or Mode.Protected16;
    private int Bits => _mode switch { Mode.Long or Mode.Long5 => 64, Mode.Real or Mode.Virtual8086 or Mode.Protected16 => 16, _ => 32 };

    /// <summary>The code under test, at <see cref="Layout.Code"/>.</summary>
    public Guest Code(Action<Assembler> emit) => Place(Layout.Code, Bits, emit);

    /// <summary>More code; <paramref name="rip"/> is its offset in CS, by default as that of the code under test.</summary>
    public Guest Place(uint physical, int bits, Action<Assembler> emit, ulong? rip = null)
    {
        var a = new Assembler(bits);
        emit(a);
        var writer = new ByteWriter();
        AssemblerResult result =
            a.Assemble(writer, rip ?? (IsSegmented && bits == 16 ? physical - Layout.Code : physical), BlockEncoderOptions.ReturnNewInstructionOffsets);
        foreach ((string name, Label label) in _newMarks) _marks.Add(name, result.GetLabelRIP(label));
        _newMarks.Clear();
        Write(physical, writer.ToArray());
        return this;
    }

    private sealed class ByteWriter : CodeWriter
    {
        private readonly List<byte> _bytes = [];
        public override void WriteByte(byte value) => _bytes.Add(value);
        public byte[] ToArray() => [.. _bytes];
    }

    /// <summary>Names the address of the next instruction.</summary>
    public void Mark(Assembler a, string name)
    {
        Label label = a.CreateLabel();
        a.Label(ref label);
        _newMarks.Add((name, label));
    }

    /// <summary>Offset in CS of a marked instruction.</summary>
    public ulong this[string mark] => _marks[mark];

    /// <summary>The code's end: HLT where it is allowed, else a software interrupt.</summary>
    public void End(Assembler a)
    {
        if (_cpl == 0) a.hlt();
        else a.@int(X.Done);
    }

    public void Write(ulong physical, ReadOnlySpan<byte> bytes) => Assert.True(Memory.Write(physical, bytes));

    public void Write<T>(ulong physical, T value) where T : unmanaged => Assert.True(Memory.TryWrite(physical, value));

    public T Read<T>(ulong physical) where T : unmanaged
    {
        Assert.True(Memory.TryRead(physical, out T value));
        return value;
    }

    public ulong Gdt(int selector) => Read<ulong>(Layout.Gdt + (uint)(selector & ~7));

    public Guest Gdt(int selector, ulong descriptor)
    {
        Write(((selector & 4) != 0 ? Layout.Ldt : Layout.Gdt) + (uint)(selector & ~7), descriptor);
        return this;
    }

    /// <summary>The gate of a vector: 8 bytes, or 16 in long mode.</summary>
    public Guest Idt(int vector, ulong gate)
    {
        Write(Layout.Idt + (uint)(vector * (IsLong ? 16 : 8)), gate);
        return this;
    }

    public static uint Stub(int vector) => Layout.Stubs + (uint)vector * 16;

    /// <summary>Code segment of the stubs.</summary>
    public ushort StubCode => IsLong ? Sel.Code64 : Sel.Code32;

    /// <summary>Sends a vector to a mark in the code under test.</summary>
    public Guest Handle(int vector, string mark, int access = Desc.IntGate, int dpl = 3, int ist = 0, ushort? selector = null)
    {
        if (_mode == Mode.Real) Write((uint)vector * 4, (uint)this[mark] | Layout.Code << 12);
        else Idt(vector, Desc.Gate(selector ?? StubCode, this[mark], access, dpl, ist));
        return this;
    }

    private void BuildTables()
    {
        const Desc.Size big = Desc.Size.Big, small = Desc.Size.Bits16;
        Gdt(Sel.Code32, Desc.Flat(Desc.Code)).Gdt(Sel.Data32, Desc.Flat(Desc.Data));
        Gdt(Sel.Code16, Desc.Segment(Layout.Code, 0xFFFF, Desc.Code, small)).Gdt(Sel.Data16, Desc.Segment(Layout.Data, 0xFFFF, Desc.Data, small));
        Gdt(Sel.Code64, Desc.Flat(Desc.Code, 0, Desc.Size.Long));
        Gdt(Sel.UserCode32, Desc.Flat(Desc.Code, 3, big)).Gdt(Sel.UserData32, Desc.Flat(Desc.Data, 3, big));
        Gdt(Sel.UserCode16, Desc.Segment(Layout.Code, 0xFFFF, Desc.Code, small, 3)).Gdt(Sel.UserData16, Desc.Segment(Layout.Data, 0xFFFF, Desc.Data, small, 3));
        Gdt(Sel.UserCode64, Desc.Flat(Desc.Code, 3, Desc.Size.Long));
        Gdt(Sel.UserNumber, 0x0040_F500_0000_0000); // read-only, expand-down, as Linux has it
        Gdt(Sel.Tss, Desc.Segment(Layout.Tss, Layout.TssEnd - Layout.Tss, Desc.Tss32Busy));
        Gdt(Sel.Ldt, Desc.Segment(Layout.Ldt, Layout.LdtSize - 1, Desc.Ldt));

        for (int vector = 0; vector < 256; vector++)
        {
            Write<byte>(Stub(vector), 0xF4);
            if (_mode == Mode.Real) Write((uint)vector * 4, Stub(vector));
            else Idt(vector, Desc.Gate(StubCode, Stub(vector), Desc.IntGate, vector is X.BP or X.OF or X.Done ? 3 : 0));
        }
        if (IsLong)
        {
            Write<ulong>(Layout.Tss + 4, Layout.KernelStackTop);
            Write<ulong>(Layout.Tss + 12, Layout.Stack1Top);
            Write<ulong>(Layout.Tss + 20, Layout.Stack2Top);
            for (uint n = 0; n < 7; n++) Write<ulong>(Layout.Tss + 36 + n * 8, Layout.Ist1Top - n * 0x1000);
        }
        else
        {
            Write<uint>(Layout.Tss + 4, Layout.KernelStackTop);
            Write<uint>(Layout.Tss + 8, Sel.Data32);
        }
        Write(Layout.Tss + 0x66, (ushort)(Layout.TssIoMap - Layout.Tss));
        for (uint at = Layout.TssIoMap; at <= Layout.TssEnd; at++) Write<byte>(at, 0xFF);
    }

    private void BuildPages()
    {
        if (!HasPaging) return;
        for (uint page = 0; page < Layout.MemorySize; page += 0x1000)
        {
            bool user = page >= Layout.Spare || (_cpl == 3 && page is >= Layout.Code and < Layout.StackBase + 0x1_0000);
            Tables[page] = page | Pte.P | Pte.W | (user ? Pte.U : 0);
        }
    }

    private void BuildState()
    {
        CpuState s = State;
        bool user = _cpl == 3;
        s.Rflags = 2;
        s.Dr6 = 0xFFFF_0FF0;
        s.Dr7 = 0x400;
        s.Xcr0 = 1;
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(0), (ushort)0x37F);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(24), 0x1F80u);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(512), 3ul);
        s.GdtrBase = Layout.Gdt;
        s.GdtrLimit = (ushort)(Layout.GdtSize - 1);
        s.Ldtr = new SegmentState(Sel.Ldt, Layout.Ldt, Layout.LdtSize - 1, 0x82);
        s.Tr = new SegmentState(Sel.Tss, Layout.Tss, Layout.TssEnd - Layout.Tss, 0x8B);
        s.Cr0 = 0x32; // NE, ET, MP
        s.Cr4 = 0x600; // OSFXSR, OSXMMEXCPT
        if (_mode is Mode.Real)
        {
            s.IdtrLimit = 0x3FF;
            SetRealSegments(0x93, 0x9B);
            return;
        }
        s.Cr0 |= 1;
        s.IdtrBase = Layout.Idt;
        s.IdtrLimit = (ushort)(IsLong ? 0xFFF : 0x7FF);
        if (_mode == Mode.Virtual8086)
        {
            s.Rflags |= 0x2_3000; // VM, IOPL 3
            SetRealSegments(0xF3, 0xF3);
            return;
        }
        if (_mode == Mode.Protected16)
        {
            SegmentState data = Loaded(user ? Sel.UserData16 : Sel.Data16);
            s.Cs = Loaded(user ? Sel.UserCode16 : Sel.Code16);
            s.Ds = s.Es = s.Fs = s.Gs = data;
            s.Ss = data with { Base = Layout.StackBase };
            s.Gpr[4] = Layout.StackTop - Layout.StackBase;
            return;
        }
        s.Rip = Layout.Code;
        s.Gpr[4] = Layout.StackTop;
        s.Ds = s.Es = s.Fs = s.Gs = s.Ss = Loaded(user ? Sel.UserData32 : Sel.Data32);
        s.Cs = Loaded(Bits == 64 ? user ? Sel.UserCode64 : Sel.Code64 : user ? Sel.UserCode32 : Sel.Code32);
        if (!HasPaging) return;
        s.Cr0 |= 0x8001_0000; // PG, WP
        s.Cr3 = Tables.Root;
        if (_mode == Mode.Paged32) return;
        s.Cr4 |= 0x20; // PAE
        s.Efer = 0x800; // NXE
        if (_mode == Mode.Pae) return;
        s.Efer |= 0x501; // LMA, LME, SCE
        if (_mode == Mode.Long5) s.Cr4 |= 0x1000; // LA57
    }

    private void SetRealSegments(uint data, uint code)
    {
        CpuState s = State;
        s.Gpr[4] = Layout.StackTop - Layout.StackBase;
        s.Cs = new SegmentState((ushort)(Layout.Code >> 4), Layout.Code, 0xFFFF, code);
        s.Ds = s.Es = s.Fs = s.Gs = new SegmentState((ushort)(Layout.Data >> 4), Layout.Data, 0xFFFF, data);
        s.Ss = new SegmentState((ushort)(Layout.StackBase >> 4), Layout.StackBase, 0xFFFF, data);
    }

    /// <summary>A segment register as loading this selector from the GDT leaves it.</summary>
    public SegmentState Loaded(ushort selector)
    {
        ulong d = Gdt(selector);
        uint limit = (uint)(d & 0xFFFF | d >> 32 & 0xF_0000);
        if ((d >> 55 & 1) != 0) limit = limit << 12 | 0xFFF;
        return new SegmentState(selector, d >> 16 & 0xFF_FFFF | d >> 32 & 0xFF00_0000, limit, (uint)(d >> 40) & 0xF0FF);
    }

    /// <summary>Brings the guest to an engine without running it.</summary>
    public Guest On(string engine) => On(TestedEngines.Find(engine));

    /// <inheritdoc cref="On(string)"/>
    public Guest On(IX86Engine engine)
    {
        if (_vm != null) return this;
        _vm = engine.CreateVm(Memory, Model, _clock);
        _cpu = _vm.CreateCpu(0);
        _cpu.WriteState(State);
        return this;
    }

    /// <summary>Runs the guest, or lets it go on, until HLT, shutdown, or an exit that <see cref="OnExit"/> ends the run with.</summary>
    public Outcome Run(string engine)
    {
        On(engine);
        IX86Cpu cpu = Cpu;
        var accesses = new List<Access>();
        bool late = false;
        using ThreadAccounting? account = ThreadAccounting.OfCurrentThread();
        var patience = new Patience(s_longest, () => account?.Read().Wait ?? 0);
        using var watchdog = new Timer(_ =>
        {
            if (!patience.IsOver) return;
            Volatile.Write(ref late, true);
            cpu.Kick();
        }, null, LookMilliseconds, LookMilliseconds);
        for (; ; )
        {
            X86Exit exit = cpu.Enter();
            if (Volatile.Read(ref late)) Assert.Fail($"the guest did not come to its end: {Describe()}");
            if (exit.Reason is ExitReason.Io or ExitReason.Mmio or ExitReason.Msr)
            {
                if (!exit.IsWrite) exit.Data = ulong.MaxValue;
                exit.Fault = exit.Reason == ExitReason.Msr;
            }
            bool stop = OnExit?.Invoke(exit) ?? false;
            if (exit.Reason is ExitReason.Io or ExitReason.Mmio or ExitReason.Msr)
                accesses.Add(new Access(exit.Reason, exit.IsWrite, exit.Address, exit.Size, exit.Data & Mask(exit.Size)));
            if (stop) return End(exit.Reason, accesses);
            switch (exit.Reason)
            {
                case ExitReason.Io or ExitReason.Mmio or ExitReason.Msr or ExitReason.EptViolation or ExitReason.Kicked or ExitReason.CrAccess
                    or ExitReason.Cpuid or ExitReason.Pause or ExitReason.Rdtsc or ExitReason.Rdpmc or ExitReason.Invlpg or ExitReason.Wbinvd
                    or ExitReason.DescriptorTable or ExitReason.DrAccess or ExitReason.FloatingPointError or ExitReason.InterruptWindow or ExitReason.NmiWindow:
                    break;
                case ExitReason.Hlt or ExitReason.TripleFault or ExitReason.Exception:
                    return End(exit.Reason, accesses);
                case ExitReason.InternalError:
                    Assert.Fail($"{exit.Message}: {Describe()}");
                    break;
                default:
                    Assert.Fail($"unexpected exit {exit.Reason}: {Describe()}");
                    break;
            }
        }
    }

    private static ulong Mask(int size) => size >= 8 ? ulong.MaxValue : (1ul << size * 8) - 1;

    private string Describe()
    {
        var s = new CpuState();
        Cpu.ReadState(s);
        return $"CS:RIP {s.Cs.Selector:X4}:{s.Rip:X} RFLAGS {s.Rflags:X} RSP {s.Gpr[4]:X} CR2 {s.Cr2:X}";
    }

    private Outcome End(ExitReason reason, List<Access> accesses)
    {
        var s = new CpuState();
        Cpu.ReadState(s);
        int? vector = null;
        ulong at = s.Cs.Base + s.Rip - 1 - Layout.Stubs;
        if (reason == ExitReason.Hlt && at < 0x1000 && (at & 15) == 0) vector = (int)(at >> 4);
        if (vector == X.Done && _cpl != 0) vector = null;
        return new Outcome(reason, vector, vector == null ? new Frame(null, 0, 0, 0, 0, 0, []) : ReadFrame(s, vector.Value), s, accesses);
    }

    private Frame ReadFrame(CpuState s, int vector)
    {
        int size = _mode == Mode.Real ? 2 : IsLong ? 8 : 4;
        ulong at = (IsLong ? 0 : s.Ss.Base) + s.Gpr[4];
        ulong Next()
        {
            ulong value = size switch { 2 => Read<ushort>(at), 4 => Read<uint>(at), _ => Read<ulong>(at) };
            at += (ulong)size;
            return value;
        }
        uint? error = _mode != Mode.Real && X.HasErrorCode(vector) ? (uint)Next() : null;
        return new Frame(error, Next(), (ushort)Next(), Next(), Next(), (ushort)Next(), [Next(), Next(), Next(), Next(), Next(), Next()]);
    }

    /// <summary>The doubleword at RBX, EBX or BX, by the mode.</summary>
    public AssemblerMemoryOperand AtBx => Bits switch { 64 => __dword_ptr[rbx], 32 => __dword_ptr[ebx], _ => __dword_ptr[bx] };

    /// <summary>Emits: report EAX.</summary>
    public static void Report(Assembler a) => a.@out(ReportPort, eax);

    public void Dispose()
    {
        _cpu?.Dispose();
        _vm?.Dispose();
        Memory.Dispose();
    }
}
