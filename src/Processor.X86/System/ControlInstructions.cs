using System.Numerics;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>Control and debug registers, MSRs, TLB and cache control, time, interrupt flag, HLT and the like.</summary>
internal static unsafe class ControlInstructions
{
    /// <summary>MOV r, CRn; outside 64-bit mode the upper half does not exist.</summary>
    public static Insn* MoveFromCr<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong value;
        switch (i->R1)
        {
            case 0: value = s->Cr0; break;
            case 2: value = s->Cr2; break;
            case 3: value = s->Cr3; break;
            case 4: value = s->Cr4; break;
            case 8:
                if (!p.Exits.TakeCompletion(i, ExitReason.CrAccess)) return p.Exits.ExitForCompletion(i, ExitReason.CrAccess, 8, sizeof(T));
                value = p.Exit.Data & 0xF;
                break;
            default: throw p.InvalidOpcode();
        }
        Register.Set(s, i->R0, T.CreateTruncating(value));
        return Flow.Leave(s, i);
    }

    public static Insn* MoveToCr<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong value = ulong.CreateTruncating(Register.Get<T>(s, i->R1));
        switch (i->R0)
        {
            case 0: p.ControlRegisters.WriteCr0(value); break;
            case 2: s->Cr2 = value; break;
            case 3: p.ControlRegisters.WriteCr3(value); break;
            case 4: p.ControlRegisters.WriteCr4(value); break;
            case 8:
                if (value > 0xF) throw p.GeneralProtection();
                p.Exits.RequestExit(ExitReason.CrAccess, 8, sizeof(T), isWrite: true, data: value);
                break;
            default: throw p.InvalidOpcode();
        }
        return Flow.Leave(s, i);
    }

    public static Insn* Clts(Processor p, ProcessorState* s, Insn* i)
    {
        s->Cr0 &= ~(ulong)Cr0.Ts;
        p.ModeChanged();
        return Flow.Leave(s, i);
    }

    /// <summary>Linear address of INVLPG's operand. No segmentation checks: the row says so, and the operand is without its base.</summary>
    public static ulong InvlpgAddress(ProcessorState* s, Insn* i)
    {
        ulong address = Access.EffectiveAddress(s, i);
        var segment = (Seg)((int)(i->Flags & InsnFlags.SegmentMask) / (int)InsnFlags.SegmentShift9);
        bool flat = CpuMode.Is64Bit(s);
        if (!flat || segment is Seg.Fs or Seg.Gs) address += ProcessorState.Segment(s, segment)->Base;
        return flat ? address : (uint)address;
    }

    public static Insn* Invlpg(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = InvlpgAddress(s, i);
        if (p.IsCanonical(address)) p.Tlb.FlushPage(address);
        return Flow.Leave(s, i);
    }

    public static Insn* Invpcid<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong type = ulong.CreateTruncating(Register.Get<T>(s, i->R0));
        ulong at = Access.Address(s, i);
        ulong descriptor = Access.Read<ulong>(p, s, at), address = Access.Read<ulong>(p, s, at + 8);
        if (type > 3 || descriptor > 0xFFF) throw p.GeneralProtection();
        uint pcid = (uint)descriptor;
        if (type < 2 && pcid != 0 && (s->Cr4 & (ulong)Cr4.Pcide) == 0) throw p.GeneralProtection();
        if (type == 0 && !p.IsCanonicalBase(address)) throw p.GeneralProtection();
        switch (type)
        {
            case 0: p.Tlb.FlushPcid(pcid, address); break;
            case 1: p.Tlb.FlushPcid(pcid); break;
            case 2: p.Tlb.Flush(); break;
            // All contexts except globals: dropping globals too is allowed.
            default: p.Tlb.Flush(); break;
        }
        return Flow.Leave(s, i);
    }

    /// <summary>INVD, WBINVD, WBNOINVD: caches are coherent and invisible here.</summary>
    public static Insn* CacheControl(Processor p, ProcessorState* s, Insn* i) => i + 1;

    public static Insn* Rdmsr(Processor p, ProcessorState* s, Insn* i)
    {
        var index = (uint)s->Rcx;
        ulong value;
        if (MsrTable.IsOutside(index, p.Model))
        {
            if (!p.Exits.TakeCompletion(i, ExitReason.Msr)) return p.Exits.ExitForCompletion(i, ExitReason.Msr, index, 8);
            if (p.Exit.Fault) throw p.GeneralProtection();
            value = p.Exit.Data;
            // The hypervisor's deadline is in ticks of the clock, the guest's in its own TSC.
            if (index == MsrIndex.TscDeadline && value != 0) value += p.Msrs.TscOffset;
        }
        else if (!p.Msrs.TryRead(index, out value))
        {
            throw p.GeneralProtection();
        }
        s->Rax = (uint)value;
        s->Rdx = value >> 32;
        return Flow.Leave(s, i);
    }

    public static Insn* Wrmsr(Processor p, ProcessorState* s, Insn* i)
    {
        var index = (uint)s->Rcx;
        ulong value = (uint)s->Rax | s->Rdx << 32;
        if (MsrTable.IsOutside(index, p.Model))
        {
            if (!p.Exits.TakeCompletion(i, ExitReason.Msr))
            {
                if (index == MsrIndex.TscDeadline && value != 0) value = Math.Max(1, value - p.Msrs.TscOffset);
                return p.Exits.ExitForCompletion(i, ExitReason.Msr, index, 8, isWrite: true, data: value);
            }
            if (p.Exit.Fault) throw p.GeneralProtection();
            if (index == MsrIndex.ApicBase) p.Msrs.ApicDisabled = (value & 1 << 11) == 0;
        }
        else if (!p.Msrs.TryWrite(index, value))
        {
            throw p.GeneralProtection();
        }
        return Flow.Leave(s, i);
    }

    public static Insn* Rdtsc(Processor p, ProcessorState* s, Insn* i)
    {
        if (s->Cpl != 0 && (s->Cr4 & (ulong)Cr4.Tsd) != 0) throw p.GeneralProtection();
        ulong tsc = p.Msrs.GuestTsc;
        s->Rax = (uint)tsc;
        s->Rdx = tsc >> 32;
        return i + 1;
    }

    public static Insn* Rdtscp(Processor p, ProcessorState* s, Insn* i)
    {
        Insn* next = Rdtsc(p, s, i);
        s->Rcx = p.Msrs.TscAux;
        return next;
    }

    public static Insn* Rdpid(Processor p, ProcessorState* s, Insn* i)
    {
        *(ulong*)((byte*)s + i->R0) = p.Msrs.TscAux;
        return i + 1;
    }

    /// <summary>The counters of <see cref="MsrTable.LegacyCounters"/> stand at zero; others do not exist.</summary>
    public static Insn* Rdpmc(Processor p, ProcessorState* s, Insn* i)
    {
        if (s->Cpl != 0 && (s->Cr4 & (ulong)Cr4.Pce) == 0) throw p.GeneralProtection();
        if (!p.Model.Behavior.HasLegacyCounters || (uint)s->Rcx >= MsrTable.LegacyCounters) throw p.GeneralProtection();
        s->Rax = 0;
        s->Rdx = 0;
        return i + 1;
    }

    public static Insn* Xgetbv(Processor p, ProcessorState* s, Insn* i)
    {
        if ((s->Cr4 & (ulong)Cr4.Osxsave) == 0) throw p.InvalidOpcode();
        var index = (uint)s->Rcx;
        // XCR0 AND XINUSE: AVX and SSE state count as always in use.
        if (index > 1 || (index == 1 && !p.Model.Has(CpuFeature.Xgetbv1))) throw p.GeneralProtection();
        s->Rax = (uint)s->Xcr0;
        s->Rdx = s->Xcr0 >> 32;
        return i + 1;
    }

    public static Insn* Xsetbv(Processor p, ProcessorState* s, Insn* i)
    {
        if ((s->Cr4 & (ulong)Cr4.Osxsave) == 0) throw p.InvalidOpcode();
        if (s->Cpl != 0) throw p.GeneralProtection();
        p.ControlRegisters.WriteXcr((uint)s->Rcx, (uint)s->Rax | s->Rdx << 32);
        return Flow.Leave(s, i);
    }

    public static Insn* Rdpkru(Processor p, ProcessorState* s, Insn* i)
    {
        if ((s->Cr4 & (ulong)Cr4.Pke) == 0) throw p.InvalidOpcode();
        if ((uint)s->Rcx != 0) throw p.GeneralProtection();
        s->Rax = s->Pkru;
        s->Rdx = 0;
        return i + 1;
    }

    public static Insn* Wrpkru(Processor p, ProcessorState* s, Insn* i)
    {
        if ((s->Cr4 & (ulong)Cr4.Pke) == 0) throw p.InvalidOpcode();
        if ((uint)s->Rcx != 0 || (uint)s->Rdx != 0) throw p.GeneralProtection();
        s->Pkru = (uint)s->Rax;
        p.ModeChanged();
        return i + 1;
    }

    public static Insn* Clac(Processor p, ProcessorState* s, Insn* i) => SetAlignmentCheck(p, s, i, 0);

    public static Insn* Stac(Processor p, ProcessorState* s, Insn* i) => SetAlignmentCheck(p, s, i, (uint)Rflags.Ac);

    private static Insn* SetAlignmentCheck(Processor p, ProcessorState* s, Insn* i, uint value)
    {
        if (s->Cpl != 0) throw p.InvalidOpcode();
        s->FlagsOther = s->FlagsOther & ~(uint)Rflags.Ac | value;
        p.ModeChanged();
        return Flow.Leave(s, i);
    }

    public static Insn* Hlt(Processor p, ProcessorState* s, Insn* i)
    {
        // A debug trap of the instruction itself ends the halt at once.
        if ((s->FlagsOther & (uint)Rflags.Tf) == 0 && !p.Debug.DebugTrapPending && p.GuestHypervisor is not { EndsHalt: true })
        {
            p.Exits.RequestExit(ExitReason.Hlt);
            p.Events.Activity = CpuActivity.Halted;
        }
        return Flow.Leave(s, i);
    }

    /// <summary>MONITOR: the address has to be readable; there is nothing to arm, since MWAIT may end at any time.</summary>
    public static Insn* Monitor(Processor p, ProcessorState* s, Insn* i)
    {
        if (s->Cpl != 0) throw p.InvalidOpcode();
        if ((uint)s->Rcx != 0) throw p.GeneralProtection();
        var segment = (Seg)((int)(i->Flags & InsnFlags.SegmentMask) / (int)InsnFlags.SegmentShift9);
        ulong mask = (i->Flags & InsnFlags.Address16) != 0 ? 0xFFFF : (i->Flags & InsnFlags.Address32) != 0 ? 0xFFFF_FFFF : ulong.MaxValue;
        Access.Read<byte>(p, s, p.Segments.LinearAddress(segment, s->Rax & mask, 1, AccessKind.Read));
        return i + 1;
    }

    /// <summary>MWAIT without extensions: ends at once as far as the guest can tell; the hypervisor may let the vCPU wait.</summary>
    public static Insn* Mwait(Processor p, ProcessorState* s, Insn* i)
    {
        if (s->Cpl != 0) throw p.InvalidOpcode();
        if ((uint)s->Rcx != 0) throw p.GeneralProtection();
        if ((p.Controls.Instructions & InterceptedInstructions.Mwait) != 0) p.Exits.RequestExit(ExitReason.Mwait);
        return Flow.Leave(s, i);
    }

    private static int Iopl(ProcessorState* s) => (int)(s->FlagsOther >> 12) & 3;

    /// <summary>CLI and STI above IOPL act on VIF: virtual-8086 mode with CR4.VME, CPL 3 with CR4.PVI. Else #GP(0).</summary>
    private static bool ActsOnVif(Processor p, ProcessorState* s)
    {
        if (s->Cpl <= Iopl(s)) return false;
        ulong extension = CpuMode.IsVirtual8086(s) ? (ulong)Cr4.Vme : s->Cpl == 3 ? (ulong)Cr4.Pvi : 0;
        return (s->Cr4 & extension) != 0 ? true : throw p.GeneralProtection();
    }

    public static Insn* Cli(Processor p, ProcessorState* s, Insn* i)
    {
        s->FlagsOther &= ~(uint)(ActsOnVif(p, s) ? Rflags.Vif : Rflags.If);
        return i + 1;
    }

    public static Insn* Sti(Processor p, ProcessorState* s, Insn* i)
    {
        if (ActsOnVif(p, s))
        {
            if ((s->FlagsOther & (uint)Rflags.Vip) != 0) throw p.GeneralProtection();
            s->FlagsOther |= (uint)Rflags.Vif;
        }
        else if ((s->FlagsOther & (uint)Rflags.If) == 0)
        {
            s->FlagsOther |= (uint)Rflags.If;
            p.Events.BeginInterruptShadow(i, movSs: false);
        }
        return Flow.Leave(s, i);
    }

    private static void CheckFsgsbase(Processor p, ProcessorState* s)
    {
        if ((s->Cr4 & (ulong)Cr4.Fsgsbase) == 0) throw p.InvalidOpcode();
    }

    public static Insn* ReadBase<T, TSeg>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where TSeg : struct, ISegmentNumber
    {
        CheckFsgsbase(p, s);
        Register.Set(s, i->R0, T.CreateTruncating(ProcessorState.Segment(s, TSeg.Number)->Base));
        return i + 1;
    }

    public static Insn* WriteBase<T, TSeg>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where TSeg : struct, ISegmentNumber
    {
        CheckFsgsbase(p, s);
        ulong value = ulong.CreateTruncating(Register.Get<T>(s, i->R0));
        if (!p.IsCanonicalBase(value)) throw p.GeneralProtection();
        ProcessorState.Segment(s, TSeg.Number)->Base = value;
        return i + 1;
    }

    /// <summary>VMCALL, VMMCALL: for a hypervisor that takes calls.</summary>
    public static Insn* Hypercall(Processor p, ProcessorState* s, Insn* i)
    {
        // What a guest of a hypervisor inside the guest calls is no affair of ours.
        if ((p.Controls.Instructions & InterceptedInstructions.Hypercall) == 0 || p.GuestMode.IsActive) throw p.InvalidOpcode();
        if (!p.Exits.TakeCompletion(i, ExitReason.Hypercall))
        {
            p.Exit.Call = new(s->Rax, s->Rbx, s->Rcx, s->Rdx, s->Rsi, s->Cpl, CpuMode.Is64Bit(s));
            return p.Exits.ExitForCompletion(i, ExitReason.Hypercall, size: 8, data: s->Rax);
        }
        s->Rax = p.Exit.Data;
        return Flow.Leave(s, i);
    }

    /// <summary>RSM outside system-management mode, which this processor never enters.</summary>
    public static Insn* Rsm(Processor p, ProcessorState* s, Insn* i) => throw p.InvalidOpcode();

    public static Insn* Cpuid(Processor p, ProcessorState* s, Insn* i)
    {
        CpuidResult r = CpuidLeaves.Query(p.CpuidSubject, (uint)s->Rax, (uint)s->Rcx);
        s->Rax = r.Eax;
        s->Rbx = r.Ebx;
        s->Rcx = r.Ecx;
        s->Rdx = r.Edx;
        return i + 1;
    }
}
