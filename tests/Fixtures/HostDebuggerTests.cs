using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// What a debugger outside asks a vCPU for: breakpoints and watchpoints by linear address, single steps. What the guest sees is what it sees without, and where
/// its instructions begin says the assembler.
/// </summary>
[TinyCachesToo]
public sealed class HostDebuggerTests
{
    private static readonly DebugControls s_step = new([], [], true);

    private static DebugControls At(params ulong[] addresses) => new(addresses, [], false);

    private static DebugControls Watching(ulong address, ulong length, bool reads = false, bool writes = false) =>
        new([], [new Watchpoint(address, length, reads, writes)], false);

    private static ulong Linear(Guest g, Mode mode, string mark) => g[mark] + (mode is Mode.Real or Mode.Virtual8086 or Mode.Protected16 ? Layout.Code : 0);

    /// <summary>Goes on until the debugger is asked, or HLT; answers what the guest asks meanwhile.</summary>
    private static X86Exit Continue(Guest g, string engine, DebugControls controls)
    {
        g.On(engine);
        g.Cpu.SetDebugControls(controls);
        X86Exit? last = null;
        Func<X86Exit, bool>? before = g.OnExit;
        g.OnExit = e =>
        {
            before?.Invoke(e);
            last = e;
            return e.Reason is ExitReason.Debug;
        };
        g.Run(engine);
        g.OnExit = before;
        return last!;
    }

    private static CpuState State(Guest g)
    {
        var state = new CpuState();
        g.Cpu.ReadState(state);
        return state;
    }

    private static void StopsAt(Guest g, X86Exit exit, DebugCause cause, string mark)
    {
        Assert.Equal((ExitReason.Debug, cause), (exit.Reason, exit.DebugCause));
        Assert.Equal(g[mark], State(g).Rip);
    }

    private static void Step(Guest g, string engine, string mark) => StopsAt(g, Continue(g, engine, s_step), DebugCause.Step, mark);

    /// <summary>A loop of so many rounds that counts in EAX, and reports; then once more.</summary>
    private static void TwoLoops(Guest g, int rounds) => g.Code(a =>
    {
        Label again = a.CreateLabel(), loop = a.CreateLabel();
        a.xor(esi, esi);
        a.Label(ref again);
        a.xor(eax, eax);
        a.mov(ecx, rounds);
        a.Label(ref loop);
        a.inc(eax);
        g.Mark(a, "inside");
        a.add(ebx, eax);
        g.Mark(a, "next");
        a.dec(ecx);
        a.jne(loop);
        Guest.Report(a);
        a.inc(esi);
        a.cmp(esi, 2);
        a.jne(again);
        a.hlt();
    });

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Virtual8086), Engines(Mode.Protected16), Engines(Mode.Protected32), Engines(Mode.Pae), Engines(Mode.Compatibility)]
    [Engines(Mode.Long)]
    public void A_breakpoint_stops_in_front_of_its_instruction_each_time(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        TwoLoops(g, 5);
        ulong at = Linear(g, mode, "inside");
        for (uint round = 1; round <= 3; round++)
        {
            X86Exit exit = Continue(g, engine, At(at, at + 0x10_0000));
            StopsAt(g, exit, DebugCause.Breakpoint, "inside");
            Assert.Equal((at, round), (exit.Address, (uint)State(g).Gpr[0]));
            StopsAt(g, Continue(g, engine, At(at)), DebugCause.Breakpoint, "inside"); // it is still there
            Step(g, engine, "next");
        }
        var reports = new List<ulong>();
        g.OnExit = e =>
        {
            if (e is { Reason: ExitReason.Io, Address: Guest.ReportPort }) reports.Add(e.Data);
            return false;
        };
        if (mode == Mode.Virtual8086) return; // HLT is not for it
        Assert.Equal(ExitReason.Hlt, Continue(g, engine, At()).Reason);
        Assert.Equal([5, 5], reports);
        Assert.Equal(30u, (uint)State(g).Gpr[3]);
    }

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_breakpoint_is_met_in_code_that_has_been_translated(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        TwoLoops(g, 1000);
        g.OnExit = e => e.Reason == ExitReason.Io;
        Outcome o = g.Run(engine); // the first loop is over
        Assert.Equal(1000u, (uint)o.State.Gpr[0]);
        g.OnExit = null;
        StopsAt(g, Continue(g, engine, At(Linear(g, mode, "inside"))), DebugCause.Breakpoint, "inside");
        Assert.Equal((1ul, 1u), (State(g).Gpr[6], (uint)State(g).Gpr[0]));
        Assert.Equal(ExitReason.Hlt, Continue(g, engine, At()).Reason);
        Assert.Equal(1001u * 1000, (uint)State(g).Gpr[3]);
    }

    [Theory, Engines]
    public void A_breakpoint_belongs_to_one_linear_address_of_its_code(string engine)
    {
        using var g = new Guest(Mode.Long);
        const uint other = Layout.Spare + 0x1000;
        g.Tables[other] = Layout.Code | Pte.P;
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(rbx, Layout.Code);
            a.mov(rdi, other);
            a.mov(ecx, 50);
            a.Label(ref loop);
            a.lea(rax, __[rbx + 0x100]);
            a.call(rax);
            a.lea(rax, __[rdi + 0x100]);
            a.call(rax);
            a.dec(ecx);
            a.jne(loop);
            a.hlt();
        });
        g.Place(Layout.Code + 0x100, 64, a =>
        {
            a.inc(rdx);
            g.Mark(a, "inside");
            a.nop();
            a.ret();
        });
        ulong offset = g["inside"] - Layout.Code;
        for (ulong round = 1; round <= 40; round++)
        {
            X86Exit exit = Continue(g, engine, At(other + offset));
            Assert.Equal((ExitReason.Debug, other + offset, 2 * round), (exit.Reason, State(g).Rip, State(g).Gpr[2]));
            Continue(g, engine, s_step);
        }
        Assert.Equal(ExitReason.Hlt, Continue(g, engine, At()).Reason);
        Assert.Equal(100ul, State(g).Gpr[2]);
    }

    [Fact]
    public void A_breakpoint_elsewhere_leaves_translated_code_as_it_is()
    {
        using var g = new Guest(Mode.Long);
        TwoLoops(g, 10_000);
        // The decoder looks at each instruction of the loop, since there is a breakpoint at its offset of another page.
        ulong page = Layout.Code + 0x1000;
        X86Exit exit = Continue(g, TestedEngines.Translator, At([.. Enumerable.Range(0, 0x100).Select(n => page + (ulong)n)]));
        Assert.Equal(ExitReason.Hlt, exit.Reason);
        Assert.Equal(10_001u * 10_000, (uint)State(g).Gpr[3]);
        ulong left = g.Cpu.Execution!.Counts.Where(c => c.Name.StartsWith("left for", StringComparison.Ordinal)).Aggregate(0ul, (sum, c) => sum + c.Value);
        Assert.InRange(left, 1ul, 100ul);
    }

    [Fact]
    public void A_watched_page_leaves_the_others_to_translated_code()
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(rbx, Layout.Data);
            a.mov(ecx, 10_000);
            a.Label(ref loop);
            a.mov(__dword_ptr[rbx + 0x20], ecx);
            a.dec(ecx);
            a.jne(loop);
            a.hlt();
        });
        Assert.Equal(ExitReason.Hlt, Continue(g, TestedEngines.Translator, Watching(Layout.Data + 0x1020, 4, writes: true)).Reason);
        ulong left = g.Cpu.Execution!.Counts.Where(c => c.Name.StartsWith("left for", StringComparison.Ordinal)).Aggregate(0ul, (sum, c) => sum + c.Value);
        Assert.InRange(left, 1ul, 100ul);
    }

    [Theory, Engines]
    public void The_guest_reads_its_own_bytes_where_a_breakpoint_is(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.mov(rbx, Layout.Code + 0x100);
            a.movzx(eax, __byte_ptr[rbx]);
            a.call(rbx);
            a.hlt();
        });
        g.Place(Layout.Code + 0x100, 64, a =>
        {
            a.nop();
            a.ret();
        });
        Assert.Equal(Layout.Code + 0x100, Continue(g, engine, At(Layout.Code + 0x100)).Address);
        Assert.Equal(0x90ul, State(g).Gpr[0]);
    }

    [Theory, Engines]
    public void Code_that_is_written_anew_keeps_its_breakpoint(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(rbx, Layout.Spare + 0x1100);
            a.mov(ecx, 3);
            a.Label(ref loop);
            a.mov(__word_ptr[rbx], 0xC390); // NOP, RET
            a.call(rbx);
            a.dec(ecx);
            a.jne(loop);
            a.hlt();
        });
        for (ulong left = 3; left > 0; left--)
        {
            Assert.Equal(ExitReason.Debug, Continue(g, engine, At(Layout.Spare + 0x1100)).Reason);
            Assert.Equal(left, State(g).Gpr[1]);
            Continue(g, engine, s_step);
        }
        Assert.Equal(ExitReason.Hlt, Continue(g, engine, At(Layout.Spare + 0x1100)).Reason);
    }

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_step_is_one_instruction_or_the_delivery_of_an_event(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.Code(a =>
        {
            Label called = a.CreateLabel();
            a.nop();
            g.Mark(a, "call");
            a.call(called);
            g.Mark(a, "out");
            Guest.Report(a);
            g.Mark(a, "in");
            a.@in(eax, Guest.ReportPort);
            g.Mark(a, "string");
            a.mov(ecx, 2);
            g.Mark(a, "rep");
            a.rep.stosb();
            g.Mark(a, "int");
            a.@int(0x21);
            g.Mark(a, "undefined");
            a.ud2();
            a.Label(ref called);
            a.nop();
            g.Mark(a, "ret");
            a.ret();
            g.Mark(a, "handler");
            if (mode == Mode.Real) a.iret();
            else if (mode == Mode.Long) a.iretq();
            else a.iretd();
        });
        g.Handle(0x21, "handler").Handle(X.UD, "handler");
        g.State.Gpr[7] = 0;
        if (mode != Mode.Real) g.State.Gpr[7] = Layout.Data;
        Step(g, engine, "call");
        Continue(g, engine, s_step);
        foreach (string mark in (string[])["ret", "out", "in", "string", "rep", "int", "handler", "undefined", "handler",
            "undefined", "handler"]) Step(g, engine, mark);
    }

    [Theory, Engines]
    public void A_device_is_asked_before_the_debugger(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            a.mov(eax, 0x1234);
            a.mov(__dword_ptr[Layout.Mmio], eax);
            g.Mark(a, "breakpoint");
            a.mov(ebx, __dword_ptr[Layout.Mmio + 4]);
            g.Mark(a, "behind");
            a.hlt();
        });
        var seen = new List<(bool, ulong)>();
        g.OnExit = e =>
        {
            if (e.Reason == ExitReason.Mmio) seen.Add((e.IsWrite, e.Address));
            return false;
        };
        StopsAt(g, Continue(g, engine, At(g["breakpoint"])), DebugCause.Breakpoint, "breakpoint");
        Assert.Equal([(true, Layout.Mmio)], seen);
        Step(g, engine, "behind");
        Assert.Equal([(true, Layout.Mmio), (false, Layout.Mmio + 4)], seen);
    }

    [Theory, Engines]
    public void An_instruction_that_waits_for_its_device_is_beyond_its_breakpoint(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            g.Mark(a, "in");
            a.@in(al, Guest.ReportPort);
            a.hlt();
        });
        g.On(engine);
        Assert.Equal(ExitReason.Io, g.Cpu.Enter().Reason);
        Assert.Equal(ExitReason.Hlt, Continue(g, engine, At(g["in"])).Reason);
    }

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_watchpoint_stops_behind_the_instruction_that_writes(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        ulong data = mode == Mode.Real ? 0u : Layout.Data;
        g.State.Gpr[3] = data;
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(ecx, 100);
            a.Label(ref loop);
            a.mov(g.AtBx + 0x10, ecx); // beside it
            a.cmp(g.AtBx + 0x20, ecx); // read
            a.mov(g.AtBx + 0x1D, ecx); // up to its first byte
            g.Mark(a, "behind");
            a.dec(ecx);
            a.jne(loop);
            a.hlt();
        });
        for (uint left = 100; left > 97; left--)
        {
            X86Exit exit = Continue(g, engine, Watching(Layout.Data + 0x20, 4, writes: true));
            StopsAt(g, exit, DebugCause.Watchpoint, "behind");
            Assert.Equal((Layout.Data + 0x20ul, left), (exit.Address, g.Read<uint>(Layout.Data + 0x1D)));
        }
        Assert.Equal(ExitReason.Hlt, Continue(g, engine, At()).Reason);
        Assert.Equal(1u, g.Read<uint>(Layout.Data + 0x1D));
    }

    [Theory, Engines]
    public void Watchpoints_tell_reads_from_writes(string engine)
    {
        using var g = new Guest(Mode.Long);
        const uint edge = Layout.Data + 0x1000;
        g.Code(a =>
        {
            a.mov(rbx, edge);
            a.mov(rsp, edge);
            a.mov(eax, __dword_ptr[rbx - 2]); // in two pages
            g.Mark(a, "read");
            a.mov(__dword_ptr[rbx - 2], eax);
            g.Mark(a, "written");
            a.@lock.add(__dword_ptr[rbx - 4], eax);
            g.Mark(a, "locked");
            a.push(rax);
            g.Mark(a, "pushed");
            a.mov(rdi, rbx);
            a.lea(rdi, __[rbx - 3]);
            a.mov(ecx, 3);
            a.rep.stosb();
            g.Mark(a, "stored");
            a.movdqu(xmm0, __xmmword_ptr[rbx - 16]);
            g.Mark(a, "vector");
            a.hlt();
        });
        const ulong at = edge - 1;
        StopsAt(g, Continue(g, engine, Watching(at, 1, reads: true)), DebugCause.Watchpoint, "read");
        foreach (string mark in (string[])["written", "locked", "pushed", "stored"])
            StopsAt(g, Continue(g, engine, Watching(at, 1, writes: true)), DebugCause.Watchpoint, mark);
        StopsAt(g, Continue(g, engine, Watching(at, 1, reads: true, writes: true)), DebugCause.Watchpoint, "vector");
        Assert.Equal(ExitReason.Hlt, Continue(g, engine, Watching(at, 1, reads: true, writes: true)).Reason);
    }

    [Theory, Engines]
    public void Debug_registers_stay_the_guests(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.mov(rax, Layout.Code + 0x100);
            a.mov(dr0, rax);
            a.mov(eax, 0x401);
            a.mov(dr7, rax);
            a.mov(rbx, Layout.Code + 0x100);
            a.call(rbx);
            a.int3();
            g.Mark(a, "end");
            a.hlt();
            g.Mark(a, "handler");
            a.mov(rsi, dr6);
            a.or(__dword_ptr[rsp + 16], 0x1_0000); // RF
            a.iretq();
            g.Mark(a, "int3");
            a.inc(rdi);
            a.iretq();
        });
        g.Place(Layout.Code + 0x100, 64, a =>
        {
            a.nop();
            a.ret();
        });
        g.Handle(X.DB, "handler").Handle(X.BP, "int3");
        StopsAt(g, Continue(g, engine, At(g["handler"])), DebugCause.Breakpoint, "handler"); // the guest's own comes first
        Assert.Equal(Layout.Code + 0x100, Continue(g, engine, At(Layout.Code + 0x100)).Address);
        Assert.Equal((0xFFFF_0FF1ul, 0ul), (State(g).Gpr[6], State(g).Dr6 & 0x4000));
        Continue(g, engine, s_step);
        Assert.Equal(ExitReason.Hlt, Continue(g, engine, At()).Reason);
        Assert.Equal(1ul, State(g).Gpr[7]);
    }

    [Theory, Engines]
    public void A_reset_state_keeps_the_debuggers_breakpoints(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.nop();
            g.Mark(a, "at");
            a.hlt();
        });
        StopsAt(g, Continue(g, engine, At(g["at"])), DebugCause.Breakpoint, "at");
        g.Cpu.Reset();
        g.Cpu.WriteState(g.State);
        Assert.Equal(g["at"], g.Cpu.Enter().Address);
    }
}
