using Bunraku.Engine.Check;
using Bunraku.Engines;
using Bunraku.Processor.X86;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// The check engine finds what differs, and only that. Which differences there are between our engines, all other fixtures tell by running on it.
/// </summary>
public sealed unsafe class LockStepTests
{
    /// <summary>The interpreter with a processor that lacks a feature which the model has.</summary>
    private sealed class Without(CpuFeature feature) : IX86Engine
    {
        private readonly InterpreterEngine _engine = new();
        public string Name => "defective";
        public EngineProbe Probe() => _engine.Probe();
        public IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) =>
            _engine.CreateVm(memory, model with { Features = model.Features.Where(f => f != feature).ToHashSet() }, clock);
    }

    private static CheckEngine Check(IX86Engine subject, CheckInterval? interval = null) =>
        new(subject, new InterpreterEngine()) { Interval = interval ?? CheckInterval.Default };

    /// <summary>Runs until HLT or the engine's complaint, which is returned.</summary>
    private static string? Run(Guest g, IX86Engine engine, Action<X86Exit>? onExit = null)
    {
        g.On(engine);
        for (; ; )
        {
            X86Exit exit = g.Cpu.Enter();
            if (exit.Reason == ExitReason.InternalError) return exit.Message;
            onExit?.Invoke(exit);
            if (exit.Reason == ExitReason.Hlt) return null;
        }
    }

    private static void Loop(Assembler a, Action body)
    {
        Label loop = a.CreateLabel();
        a.mov(ecx, 5000);
        a.Label(ref loop);
        body();
        a.dec(ecx);
        a.jnz(loop);
    }

    [Theory, InlineData(0), InlineData(10)]
    public void An_instruction_that_the_subject_executes_differently_is_named(uint instructions)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Loop(a, () => a.add(rax, rcx));
            a.mov(edx, (int)Layout.Data);
            a.movbe(eax, __dword_ptr[rdx]);
            a.hlt();
        });
        string? message = Run(g, Check(new Without(CpuFeature.Movbe), instructions == 0 ? null : CheckInterval.Every(instructions)));
        Assert.NotNull(message);
        Assert.Contains("defective and interp differ", message);
        Assert.Contains("block by block they differ", message);
        Assert.Contains("movbe eax,[rdx]", message);
        // Once a difference was found there is no going on.
        Assert.Equal(ExitReason.InternalError, g.Cpu.Enter().Reason);
    }

    [Fact]
    public void A_byte_that_changes_behind_the_subjects_back_is_found_when_the_guest_rests()
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.@out(Guest.ReportPort, eax);
            a.hlt();
        });
        string? message = Run(g, Check(new TranslatorEngine(threshold: 1)), e =>
        {
            if (e.Reason == ExitReason.Io) g.Memory.PagePointer(Layout.Data)[8] = 0x5A;
        });
        Assert.NotNull(message);
        Assert.Contains($"memory 0x{Layout.Data + 8:X}: subject 0x000000000000005A, reference 0x0000000000000000", message);
    }

    [Fact]
    public void A_value_that_the_guest_reads_from_such_a_byte_is_found_at_once()
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.@out(Guest.ReportPort, eax);
            a.mov(rbx, __qword_ptr[(int)Layout.Data + 8]);
            a.@out(Guest.ReportPort, eax);
            a.hlt();
        });
        int exits = 0;
        string? message = Run(g, Check(new TranslatorEngine(threshold: 1)), e =>
        {
            exits++;
            g.Memory.PagePointer(Layout.Data)[8] = 0x5A;
        });
        Assert.Equal(1, exits);
        Assert.NotNull(message);
        Assert.Contains("RBX      subject 0x5A, reference 0x0", message);
    }

    [Fact]
    public void Both_see_what_a_thread_of_a_device_writes_at_the_same_place()
    {
        const uint last = 300;
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.mov(eax, __dword_ptr[(int)Layout.Data]);
            a.add(rbx, rax);
            a.cmp(eax, last);
            a.jne(loop);
            a.hlt();
        });
        var device = new Thread(() =>
        {
            for (uint n = 1; n <= last; n++) g.Memory.TryWrite(Layout.Data, n);
        });
        g.On(Check(new TranslatorEngine(threshold: 1)));
        device.Start();
        X86Exit exit = g.Cpu.Enter();
        device.Join();
        Assert.True(exit.Reason == ExitReason.Hlt, exit.Message);
        Assert.True(g.Memory.TryWrite(Layout.Data, 0)); // nobody runs: nobody waits
    }

    [Fact]
    public void Both_see_what_devices_write_and_answer()
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Loop(a, () =>
            {
                a.@in(eax, 0xE1);
                a.add(rbx, rax);
                a.add(rbx, __qword_ptr[(int)Layout.Data]);
            });
            a.hlt();
        });
        ulong sum = 0, n = 0;
        Assert.Null(Run(g, Check(new TranslatorEngine(threshold: 1)), e =>
        {
            if (e.Reason != ExitReason.Io) return;
            e.Data = ++n * 3;
            g.Write(Layout.Data, n << 32);
            sum += n * 3 + (n << 32);
        }));
        var state = new CpuState();
        g.Cpu.ReadState(state);
        Assert.Equal(sum, state.Gpr[3]);
    }

    [Fact]
    public void Both_read_the_same_time_and_it_goes_on()
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Loop(a, () =>
            {
                a.rdtsc();
                a.shl(rdx, 32);
                a.or(rax, rdx);
                a.mov(rbx, rax);
                a.mov(__qword_ptr[(int)Layout.Data], rax);
            });
            Guest.Report(a);
            a.rdtsc();
            a.shl(rdx, 32);
            a.or(rax, rdx);
            a.sub(rax, rbx);
            a.hlt();
        });
        Assert.Null(Run(g, Check(new TranslatorEngine(threshold: 1)), e =>
        {
            if (e.Reason == ExitReason.Io) Thread.Sleep(2);
        }));
        var state = new CpuState();
        g.Cpu.ReadState(state);
        Assert.InRange(state.Gpr[0], 1_000_000ul, ulong.MaxValue >> 1);
    }

    [Fact]
    public void What_is_random_is_left_out_of_the_processor_and_a_second_one_is_refused()
    {
        using var g = new Guest(Mode.Long, model: "x86-64-v3");
        CheckEngine engine = Check(new TranslatorEngine());
        Assert.Equal(1, ((IX86Engine)engine).MaxCpus);
        g.On(engine);
        Assert.True(g.Model.Has(CpuFeature.Rdrand));
        Assert.False(g.Vm.NarrowedModel!.Has(CpuFeature.Rdrand));
        Assert.Throws<NotSupportedException>(() => g.Vm.CreateCpu(1));
    }
}
