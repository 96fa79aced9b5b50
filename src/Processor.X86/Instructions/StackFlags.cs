namespace Bunraku.Processor.X86;

/// <summary>PUSHF and POPF in every mode. SDM vol. 2, POPF, "Effect of POPF/POPFD on the EFLAGS Register"; vol. 3B, "Virtual Interrupt Flag" for VME.</summary>
internal static unsafe class StackFlags
{
    private const uint Writable16 = (uint)(Rflags.Arithmetic | Rflags.Tf | Rflags.Df | Rflags.Nt);
    private const uint Writable32 = Writable16 | (uint)(Rflags.Ac | Rflags.Id);

    public static Insn* Pushfw(Processor p, ProcessorState* s, Insn* i)
    {
        uint flags = Flags.Get(s);
        if (CpuMode.IsVirtual8086(s) && (flags & (uint)Rflags.Iopl) != (uint)Rflags.Iopl)
        {
            if ((s->Cr4 & (ulong)Cr4.Vme) == 0) throw p.GeneralProtection();
            flags = flags & ~(uint)Rflags.If | (uint)Rflags.Iopl | ((flags & (uint)Rflags.Vif) != 0 ? (uint)Rflags.If : 0);
        }
        Stack.Push(p, s, (ushort)flags);
        return i + 1;
    }

    public static Insn* Pushfd(Processor p, ProcessorState* s, Insn* i)
    {
        Stack.Push(p, s, Image(p, s));
        return i + 1;
    }

    public static Insn* Pushfq(Processor p, ProcessorState* s, Insn* i)
    {
        Stack.Push(p, s, (ulong)Image(p, s));
        return i + 1;
    }

    /// <summary>RFLAGS as PUSHFD and PUSHFQ store it: RF and VM read as zero.</summary>
    private static uint Image(Processor p, ProcessorState* s)
    {
        uint flags = Flags.Get(s);
        if (CpuMode.IsVirtual8086(s) && (flags & (uint)Rflags.Iopl) != (uint)Rflags.Iopl) throw p.GeneralProtection();
        return flags & ~(uint)(Rflags.Rf | Rflags.Vm);
    }

    public static Insn* Popfw(Processor p, ProcessorState* s, Insn* i)
    {
        uint old = Flags.Get(s);
        if (CpuMode.IsVirtual8086(s) && (old & (uint)Rflags.Iopl) != (uint)Rflags.Iopl) return PopVirtual(p, s, i, old);
        uint value = Stack.Peek<ushort>(p, s, 0);
        return Finish(p, s, i, old, value, Writable16, sizeof(ushort));
    }

    public static Insn* Popfd(Processor p, ProcessorState* s, Insn* i)
    {
        uint old = Flags.Get(s);
        if (CpuMode.IsVirtual8086(s) && (old & (uint)Rflags.Iopl) != (uint)Rflags.Iopl) throw p.GeneralProtection();
        return Finish(p, s, i, old, Stack.Peek<uint>(p, s, 0), Writable32, sizeof(uint));
    }

    public static Insn* Popfq(Processor p, ProcessorState* s, Insn* i) =>
        Finish(p, s, i, Flags.Get(s), (uint)Stack.Peek<ulong>(p, s, 0), Writable32, sizeof(ulong));

    private static Insn* Finish(Processor p, ProcessorState* s, Insn* i, uint old, uint value, uint writable, int size)
    {
        if (s->Cpl == 0) writable |= (uint)Rflags.Iopl;
        if (s->Cpl <= (int)((old & (uint)Rflags.Iopl) >> 12)) writable |= (uint)Rflags.If;
        return Set(p, s, i, old, old & ~(writable | (uint)Rflags.Rf) | value & writable, size);
    }

    /// <summary>VME with IOPL below 3: the virtual interrupt flag takes the place of IF.</summary>
    private static Insn* PopVirtual(Processor p, ProcessorState* s, Insn* i, uint old)
    {
        if ((s->Cr4 & (ulong)Cr4.Vme) == 0) throw p.GeneralProtection();
        uint value = Stack.Peek<ushort>(p, s, 0);
        bool enables = (value & (uint)Rflags.If) != 0;
        if ((value & (uint)Rflags.Tf) != 0 || enables && (old & (uint)Rflags.Vip) != 0) throw p.GeneralProtection();
        uint flags = old & ~(Writable16 | (uint)(Rflags.Rf | Rflags.Vif)) | value & Writable16 | (enables ? (uint)Rflags.Vif : 0);
        return Set(p, s, i, old, flags, sizeof(ushort));
    }

    private static Insn* Set(Processor p, ProcessorState* s, Insn* i, uint old, uint flags, int size)
    {
        Stack.Adjust(s, size);
        Flags.Set(s, flags);
        // Only these concern the dispatcher; most POPFs restore what was there.
        if (((old ^ flags) & (uint)(Rflags.Tf | Rflags.If | Rflags.Ac | Rflags.Rf | Rflags.Vif)) == 0) return Flow.Indirect(s, i, Flow.NextRip(s, i));
        p.ModeChanged();
        return Flow.Leave(s, i);
    }
}
