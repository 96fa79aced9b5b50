using Bunraku.Engine.Check;
using Bunraku.Engines;
using Bunraku.Silicon;
using G = Bunraku.Differential.GuestLayout;

namespace Bunraku.Differential;

/// <summary>How a program ended.</summary>
/// <param name="Difference">What differed, or null.</param>
/// <param name="Ending">The last exit.</param>
internal sealed record ProgramResult(string? Difference, ExitReason Ending, ulong Retired, ulong Exceptions, bool TimedOut);

/// <summary>
/// Two guests of the same make, one on the engine under test and one on the reference, which follows it. Programs run one after another on the same vCPUs, so
/// that what one leaves in the engine's caches meets the next.
/// </summary>
internal sealed unsafe class EnginePair : IDisposable
{
    private sealed class World : IDisposable
    {
        public readonly GuestMemory Memory;
        public readonly IX86Cpu Cpu;
        private readonly IX86Vm _vm;

        public World(IX86Engine engine, CpuModel model, VirtualClock clock, ulong size)
        {
            Memory = new GuestMemory(size);
            _vm = engine.CreateVm(Memory, model, clock);
            Cpu = _vm.CreateCpu(0);
        }

        public void Load(byte[] image)
        {
            for (int page = 0; page < image.Length; page += 0x1000)
            {
                ReadOnlySpan<byte> wanted = image.AsSpan(page, 0x1000);
                if (!wanted.SequenceEqual(new ReadOnlySpan<byte>(Memory.Backing.Pointer + page, 0x1000))) Memory.Write((ulong)page, wanted);
            }
        }

        public void Dispose()
        {
            Cpu.Dispose();
            _vm.Dispose();
            Memory.Dispose();
        }
    }

    /// <summary>A program that has not ended by then has lost its way in a loop; it is compared where it stands.</summary>
    public const ulong MostInstructions = 400_000;
    private const ulong MostExceptions = 6_000;
    private const int WatchdogMilliseconds = 4;

    private readonly World _subject, _reference;
    private readonly bool _synchronous;
    private readonly VirtualClock _clock = new();
    private readonly Dictionary<(ProgramMode, bool), byte[]> _images = [];
    private readonly CpuState _state = new();
    private readonly Dictionary<uint, ulong> _msrs;
    private readonly Timer _watchdog;
    private Place _limit; // of the running program
    private int _running;
    private volatile bool _late;

    /// <param name="synchronous">
    /// The subject does not count instructions, since it runs programs directly: the two are compared at exits alone, and nothing comes from outside in
    /// between.
    /// </param>
    public EnginePair(IX86Engine subject, IX86Engine reference, CpuModel model, bool synchronous = false)
    {
        _synchronous = synchronous;
        _clock.Stop(); // both read the same time
        // What a large page shows beyond would be posted writes as well (see Image).
        ulong size = synchronous ? G.LargeAlias : G.MemorySize;
        _subject = new World(subject, model, _clock, size);
        _reference = new World(reference, model, _clock, size);
        _subject.Cpu.ReadState(_state);
        _msrs = new Dictionary<uint, ulong>(_state.Msrs);
        _watchdog = new Timer(_ => Watch(), null, WatchdogMilliseconds, WatchdogMilliseconds);
        Follower = new Follower(_subject.Cpu, _reference.Cpu as IFollowingCpu
            ?? throw new NotSupportedException($"engine {reference.Name} cannot follow another"));
    }

    private Follower Follower { get; }

    /// <summary>Exits that were compared.</summary>
    public long Exits { get; private set; }

    /// <summary>How often the subject gave all code up.</summary>
    public ulong CodeFlushes => _subject.Cpu.Counters.CodeFlushes;

    /// <summary>How often the subject ran programs directly.</summary>
    public ulong DirectEntries => _subject.Cpu.Execution?.Counts.FirstOrDefault(c => c.Name == "direct: entries")?.Value ?? 0;

    private void Watch()
    {
        if (Volatile.Read(ref _running) == 0) return;
        var place = Place.Of(_subject.Cpu);
        if (place.Retired < _limit.Retired && place.Exceptions < _limit.Exceptions) return;
        _late = true;
        _subject.Cpu.Kick();
    }

    /// <summary>The image of guest memory with the program in it, or null when its code is too long.</summary>
    public byte[]? Image(GuestProgram program)
    {
        (ProgramMode, bool) key = (program.Mode, program.CodeWritable);
        if (!_images.TryGetValue(key, out byte[]? empty)) _images[key] = empty = Supervisor.BuildImage(program.Mode, program.CodeWritable);
        byte[] image = (byte[])empty.Clone();
        if (!program.TryPlace(image)) return null;
        var rng = new Rng(program.Seed ^ 0xDA7A);
        rng.Fill(image.AsSpan((int)G.Data, (int)(G.DataSize + 0x6000)));
        rng.Fill(image.AsSpan((int)G.Stack, (int)G.StackSize));
        // The other page of code differs in the bytes that may be changed.
        // A posted write exits when the processor sees to it: at different places where nobody counts.
        if (_synchronous)
        {
            Supervisor.Store(image, Supervisor.Entry(G.Mmio), 0ul);
            // IRET and its like read descriptors of the host's, and no flag of the guest's tables tells.
            Supervisor.SetAccessed(image, G.Gdt);
        }
        image.AsSpan((int)G.Variant, 0x1000).CopyTo(image.AsSpan((int)G.OtherVariant));
        image.AsSpan((int)(G.Lengths + G.Variant - G.Code), 0x1000).CopyTo(image.AsSpan((int)(G.Lengths + G.OtherVariant - G.Code)));
        foreach (PatchSite site in program.Sites)
        {
            uint at = site.Unit.Address - G.Program + (uint)site.Offset;
            if (at >= G.Variant) image[at + 0x1000] = Replacement(rng, site.Kind);
        }
        Supervisor.Store(image, Slot.Iterations - G.Program, (ulong)program.Iterations);
        Supervisor.Store(image, Slot.Seed - G.Program, rng.Next());
        ProgramGenerator.s_opcodes.CopyTo(image, (int)(Slot.Opcodes - G.Program));
        Supervisor.Store(image, Variable.LogAt - G.Kernel, G.Kernel + G.Log);
        Supervisor.Store(image, Variable.RecoverRip - G.Kernel, program.Recovery.Address);
        Supervisor.Store(image, Variable.StackTop - G.Kernel, program.StackTop);
        return image;
    }

    private static byte Replacement(Rng rng, PatchKind kind) => kind switch
    {
        PatchKind.Opcode => rng.Pick<byte>(ProgramGenerator.s_opcodes),
        PatchKind.Condition => (byte)(0x80 | rng.Below(16)),
        _ => (byte)rng.Next(),
    };

    public ProgramResult Run(GuestProgram program, byte[] image)
    {
        _subject.Load(image);
        _reference.Load(image);
        BuildState(program, image);
        _subject.Cpu.WriteState(_state);
        _reference.Cpu.WriteState(_state);
        var rng = new Rng(program.Seed ^ 0xE417);
        var place = Place.Of(_subject.Cpu);
        _late = false;
        _limit = new Place(place.Retired + MostInstructions, place.Exceptions + MostExceptions);
        Volatile.Write(ref _running, 1);
        try
        {
            if (_synchronous) return RunSynchronously(program, rng);
            (string? difference, ExitReason ending) = Run(program, rng, place.Retired);
            var end = Place.Of(_subject.Cpu);
            if (difference != null && ending is not ExitReason.InternalError) Resynchronise();
            return new ProgramResult(difference, ending, end.Retired - place.Retired, end.Exceptions - place.Exceptions, _late);
        }
        finally
        {
            Volatile.Write(ref _running, 0);
        }
    }

    /// <summary>True once the two counters have parted: the pair is of no more use.</summary>
    public bool IsBroken { get; private set; }

    private void Resynchronise() => IsBroken = Place.Of(_subject.Cpu) != Place.Of(_reference.Cpu);

    private (string?, ExitReason) Run(GuestProgram program, Rng rng, ulong start)
    {
        IX86Cpu subject = _subject.Cpu;
        subject.Controls = _reference.Cpu.Controls;
        bool wanted = false; // an interrupt waits for its window
        ulong stop = program.Steered ? start + Stretch(rng) : ulong.MaxValue;
        for (; ; )
        {
            X86Exit exit = stop != ulong.MaxValue && subject is IFollowingCpu steered ? steered.EnterUntil(stop) : subject.Enter();
            Exits++;
            IReadOnlyList<string> differences = Follower.Follow(exit);
            if (differences.Count > 0) return (Report(program, exit, differences, start), exit.Reason);
            switch (exit.Reason)
            {
                case ExitReason.Hlt or ExitReason.TripleFault or ExitReason.InternalError or ExitReason.Exception:
                    return (CompareMemory(program, exit, start), exit.Reason);
                case ExitReason.Kicked when _late:
                    return (CompareMemory(program, exit, start), exit.Reason);
                case ExitReason.Kicked when stop != ulong.MaxValue:
                    stop = Place.Of(subject).Retired + Stretch(rng);
                    wanted |= !rng.OneIn(3);
                    break;
                case ExitReason.Io when exit.IsWrite && exit.Address == G.WritePort:
                    DeviceWrites(program, rng);
                    break;
                case ExitReason.Io when exit.IsWrite && exit.Address == G.InterruptPort:
                    wanted = true;
                    break;
                default:
                    exit.Fault = false;
                    if (!exit.IsWrite && exit.Reason is ExitReason.Io or ExitReason.Mmio or ExitReason.Msr or ExitReason.CrAccess) exit.Data = rng.Value();
                    break;
            }
            if (rng.OneIn(64) && CompareMemory(program, exit, start) is { } difference) return (difference, exit.Reason);
            Follower.Answer(exit);
            if (wanted && subject.InterruptWindowOpen)
            {
                byte vector = (byte)(G.FirstInterrupt + rng.Below(16));
                if (!_reference.Cpu.InterruptWindowOpen)
                    return (Report(program, exit, ["interrupt window: subject open, reference closed"], start), exit.Reason);
                subject.InjectInterrupt(vector);
                _reference.Cpu.InjectInterrupt(vector);
                wanted = false;
            }
            if (subject.Controls.InterruptWindowExiting != wanted) subject.Controls = subject.Controls with { InterruptWindowExiting = wanted };
        }
    }

    /// <summary>The reference goes first: it can be stopped where a program has lost its way.</summary>
    private ProgramResult RunSynchronously(GuestProgram program, Rng rng)
    {
        IX86Cpu subject = _subject.Cpu;
        var reference = (IFollowingCpu)_reference.Cpu;
        subject.Controls = reference.Controls;
        var start = Place.Of(reference);
        CpuState a = new(), b = new();
        for (; ; )
        {
            X86Exit own = reference.EnterUntil(start.Retired + MostInstructions);
            var place = Place.Of(reference);
            ulong retired = place.Retired - start.Retired, exceptions = place.Exceptions - start.Exceptions;
            if (own.Reason == ExitReason.Kicked || exceptions > MostExceptions) return new ProgramResult(null, own.Reason, retired, exceptions, true);
            X86Exit exit = subject.Enter();
            Exits++;
            subject.ReadState(a);
            reference.ReadState(b);
            ForgetPointers(a);
            ForgetPointers(b);
            IReadOnlyList<string> differences = StateComparer.Differences(a, b);
            if (!Follower.ExitsEqual(exit, own)) differences = [$"exit subject {exit.Reason}, reference {own.Reason}", .. differences];
            string? difference = differences.Count == 0 ? CompareMemory(program, exit, start.Retired)
                : $"after {retired:N0} instructions of {program.Mode}, at {exit.Reason}, RIP 0x{a.Rip:X}\n"
                    + string.Join('\n', differences.Select(d => "    " + d));
            if (difference != null || exit.Reason is ExitReason.Hlt or ExitReason.TripleFault or ExitReason.InternalError or ExitReason.Exception)
            {
                IsBroken |= difference != null;
                return new ProgramResult(difference, exit.Reason, retired, exceptions, false);
            }
            if (exit is { Reason: ExitReason.Io, IsWrite: true, Address: G.WritePort }) DeviceWrites(program, rng);
            exit.Fault = false;
            if (!exit.IsWrite && exit.Reason is ExitReason.Io or ExitReason.Mmio or ExitReason.Msr or ExitReason.CrAccess) exit.Data = rng.Value();
            (own.Data, own.Fault) = (exit.Data, exit.Fault);
        }
    }

    /// <summary>What processors keep of the last x87 instruction when nothing was the matter with it depends on the vendor.</summary>
    private static void ForgetPointers(CpuState s)
    {
        s.Xsave.AsSpan(6, 18).Clear();
        (s.X87Cs, s.X87Ds) = (0, 0);
    }

    /// <summary>What programs need of a system so that they run directly.</summary>
    private static void MakeDirect(CpuState s)
    {
        s.Rflags = s.Rflags & 0xCD5 | 0x202;
        s.Cr0 |= 0x4_0000;
        s.Cr4 |= 0x2_0000;
        s.Ds = s.Es = new SegmentState(0, 0, 0, 1 << 16);
        s.Fs = s.Gs = s.Ds with { Base = G.SegmentBase };
    }

    private static ulong Stretch(Rng rng) => 1 + (ulong)rng.Below(rng.OneIn(2) ? 300 : 5000);

    /// <summary>Some patch sites, and some data, are written from outside.</summary>
    private void DeviceWrites(GuestProgram program, Rng rng)
    {
        if (program.Sites.Count > 0 && !rng.OneIn(3))
        {
            PatchSite site = program.Sites[rng.Below(program.Sites.Count)];
            ulong at = site.Unit.Address - G.Program + (uint)site.Offset;
            if (at >= G.Variant && rng.OneIn(2)) at += 0x1000;
            WriteBoth(at, [Replacement(rng, site.Kind)]);
            return;
        }
        Span<byte> bytes = stackalloc byte[16];
        rng.Fill(bytes);
        WriteBoth(G.Data + 0x1000 + (uint)rng.Below(0x400), bytes);
    }

    private void WriteBoth(ulong physical, ReadOnlySpan<byte> bytes)
    {
        _subject.Memory.Write(physical, bytes);
        _reference.Memory.Write(physical, bytes);
    }

    private string? CompareMemory(GuestProgram program, X86Exit exit, ulong start)
    {
        ulong size = _subject.Memory.Size;
        if (new ReadOnlySpan<byte>(_subject.Memory.Backing.Pointer, (int)size).SequenceEqual(new(_reference.Memory.Backing.Pointer, (int)size))) return null;
        return Report(program, exit, MemoryComparer.Differences(_subject.Memory, _reference.Memory, [(0, size)]), start);
    }

    private string Report(GuestProgram program, X86Exit exit, IReadOnlyList<string> differences, ulong start) =>
        $"after {Follower.Place.Retired - start:N0} instructions of {program.Mode}, at {Follower.Describe(exit)}, RIP 0x{Follower.SubjectState.Rip:X}\n"
        + string.Join('\n', differences.Select(d => "    " + d));

    private void BuildState(GuestProgram program, byte[] image)
    {
        CpuState s = _state;
        ProgramMode mode = program.Mode;
        bool user = mode.IsUser();
        var rng = new Rng(program.Seed ^ 0x57A7);
        for (int n = 0; n < 16; n++) s.Gpr[n] = mode.Bits() == 64 ? rng.Value() : (uint)rng.Value();
        if (mode.Bits() != 64) Array.Clear(s.Gpr, 8, 8);
        s.Gpr[4] = program.StackTop;
        s.Rip = program.Units[0].Address;
        s.Rflags = program.InitialFlags;
        s.Cr0 = 0x8001_0033 | (program.AlignmentMask ? 0x4_0000u : 0);
        s.Cr2 = s.Cr8 = 0;
        s.Cr3 = mode.IsLong() ? G.Pml4 : G.PaePdpt;
        s.Pdptes = null; // as in memory
        s.Cr4 = 0x5_0628; // PAE, DE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE
        s.Xcr0 = 7;
        s.Efer = mode.IsLong() ? 0xD01u : 0x801u; // NXE, LMA, LME, SCE
        SegmentState data = user ? new(G.UserData, 0, uint.MaxValue, 0xC0F3) : new(G.Data0, 0, uint.MaxValue, 0xC093);
        s.Ds = s.Es = s.Ss = data;
        s.Fs = s.Gs = mode.Bits() == 64 ? data with { Base = G.SegmentBase } : new SegmentState(G.BasedData, G.SegmentBase, 0x7FFF, 0x40F3);
        s.Cs = mode switch
        {
            ProgramMode.Long0 => new(G.Code64, 0, uint.MaxValue, 0xA09B),
            ProgramMode.Long3 => new(G.UserCode64, 0, uint.MaxValue, 0xA0FB),
            ProgramMode.Protected0 => new(G.Code32, 0, uint.MaxValue, 0xC09B),
            _ => new(G.UserCode32, 0, uint.MaxValue, 0xC0FB),
        };
        s.Ldtr = new SegmentState(0, 0, 0, 1 << 16);
        s.Tr = new SegmentState(G.TssSelector, G.Kernel + G.Tss, G.TssSize - 1, 0x8B);
        s.GdtrBase = G.Kernel + G.Gdt;
        s.GdtrLimit = (ushort)(G.GdtSize - 1);
        s.IdtrBase = G.Kernel + G.Idt;
        s.IdtrLimit = (ushort)(mode.IsLong() ? 0xFFF : 0x7FF);
        Array.Clear(s.Dr);
        s.Dr6 = 0xFFFF_0FF0;
        s.Dr7 = 0x400;
        s.InterruptShadow = s.NmiBlocked = s.NmiPending = false;
        s.Activity = CpuActivity.Active;
        s.Pdptes = null; // those of the tables in memory
        s.Pending = null;
        Array.Clear(s.Xsave);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(0), (ushort)0x37F);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(24), 0x1F80u);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(512), 7ul);
        rng.Fill(s.Xsave.AsSpan(160, mode.Bits() == 64 ? 256 : 128));
        rng.Fill(s.Xsave.AsSpan(576, mode.Bits() == 64 ? 256 : 128));
        s.Msrs.Clear();
        foreach ((uint index, ulong value) in _msrs) s.Msrs[index] = value;
        ulong entry = BitConverter.ToUInt64(image, (int)G.Handlers - 16), entry32 = BitConverter.ToUInt64(image, (int)G.Handlers - 8);
        s.Msrs[MsrIndex.Efer] = s.Efer;
        s.Msrs[MsrIndex.Star] = (ulong)G.UserCode32 << 48 | (ulong)G.Code64 << 32;
        s.Msrs[MsrIndex.Lstar] = entry;
        s.Msrs[MsrIndex.Cstar] = entry32;
        s.Msrs[MsrIndex.Fmask] = rng.OneIn(2) ? 0x4_4700ul : 0x4_4FD5; // as kernels of Linux did, and as they do
        s.Msrs[MsrIndex.SysenterCs] = G.SysenterCode;
        s.Msrs[MsrIndex.SysenterEip] = entry;
        s.Msrs[MsrIndex.SysenterEsp] = G.Kernel + G.KernelStackTop;
        if (_synchronous) MakeDirect(s);
        s.Msrs[MsrIndex.FsBase] = s.Fs.Base;
        s.Msrs[MsrIndex.GsBase] = s.Gs.Base;
        s.Msrs[MsrIndex.KernelGsBase] = G.SegmentBase;
    }

    public void Dispose()
    {
        using var ended = new ManualResetEvent(false);
        if (_watchdog.Dispose(ended)) ended.WaitOne();
        _subject.Dispose();
        _reference.Dispose();
    }
}
