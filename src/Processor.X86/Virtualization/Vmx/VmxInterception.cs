using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Which instructions of the guest exit, with which qualification, and which only look at masks and shadows. Intel SDM vol. 3C, "VMX Non-Root Operation".
/// </summary>
internal sealed unsafe class VmxInterception(Processor p, Vmx vmx)
{
    /// <summary>What always exits, or has to be looked at in any guest.</summary>
    private const GuestIntercepts Always = GuestIntercepts.Cpuid | GuestIntercepts.Invd | GuestIntercepts.Xsetbv | GuestIntercepts.Rdmsr | GuestIntercepts.Wrmsr
        | GuestIntercepts.WriteCr0 | GuestIntercepts.WriteCr4 | GuestIntercepts.Clts | GuestIntercepts.Lmsw | GuestIntercepts.Hlt;

    /// <summary>The instructions that <see cref="Take"/> wants to see under the controls in force.</summary>
    public GuestIntercepts Choose()
    {
        GuestIntercepts set = Always;
        Vmcs v = vmx.Current;
        void When(bool condition, GuestIntercepts kind) => set |= condition ? kind : 0;
        When(v[VmcsField.Cr0Mask] != 0, GuestIntercepts.ReadCr0 | GuestIntercepts.Smsw);
        When(v[VmcsField.Cr4Mask] != 0, GuestIntercepts.ReadCr4);
        When(vmx.Has(ProcessorControls.InvlpgExiting), GuestIntercepts.Invlpg);
        When(vmx.Has(ProcessorControls.MwaitExiting), GuestIntercepts.Mwait);
        When(vmx.Has(ProcessorControls.MonitorExiting), GuestIntercepts.Monitor);
        When(vmx.Has(ProcessorControls.RdpmcExiting), GuestIntercepts.Rdpmc);
        When(vmx.Has(ProcessorControls.RdtscExiting) || vmx.ScalesTsc, GuestIntercepts.Rdtsc | GuestIntercepts.Rdtscp);
        When(vmx.Has(ProcessorControls.Cr3LoadExiting), GuestIntercepts.WriteCr3);
        When(vmx.Has(ProcessorControls.Cr3StoreExiting), GuestIntercepts.ReadCr3);
        When(vmx.Has(ProcessorControls.Cr8LoadExiting) || vmx.Has(ProcessorControls.UseTprShadow), GuestIntercepts.WriteCr8);
        When(vmx.Has(ProcessorControls.Cr8StoreExiting) || vmx.Has(ProcessorControls.UseTprShadow), GuestIntercepts.ReadCr8);
        When(vmx.Has(ProcessorControls.MovDrExiting), GuestIntercepts.ReadDr | GuestIntercepts.WriteDr);
        When(vmx.Has(ProcessorControls.UnconditionalIoExiting) || vmx.Has(ProcessorControls.UseIoBitmaps), GuestIntercepts.Io | GuestIntercepts.IoString);
        When(vmx.Has(ProcessorControls.PauseExiting) || vmx.Has(SecondaryControls.PauseLoopExiting), GuestIntercepts.Pause);
        When(vmx.Has(SecondaryControls.DescriptorTableExiting), GuestIntercepts.DescriptorTables);
        When(!vmx.Has(SecondaryControls.EnableRdtscp), GuestIntercepts.Rdtscp | GuestIntercepts.Rdpid);
        When(vmx.Has(SecondaryControls.WbinvdExiting), GuestIntercepts.Wbinvd);
        When(vmx.Has(SecondaryControls.RdrandExiting), GuestIntercepts.Rdrand);
        When(vmx.Has(SecondaryControls.RdseedExiting), GuestIntercepts.Rdseed);
        When(!vmx.Has(SecondaryControls.EnableInvpcid) || vmx.Has(ProcessorControls.InvlpgExiting), GuestIntercepts.Invpcid);
        When(true, GuestIntercepts.Xsaves | GuestIntercepts.Xrstors);
        return set;
    }

    /// <inheritdoc cref="IGuestHypervisor.TakeInstruction"/>
    public bool Take(GuestIntercepts kind, Insn* i, out Insn* next)
    {
        ProcessorState* s = p.State;
        switch (kind)
        {
            case GuestIntercepts.Cpuid: return Leave(i, VmxExitReason.Cpuid, out next);
            case GuestIntercepts.Invd: return Leave(i, VmxExitReason.Invd, out next);
            case GuestIntercepts.Wbinvd: return Leave(i, VmxExitReason.Wbinvd, out next);
            case GuestIntercepts.Hlt: return Halt(s, i, out next);
            case GuestIntercepts.Mwait:
                CheckMonitor(s);
                return Leave(i, VmxExitReason.Mwait, out next); // nothing is armed
            case GuestIntercepts.Monitor:
                CheckMonitor(s);
                return Leave(i, VmxExitReason.Monitor, out next);
            case GuestIntercepts.Pause: return Pause(s, i, out next);
            case GuestIntercepts.Rdtsc: return ReadTsc(s, i, out next);
            case GuestIntercepts.Rdtscp:
                if (!vmx.Has(SecondaryControls.EnableRdtscp)) throw p.InvalidOpcode();
                return ReadTsc(s, i, out next);
            case GuestIntercepts.Rdpid: throw p.InvalidOpcode();
            case GuestIntercepts.Rdpmc:
                if (s->Cpl != 0 && (s->Cr4 & (ulong)Cr4.Pce) == 0) throw p.GeneralProtection();
                return Leave(i, VmxExitReason.Rdpmc, out next);
            case GuestIntercepts.Invlpg: return Leave(i, VmxExitReason.Invlpg, out next, InvlpgAddress(s, i));
            case GuestIntercepts.Invpcid:
                if (!vmx.Has(SecondaryControls.EnableInvpcid)) throw p.InvalidOpcode();
                return Leave(i, VmxExitReason.Invpcid, out next, VmxOperand.Displacement(s, i), VmxOperand.Information(s, i));
            case GuestIntercepts.Rdrand or GuestIntercepts.Rdseed:
                return Leave(i, kind == GuestIntercepts.Rdrand ? VmxExitReason.Rdrand : VmxExitReason.Rdseed, out next, 0,
                    VmxOperand.Number(i->R0) << 3 | OperandSize(i) << 11);
            case GuestIntercepts.Xsetbv:
                if ((s->Cr4 & (ulong)Cr4.Osxsave) == 0) throw p.InvalidOpcode();
                if (s->Cpl != 0) throw p.GeneralProtection();
                return Leave(i, VmxExitReason.Xsetbv, out next);
            case GuestIntercepts.Xsaves or GuestIntercepts.Xrstors: return SupervisorState(kind, s, i, out next);
            case GuestIntercepts.Rdmsr or GuestIntercepts.Wrmsr: return Msr(s, i, kind == GuestIntercepts.Wrmsr, out next);
            case GuestIntercepts.Io or GuestIntercepts.IoString: return Port(s, i, kind == GuestIntercepts.IoString, out next);
            case GuestIntercepts.ReadDr or GuestIntercepts.WriteDr: return DebugRegister(i, kind == GuestIntercepts.WriteDr, out next);
            case GuestIntercepts.Lgdt: return Table(s, i, 2, out next);
            case GuestIntercepts.Lidt: return Table(s, i, 3, out next);
            case GuestIntercepts.Sgdt: return Table(s, i, 0, out next);
            case GuestIntercepts.Sidt: return Table(s, i, 1, out next);
            case GuestIntercepts.Sldt: return Selector(s, i, 0, out next);
            case GuestIntercepts.Str: return Selector(s, i, 1, out next);
            case GuestIntercepts.Lldt: return Selector(s, i, 2, out next);
            case GuestIntercepts.Ltr: return Selector(s, i, 3, out next);
            default: return ControlRegister(kind, s, i, out next);
        }
    }

    private bool Leave(Insn* i, VmxExitReason reason, out Insn* next, ulong qualification = 0, uint information = 0)
    {
        next = vmx.Leave(i, reason, qualification, information);
        return true;
    }

    private static bool Decline(out Insn* next)
    {
        next = null;
        return false;
    }

    private void CheckMonitor(ProcessorState* s)
    {
        if (s->Cpl != 0) throw p.InvalidOpcode();
    }

    private bool Halt(ProcessorState* s, Insn* i, out Insn* next)
    {
        if (vmx.Has(ProcessorControls.HltExiting)) return Leave(i, VmxExitReason.Hlt, out next);
        next = ControlInstructions.Hlt(p, s, i);
        vmx.NoteHalt();
        return true;
    }

    private bool Pause(ProcessorState* s, Insn* i, out Insn* next)
    {
        if (vmx.Has(ProcessorControls.PauseExiting)) return Leave(i, VmxExitReason.Pause, out next);
        if (s->Cpl == 0 && vmx.PauseLoopEnds()) return Leave(i, VmxExitReason.Pause, out next);
        return Decline(out next);
    }

    private bool ReadTsc(ProcessorState* s, Insn* i, out Insn* next)
    {
        if (s->Cpl != 0 && (s->Cr4 & (ulong)Cr4.Tsd) != 0) throw p.GeneralProtection();
        bool isRdtscp = (Code)i->Code == Code.Rdtscp;
        if (vmx.Has(ProcessorControls.RdtscExiting)) return Leave(i, isRdtscp ? VmxExitReason.Rdtscp : VmxExitReason.Rdtsc, out next);
        if (!vmx.ScalesTsc) return Decline(out next);
        ulong tsc = vmx.ScaledTsc;
        s->Rax = (uint)tsc;
        s->Rdx = tsc >> 32;
        if (isRdtscp) s->Rcx = p.Msrs.TscAux;
        next = i + 1;
        return true;
    }

    private ulong InvlpgAddress(ProcessorState* s, Insn* i)
    {
        ulong address = Access.EffectiveAddress(s, i);
        Seg segment = VmxOperand.Segment(i);
        bool wide = CpuMode.Is64Bit(s);
        if (!wide || segment is Seg.Fs or Seg.Gs) address += ProcessorState.Segment(s, segment)->Base;
        return wide ? address : (uint)address;
    }

    /// <summary>Bits 12:11 of the instruction information of RDRAND and RDSEED: 0 for 16 bits, 1 for 32, 2 for 64.</summary>
    private static uint OperandSize(Insn* i) => (Code)i->Code switch
    {
        Code.Rdrand_r16 or Code.Rdseed_r16 => 0,
        Code.Rdrand_r32 or Code.Rdseed_r32 => 1,
        _ => 2,
    };

    private bool SupervisorState(GuestIntercepts kind, ProcessorState* s, Insn* i, out Insn* next)
    {
        if (!vmx.Has(SecondaryControls.EnableXsaves)) throw p.InvalidOpcode();
        if ((s->Cr4 & (ulong)Cr4.Osxsave) == 0) throw p.InvalidOpcode();
        if (s->Cpl != 0) throw p.GeneralProtection();
        ulong components = (uint)s->Rax | s->Rdx << 32;
        if ((components & s->Xss & vmx.Current[VmcsField.XssExitingBitmap]) == 0) return Decline(out next);
        return Leave(i, kind == GuestIntercepts.Xsaves ? VmxExitReason.Xsaves : VmxExitReason.Xrstors, out next, VmxOperand.Displacement(s, i),
            VmxOperand.Addressing(i));
    }

    private bool Table(ProcessorState* s, Insn* i, uint identity, out Insn* next)
    {
        CheckUmip(s, identity < 2);
        return Leave(i, VmxExitReason.GdtrOrIdtr, out next, VmxOperand.Displacement(s, i), VmxOperand.TableInformation(s, i, identity));
    }

    private bool Selector(ProcessorState* s, Insn* i, uint identity, out Insn* next)
    {
        CheckUmip(s, identity < 2);
        return Leave(i, VmxExitReason.LdtrOrTr, out next, VmxOperand.Displacement(s, i), VmxOperand.SelectorInformation(i, identity));
    }

    private void CheckUmip(ProcessorState* s, bool isStore)
    {
        if (isStore && s->Cpl != 0 && (s->Cr4 & (ulong)Cr4.Umip) != 0) throw p.GeneralProtection();
    }

    private bool Msr(ProcessorState* s, Insn* i, bool write, out Insn* next)
    {
        var index = (uint)s->Rcx;
        bool exits = true;
        if (vmx.Has(ProcessorControls.UseMsrBitmaps) && (index <= 0x1FFF || index is >= 0xC000_0000 and <= 0xC000_1FFF))
        {
            // Four bitmaps of 1024 bytes: reads of low and of high numbers, writes of low and of high ones.
            ulong bitmap = vmx.Current[VmcsField.MsrBitmaps] + (write ? 2048ul : 0) + (index >= 0xC000_0000 ? 1024ul : 0);
            exits = vmx.Memory.Bit(bitmap, index & 0x1FFF);
        }
        if (exits) return Leave(i, write ? VmxExitReason.Wrmsr : VmxExitReason.Rdmsr, out next);
        if (index == MsrIndex.Tsc && !write && vmx.ScalesTsc)
        {
            ulong tsc = vmx.ScaledTsc;
            s->Rax = (uint)tsc;
            s->Rdx = tsc >> 32;
            next = Flow.Leave(s, i);
            return true;
        }
        return write ? WriteApic(s, i, index, out next) : ReadApic(s, i, index, out next);
    }

    private bool ReadApic(ProcessorState* s, Insn* i, uint msr, out Insn* next)
    {
        if (!vmx.Apic.TryReadMsr(msr, out ulong value)) return Decline(out next);
        s->Rax = (uint)value;
        s->Rdx = value >> 32;
        next = Flow.Leave(s, i);
        return true;
    }

    private bool WriteApic(ProcessorState* s, Insn* i, uint msr, out Insn* next)
    {
        if (vmx.Apic.WriteMsr(msr, (uint)s->Rax | s->Rdx << 32) is not { } done) return Decline(out next);
        if (!done) throw p.GeneralProtection();
        next = Flow.Leave(s, i);
        return true;
    }

    private bool Port(ProcessorState* s, Insn* i, bool isString, out Insn* next)
    {
        var code = (Code)i->Code;
        bool isInput = code.Mnemonic() is Mnemonic.In or Mnemonic.Insb or Mnemonic.Insw or Mnemonic.Insd;
        bool isImmediate = code is Code.In_AL_imm8 or Code.In_AX_imm8 or Code.In_EAX_imm8 or Code.Out_imm8_AL or Code.Out_imm8_AX or Code.Out_imm8_EAX;
        int size = PortSize(code);
        ushort port = isImmediate ? (byte)i->Imm : (ushort)s->Rdx;
        PortInstructions.CheckPort(p, s, port, size);
        if (!IsPortIntercepted(port, size)) return Decline(out next);
        if (!isString) return Leave(i, VmxExitReason.Io, out next, Qualification(0));
        bool repeats = (i->Flags & (InsnFlags.Rep | InsnFlags.Repne)) != 0;
        ulong mask = (i->Flags & InsnFlags.Address16) != 0 ? 0xFFFF : (i->Flags & InsnFlags.Address32) != 0 ? uint.MaxValue : ulong.MaxValue;
        Seg segment = isInput ? Seg.Es : VmxOperand.Segment(i);
        if (repeats && (s->Rcx & mask) == 0) return Decline(out next);
        ulong offset = (isInput ? s->Rdi : s->Rsi) & mask;
        ulong linear = p.Segments.LinearAddress(segment, offset, size, isInput ? AccessKind.Write : AccessKind.Read);
        Vmcs v = vmx.Current;
        (v[VmcsField.IoRcx], v[VmcsField.IoRsi], v[VmcsField.IoRdi], v[VmcsField.IoRip]) = (s->Rcx, s->Rsi, s->Rdi, s->BlockRip + i->Offset);
        v[VmcsField.GuestLinearAddress] = linear;
        uint addressSize = mask == 0xFFFF ? 0u : mask == uint.MaxValue ? 1u : 2u;
        return Leave(i, VmxExitReason.Io, out next, Qualification(1u << 4 | (repeats ? 1u << 5 : 0)), addressSize << 7 | (uint)segment << 15);

        // Bits 2:0 size minus one, 3 IN, 4 string, 5 REP, 6 immediate, 31:16 the port.
        ulong Qualification(uint bits) => (uint)(size - 1) | (isInput ? 1u << 3 : 0) | bits | (isImmediate ? 1u << 6 : 0) | (uint)port << 16;
    }

    private static int PortSize(Code code) => code switch
    {
        Code.In_AL_imm8 or Code.In_AL_DX or Code.Out_imm8_AL or Code.Out_DX_AL or Code.Insb_m8_DX or Code.Outsb_DX_m8 => 1,
        Code.In_AX_imm8 or Code.In_AX_DX or Code.Out_imm8_AX or Code.Out_DX_AX or Code.Insw_m16_DX or Code.Outsw_DX_m16 => 2,
        _ => 4,
    };

    /// <summary>The bitmaps decide where they are used; an access that wraps around FFFFh exits.</summary>
    private bool IsPortIntercepted(ushort port, int size)
    {
        if (!vmx.Has(ProcessorControls.UseIoBitmaps)) return true;
        if (port + size > 0x1_0000) return true;
        for (int n = 0; n < size; n++)
        {
            uint at = (uint)port + (uint)n;
            if (vmx.Memory.Bit(vmx.Current[at < 0x8000 ? VmcsField.IoBitmapA : VmcsField.IoBitmapB], at & 0x7FFF)) return true;
        }
        return false;
    }

    private bool DebugRegister(Insn* i, bool write, out Insn* next)
    {
        int number = write ? i->R0 : i->R1;
        uint gpr = VmxOperand.Number(write ? i->R1 : i->R0);
        if (number > 7 || (number is 4 or 5 && (p.State->Cr4 & (ulong)Cr4.De) != 0)) throw p.InvalidOpcode();
        return Leave(i, VmxExitReason.MovDr, out next, (uint)number | (write ? 0u : 1u << 4) | gpr << 8);
    }

    // ---- control registers

    private bool ControlRegister(GuestIntercepts kind, ProcessorState* s, Insn* i, out Insn* next)
    {
        Vmcs v = vmx.Current;
        switch (kind)
        {
            case GuestIntercepts.ReadCr0:
                SetResult(s, i, Shadowed(s->Cr0, v[VmcsField.Cr0Mask], v[VmcsField.Cr0Shadow]));
                next = Flow.Leave(s, i);
                return true;
            case GuestIntercepts.ReadCr4:
                SetResult(s, i, Shadowed(s->Cr4, v[VmcsField.Cr4Mask], v[VmcsField.Cr4Shadow]));
                next = Flow.Leave(s, i);
                return true;
            case GuestIntercepts.Smsw:
                CheckUmip(s, isStore: true);
                next = DescriptorTableInstructions.StoreMachineStatus(p, s, i, Shadowed(s->Cr0, v[VmcsField.Cr0Mask], v[VmcsField.Cr0Shadow]));
                return true;
            case GuestIntercepts.WriteCr0: return WriteCr0(s, i, v, out next);
            case GuestIntercepts.WriteCr4: return WriteCr4(s, i, v, out next);
            case GuestIntercepts.WriteCr3:
                {
                    ulong value = Source(s, i);
                    uint targets = Math.Min((uint)v[VmcsField.Cr3TargetCount], VmxCapabilities.Cr3Targets);
                    for (uint n = 0; n < targets; n++)
                    {
                        if (v[VmcsField.Cr3Target0 + (ushort)(2 * n)] == value) return Decline(out next);
                    }
                    return Leave(i, VmxExitReason.CrAccess, out next, 3u | VmxOperand.Number(i->R1) << 8);
                }
            case GuestIntercepts.ReadCr3: return Leave(i, VmxExitReason.CrAccess, out next, 3u | 1u << 4 | VmxOperand.Number(i->R0) << 8);
            case GuestIntercepts.WriteCr8:
                if (vmx.Has(ProcessorControls.Cr8LoadExiting)) return Leave(i, VmxExitReason.CrAccess, out next, 8u | VmxOperand.Number(i->R1) << 8);
                if (!vmx.Has(ProcessorControls.UseTprShadow)) return Decline(out next);
                return WriteTpr(s, i, out next);
            case GuestIntercepts.ReadCr8:
                if (vmx.Has(ProcessorControls.Cr8StoreExiting)) return Leave(i, VmxExitReason.CrAccess, out next, 8u | 1u << 4 | VmxOperand.Number(i->R0) << 8);
                if (!vmx.Has(ProcessorControls.UseTprShadow)) return Decline(out next);
                SetResult(s, i, vmx.Apic.ReadCr8());
                next = Flow.Leave(s, i);
                return true;
            case GuestIntercepts.Clts:
                {
                    if ((v[VmcsField.Cr0Mask] & (ulong)Cr0.Ts) == 0) return Decline(out next);
                    if ((v[VmcsField.Cr0Shadow] & (ulong)Cr0.Ts) != 0) return Leave(i, VmxExitReason.CrAccess, out next, 2u << 4);
                    next = Flow.Leave(s, i); // the bit is the host's
                    return true;
                }
            case GuestIntercepts.Lmsw: return Lmsw(s, i, v, out next);
            default: return Decline(out next);
        }
    }

    private bool WriteTpr(ProcessorState* s, Insn* i, out Insn* next)
    {
        ulong value = Source(s, i);
        if (value > 0xF) throw p.GeneralProtection();
        next = Flow.Leave(s, i);
        vmx.Apic.WriteCr8(value);
        return true;
    }

    private static ulong Shadowed(ulong register, ulong mask, ulong shadow) => register & ~mask | shadow & mask;

    private static bool IsWide(Insn* i) => (Code)i->Code is Code.Mov_r64_cr or Code.Mov_cr_r64;

    private static ulong Source(ProcessorState* s, Insn* i) => IsWide(i) ? Register.Get<ulong>(s, i->R1) : Register.Get<uint>(s, i->R1);

    private static void SetResult(ProcessorState* s, Insn* i, ulong value)
    {
        if (IsWide(i)) Register.Set(s, i->R0, value);
        else Register.Set(s, i->R0, (uint)value);
    }

    private bool WriteCr0(ProcessorState* s, Insn* i, Vmcs v, out Insn* next)
    {
        ulong value = Source(s, i), mask = v[VmcsField.Cr0Mask];
        if (((value ^ v[VmcsField.Cr0Shadow]) & mask) != 0) return Leave(i, VmxExitReason.CrAccess, out next, VmxOperand.Number(i->R1) << 8);
        p.ControlRegisters.WriteCr0(value & ~mask | s->Cr0 & mask);
        next = Flow.Leave(s, i);
        return true;
    }

    private bool WriteCr4(ProcessorState* s, Insn* i, Vmcs v, out Insn* next)
    {
        ulong value = Source(s, i), mask = v[VmcsField.Cr4Mask];
        if (((value ^ v[VmcsField.Cr4Shadow]) & mask) != 0) return Leave(i, VmxExitReason.CrAccess, out next, 4u | VmxOperand.Number(i->R1) << 8);
        p.ControlRegisters.WriteCr4(value & ~mask | s->Cr4 & mask);
        next = Flow.Leave(s, i);
        return true;
    }

    /// <summary>LMSW: bits 3:0 only, and PE can be set but not cleared.</summary>
    private bool Lmsw(ProcessorState* s, Insn* i, Vmcs v, out Insn* next)
    {
        bool memory = (i->Flags & InsnFlags.HasMemory) != 0;
        ulong linear = memory ? Access.Address(s, i) : 0;
        ushort source = memory ? Access.Read<ushort>(p, s, linear) : Register.Get<ushort>(s, i->R0);
        ulong mask = v[VmcsField.Cr0Mask], shadow = v[VmcsField.Cr0Shadow];
        // An attempt to clear PE is none.
        bool exits = (mask & 1) != 0 && (source & 1) != 0 && (shadow & 1) == 0;
        exits |= ((source ^ shadow) & mask & 0xE) != 0;
        if (exits)
        {
            if (memory) v[VmcsField.GuestLinearAddress] = linear;
            return Leave(i, VmxExitReason.CrAccess, out next, 3u << 4 | (memory ? 1u << 6 : 0) | (ulong)source << 16);
        }
        ulong changed = 0xE & ~mask;
        ulong value = s->Cr0 & ~changed | source & changed;
        if ((mask & 1) == 0) value |= source & 1u;
        p.ControlRegisters.WriteCr0(value);
        next = Flow.Leave(s, i);
        return true;
    }
}
