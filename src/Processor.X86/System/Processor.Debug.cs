namespace Bunraku.Processor.X86;

/// <summary>Debug registers, breakpoints, single step. Intel SDM vol. 3B, "Debug, Branch Profile, TSC…", sections "Debug Registers" and "Debug Exceptions".</summary>
public sealed unsafe partial class Processor
{
    private const ulong Dr6Fixed = 0xFFFF_0FF0, Dr6Breakpoints = 0xF, Dr6Bd = 1 << 13, Dr6Bs = 1 << 14, Dr6Bt = 1 << 15;
    private const ulong Dr7Fixed = 0x400, Dr7Gd = 1 << 13, Dr7Enables = 0xFF;

    /// <summary>DR6 bits of data and I/O breakpoints and task switches, raised as a trap after the instruction.</summary>
    private ulong _pendingDr6;

    /// <summary>Some breakpoint is enabled in DR7.</summary>
    internal bool BreakpointsEnabled => (State->Dr7 & Dr7Enables) != 0;

    /// <summary>An instruction breakpoint is enabled, so that instructions have to be executed one at a time.</summary>
    internal bool HasInstructionBreakpoints => HasBreakpoints(type: 0);

    /// <summary>A data breakpoint is enabled: the MMU has to call <see cref="DataAccess"/>.</summary>
    internal bool HasDataBreakpoints => HasBreakpoints(1) || HasBreakpoints(3);

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
    /// Not to be asked while RFLAGS.RF is set or after MOV SS or POP SS.
    /// </summary>
    internal bool InstructionBreakpoint(ulong linearRip)
    {
        ProcessorState* s = State;
        if ((s->Dr7 & Dr7Enables) == 0 || (s->FlagsOther & (uint)Rflags.Rf) != 0 || InMovSsShadow) return false;
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
    internal void DataAccess(ulong linear, int size, bool write)
    {
        for (int n = 0; n < 4; n++)
        {
            int type = BreakpointType(n);
            if (IsEnabled(n) && (type == 3 || (type == 1 && write)) && Overlaps(n, linear, size)) _pendingDr6 |= 1ul << n;
        }
    }

    /// <summary>Notes an access to a port, for I/O breakpoints.</summary>
    internal void PortAccessed(ushort port, int size)
    {
        ProcessorState* s = State;
        if ((s->Dr7 & Dr7Enables) == 0 || (s->Cr4 & (ulong)Cr4.De) == 0) return;
        for (int n = 0; n < 4; n++)
        {
            if (IsEnabled(n) && BreakpointType(n) == 2 && Overlaps(n, port, size)) _pendingDr6 |= 1ul << n;
        }
    }

    private bool Overlaps(int n, ulong address, int size)
    {
        ulong length = (ulong)BreakpointLength(n);
        ulong start = BreakpointAddress(n) & ~(length - 1);
        return address < start + length && start < address + (ulong)size;
    }

    /// <summary>
    /// After each instruction while TF, RF or a breakpoint is in play: clears RF as the instruction's end does, and returns true when a debug trap is due
    /// (DR6 is set; the dispatcher delivers #DB with RIP behind the instruction). MOV SS and POP SS hold data breakpoints back and swallow the single step.
    /// </summary>
    /// <param name="trapFlag">RFLAGS.TF as the instruction began.</param>
    internal bool EndOfInstruction(bool trapFlag)
    {
        ProcessorState* s = State;
        if (ResumeFlagAt != s->Retired) s->FlagsOther &= ~(uint)Rflags.Rf;
        if (InMovSsShadow) return false;
        ulong bits = _pendingDr6 | (trapFlag ? Dr6Bs : 0);
        _pendingDr6 = 0;
        if (bits == 0) return false;
        s->Dr6 = s->Dr6 & ~((bits & Dr6Breakpoints) != 0 ? Dr6Breakpoints : 0) | bits;
        return true;
    }

    /// <summary>A trap of a data or I/O breakpoint or of a task switch waits for <see cref="EndOfInstruction"/>.</summary>
    internal bool DebugTrapPending => _pendingDr6 != 0;

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
