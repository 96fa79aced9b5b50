using System.Buffers.Binary;
using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>The whole state of a vCPU goes from one engine to another between two exits, and the guest notices nothing.</summary>
public sealed class EngineMoveTests
{
    private const int Steps = 24;
    private const uint Lstar = 0xC000_0082, KernelGsBase = 0xC000_0102, SysenterEip = 0x176, Pat = 0x277;

    public static TheoryData<string, string> Pairs
    {
        get
        {
            var pairs = new TheoryData<string, string>();
            foreach (IX86Engine from in TestedEngines.Runnable)
                foreach (IX86Engine to in TestedEngines.Runnable) pairs.Add(from.Name, to.Name);
            return pairs;
        }
    }

    /// <summary>The kernel's instruction emulator does not look for an NMI after IRET; the hardware does.</summary>
    public static TheoryData<string, string> PairsToProcessorsWithAnNmiWindow
    {
        get
        {
            var pairs = new TheoryData<string, string>();
            foreach (IX86Engine from in TestedEngines.Runnable)
                foreach (IX86Engine to in TestedEngines.Runnable.Where(e => !NotRun.IsEmulatedByKernel(e))) pairs.Add(from.Name, to.Name);
            return pairs;
        }
    }

    public static TheoryData<string, string, Mode> PairsAndModes
    {
        get
        {
            var data = new TheoryData<string, string, Mode>();
            foreach (object[] pair in Pairs)
                foreach (Mode mode in (Mode[])[Mode.Real, Mode.Protected32, Mode.Compatibility, Mode.Long]) data.Add((string)pair[0], (string)pair[1], mode);
            return data;
        }
    }

    /// <summary>A vCPU of each engine over one guest's memory; the guest is in one of them at a time.</summary>
    private sealed class Travel : IDisposable
    {
        private readonly IX86Vm[] _vms;
        private readonly IX86Cpu[] _cpus;
        private int _at;

        public Travel(Guest guest, params string[] engines)
        {
            var clock = new VirtualClock();
            _vms = [.. engines.Select(e => TestedEngines.Find(e).CreateVm(guest.Memory, guest.Model, clock))];
            _cpus = [.. _vms.Select(vm => vm.CreateCpu(0))];
            Cpu.WriteState(guest.State);
        }

        public IX86Cpu Cpu => _cpus[_at];

        /// <summary>Finishes what is half done, and moves.</summary>
        public CpuState Move()
        {
            Cpu.Kick();
            Assert.Equal(ExitReason.Kicked, Cpu.Enter().Reason);
            return MoveAsIs();
        }

        public CpuState MoveAsIs()
        {
            var state = new CpuState();
            Cpu.ReadState(state);
            _at = (_at + 1) % _cpus.Length;
            Cpu.WriteState(state);
            return state;
        }

        public void Dispose()
        {
            foreach (IX86Cpu cpu in _cpus) cpu.Dispose();
            foreach (IX86Vm vm in _vms) vm.Dispose();
        }
    }

    [Theory, MemberData(nameof(PairsAndModes))]
    public void A_guest_that_moves_at_every_exit_finishes_with_the_right_answer(string from, string to, Mode mode)
    {
        using var g = new Guest(mode, model: "x86-64-v1");
        // A sum through registers, stack and ports, in both directions.
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(ecx, Steps);
            a.xor(eax, eax);
            a.xor(esi, esi);
            a.Label(ref loop);
            a.add(eax, 0x01020304);
            a.rol(eax, 5);
            a.add(eax, ecx);
            if (mode == Mode.Long) a.push(rax);
            else a.push(eax);
            a.@in(eax, 0xE1);
            a.add(esi, eax);
            if (mode == Mode.Long) a.pop(rax);
            else a.pop(eax);
            a.@out(Guest.ReportPort, eax);
            a.dec(ecx);
            a.jnz(loop);
            a.mov(eax, esi);
            a.@out(Guest.ReportPort, eax);
            a.hlt();
        });

        uint value = 0, sum = 0;
        var expected = new List<ulong>();
        for (uint n = Steps; n > 0; n--)
        {
            value = uint.RotateLeft(value + 0x01020304, 5) + n;
            sum += n * 3;
            expected.Add(value);
        }
        expected.Add(sum);

        using var travel = new Travel(g, from, to);
        var reports = new List<ulong>();
        uint input = Steps;
        for (; ; )
        {
            X86Exit exit = travel.Cpu.Enter();
            if (exit.Reason == ExitReason.Hlt) break;
            Assert.Equal(ExitReason.Io, exit.Reason);
            if (exit.IsWrite) reports.Add(exit.Data & uint.MaxValue);
            else exit.Data = input-- * 3;
            travel.Move();
        }
        Assert.Equal(expected, reports);
    }

    [Theory, MemberData(nameof(Pairs))]
    public void Code_that_the_guest_writes_on_one_engine_is_executed_on_the_other(string from, string to)
    {
        using var g = new Guest(Mode.Protected32, model: "x86-64-v1");
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(ecx, 8);
            a.Label(ref loop);
            a.mov(eax, 0x100);
            a.@out(Guest.ReportPort, eax);
            a.inc(eax);
            a.mov(__dword_ptr[Layout.Code + 6], eax); // the immediate of MOV EAX
            a.@out(Guest.ReportPort, eax); // so that one engine always writes what the other executes
            a.dec(ecx);
            a.jnz(loop);
            a.hlt();
        });
        using var travel = new Travel(g, from, to);
        var reports = new List<ulong>();
        for (X86Exit exit = travel.Cpu.Enter(); exit.Reason == ExitReason.Io; exit = travel.Cpu.Enter())
        {
            reports.Add(exit.Data);
            travel.Move();
        }
        Assert.Equal(Enumerable.Range(0x100, 8).SelectMany(n => (ulong[])[(ulong)n, (ulong)n + 1]), reports);
    }

    [Theory, MemberData(nameof(Pairs))]
    public void An_interrupt_that_one_engine_accepted_is_delivered_by_the_other(string from, string to)
    {
        using var g = new Guest(Mode.Long, model: "x86-64-v1");
        g.State.Rflags |= 0x200;
        g.Code(a =>
        {
            a.@out(Guest.ReportPort, eax);
            a.hlt();
        });
        using var travel = new Travel(g, from, to);
        Assert.Equal(ExitReason.Io, travel.Cpu.Enter().Reason);
        travel.Cpu.Kick();
        Assert.Equal(ExitReason.Kicked, travel.Cpu.Enter().Reason);
        Assert.True(travel.Cpu.InterruptWindowOpen);
        travel.Cpu.InjectInterrupt(0x31);
        Assert.False(travel.Cpu.InterruptWindowOpen);

        Assert.Equal(new PendingEvent(EventKind.ExternalInterrupt, 0x31), travel.MoveAsIs().Pending);
        Assert.False(travel.Cpu.InterruptWindowOpen);
        Assert.Equal(ExitReason.Hlt, travel.Cpu.Enter().Reason);
        Assert.Equal(Guest.Stub(0x31) + 1, travel.MoveAsIs().Rip);
    }

    [Theory, MemberData(nameof(PairsToProcessorsWithAnNmiWindow))]
    public void An_NMI_that_is_held_moves_along_and_comes_with_the_IRET(string from, string to)
    {
        using var g = new Guest(Mode.Real, model: "x86-64-v1");
        g.State.NmiBlocked = g.State.NmiPending = true;
        g.Code(a =>
        {
            a.@out(Guest.ReportPort, eax);
            a.pushf();
            a.push(cs);
            a.push((short)0x40);
            a.iret();
        });
        g.Place(Layout.Code + 0x40, 16, a =>
        {
            a.nop();
            a.hlt();
        });
        using var travel = new Travel(g, from, to);
        Assert.Equal(ExitReason.Io, travel.Cpu.Enter().Reason);
        CpuState state = travel.Move();
        Assert.Equal((true, true, null), (state.NmiBlocked, state.NmiPending, state.Pending));
        X86Exit exit;
        do exit = travel.Cpu.Enter(); while (exit.Reason == ExitReason.Kicked);
        Assert.Equal(ExitReason.Hlt, exit.Reason);
        state = travel.MoveAsIs();
        Assert.Equal(Guest.Stub(2) + 1, state.Cs.Base + state.Rip);
        Assert.Equal((true, false), (state.NmiBlocked, state.NmiPending));
        g.Memory.TryRead(state.Ss.Base + state.Gpr[4], out ushort pushed);
        Assert.Equal(0x40, pushed);
    }

    [Theory, MemberData(nameof(Pairs))]
    public void The_TSC_does_not_go_back(string from, string to)
    {
        using var g = new Guest(Mode.Protected32, model: "x86-64-v1");
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(ecx, 12);
            a.Label(ref loop);
            a.rdtsc();
            a.@out(Guest.ReportPort, eax);
            a.mov(eax, edx);
            a.@out(Guest.ReportPort, eax);
            a.dec(ecx);
            a.jnz(loop);
            a.hlt();
        });
        using var travel = new Travel(g, from, to);
        ulong last = 0;
        for (X86Exit exit = travel.Cpu.Enter(); exit.Reason == ExitReason.Io; exit = travel.Cpu.Enter())
        {
            ulong low = exit.Data & uint.MaxValue;
            exit = travel.Cpu.Enter();
            ulong now = exit.Data << 32 | low;
            Assert.True(now > last, $"{last} then {now}");
            last = now;
            travel.Move();
        }
        Assert.NotEqual(0ul, last);
    }

    [Theory, MemberData(nameof(Pairs))]
    public void Every_register_arrives(string from, string to)
    {
        using var g = new Guest(Mode.Long, model: "x86-64-v1");
        CpuState s = g.State;
        for (int n = 0; n < 16; n++) s.Gpr[n] = 0x1111_1111_1111_1111ul * (ulong)n + 0x0123_4567;
        s.Rflags = 0x2 | 0xCD5; // arithmetic flags and DF
        s.Cr2 = 0xFFFF_8000_1234_5678;
        s.Dr[0] = 0x1000;
        s.Dr[1] = 0xFFFF_8000_0000_1000;
        s.Dr[2] = 0x2000;
        s.Dr[3] = 0x3000;
        s.Fs = s.Fs with { Base = 0xFFFF_8000_0000_0000 };
        s.Gs = s.Gs with { Base = 0x7FFF_FFFF_F000 };
        s.Es = new SegmentState(0, 0, 0, 0x1_0000);
        s.NmiBlocked = true;
        s.InterruptShadow = true;
        for (int n = 32; n < 416; n++) s.Xsave[n] = (byte)(n % 16 < 10 || n >= 160 ? n * 7 : 0); // x87 and SSE registers
        BinaryPrimitives.WriteUInt32LittleEndian(s.Xsave.AsSpan(24), 0x1FA5);
        (s.Msrs[Lstar], s.Msrs[KernelGsBase], s.Msrs[SysenterEip], s.Msrs[Pat]) = (0xFFFF_8000_0000_1234, 0x7FFF_0000_0000, 0x1234_5678, 0x0606_0606_0606_0606);

        using var travel = new Travel(g, from, to);
        travel.MoveAsIs();
        CpuState t = travel.MoveAsIs();
        Assert.Equal(s.Gpr, t.Gpr);
        Assert.Equal((s.Rip, s.Rflags, s.Cr0, s.Cr2, s.Cr3, s.Cr4, s.Efer), (t.Rip, t.Rflags, t.Cr0, t.Cr2, t.Cr3, t.Cr4, t.Efer));
        Assert.Equal((s.Cs, s.Ss, s.Ds, s.Fs, s.Gs, s.Ldtr, s.Tr), (t.Cs, t.Ss, t.Ds, t.Fs, t.Gs, t.Ldtr, t.Tr));
        Assert.NotEqual(0u, t.Es.Attributes & 0x1_0000);
        Assert.Equal((s.GdtrBase, s.GdtrLimit, s.IdtrBase, s.IdtrLimit), (t.GdtrBase, t.GdtrLimit, t.IdtrBase, t.IdtrLimit));
        Assert.Equal(s.Dr, t.Dr);
        Assert.Equal((s.Dr6, s.Dr7, s.NmiBlocked, s.InterruptShadow), (t.Dr6, t.Dr7, t.NmiBlocked, t.InterruptShadow));
        Assert.Equal(s.Xsave[24..28], t.Xsave[24..28]);
        Assert.Equal(s.Xsave[32..416], t.Xsave[32..416]);
        foreach (uint msr in (uint[])[Lstar, KernelGsBase, SysenterEip, Pat]) Assert.Equal(s.Msrs[msr], t.Msrs[msr]);
    }
}
