using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>Executes probes in a guest on one engine, at any privilege level. For one thread.</summary>
internal sealed class GuestBench : IDisposable
{
    /// <summary>A probe that has not come to its end by then never will. It takes microseconds, on an emulating KVM milliseconds.</summary>
    private const int WatchdogMilliseconds = 4_000;
    /// <summary>Exits that one probe may cause.</summary>
    private const int MostExits = 64;

    private static readonly InterceptedInstructions s_everything = Enum.GetValues<InterceptedInstructions>().Aggregate((a, b) => a | b);

    private readonly IX86Engine _engine;
    private readonly CpuModel _model;
    private readonly GuestImage _image;
    private readonly GuestMemory _memory = new(GuestImage.MemorySize);
    private readonly CpuState _state = new();
    private IX86Vm? _vm;
    private IX86Cpu? _cpu;

    public GuestBench(IX86Engine engine, CpuModel model)
    {
        (_engine, _model) = (engine, model);
        _image = new GuestImage(model);
    }

    /// <summary>Executes <paramref name="probe"/> once.</summary>
    public Observation Run(Probe probe, in Setting at) => Observe(probe, at, watch: false, out _);

    /// <summary>
    /// Executes it at level 0 between a change to a page table and an access through it. Null: not observed; true: the access saw the change.
    /// </summary>
    public bool? TranslationDropped(Probe probe, in Setting at)
    {
        if (probe.Bitness != 64) return null;
        Observation o = Observe(probe, at, watch: true, out ulong seen);
        return o.IsCompleted && seen is 1 or 2 ? seen == 2 : null;
    }

    private Observation Observe(Probe probe, in Setting at, bool watch, out ulong seen)
    {
        seen = 0;
        try
        {
            return Execute(probe, at, watch, out seen);
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // An engine that gives up on one probe does not end the experiment; its next VM is a new one.
            DropVm();
            return new Observation(Outcome.Failed) { Message = e.Message.ReplaceLineEndings(" ") };
        }
    }

    private Observation Execute(Probe probe, in Setting at, bool watch, out ulong seen)
    {
        seen = 0;
        GuestImage.Write(_memory);
        byte[] code = Surround(probe, at, watch, out ulong after);
        _memory.Write(GuestImage.Code, code);
        ProbeInput input = GuestImage.Input(at, probe.Bitness, after);
        probe.Prepare?.Invoke(input);
        _memory.Write(GuestImage.Scratch, input.Memory);
        _image.Prepare(_state, at, probe.Bitness);
        input.Gpr.CopyTo(_state.Gpr);
        Dictionary<string, ulong> before = SystemState.Of(_state, _state.Rflags, _state.Cs.Selector, _state.Ss.Selector);
        ulong flagsBefore = _state.Rflags;

        _vm ??= _engine.CreateVm(_memory, _model, new VirtualClock());
        IX86Cpu cpu = _cpu ??= _vm.CreateCpu(0);
        cpu.Controls = at.Intercept ? new ExecutionControls(s_everything) : new ExecutionControls();
        cpu.WriteState(_state);
        var exits = new List<ObservedExit>();
        bool late = false;
        using var watchdog = new Timer(_ =>
        {
            Volatile.Write(ref late, true);
            cpu.Kick();
        }, null, WatchdogMilliseconds, Timeout.Infinite);

        while (exits.Count < MostExits)
        {
            X86Exit exit = cpu.Enter();
            if (Volatile.Read(ref late)) throw new InvalidOperationException($"no end within {WatchdogMilliseconds / 1000} s");
            if (exit.Reason == ExitReason.Kicked) continue;
            if (exit.Reason == ExitReason.InternalError) throw new InvalidOperationException(exit.Message ?? "the engine cannot go on");
            if (exit.Reason == ExitReason.TripleFault) throw new InvalidOperationException("triple fault");
            cpu.ReadState(_state);
            if (exit is { Reason: ExitReason.Io, Address: GuestImage.DonePort })
            {
                if (watch) seen = _state.Gpr[13];
                return Result(Outcome.Completed, null, null, _state.Rflags, _state.Cs.Selector, _state.Ss.Selector, input, before, flagsBefore, exits);
            }
            if (exit.Reason == ExitReason.Io && _state.Rip - GuestImage.Stubs < GuestImage.Vectors * GuestImage.StubSize)
                return AtHandler((int)exit.Address, input, before, flagsBefore, exits);
            exits.Add(new ObservedExit(exit.Reason, exit.IsWrite, exit.Address));
            // It has retired and the guest would wait; nobody wakes it. An intercepted instruction has shown what there is to see.
            if (exit.Reason is ExitReason.Hlt or ExitReason.Mwait || at.Intercept)
                return Result(Outcome.Completed, null, null, _state.Rflags, _state.Cs.Selector, _state.Ss.Selector, input, before, flagsBefore, exits);
            Answer(exit, at.State);
        }
        throw new InvalidOperationException($"{MostExits} exits without an end");
    }

    /// <summary>What a device would do; two machine states have two states of their devices.</summary>
    private static void Answer(X86Exit exit, int state)
    {
        if (!exit.IsWrite) exit.Data = 0x20ul + (ulong)state;
        exit.Fault = false;
    }

    /// <summary>The probe's code with what follows it: the access to a port that ends it.</summary>
    private static byte[] Surround(Probe probe, in Setting at, bool watch, out ulong after)
    {
        ulong entry = GuestImage.WatchedEntry(at.State);
        byte[] before = [], instruction = probe.Assemble(), behind = [0xE6 /* OUT imm8, AL */, GuestImage.DonePort];
        if (watch)
        {
            before = Bytes(a =>
            {
                a.mov(r15, GuestImage.Watched);
                a.mov(r14, __qword_ptr[r15]);
                a.mov(r13, entry);
                a.mov(r12, GuestImage.WatchedEntryValue);
                a.mov(__qword_ptr[r13], r12);
            });
            behind = [.. Bytes(a => a.mov(r13, __qword_ptr[r15])), .. behind];
        }
        after = GuestImage.Code + (ulong)(before.Length + instruction.Length);
        return [.. before, .. instruction, .. behind];
    }

    private static byte[] Bytes(Action<Assembler> emit)
    {
        var assembler = new Assembler(64);
        emit(assembler);
        var writer = new ByteWriter();
        assembler.Assemble(writer, 0);
        return writer.ToArray();
    }

    private Observation AtHandler(int vector, ProbeInput input, Dictionary<string, ulong> before, ulong flagsBefore, List<ObservedExit> exits)
    {
        // Intel SDM vol. 3A, "64-Bit Mode Stack Frame".
        ulong at = _state.Gpr[(int)Gp.Rsp];
        uint? error = PushesError(vector) ? (uint)Read(ref at) : null;
        ulong rip = Read(ref at);
        ushort cs = (ushort)Read(ref at);
        ulong flags = Read(ref at), rsp = Read(ref at);
        ushort ss = (ushort)Read(ref at);
        _state.Gpr[(int)Gp.Rsp] = rsp;
        _state.Rip = rip;
        return Result(Outcome.Trapped, vector, error, flags, cs, ss, input, before, flagsBefore, exits);

        ulong Read(ref ulong address)
        {
            if (!_memory.TryRead(address, out ulong value)) throw new InvalidOperationException("the handler's stack is gone");
            address += 8;
            return value;
        }
    }

    /// <summary>The exception has an error code.</summary>
    public static bool PushesError(int vector) => vector is 8 or 10 or 11 or 12 or 13 or 14 or 17 or 21;

    private Observation Result(Outcome outcome, int? vector, uint? error, ulong flags, ushort cs, ushort ss, ProbeInput input, Dictionary<string, ulong> before,
        ulong flagsBefore, List<ObservedExit> exits)
    {
        var memory = new byte[ProbeInput.ScratchSize];
        _memory.Read(GuestImage.Scratch, memory);
        ulong mask = (flags ^ flagsBefore) & SystemState.ArithmeticFlags;
        return new Observation(outcome)
        {
            Vector = vector,
            ErrorCode = error,
            SingleStepped = vector == SystemState.DebugVector && _state.Rip == input.After,
            Exits = exits,
            GprBefore = input.Gpr,
            MemoryBefore = input.Memory,
            Gpr = [.. _state.Gpr],
            Memory = memory,
            RflagsBefore = flagsBefore,
            Flags = (mask, flags & mask),
            SystemBefore = before,
            SystemAfter = SystemState.Of(_state, flags, cs, ss),
        };
    }

    private void DropVm()
    {
        try
        {
            _cpu?.Dispose();
            _vm?.Dispose();
        }
        finally
        {
            _cpu = null;
            _vm = null;
        }
    }

    public void Dispose()
    {
        DropVm();
        _memory.Dispose();
    }
}
