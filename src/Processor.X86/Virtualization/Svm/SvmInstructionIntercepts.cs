using System.Collections.Frozen;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Instructions of the guest that the VMCB intercepts, and those that mean something else in a guest. The decoder has checked what makes an instruction
/// undefined and its privilege; exceptions that come before the intercept are left to the instruction's own handler.
/// </summary>
/// <remarks>AMD APM vol. 2, "Instruction Intercepts", "IOIO Intercepts", "MSR Intercepts", "Decode Assists".</remarks>
internal sealed unsafe class SvmInstructionIntercepts(Processor p, Svm svm)
{
    private const ulong MovFlag = 1ul << 63;

    /// <summary>Intercepts that depend on nothing but their bit.</summary>
    private static readonly FrozenDictionary<GuestIntercepts, (SvmIntercepts1 First, SvmIntercepts2 Second, SvmExit Exit)> s_plain =
        new Dictionary<GuestIntercepts, (SvmIntercepts1, SvmIntercepts2, SvmExit)>
        {
#pragma warning disable IDE0055 // one aligned row an intercept
            [GuestIntercepts.Cpuid]   = (SvmIntercepts1.Cpuid,     0, SvmExit.Cpuid),
            [GuestIntercepts.Rdtsc]   = (SvmIntercepts1.Rdtsc,     0, SvmExit.Rdtsc),
            [GuestIntercepts.Rdpmc]   = (SvmIntercepts1.Rdpmc,     0, SvmExit.Rdpmc),
            [GuestIntercepts.Pushf]   = (SvmIntercepts1.Pushf,     0, SvmExit.Pushf),
            [GuestIntercepts.Popf]    = (SvmIntercepts1.Popf,      0, SvmExit.Popf),
            [GuestIntercepts.Rsm]     = (SvmIntercepts1.Rsm,       0, SvmExit.Rsm),
            [GuestIntercepts.Iret]    = (SvmIntercepts1.Iret,      0, SvmExit.Iret),
            [GuestIntercepts.Invd]    = (SvmIntercepts1.Invd,      0, SvmExit.Invd),
            [GuestIntercepts.Hlt]     = (SvmIntercepts1.Hlt,       0, SvmExit.Hlt),
            [GuestIntercepts.Sidt]    = (SvmIntercepts1.IdtrRead,  0, SvmExit.IdtrRead),
            [GuestIntercepts.Sgdt]    = (SvmIntercepts1.GdtrRead,  0, SvmExit.GdtrRead),
            [GuestIntercepts.Sldt]    = (SvmIntercepts1.LdtrRead,  0, SvmExit.LdtrRead),
            [GuestIntercepts.Str]     = (SvmIntercepts1.TrRead,    0, SvmExit.TrRead),
            [GuestIntercepts.Lidt]    = (SvmIntercepts1.IdtrWrite, 0, SvmExit.IdtrWrite),
            [GuestIntercepts.Lgdt]    = (SvmIntercepts1.GdtrWrite, 0, SvmExit.GdtrWrite),
            [GuestIntercepts.Lldt]    = (SvmIntercepts1.LdtrWrite, 0, SvmExit.LdtrWrite),
            [GuestIntercepts.Ltr]     = (SvmIntercepts1.TrWrite,   0, SvmExit.TrWrite),
            [GuestIntercepts.Rdtscp]  = (0, SvmIntercepts2.Rdtscp,    SvmExit.Rdtscp),
            [GuestIntercepts.Icebp]   = (0, SvmIntercepts2.Icebp,     SvmExit.Icebp),
            [GuestIntercepts.Wbinvd]  = (0, SvmIntercepts2.Wbinvd,    SvmExit.Wbinvd),
            [GuestIntercepts.Monitor] = (0, SvmIntercepts2.Monitor,   SvmExit.Monitor),
            [GuestIntercepts.Xsetbv]  = (0, SvmIntercepts2.Xsetbv,    SvmExit.Xsetbv),
            [GuestIntercepts.Vmmcall] = (0, SvmIntercepts2.Vmmcall,   SvmExit.Vmmcall),
#pragma warning restore IDE0055
        }.ToFrozenDictionary();

    /// <summary>PAUSE may still be executed so often before it exits.</summary>
    public int PauseCount { get; set; }

    /// <summary><see cref="ProcessorState.Retired"/> at the last PAUSE: the unit of the filter's threshold is an instruction.</summary>
    public ulong LastPause { get; set; }

    /// <summary>A guest is entered, or its state was restored: from now on the processor asks about the instructions that concern the VMCB.</summary>
    /// <returns>As <see cref="Processor.SelectGuestIntercepts"/>.</returns>
    public bool PutInForce()
    {
        var asked = new Asked(*(ulong*)&svm.Control->CrReads, svm.Control->Intercepts1, svm.Control->Intercepts2, svm.Control->Intercepts3,
            svm.Events.MasksPhysicalInterrupts, svm.Events.HasVirtualNmi, svm.ScalesTsc, svm.Avic.HasMsrs);
        if (asked != _asked) (_asked, _wanted) = (asked, Wanted());
        return p.SelectGuestIntercepts(_wanted);
    }

    /// <summary>All that the set depends on.</summary>
    private readonly record struct Asked(ulong Registers, SvmIntercepts1 First, SvmIntercepts2 Second, SvmIntercepts3 Third, bool Masks, bool VirtualNmi,
        bool Scales, bool ApicMsrs);

    private Asked _asked;
    private GuestIntercepts _wanted = GuestIntercepts.Vmmcall | GuestIntercepts.Vmcall; // what nothing asks for

    /// <summary>VMRUN loads the pause filter.</summary>
    public void BeginPauses()
    {
        PauseCount = svm.Control->PauseFilterCount;
        LastPause = p.State->Retired;
    }

    private GuestIntercepts Wanted()
    {
        VmcbControl* c = svm.Control;
        // VMMCALL that is not intercepted raises #UD, and is no call to whoever runs the host.
        GuestIntercepts set = GuestIntercepts.Vmmcall | GuestIntercepts.Vmcall;
        foreach ((GuestIntercepts kind, (SvmIntercepts1 first, SvmIntercepts2 second, _)) in s_plain)
        {
            if ((c->Intercepts1 & first) != 0 || (c->Intercepts2 & second) != 0) set |= kind;
        }
        for (int n = 0; n < 5; n++)
        {
            int register = n switch { 0 => 0, 4 => 8, _ => n + 1 };
            if ((c->CrReads >> register & 1) != 0) set |= (GuestIntercepts)((ulong)GuestIntercepts.ReadCr0 << n);
            if ((c->CrWrites >> register & 1) != 0) set |= (GuestIntercepts)((ulong)GuestIntercepts.WriteCr0 << n);
        }
        bool Has1(SvmIntercepts1 bit) => (c->Intercepts1 & bit) != 0;
        if ((c->CrReads & 1) != 0) set |= GuestIntercepts.Smsw;
        if ((c->CrWrites & 1) != 0) set |= GuestIntercepts.Clts | GuestIntercepts.Lmsw;
        if (Has1(SvmIntercepts1.Cr0SelectiveWrite)) set |= GuestIntercepts.WriteCr0 | GuestIntercepts.Lmsw;
        if (c->DrReads != 0) set |= GuestIntercepts.ReadDr;
        if (c->DrWrites != 0) set |= GuestIntercepts.WriteDr;
        if (Has1(SvmIntercepts1.SoftwareInterrupt)) set |= GuestIntercepts.Int;
        if ((c->Intercepts3 & SvmIntercepts3.Invpcid) != 0) set |= GuestIntercepts.Invpcid;
        if (Has1(SvmIntercepts1.Pause)) set |= GuestIntercepts.Pause;
        if (Has1(SvmIntercepts1.Invlpg)) set |= GuestIntercepts.Invlpg;
        if (Has1(SvmIntercepts1.Io)) set |= GuestIntercepts.Io | GuestIntercepts.IoString;
        if (Has1(SvmIntercepts1.Msr) || svm.Avic.HasMsrs) set |= GuestIntercepts.Rdmsr | GuestIntercepts.Wrmsr;
        if ((c->Intercepts2 & (SvmIntercepts2.Mwait | SvmIntercepts2.MwaitArmed)) != 0) set |= GuestIntercepts.Mwait;
        if (svm.Events.MasksPhysicalInterrupts) set |= GuestIntercepts.ReadCr8 | GuestIntercepts.WriteCr8;
        if (svm.Events.HasVirtualNmi) set |= GuestIntercepts.Iret;
        // Translated code does not know of the ratio.
        if (svm.ScalesTsc) set |= GuestIntercepts.Rdtsc | GuestIntercepts.Rdtscp;
        return set;
    }

    /// <summary>An instruction of the set above. False: its own handler executes it.</summary>
    public bool Take(GuestIntercepts kind, Insn* i)
    {
        ProcessorState* s = p.State;
        VmcbControl* c = svm.Control;
        switch (kind)
        {
            case GuestIntercepts.Vmcall:
                throw p.InvalidOpcode();
            case GuestIntercepts.Vmmcall when (c->Intercepts2 & SvmIntercepts2.Vmmcall) == 0:
                throw p.InvalidOpcode();
            case GuestIntercepts.Iret when (c->Intercepts1 & SvmIntercepts1.Iret) == 0:
                svm.Events.EndVirtualNmi();
                return false;
            case >= GuestIntercepts.ReadCr0 and <= GuestIntercepts.WriteCr8:
                return TakeControlRegister(i);
            case GuestIntercepts.Clts:
                return (c->CrWrites & 1) != 0 && Exit(i, SvmExit.WriteCr0);
            case GuestIntercepts.Lmsw:
                return (c->CrWrites & 1) != 0 ? Exit(i, SvmExit.WriteCr0) : Exit(i, SvmExit.Cr0SelectiveWrite);
            case GuestIntercepts.Smsw:
                return !IsForbiddenByUmip && Exit(i, SvmExit.ReadCr0);
            case GuestIntercepts.ReadDr:
                return TakeDebugRegister(i, i->R1, i->R0, c->DrReads, SvmExit.ReadDr0);
            case GuestIntercepts.WriteDr:
                return TakeDebugRegister(i, i->R0, i->R1, c->DrWrites, SvmExit.WriteDr0);
            case GuestIntercepts.Int:
                return Exit(i, SvmExit.SoftwareInterrupt, (byte)i->Imm);
            case GuestIntercepts.Pause:
                return !PassesPauseFilter(i) && Exit(i, SvmExit.Pause);
            case GuestIntercepts.Invlpg:
                return Exit(i, SvmExit.Invlpg, ControlInstructions.InvlpgAddress(s, i));
            case GuestIntercepts.Invpcid:
                ulong type = (Code)i->Code == Code.Invpcid_r64_m128 ? X86.Register.Get<ulong>(s, i->R0) : X86.Register.Get<uint>(s, i->R0);
                return Exit(i, SvmExit.Invpcid, Access.Address(s, i), type);
            case GuestIntercepts.Io or GuestIntercepts.IoString:
                return TakePort(i, kind == GuestIntercepts.IoString);
            case GuestIntercepts.Rdmsr or GuestIntercepts.Wrmsr:
                bool write = kind == GuestIntercepts.Wrmsr;
                if ((c->Intercepts1 & SvmIntercepts1.Msr) != 0 && InterceptsMsr((uint)s->Rcx, write)) return Exit(i, SvmExit.Msr, write ? 1u : 0);
                return svm.Avic.IsMsr((uint)s->Rcx) && TakeApicMsr(i, (uint)s->Rcx, write);
            case GuestIntercepts.Mwait:
                return s->Cpl == 0 && Exit(i, (c->Intercepts2 & SvmIntercepts2.Mwait) != 0 ? SvmExit.Mwait : SvmExit.MwaitConditional);
            default:
                return TakePlain(kind, i);
        }
    }

    private bool TakePlain(GuestIntercepts kind, Insn* i)
    {
        if (!s_plain.TryGetValue(kind, out (SvmIntercepts1 First, SvmIntercepts2 Second, SvmExit Exit) row)) return false;
        VmcbControl* c = svm.Control;
        if ((c->Intercepts1 & row.First) == 0 && (c->Intercepts2 & row.Second) == 0) return false;
        return !HasEarlierException(kind) && Exit(i, row.Exit);
    }

    private bool IsForbiddenByUmip => p.State->Cpl != 0 && (p.State->Cr4 & (ulong)Cr4.Umip) != 0;

    /// <summary>An exception that comes before the intercept; the handler raises it.</summary>
    private bool HasEarlierException(GuestIntercepts kind)
    {
        ProcessorState* s = p.State;
        bool user = s->Cpl != 0;
        return kind switch
        {
            GuestIntercepts.Rdtsc or GuestIntercepts.Rdtscp => user && (s->Cr4 & (ulong)Cr4.Tsd) != 0,
            GuestIntercepts.Rdpmc => user && (s->Cr4 & (ulong)Cr4.Pce) == 0,
            GuestIntercepts.Xsetbv => (s->Cr4 & (ulong)Cr4.Osxsave) == 0,
            GuestIntercepts.Monitor => user,
            GuestIntercepts.Sidt or GuestIntercepts.Sgdt or GuestIntercepts.Sldt or GuestIntercepts.Str => IsForbiddenByUmip,
            _ => false,
        };
    }

    /// <summary>#VMEXIT at an instruction, with RIP on it. True.</summary>
    public bool Exit(Insn* i, SvmExit code, ulong info1 = 0, ulong info2 = 0)
    {
        ProcessorState* s = p.State;
        ulong next = Flow.NextRip(s, i);
        Flow.Again(s, i);
        svm.WorldSwitch.Exit(code, info1, info2, nextRip: next);
        return true;
    }

    private bool TakeControlRegister(Insn* i)
    {
        ProcessorState* s = p.State;
        VmcbControl* c = svm.Control;
        var code = (Code)i->Code;
        bool wide = code is Code.Mov_cr_r64 or Code.Mov_r64_cr;
        if (code is Code.Mov_cr_r32 or Code.Mov_cr_r64)
        {
            int register = i->R0;
            ulong value = wide ? X86.Register.Get<ulong>(s, i->R1) : X86.Register.Get<uint>(s, i->R1);
            if ((c->CrWrites >> register & 1) != 0) return Exit(i, (SvmExit)((ulong)SvmExit.WriteCr0 + (uint)register), MoveInfo(i->R1));
            const ulong unselected = (ulong)(Cr0.Ts | Cr0.Mp);
            if (register == 0 && (c->Intercepts1 & SvmIntercepts1.Cr0SelectiveWrite) != 0 && ((value ^ s->Cr0) & ~unselected) != 0)
                return Exit(i, SvmExit.Cr0SelectiveWrite, MoveInfo(i->R1));
            if (register != 8 || !svm.Events.MasksPhysicalInterrupts) return false;
            if (value > 0xF) throw p.GeneralProtection();
            svm.Events.TaskPriority = value;
        }
        else
        {
            int register = i->R1;
            if ((c->CrReads >> register & 1) != 0) return Exit(i, (SvmExit)((ulong)SvmExit.ReadCr0 + (uint)register), MoveInfo(i->R0));
            if (register != 8 || !svm.Events.MasksPhysicalInterrupts) return false;
            if (wide) X86.Register.Set(s, i->R0, svm.Events.TaskPriority);
            else X86.Register.Set(s, i->R0, (uint)svm.Events.TaskPriority);
        }
        Flow.Leave(s, i);
        return true;
    }

    /// <summary>EXITINFO1 of MOV: the general register's number.</summary>
    private ulong MoveInfo(int registerOffset) => svm.Features.DecodeAssists ? MovFlag | (uint)registerOffset / sizeof(ulong) : 0;

    private bool TakeDebugRegister(Insn* i, int number, int register, ushort intercepts, SvmExit first)
    {
        if ((intercepts >> number & 1) == 0) return false;
        p.Debug.CheckAccess(number);
        return Exit(i, (SvmExit)((ulong)first + (uint)number), svm.Features.DecodeAssists ? (uint)register / sizeof(ulong) : 0u);
    }

    /// <summary>AMD APM vol. 2, "Pause Intercept Filtering".</summary>
    private bool PassesPauseFilter(Insn* i)
    {
        if (!svm.Features.PauseFilter) return false;
        ulong now = p.State->Retired + i->Ordinal;
        ushort threshold = svm.Control->PauseFilterThreshold;
        if (threshold != 0 && svm.Features.PauseThreshold && now - LastPause > threshold) PauseCount = svm.Control->PauseFilterCount;
        LastPause = now;
        if (PauseCount == 0) return false;
        PauseCount--;
        return true;
    }

    /// <summary>The MSR permission map: two bits an MSR, in three ranges; all others are intercepted.</summary>
    private bool InterceptsMsr(uint index, bool write)
    {
        uint at = index switch
        {
            < 0x2000 => index,
            >= 0xC000_0000 and < 0xC000_2000 => 0x2000 + (index - 0xC000_0000),
            >= 0xC001_0000 and < 0xC001_2000 => 0x4000 + (index - 0xC001_0000),
            _ => uint.MaxValue,
        };
        if (at == uint.MaxValue) return true;
        ulong map = svm.Control->MsrpmBase & ~0xFFFul;
        return (svm.Memory.Read(map + at / 4) >> (int)(2 * (at & 3) + (write ? 1 : 0)) & 1) != 0;
    }

    /// <summary>A register of the guest's APIC in x2APIC mode. True, or #GP.</summary>
    private bool TakeApicMsr(Insn* i, uint msr, bool write)
    {
        ProcessorState* s = p.State;
        if (Avic.IsFault(msr, write, out ulong info)) return Exit(i, SvmExit.AvicNoAccelerate, info);
        if (write)
        {
            if (!svm.Avic.TryWriteMsr(msr, (uint)s->Rax | s->Rdx << 32)) throw p.GeneralProtection();
        }
        else
        {
            if (!svm.Avic.TryReadMsr(msr, out ulong value)) throw p.GeneralProtection();
            (s->Rax, s->Rdx) = ((uint)value, value >> 32);
        }
        Flow.Leave(s, i);
        return true;
    }

    private bool InterceptsPort(ushort port, int size)
    {
        ulong map = svm.Control->IopmBase & ~0xFFFul;
        for (uint n = port; n < port + (uint)size; n++)
        {
            if ((svm.Memory.Read(map + n / 8) >> (int)(n & 7) & 1) != 0) return true;
        }
        return false;
    }

    private bool TakePort(Insn* i, bool isString)
    {
        ProcessorState* s = p.State;
        (int size, bool isIn) = Shape((Code)i->Code);
        bool immediate = (Code)i->Code is Code.In_AL_imm8 or Code.In_AX_imm8 or Code.In_EAX_imm8 or Code.Out_imm8_AL or Code.Out_imm8_AX or Code.Out_imm8_EAX;
        ushort port = immediate ? (byte)i->Imm : (ushort)s->Rdx;
        bool repeated = isString && (i->Flags & (InsnFlags.Rep | InsnFlags.Repne)) != 0;
        if (!InterceptsPort(port, size)) return false;
        // The permission of the processor's own comes first; and where there is nothing to do, nothing is accessed.
        PortInstructions.CheckPort(p, s, port, size);
        if (repeated && (s->Rcx & Implicit.AddressMask(i)) == 0) return false;
        ulong info = (isIn ? 1u : 0) | (isString ? 4u : 0) | (repeated ? 8u : 0) | (uint)size << 4 | (uint)port << 16;
        if (isString)
        {
            ulong mask = Implicit.AddressMask(i);
            info |= mask == 0xFFFF ? 1u << 7 : mask == uint.MaxValue ? 1u << 8 : 1u << 9;
            if (!isIn) info |= ((uint)(i->Flags & InsnFlags.SegmentMask) / (uint)InsnFlags.SegmentShift9) << 10;
        }
        else
        {
            info |= CpuMode.Is64Bit(s) ? 1u << 9 : s->Cs.Default32 ? 1u << 8 : 1u << 7;
        }
        return Exit(i, SvmExit.Io, info, Flow.NextRip(s, i));
    }

    private static (int Size, bool IsIn) Shape(Code code) => code switch
    {
        Code.In_AL_imm8 or Code.In_AL_DX or Code.Insb_m8_DX => (1, true),
        Code.In_AX_imm8 or Code.In_AX_DX or Code.Insw_m16_DX => (2, true),
        Code.In_EAX_imm8 or Code.In_EAX_DX or Code.Insd_m32_DX => (4, true),
        Code.Out_imm8_AL or Code.Out_DX_AL or Code.Outsb_DX_m8 => (1, false),
        Code.Out_imm8_AX or Code.Out_DX_AX or Code.Outsw_DX_m16 => (2, false),
        _ => (4, false),
    };
}
