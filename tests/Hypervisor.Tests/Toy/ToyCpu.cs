using Bunraku.Engines;

namespace Bunraku.Hypervisor.Tests.Toy;

/// <summary>Operation codes. An instruction is its code in 8 bytes and its operand in 8 more.</summary>
internal enum ToyOp : ulong
{
    /// <summary>Waits for an event.</summary>
    Halt,
    /// <summary>A = operand.</summary>
    Set,
    /// <summary>A = 8 bytes at the operand.</summary>
    Load,
    /// <summary>8 bytes at the operand = A.</summary>
    Store,
    /// <summary>A += operand.</summary>
    Add,
    /// <summary>Goes on at the operand unless A is 0.</summary>
    JumpUnlessZero,
    /// <summary>A = events since the last such look.</summary>
    Events,
    /// <summary>Calls the hypervisor with the operand and A; A = answer.</summary>
    Call,
    /// <summary>Shutdown: nothing but a reset ends it.</summary>
    Off,
}

/// <summary>The toy processor's state.</summary>
/// <param name="Answer">The read at PC has its answer; null: it waits for none.</param>
[StateRecord("toy.cpu", version: 1)]
internal sealed record ToyState(ulong A, ulong Pc, ulong Events, CpuActivity Activity, ulong? Answer);

/// <summary>A processor with an accumulator, a program counter and nine instructions; it shares nothing with x86 but the neutral contract.</summary>
internal sealed class ToyCpu(int index, GuestMemory memory) : ISteppedCpu, IStateful<ToyState>
{
    public const ulong InstructionSize = 16;

    private readonly ToyExit _exit = new();
    private ulong _a, _pc, _events, _retired;
    private ulong? _answer;
    private bool _asked; // the last exit is a read or a call, and what it found is in the exit
    private int _kick;

    public int Index => index;

    public CpuActivity Activity { get; set; } = index == 0 ? CpuActivity.Active : CpuActivity.WaitForStartUp;

    public EngineCounters Counters => new(Volatile.Read(ref _retired), 0, 0, 0, 0, 0, 0);

    public void Kick() => Volatile.Write(ref _kick, 1);

    /// <summary>Something happened that the guest counts. On the vCPU's thread.</summary>
    public void AddEvent() => _events++;

    public VmExit Enter() => Run(ulong.MaxValue);

    public VmExit EnterUntil(ulong retired) => Run(retired);

    public VmExit FollowTo(Place place, bool beyond) => Run(place.Retired);

    private ToyExit Run(ulong end)
    {
        TakeAnswer();
        Activity = CpuActivity.Active;
        for (; ; )
        {
            if (_retired >= end || Interlocked.Exchange(ref _kick, 0) != 0) return Exit(ToyReason.Kicked);
            if (!memory.TryRead(_pc, out ulong op) || !memory.TryRead(_pc + 8, out ulong operand))
                return Exit(ToyReason.BadInstruction, $"no instruction at {_pc:X}");
            switch ((ToyOp)op)
            {
                case ToyOp.Halt:
                    Retire();
                    Activity = CpuActivity.Halted;
                    return Exit(ToyReason.Halt);
                case ToyOp.Set:
                    _a = operand;
                    break;
                case ToyOp.Load when _answer is { } answer:
                    _a = answer;
                    _answer = null;
                    break;
                case ToyOp.Load:
                    if (memory.TryRead(operand, out _a)) break;
                    _asked = true;
                    return Access(operand, isWrite: false);
                case ToyOp.Store:
                    if (memory.TryWrite(operand, _a)) break;
                    Retire();
                    return Access(operand, isWrite: true);
                case ToyOp.Add:
                    _a += operand;
                    break;
                case ToyOp.JumpUnlessZero:
                    Retire();
                    if (_a != 0) _pc = operand;
                    continue;
                case ToyOp.Events:
                    (_a, _events) = (_events, 0);
                    break;
                case ToyOp.Call when _answer is { } answer:
                    _a = answer;
                    _answer = null;
                    break;
                case ToyOp.Call:
                    _asked = true;
                    (_exit.Address, _exit.Data) = (operand, _a);
                    return Exit(ToyReason.Call);
                case ToyOp.Off:
                    Activity = CpuActivity.Shutdown;
                    return Exit(ToyReason.Off);
                default:
                    return Exit(ToyReason.BadInstruction, $"no instruction {op} at {_pc:X}");
            }
            Retire();
        }
    }

    private void Retire()
    {
        _pc += InstructionSize;
        _retired++;
    }

    private void TakeAnswer()
    {
        if (_asked) _answer = _exit.Data;
        _asked = false;
    }

    private ToyExit Access(ulong address, bool isWrite)
    {
        (_exit.Address, _exit.Size, _exit.IsWrite, _exit.Data) = (address, 8, isWrite, isWrite ? _a : 0);
        return Exit(ToyReason.Access);
    }

    private ToyExit Exit(ToyReason reason, string? message = null)
    {
        _exit.Set(reason);
        _exit.Message = message;
        return _exit;
    }

    public void Reset()
    {
        (_a, _pc, _events, _answer, _asked) = (0, 0, 0, null, false);
        Activity = index == 0 ? CpuActivity.Active : CpuActivity.WaitForStartUp;
    }

    ToyState IStateful<ToyState>.Save()
    {
        TakeAnswer();
        return new(_a, _pc, _events, Activity, _answer);
    }

    void IStateful<ToyState>.Restore(ToyState state)
    {
        StateCheck.Defined(state.Activity, $"cpu{index}");
        (_a, _pc, _events, _answer, _asked) = (state.A, state.Pc, state.Events, state.Answer, false);
        Activity = state.Activity;
    }

    public void Dispose()
    {
    }
}
