namespace Bunraku.Processor.X86;

/// <summary>
/// Debug registers, breakpoints, single step. Intel SDM vol. 3B, "Debug, Branch Profile, TSC…", sections "Debug Registers" and "Debug Exceptions".
/// </summary>
internal sealed unsafe class DebugUnit(Processor p)
{
    public const ulong Dr6Fixed = 0xFFFF_0FF0;
    private const ulong Dr6Breakpoints = 0xF, Dr6Bd = 1 << 13, Dr6Bs = 1 << 14, Dr6Bt = 1 << 15;
    public const ulong Dr7Fixed = 0x400, Dr7Gd = 1 << 13;
    private const ulong Dr7Enables = 0xFF;

    /// <summary>DR6 bits of data and I/O breakpoints and task switches, raised as a trap after the instruction.</summary>
    private ulong _pendingDr6;

    // Counts of retired instructions at which something holds for the next instruction, so that it ends by itself.
    private ulong _resumeFlagAt = ulong.MaxValue; // IRET or a task switch set RF: cleared after the instruction that begins here
    private ulong _noSingleStepAt = ulong.MaxValue;

    /// <summary>DR6 before the last debug exception came up: one that is intercepted leaves the register alone.</summary>
    public ulong Dr6BeforeFault { get; private set; }

    /// <summary>The bits of DR6 that belong to the last debug exception: breakpoints that were met, BD, BS, BT.</summary>
    public ulong Cause { get; private set; }

    private void SetDr6(ulong value, ulong cause)
    {
        (Dr6BeforeFault, Cause) = (p.State->Dr6, cause);
        p.State->Dr6 = value;
    }

    /// <summary>DR7 enables an instruction breakpoint: instructions are executed one at a time.</summary>
    public bool HasInstructionBreakpoints { get; private set; }

    /// <summary>DR7 enables a breakpoint on data: every access is looked at.</summary>
    public bool WatchesData { get; private set; }

    /// <summary>To be called when DR7 has changed, before <see cref="Processor.ModeChanged"/>.</summary>
    public void UpdateBreakpoints()
    {
        if ((p.State->Dr7 & Dr7Enables) == 0)
        {
            HasInstructionBreakpoints = WatchesData = false;
            return;
        }
        HasInstructionBreakpoints = HasBreakpoints(type: 0);
        WatchesData = HasBreakpoints(type: 1) || HasBreakpoints(type: 3);
    }

    private bool HasBreakpoints(int type)
    {
        for (int n = 0; n < 4; n++)
        {
            if (IsEnabled(n) && BreakpointType(n) == type) return true;
        }
        return false;
    }

    private bool IsEnabled(int n) => (p.State->Dr7 >> (2 * n) & 3) != 0;

    /// <summary>DR7.R/W: 0 execute, 1 write, 2 I/O (CR4.DE), 3 read or write.</summary>
    private int BreakpointType(int n) => (int)(p.State->Dr7 >> (16 + 4 * n)) & 3;

    private int BreakpointLength(int n) => ((int)(p.State->Dr7 >> (18 + 4 * n)) & 3) switch { 0 => 1, 1 => 2, 2 => 8, _ => 4 };

    private ulong BreakpointAddress(int n) => (&p.State->Dr0)[n];

    /// <summary>
    /// True when an instruction breakpoint fires at <paramref name="linearRip"/>; DR6 is set then and the dispatcher delivers #DB as a fault.
    /// None does while RFLAGS.RF is set, nor behind MOV SS or POP SS where the vendor says so.
    /// </summary>
    public bool InstructionBreakpoint(ulong linearRip)
    {
        ProcessorState* s = p.State;
        if ((s->Dr7 & Dr7Enables) == 0 || (s->FlagsOther & (uint)Rflags.Rf) != 0
            || (p.Events.InMovSsShadow && p.Model.Behavior.MovSsHoldsBackInstructionBreakpoint)) return false;
        ulong matched = 0;
        bool fires = false;
        for (int n = 0; n < 4; n++)
        {
            if (BreakpointType(n) != 0 || BreakpointAddress(n) != linearRip) continue;
            matched |= 1ul << n;
            fires |= IsEnabled(n);
        }
        if (!fires) return false;
        SetDr6(s->Dr6 & ~Dr6Breakpoints | matched, matched);
        return true;
    }

    /// <summary>Notes a data access of 1 to 64 bytes, so that a breakpoint on it traps after the instruction.</summary>
    public void DataAccess(ulong linear, int size, bool write)
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
    public void PortAccessed(ushort port, int size)
    {
        ProcessorState* s = p.State;
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
        p.WantAttention();
    }

    /// <summary>
    /// Delivers the #DB trap of a data or I/O breakpoint or of a task switch, with RIP behind the instruction. False when there is none, or when MOV SS or POP
    /// SS holds it back for one instruction.
    /// </summary>
    public bool TakeDebugTrap()
    {
        if (_pendingDr6 == 0) return false;
        if (p.Events.InMovSsShadow)
        {
            p.WantAttention();
            return false;
        }
        DeliverDebugTrap(0);
        return true;
    }

    /// <summary>The task that was switched to has the T bit set in its TSS.</summary>
    public void TrapAfterTaskSwitch() => RecordTrap(Dr6Bt);

    /// <summary>A debug trap waits for the end of the instruction.</summary>
    public bool DebugTrapPending => _pendingDr6 != 0;

    /// <summary>SYSRET that sets TF traps at once, not one instruction later.</summary>
    public void SingleStepNow() => RecordTrap(Dr6Bs);

    /// <summary>RFLAGS.RF was loaded: it holds for the instruction that begins at this count of retired instructions.</summary>
    public void KeepResumeFlag(ulong retired) => _resumeFlagAt = retired;

    /// <summary>RF was set when the instruction that just completed began: clears it unless the instruction itself loaded it (IRET, task switch).</summary>
    public void ClearResumeFlag()
    {
        if (_resumeFlagAt != p.State->Retired) p.State->FlagsOther &= ~(uint)Rflags.Rf;
    }

    /// <summary>TF was set when the instruction that just completed began: single-step trap, together with what else is pending.</summary>
    public void AfterSingleStep()
    {
        if (p.Events.InMovSsShadow || _noSingleStepAt == p.State->Retired) return;
        DeliverDebugTrap(Dr6Bs);
    }

    /// <summary>As <see cref="AfterSingleStep"/>, but the trap waits.</summary>
    public void NoteSingleStep()
    {
        if (!p.Events.InMovSsShadow && _noSingleStepAt != p.State->Retired) RecordTrap(Dr6Bs);
    }

    private void DeliverDebugTrap(ulong bits)
    {
        if ((p.Controls.ExceptionBitmap != 0 || p.Memory.Rights.WereTaken || p.GuestHypervisor != null) && (p.Exits.Pending || p.Exits.MustExitFirst))
        {
            // The instruction's own exits come first: the trap, or what comes up when it is delivered, may be one, too.
            RecordTrap(bits);
            return;
        }
        _pendingDr6 |= bits;
        MergeDebugTrap();
        if (p.Exits.TryReflectException(Vector.Db, null)) return;
        if (p.Exits.Intercepts(Vector.Db)) p.Exits.RequestExit(ExitReason.Exception, (ulong)Vector.Db);
        else p.Delivery.DeliverException(Vector.Db, null);
    }

    /// <summary>Moves what is pending to DR6: the #DB at hand reports it.</summary>
    public void MergeDebugTrap()
    {
        ProcessorState* s = p.State;
        SetDr6(s->Dr6 & ~((_pendingDr6 & Dr6Breakpoints) != 0 ? Dr6Breakpoints : 0) | _pendingDr6, _pendingDr6);
        _pendingDr6 = 0;
    }

    /// <summary>The state is that of a processor to which nothing has happened yet.</summary>
    public void Reset()
    {
        _noSingleStepAt = _resumeFlagAt = ulong.MaxValue;
        _pendingDr6 = 0;
        UpdateBreakpoints();
    }

    /// <summary>What waits, in the bits of the pending debug exceptions of a VMCS; it waits no longer.</summary>
    public ulong TakePending()
    {
        ulong pending = _pendingDr6;
        _pendingDr6 = 0;
        return (pending & (Dr6Breakpoints | Dr6Bs)) | ((pending & Dr6Breakpoints) != 0 ? PendingEnabled : 0);
    }

    /// <summary>Bit of the pending debug exceptions: at least one of the breakpoints that were met is enabled.</summary>
    private const ulong PendingEnabled = 1 << 12;

    /// <summary>The pending debug exceptions of a VMCS that is entered.</summary>
    /// <param name="isDropped">An event was injected that they do not outlive.</param>
    public void SetPending(ulong pending, bool isDropped)
    {
        if (isDropped || (pending & (PendingEnabled | Dr6Bs)) == 0) return;
        RecordTrap(pending & (Dr6Breakpoints | Dr6Bs));
    }

    /// <summary>Another program's state is in force, with its own debug registers; the instruction before was not this program's.</summary>
    public void EnterOtherMode()
    {
        _noSingleStepAt = ulong.MaxValue;
        _pendingDr6 = 0;
        _resumeFlagAt = (p.State->FlagsOther & (uint)Rflags.Rf) != 0 ? p.State->Retired : ulong.MaxValue;
        UpdateBreakpoints();
    }

    public void Save(CpuState state) => state.PendingDebug = _pendingDr6;

    public void Restore(CpuState state)
    {
        _pendingDr6 = state.PendingDebug;
        if ((p.State->FlagsOther & (uint)Rflags.Rf) != 0) KeepResumeFlag(p.State->Retired);
    }

    /// <summary>DR4 and DR5 are DR6 and DR7 unless CR4.DE. With DR7.GD any access raises #DB.</summary>
    private int ResolveDebugRegister(int number)
    {
        ProcessorState* s = p.State;
        if (number is 4 or 5)
        {
            if ((s->Cr4 & (ulong)Cr4.De) != 0) throw p.InvalidOpcode();
            number += 2;
        }
        else if (number > 7)
        {
            throw p.InvalidOpcode();
        }
        if ((s->Dr7 & Dr7Gd) != 0)
        {
            SetDr6(s->Dr6 | Dr6Bd, Dr6Bd);
            throw p.Fault(Vector.Db);
        }
        return number;
    }

    /// <summary>DR6, DR7 with their fixed bits.</summary>
    public static ulong Dr6Of(ulong value) => value & (Dr6Breakpoints | Dr6Bd | Dr6Bs | Dr6Bt) | Dr6Fixed;

    /// <inheritdoc cref="Dr6Of"/>
    public static ulong Dr7Of(ulong value) => value & ~0xFFFF_FFFF_0000_D800ul | Dr7Fixed;

    /// <summary>Raises what an access to a debug register raises before any intercept.</summary>
    public void CheckAccess(int number) => ResolveDebugRegister(number);

    public ulong ReadDebugRegister(int number)
    {
        number = ResolveDebugRegister(number);
        return number switch { 6 => p.State->Dr6, 7 => p.State->Dr7, _ => BreakpointAddress(number) };
    }

    public void WriteDebugRegister(int number, ulong value)
    {
        ProcessorState* s = p.State;
        number = ResolveDebugRegister(number);
        if (number >= 6 && value >> 32 != 0) throw p.GeneralProtection();
        switch (number)
        {
            case 6: s->Dr6 = Dr6Of(value); break;
            case 7: s->Dr7 = Dr7Of(value); break;
            default: (&s->Dr0)[number] = value; break;
        }
        UpdateBreakpoints();
        p.ModeChanged();
    }

    /// <summary>The instruction loads TF together with a new privilege (INT n, SYSCALL): no single-step trap follows it.</summary>
    public void SuppressSingleStep() => _noSingleStepAt = p.State->Retired;

    /// <inheritdoc cref="SuppressSingleStep()"/>
    public void SuppressSingleStep(Insn* i) => _noSingleStepAt = p.State->Retired + i->Ordinal + 1;
}

/// <summary>MOV to and from debug registers; R0 or R1 is the register's number.</summary>
internal static unsafe class DebugInstructions
{
    public static Insn* Read<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, global::System.Numerics.IBinaryInteger<T>
    {
        Register.Set(s, i->R0, T.CreateTruncating(p.Debug.ReadDebugRegister(i->R1)));
        return i + 1;
    }

    public static Insn* Write<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, global::System.Numerics.IBinaryInteger<T>
    {
        p.Debug.WriteDebugRegister(i->R0, ulong.CreateTruncating(Register.Get<T>(s, i->R1)));
        return Flow.Leave(s, i);
    }
}
