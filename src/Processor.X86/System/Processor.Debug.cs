namespace Bunraku.Processor.X86;

/// <summary>Debug registers, breakpoints, single step. Intel SDM vol. 3B, "Debug, Branch Profile, TSC…", sections "Debug Registers" and "Debug Exceptions".</summary>
public sealed unsafe partial class Processor
{
    private const ulong Dr6Fixed = 0xFFFF_0FF0, Dr6Breakpoints = 0xF, Dr6Bd = 1 << 13, Dr6Bs = 1 << 14, Dr6Bt = 1 << 15;
    private const ulong Dr7Fixed = 0x400, Dr7Gd = 1 << 13, Dr7Enables = 0xFF;

    /// <summary>DR6 bits of data and I/O breakpoints and task switches, raised as a trap after the instruction.</summary>
    private ulong _pendingDr6;

    /// <summary>DR7 enables an instruction breakpoint: instructions are executed one at a time.</summary>
    private bool _instructionBreakpoints;

    /// <summary>To be called when DR7 has changed, before <see cref="ModeChanged"/>.</summary>
    private void UpdateBreakpoints() => _instructionBreakpoints = HasBreakpoints(type: 0);

    private bool HasBreakpoints(int type)
    {
        for (int n = 0; n < 4; n++)
        {
            if (IsEnabled(n) && BreakpointType(n) == type) return true;
        }
        return false;
    }

    private bool IsEnabled(int n) => (State->Dr7 >> (2 * n) & 3) != 0;

    /// <summary>DR7.R/W: 0 execute, 1 write, 2 I/O (CR4.DE), 3 read or write.</summary>
    private int BreakpointType(int n) => (int)(State->Dr7 >> (16 + 4 * n)) & 3;

    private int BreakpointLength(int n) => ((int)(State->Dr7 >> (18 + 4 * n)) & 3) switch { 0 => 1, 1 => 2, 2 => 8, _ => 4 };

    private ulong BreakpointAddress(int n) => (&State->Dr0)[n];

    /// <summary>
    /// True when an instruction breakpoint fires at <paramref name="linearRip"/>; DR6 is set then and the dispatcher delivers #DB as a fault.
    /// None does while RFLAGS.RF is set, nor behind MOV SS or POP SS where the vendor says so.
    /// </summary>
    private bool InstructionBreakpoint(ulong linearRip)
    {
        ProcessorState* s = State;
        if ((s->Dr7 & Dr7Enables) == 0 || (s->FlagsOther & (uint)Rflags.Rf) != 0 || (InMovSsShadow && Model.Behavior.MovSsHoldsBackInstructionBreakpoint)) return false;
        ulong matched = 0;
        bool fires = false;
        for (int n = 0; n < 4; n++)
        {
            if (BreakpointType(n) != 0 || BreakpointAddress(n) != linearRip) continue;
            matched |= 1ul << n;
            fires |= IsEnabled(n);
        }
        if (!fires) return false;
        s->Dr6 = s->Dr6 & ~Dr6Breakpoints | matched;
        return true;
    }

    /// <summary>Notes a data access of 1 to 64 bytes, so that a breakpoint on it traps after the instruction.</summary>
    private void DataAccess(ulong linear, int size, bool write)
    {
        ulong matched = 0;
        for (int n = 0; n < 4; n++)
        {
            int type = BreakpointType(n);
            if (IsEnabled(n) && (type == 3 || (type == 1 && write)) && Overlaps(n, linear, size)) matched |= 1ul << n;
        }
        RecordTrap(matched);
    }

    /// <summary>Notes an access to a port, for I/O breakpoints.</summary>
    internal void PortAccessed(ushort port, int size)
    {
        ProcessorState* s = State;
        if ((s->Dr7 & Dr7Enables) == 0 || (s->Cr4 & (ulong)Cr4.De) == 0) return;
        ulong matched = 0;
        for (int n = 0; n < 4; n++)
        {
            if (IsEnabled(n) && BreakpointType(n) == 2 && Overlaps(n, port, size)) matched |= 1ul << n;
        }
        RecordTrap(matched);
    }

    private bool Overlaps(int n, ulong address, int size)
    {
        ulong length = (ulong)BreakpointLength(n);
        ulong start = BreakpointAddress(n) & ~(length - 1);
        return address < start + length && start < address + (ulong)size;
    }

    /// <summary>Records breakpoint matches and asks the dispatcher to look before the next instruction.</summary>
    private void RecordTrap(ulong dr6)
    {
        if (dr6 == 0) return;
        _pendingDr6 |= dr6;
        Interlocked.Or(ref State->AttentionFlags, (int)Attention.Event);
    }

    /// <summary>
    /// Delivers the #DB trap of a data or I/O breakpoint or of a task switch, with RIP behind the instruction. False when there is none, or when MOV SS or POP SS
    /// holds it back for one instruction.
    /// </summary>
    private bool TakeDebugTrap()
    {
        if (_pendingDr6 == 0) return false;
        if (InMovSsShadow)
        {
            Interlocked.Or(ref State->AttentionFlags, (int)Attention.Event);
            return false;
        }
        DeliverDebugTrap(0);
        return true;
    }

    /// <summary>A debug trap waits for the end of the instruction.</summary>
    internal bool DebugTrapPending => _pendingDr6 != 0;

    /// <summary>SYSRET that sets TF traps at once, not one instruction later.</summary>
    internal void SingleStepNow() => RecordTrap(Dr6Bs);

    /// <summary>RF was set when the instruction that just completed began: clears it unless the instruction itself loaded it (IRET, task switch).</summary>
    private void ClearResumeFlag()
    {
        if (ResumeFlagAt != State->Retired) State->FlagsOther &= ~(uint)Rflags.Rf;
    }

    /// <summary>TF was set when the instruction that just completed began: single-step trap, together with what else is pending.</summary>
    private void AfterSingleStep()
    {
        if (InMovSsShadow || _noSingleStepAt == State->Retired) return;
        DeliverDebugTrap(Dr6Bs);
    }

    private void DeliverDebugTrap(ulong bits)
    {
        if ((_controls.ExceptionBitmap != 0 || Memory.Rights.WereTaken) && (ExitPending || _posted.Count > 0))
        {
            // The instruction's own exits come first: the trap, or what comes up when it is delivered, may be one, too.
            RecordTrap(bits);
            return;
        }
        _pendingDr6 |= bits;
        MergeDebugTrap();
        if (Intercepts(Vector.Db)) RequestExit(ExitReason.Exception, (ulong)Vector.Db);
        else DeliverException(Vector.Db, null);
    }

    /// <summary>Moves what is pending to DR6: the #DB at hand reports it.</summary>
    private void MergeDebugTrap()
    {
        ProcessorState* s = State;
        s->Dr6 = s->Dr6 & ~((_pendingDr6 & Dr6Breakpoints) != 0 ? Dr6Breakpoints : 0) | _pendingDr6;
        _pendingDr6 = 0;
    }

    /// <summary>DR4 and DR5 are DR6 and DR7 unless CR4.DE. With DR7.GD any access raises #DB.</summary>
    private int ResolveDebugRegister(int number)
    {
        ProcessorState* s = State;
        if (number is 4 or 5)
        {
            if ((s->Cr4 & (ulong)Cr4.De) != 0) throw InvalidOpcode();
            number += 2;
        }
        else if (number > 7)
        {
            throw InvalidOpcode();
        }
        if ((s->Dr7 & Dr7Gd) != 0)
        {
            s->Dr6 |= Dr6Bd;
            throw Fault(Vector.Db);
        }
        return number;
    }

    internal ulong ReadDebugRegister(int number)
    {
        number = ResolveDebugRegister(number);
        return number switch { 6 => State->Dr6, 7 => State->Dr7, _ => BreakpointAddress(number) };
    }

    internal void WriteDebugRegister(int number, ulong value)
    {
        ProcessorState* s = State;
        number = ResolveDebugRegister(number);
        if (number >= 6 && value >> 32 != 0) throw GeneralProtection();
        switch (number)
        {
            case 6: s->Dr6 = value & (Dr6Breakpoints | Dr6Bd | Dr6Bs | Dr6Bt) | Dr6Fixed; break;
            case 7: s->Dr7 = value & ~0xD800ul | Dr7Fixed; break;
            default: (&s->Dr0)[number] = value; break;
        }
        UpdateBreakpoints();
        ModeChanged();
    }
}

/// <summary>MOV to and from debug registers; R0 or R1 is the register's number.</summary>
internal static unsafe class DebugInstructions
{
    public static Insn* Read<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, global::System.Numerics.IBinaryInteger<T>
    {
        Register.Set(s, i->R0, T.CreateTruncating(p.ReadDebugRegister(i->R1)));
        return i + 1;
    }

    public static Insn* Write<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, global::System.Numerics.IBinaryInteger<T>
    {
        p.WriteDebugRegister(i->R0, ulong.CreateTruncating(Register.Get<T>(s, i->R1)));
        return Flow.Leave(s, i);
    }
}
