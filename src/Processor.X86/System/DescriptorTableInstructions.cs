using System.Numerics;

namespace Bunraku.Processor.X86;

/// <summary>LGDT LIDT SGDT SIDT LLDT LTR SLDT STR SMSW LMSW, ARPL LAR LSL VERR VERW. Intel SDM vol. 2, each instruction's "Operation".</summary>
internal static unsafe class DescriptorTableInstructions
{
    /// <summary>SGDT, SIDT, SLDT, STR and SMSW above CPL 0 raise #GP(0) with CR4.UMIP.</summary>
    private static void CheckUmip(Processor p, ProcessorState* s)
    {
        if (s->Cpl != 0 && (s->Cr4 & (ulong)Cr4.Umip) != 0) throw p.GeneralProtection();
    }

    /// <typeparam name="T">uint or ulong: the width of the base in memory.</typeparam>
    private static (ulong Base, ushort Limit) ReadPseudoDescriptor<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong address = Access.Address(s, i);
        p.Mmu.CheckStructure(address, sizeof(ushort) + sizeof(T));
        ushort limit = Access.Read<ushort>(p, s, address);
        ulong tableBase = ulong.CreateTruncating(Access.Read<T>(p, s, address + 2));
        if (sizeof(T) == 8 && !p.IsCanonicalBase(tableBase)) throw p.GeneralProtection();
        return (tableBase, limit);
    }

    private const ulong Base24 = 0xFF_FFFF;

    public static Insn* Lgdt<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        (s->GdtrBase, s->GdtrLimit) = ReadPseudoDescriptor<T>(p, s, i);
        return i + 1;
    }

    /// <summary>16-bit operand size: the base has 24 bits.</summary>
    public static Insn* Lgdt24(Processor p, ProcessorState* s, Insn* i)
    {
        (ulong tableBase, s->GdtrLimit) = ReadPseudoDescriptor<uint>(p, s, i);
        s->GdtrBase = tableBase & Base24;
        return i + 1;
    }

    public static Insn* Lidt<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        (s->IdtrBase, s->IdtrLimit) = ReadPseudoDescriptor<T>(p, s, i);
        return i + 1;
    }

    public static Insn* Lidt24(Processor p, ProcessorState* s, Insn* i)
    {
        (ulong tableBase, s->IdtrLimit) = ReadPseudoDescriptor<uint>(p, s, i);
        s->IdtrBase = tableBase & Base24;
        return i + 1;
    }

    public static Insn* Sgdt<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        StorePseudoDescriptor<T>(p, s, i, s->GdtrBase, s->GdtrLimit);

    public static Insn* Sidt<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        StorePseudoDescriptor<T>(p, s, i, s->IdtrBase, s->IdtrLimit);

    private static Insn* StorePseudoDescriptor<T>(Processor p, ProcessorState* s, Insn* i, ulong tableBase, uint limit) where T : unmanaged, IBinaryInteger<T>
    {
        CheckUmip(p, s);
        ulong address = Access.Address(s, i);
        p.Mmu.CheckWrite(address, 2 + sizeof(T));
        Access.Write(p, s, address, (ushort)limit);
        Access.Write(p, s, address + 2, T.CreateTruncating(tableBase));
        return i + 1;
    }

    public static Insn* LldtReg(Processor p, ProcessorState* s, Insn* i)
    {
        p.Segments.LoadLdtr(Register.Get<ushort>(s, i->R0));
        return i + 1;
    }

    public static Insn* LldtMem(Processor p, ProcessorState* s, Insn* i)
    {
        p.Segments.LoadLdtr(Access.Read<ushort>(p, s, Access.Address(s, i)));
        return i + 1;
    }

    public static Insn* LtrReg(Processor p, ProcessorState* s, Insn* i)
    {
        p.Segments.LoadTr(Register.Get<ushort>(s, i->R0));
        return i + 1;
    }

    public static Insn* LtrMem(Processor p, ProcessorState* s, Insn* i)
    {
        p.Segments.LoadTr(Access.Read<ushort>(p, s, Access.Address(s, i)));
        return i + 1;
    }

    public static Insn* SldtReg<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        StoreReg(p, s, i, T.CreateTruncating(s->Ldtr.Selector));

    public static Insn* SldtMem(Processor p, ProcessorState* s, Insn* i) => StoreMem(p, s, i, s->Ldtr.Selector);

    public static Insn* StrReg<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        StoreReg(p, s, i, T.CreateTruncating(s->Tr.Selector));

    public static Insn* StrMem(Processor p, ProcessorState* s, Insn* i) => StoreMem(p, s, i, s->Tr.Selector);

    public static Insn* SmswReg<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        StoreReg(p, s, i, T.CreateTruncating(s->Cr0));

    /// <summary>SMSW where a hypervisor shows its guest another CR0.</summary>
    public static Insn* StoreMachineStatus(Processor p, ProcessorState* s, Insn* i, ulong cr0) =>
        (i->Flags & InsnFlags.HasMemory) != 0 ? StoreMem(p, s, i, (ushort)cr0)
        : (Iced.Intel.Code)i->Code == Iced.Intel.Code.Smsw_rm16 ? StoreReg(p, s, i, (ushort)cr0)
        : (Iced.Intel.Code)i->Code == Iced.Intel.Code.Smsw_r32m16 ? StoreReg(p, s, i, (uint)cr0)
        : StoreReg(p, s, i, cr0);

    public static Insn* SmswMem(Processor p, ProcessorState* s, Insn* i) => StoreMem(p, s, i, (ushort)s->Cr0);

    private static Insn* StoreReg<T>(Processor p, ProcessorState* s, Insn* i, T value) where T : unmanaged
    {
        CheckUmip(p, s);
        Register.Set(s, i->R0, value);
        return i + 1;
    }

    private static Insn* StoreMem(Processor p, ProcessorState* s, Insn* i, ushort value)
    {
        CheckUmip(p, s);
        Access.Write(p, s, Access.Address(s, i), value);
        return i + 1;
    }

    public static Insn* LmswReg(Processor p, ProcessorState* s, Insn* i) => Lmsw(p, s, i, Register.Get<ushort>(s, i->R0));

    public static Insn* LmswMem(Processor p, ProcessorState* s, Insn* i) => Lmsw(p, s, i, Access.Read<ushort>(p, s, Access.Address(s, i)));

    /// <summary>Loads PE, MP, EM and TS; cannot clear PE.</summary>
    private static Insn* Lmsw(Processor p, ProcessorState* s, Insn* i, ushort value)
    {
        const ulong loaded = (ulong)(Cr0.Mp | Cr0.Em | Cr0.Ts);
        p.ControlRegisters.WriteCr0(s->Cr0 & ~loaded | value & (loaded | (ulong)Cr0.Pe));
        return Flow.Leave(s, i);
    }

    public static Insn* ArplReg(Processor p, ProcessorState* s, Insn* i)
    {
        ushort a = Register.Get<ushort>(s, i->R0);
        bool adjust = Arpl(s, ref a, Register.Get<ushort>(s, i->R1));
        if (adjust) Register.Set(s, i->R0, a);
        return i + 1;
    }

    public static Insn* ArplMem(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        ushort a = Access.Read<ushort>(p, s, address), b = Register.Get<ushort>(s, i->R0);
        // Written only when it changes.
        if ((a & 3) < (b & 3)) Access.Write(p, s, address, (ushort)(a & ~3 | b & 3));
        Arpl(s, ref a, b);
        return i + 1;
    }

    private static bool Arpl(ProcessorState* s, ref ushort a, ushort b)
    {
        bool adjust = (a & 3) < (b & 3);
        if (adjust) a = (ushort)(a & ~3 | b & 3);
        Flags.SetZf(s, adjust);
        return adjust;
    }

    public static Insn* LarReg<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        Lar<T>(p, s, i, Register.Get<ushort>(s, i->R1));

    public static Insn* LarMem<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        Lar<T>(p, s, i, Access.Read<ushort>(p, s, Access.Address(s, i)));

    private static Insn* Lar<T>(Processor p, ProcessorState* s, Insn* i, ushort selector) where T : unmanaged, IBinaryInteger<T>
    {
        bool valid = TryVisible(p, s, selector, LarTypes(s), out Descriptor d);
        if (valid) Register.Set(s, i->R0, T.CreateTruncating((uint)(d.Raw >> 32) & 0x00FF_FF00));
        Flags.SetZf(s, valid);
        return i + 1;
    }

    public static Insn* LslReg<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        Lsl<T>(p, s, i, Register.Get<ushort>(s, i->R1));

    public static Insn* LslMem<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        Lsl<T>(p, s, i, Access.Read<ushort>(p, s, Access.Address(s, i)));

    private static Insn* Lsl<T>(Processor p, ProcessorState* s, Insn* i, ushort selector) where T : unmanaged, IBinaryInteger<T>
    {
        bool valid = TryVisible(p, s, selector, LslTypes(s), out Descriptor d);
        if (valid) Register.Set(s, i->R0, T.CreateTruncating(d.Limit));
        Flags.SetZf(s, valid);
        return i + 1;
    }

    // System types that LAR and LSL accept, as bit sets (SDM vol. 2, LAR and LSL, "Segment and Gate Types").
    private static uint LarTypes(ProcessorState* s) => CpuMode.IsLong(s)
        ? 1u << SystemType.Ldt | 1u << SystemType.TssAvailable | 1u << SystemType.TssBusy | 1u << SystemType.CallGate
        : 1u << SystemType.Tss16Available | 1u << SystemType.Ldt | 1u << SystemType.Tss16Busy | 1u << SystemType.CallGate16 | 1u << SystemType.TaskGate
            | 1u << SystemType.TssAvailable | 1u << SystemType.TssBusy | 1u << SystemType.CallGate;

    private static uint LslTypes(ProcessorState* s) => LarTypes(s) & ~(1u << SystemType.CallGate16 | 1u << SystemType.TaskGate | 1u << SystemType.CallGate);

    /// <summary>The descriptor exists, is of a readable type, and its privilege lets CPL and RPL see it.</summary>
    private static bool TryVisible(Processor p, ProcessorState* s, ushort selector, uint systemTypes, out Descriptor d)
    {
        d = default;
        if (Segmentation.IsNull(selector) || !p.Segments.TryReadDescriptor(selector, out d)) return false;
        if (d.IsSystem && (systemTypes >> d.Type & 1) == 0) return false;
        return (d.IsCode && d.Conforming) || d.Dpl >= Math.Max(s->Cpl, selector & 3);
    }

    public static Insn* VerrReg(Processor p, ProcessorState* s, Insn* i) => Verify(p, s, i, Register.Get<ushort>(s, i->R0), write: false);

    public static Insn* VerrMem(Processor p, ProcessorState* s, Insn* i) => Verify(p, s, i, Access.Read<ushort>(p, s, Access.Address(s, i)), write: false);

    public static Insn* VerwReg(Processor p, ProcessorState* s, Insn* i) => Verify(p, s, i, Register.Get<ushort>(s, i->R0), write: true);

    public static Insn* VerwMem(Processor p, ProcessorState* s, Insn* i) => Verify(p, s, i, Access.Read<ushort>(p, s, Access.Address(s, i)), write: true);

    private static Insn* Verify(Processor p, ProcessorState* s, Insn* i, ushort selector, bool write)
    {
        bool valid = TryVisible(p, s, selector, 0, out Descriptor d) && (write ? d.IsData && d.ReadWrite : d.IsData || d.ReadWrite);
        Flags.SetZf(s, valid);
        return i + 1;
    }
}
