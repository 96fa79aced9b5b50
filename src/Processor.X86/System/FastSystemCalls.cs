namespace Bunraku.Processor.X86;

/// <summary>SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS. AMD APM vol. 3, SYSCALL and SYSRET "Action"; Intel SDM vol. 2, the instructions' "Operation".</summary>
internal static unsafe class FastSystemCalls
{
    // Fixed descriptor caches, by the attribute format of SegmentRegister.
    public const uint CodeAttributes = 0x809B, DataAttributes = 0xC093, Long = 0x2000, Big = 0x4000;
    /// <summary>The bits of R11 that SYSRET loads into RFLAGS.</summary>
    public const uint Returned = 0x3C_7FD7;

    private static void SetFlat(SegmentRegister* r, int selector, uint attributes, int dpl)
    {
        r->Selector = (ushort)selector;
        r->Base = 0;
        r->Limit = uint.MaxValue;
        r->Attributes = attributes | (uint)dpl << 5;
    }

    public static Insn* Syscall(Processor p, ProcessorState* s, Insn* i)
    {
        if ((s->Efer & (ulong)Efer.Sce) == 0) throw p.InvalidOpcode();
        bool longMode = CpuMode.IsLong(s), from64 = CpuMode.Is64Bit(s);
        if (!p.Model.Behavior.HasSyscallOutside64BitMode && !from64) throw p.InvalidOpcode();
        int selector = (int)(p.Msrs.Star >> 32) & 0xFFFC;
        ulong next = Flow.NextRip(s, i), target;
        if (longMode)
        {
            uint flags = Flags.Get(s) & ~(uint)Rflags.Rf;
            s->Rcx = next;
            s->R11 = flags;
            target = from64 ? p.Msrs.Lstar : p.Msrs.Cstar;
            Flags.Set(s, flags & ~(uint)p.Msrs.Fmask);
            SetFlat(&s->Cs, selector, CodeAttributes | Long, 0);
        }
        else
        {
            s->Rcx = (uint)next;
            target = (uint)p.Msrs.Star;
            s->FlagsOther &= ~(uint)(Rflags.If | Rflags.Vm | Rflags.Rf);
            SetFlat(&s->Cs, selector, CodeAttributes | Big, 0);
        }
        SetFlat(&s->Ss, selector + 8, DataAttributes, 0);
        s->Cpl = 0;
        // The single-step trap looks at TF as it is at the end.
        if ((s->FlagsOther & (uint)Rflags.Tf) == 0) p.Debug.SuppressSingleStep(i);
        p.ModeChanged();
        return Flow.LeaveTo(s, i, target);
    }

    /// <summary>SYSRET with a 64-bit operand: to 64-bit mode.</summary>
    public static Insn* Sysretq(Processor p, ProcessorState* s, Insn* i) => Sysret(p, s, i, to64: true);

    /// <summary>SYSRET with a 32-bit operand: to compatibility mode, or in legacy mode.</summary>
    public static Insn* Sysretd(Processor p, ProcessorState* s, Insn* i) => Sysret(p, s, i, to64: false);

    private static Insn* Sysret(Processor p, ProcessorState* s, Insn* i, bool to64)
    {
        if ((s->Efer & (ulong)Efer.Sce) == 0 || !CpuMode.IsProtected(s)) throw p.InvalidOpcode();
        if (!p.Model.Behavior.HasSyscallOutside64BitMode && !CpuMode.Is64Bit(s)) throw p.InvalidOpcode();
        if (s->Cpl != 0) throw p.GeneralProtection();
        ulong target = to64 ? s->Rcx : (uint)s->Rcx;
        if (to64 && p.Model.Behavior.SysretChecksTarget && !p.IsCanonical(target)) throw p.GeneralProtection();
        int selector = (int)(p.Msrs.Star >> 48);
        if (CpuMode.IsLong(s))
        {
            Flags.Set(s, (uint)s->R11 & Returned);
        }
        else
        {
            s->FlagsOther |= (uint)Rflags.If;
        }
        SetFlat(&s->Cs, (to64 ? selector + 16 : selector) | 3, CodeAttributes | (to64 ? Long : Big), 3);
        if (p.Model.Behavior.SysretLoadsStackDescriptor)
        {
            SetFlat(&s->Ss, selector + 8 | 3, DataAttributes, 3);
        }
        else
        {
            s->Ss.Selector = (ushort)(selector + 8 | 3);
            s->Ss.Attributes = s->Ss.Attributes & ~0x60u | 3u << 5;
        }
        s->Cpl = 3;
        if ((s->FlagsOther & (uint)Rflags.Tf) != 0) p.Debug.SingleStepNow();
        else p.Debug.SuppressSingleStep(i);
        p.ModeChanged();
        p.Direct?.ReturnedToUser();
        return Flow.LeaveTo(s, i, target);
    }

    public static Insn* Sysenter(Processor p, ProcessorState* s, Insn* i)
    {
        bool longMode = CpuMode.IsLong(s);
        if (longMode && !p.Model.Behavior.HasSysenterInLongMode) throw p.InvalidOpcode();
        if ((s->Cr0 & (ulong)Cr0.Pe) == 0 || Segmentation.IsNull((ushort)p.Msrs.SysenterCs)) throw p.GeneralProtection();
        s->FlagsOther &= ~(uint)(Rflags.Vm | Rflags.If);
        int selector = (int)p.Msrs.SysenterCs & 0xFFFC;
        SetFlat(&s->Cs, selector, CodeAttributes | (longMode ? Long : Big), 0);
        SetFlat(&s->Ss, selector + 8, DataAttributes, 0);
        s->Rsp = longMode ? p.Msrs.SysenterEsp : (uint)p.Msrs.SysenterEsp;
        s->Cpl = 0;
        p.ModeChanged();
        return Flow.LeaveTo(s, i, longMode ? p.Msrs.SysenterEip : (uint)p.Msrs.SysenterEip);
    }

    public static Insn* Sysexitd(Processor p, ProcessorState* s, Insn* i) => Sysexit(p, s, i, to64: false);

    public static Insn* Sysexitq(Processor p, ProcessorState* s, Insn* i) => Sysexit(p, s, i, to64: true);

    private static Insn* Sysexit(Processor p, ProcessorState* s, Insn* i, bool to64)
    {
        // The privilege is looked at first, as processors do.
        if (!CpuMode.IsProtected(s) || s->Cpl != 0) throw p.GeneralProtection();
        if (CpuMode.IsLong(s) && !p.Model.Behavior.HasSysenterInLongMode) throw p.InvalidOpcode();
        if (Segmentation.IsNull((ushort)p.Msrs.SysenterCs)) throw p.GeneralProtection();
        if (to64 && (!p.IsCanonical(s->Rcx) || !p.IsCanonical(s->Rdx))) throw p.GeneralProtection();
        ulong target = to64 ? s->Rdx : (uint)s->Rdx;
        int selector = (int)p.Msrs.SysenterCs & 0xFFFC;
        SetFlat(&s->Cs, selector + (to64 ? 32 : 16) | 3, CodeAttributes | (to64 ? Long : Big), 3);
        SetFlat(&s->Ss, selector + (to64 ? 40 : 24) | 3, DataAttributes, 3);
        s->Rsp = to64 ? s->Rcx : (uint)s->Rcx;
        s->Cpl = 3;
        p.ModeChanged();
        return Flow.LeaveTo(s, i, target);
    }

    /// <summary>64-bit mode and CPL 0 only, by its row and Iced's code.</summary>
    public static Insn* Swapgs(Processor p, ProcessorState* s, Insn* i)
    {
        (s->Gs.Base, p.Msrs.KernelGsBase) = (p.Msrs.KernelGsBase, s->Gs.Base);
        return i + 1;
    }
}
