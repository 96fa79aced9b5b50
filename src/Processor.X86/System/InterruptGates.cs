namespace Bunraku.Processor.X86;

/// <summary>
/// The way of an event through the interrupt vector table or the gates of the IDT, in each mode. Intel SDM vol. 3A, "Interrupt and Exception Handling".
/// </summary>
internal sealed unsafe class InterruptGates(Processor p)
{
    private GuestFault IdtFault(Vector fault, byte vector) => p.Fault(fault, (uint)vector << 3 | 2);

    private ulong IdtEntryAddress(byte vector, int size)
    {
        ProcessorState* s = p.State;
        if ((uint)vector * (uint)size + (uint)size - 1 > s->IdtrLimit) throw IdtFault(Vector.Gp, vector);
        ulong address = s->IdtrBase + (ulong)vector * (ulong)size;
        return CpuMode.IsLong(s) ? address : (uint)address;
    }

    private const uint ClearedByEvents = (uint)(Rflags.Tf | Rflags.Nt | Rflags.Rf | Rflags.Vm);

    /// <summary>Real-address mode: the interrupt vector table at IDTR; no error codes.</summary>
    public void DeliverReal(byte vector, uint image, ulong returnRip)
    {
        ProcessorState* s = p.State;
        uint pointer = p.Mmu.ReadSystem<uint>(IdtEntryAddress(vector, 4));
        var stack = p.Segments.CurrentStack();
        stack.Push16((ushort)image);
        stack.Push16(s->Cs.Selector);
        stack.Push16((ushort)returnRip);
        stack.Commit();
        Segmentation.LoadRealSegment(&s->Cs, (ushort)(pointer >> 16), virtual8086: false);
        s->Rip = (ushort)pointer;
        s->FlagsOther &= ~(uint)(Rflags.If | Rflags.Tf | Rflags.Ac | Rflags.Rf);
    }

    /// <summary>Long mode: 16-byte gates, the IST, a stack aligned to 16 bytes that always holds SS:RSP.</summary>
    public void DeliverLong(byte vector, uint? errorCode, EventSource source, uint image, ulong returnRip)
    {
        ProcessorState* s = p.State;
        ulong entry = IdtEntryAddress(vector, 16);
        var gate = new Descriptor(p.Mmu.ReadSystem<ulong>(entry));
        ulong upper = p.Mmu.ReadSystem<ulong>(entry + 8);
        if (!gate.IsSystem || gate.Type is not (SystemType.InterruptGate or SystemType.TrapGate)) throw IdtFault(Vector.Gp, vector);
        if (source is EventSource.Interrupt or EventSource.Trap && gate.Dpl < s->Cpl) throw IdtFault(Vector.Gp, vector);
        if (!gate.Present) throw IdtFault(Vector.Np, vector);

        ushort selector = gate.GateSelector;
        if (Segmentation.IsNull(selector)) throw p.GeneralProtection();
        Descriptor code = p.Segments.ReadDescriptor(selector);
        if (!code.IsCode || code.Dpl > s->Cpl || !code.Long || code.Default32) throw p.SelectorFault(Vector.Gp, selector);
        if (!code.Present) throw p.SelectorFault(Vector.Np, selector);

        int cpl = code.Conforming ? s->Cpl : code.Dpl;
        int ist = gate.GateParameterCount & 7;
        bool newStack = ist != 0 || cpl != s->Cpl;
        ulong rsp = s->Rsp;
        if (newStack) rsp = p.Segments.ReadTss<ulong>(ist != 0 ? 36 + (uint)(ist - 1) * 8 : 4 + (uint)cpl * 8);
        ulong target = gate.GateOffset | upper << 32;
        if (!p.IsCanonical(target)) throw p.GeneralProtection();

        var stack = new StackWriter(p, null, rsp & ~15ul, ulong.MaxValue, cpl != 3, 0);
        stack.Push64(s->Ss.Selector);
        stack.Push64(s->Rsp);
        stack.Push64(image);
        stack.Push64(s->Cs.Selector);
        stack.Push64(returnRip);
        if (errorCode is { } e) stack.Push64(e);
        code = p.Segments.MarkAccessed(selector, code);

        s->Rsp = stack.Pointer;
        if (cpl != s->Cpl) Segmentation.SetNull(&s->Ss, (ushort)cpl, cpl);
        code.CopyTo(&s->Cs, (ushort)(selector & ~3 | cpl));
        s->Cpl = cpl;
        s->Rip = target;
        s->FlagsOther &= ~(ClearedByEvents | (gate.Type == SystemType.InterruptGate ? (uint)Rflags.If : 0));
    }

    /// <summary>Protected mode and virtual-8086 mode outside long mode: interrupt, trap and task gates of 16 and 32 bits.</summary>
    public void DeliverProtected(byte vector, uint? errorCode, EventSource source, uint image, ulong returnRip)
    {
        ProcessorState* s = p.State;
        var gate = new Descriptor(p.Mmu.ReadSystem<ulong>(IdtEntryAddress(vector, 8)));
        if (!gate.IsSystem
            || gate.Type is not (SystemType.TaskGate or SystemType.InterruptGate16 or SystemType.TrapGate16 or SystemType.InterruptGate or SystemType.TrapGate))
            throw IdtFault(Vector.Gp, vector);
        if (source is EventSource.Interrupt or EventSource.Trap && gate.Dpl < s->Cpl) throw IdtFault(Vector.Gp, vector);
        if (!gate.Present) throw IdtFault(Vector.Np, vector);
        if (gate.Type == SystemType.TaskGate)
        {
            p.Tasks.SwitchTaskThroughGate(gate.GateSelector, TaskSwitchCause.Event, returnRip, image, errorCode);
            return;
        }

        ushort selector = gate.GateSelector;
        if (Segmentation.IsNull(selector)) throw p.GeneralProtection();
        Descriptor code = p.Segments.ReadDescriptor(selector);
        if (!code.IsCode || code.Dpl > s->Cpl) throw p.SelectorFault(Vector.Gp, selector);
        if (!code.Present) throw p.SelectorFault(Vector.Np, selector);
        bool fromVirtual8086 = CpuMode.IsVirtual8086(s);
        bool inner = !code.Conforming && code.Dpl < s->Cpl;
        if (fromVirtual8086 && (!inner || code.Dpl != 0)) throw p.SelectorFault(Vector.Gp, selector);

        bool wide = (gate.Type & 8) != 0;
        int cpl = inner ? code.Dpl : s->Cpl;
        uint target = wide ? gate.GateOffset : (ushort)gate.GateOffset;
        SegmentRegister newSs = s->Ss;
        StackWriter stack;
        if (inner)
        {
            (ushort ssSelector, ulong esp) = p.Segments.ReadTssStack(cpl);
            if (Segmentation.IsNull(ssSelector)) throw p.SelectorFault(Vector.Ts, 0);
            p.Segments.CheckStackSegment(ssSelector, cpl, Vector.Ts, Vector.Ss).CopyTo(&newSs, ssSelector);
            stack = new StackWriter(p, &newSs, esp, Stacks.Mask(&newSs), supervisor: true, ssSelector & 0xFFFCu);
            if (fromVirtual8086)
            {
                stack.Push(wide, s->Gs.Selector);
                stack.Push(wide, s->Fs.Selector);
                stack.Push(wide, s->Ds.Selector);
                stack.Push(wide, s->Es.Selector);
            }
            stack.Push(wide, s->Ss.Selector);
            stack.Push(wide, (uint)s->Rsp);
        }
        else
        {
            stack = new StackWriter(p, &newSs, s->Rsp, Stacks.Mask(&newSs), s->Cpl != 3, 0);
        }
        stack.Push(wide, image);
        stack.Push(wide, s->Cs.Selector);
        stack.Push(wide, (uint)returnRip);
        if (errorCode is { } e) stack.Push(wide, e);
        if (target > code.Limit) throw p.GeneralProtection();
        code = p.Segments.MarkAccessed(selector, code);

        s->Ss = newSs;
        Stacks.SetPointer(s, stack.Pointer);
        code.CopyTo(&s->Cs, (ushort)(selector & ~3 | cpl));
        s->Cpl = cpl;
        s->Rip = target;
        s->FlagsOther &= ~(ClearedByEvents | ((gate.Type & 1) == 0 ? (uint)Rflags.If : 0));
        if (fromVirtual8086)
        {
            Segmentation.SetNull(&s->Es, 0);
            Segmentation.SetNull(&s->Ds, 0);
            Segmentation.SetNull(&s->Fs, 0);
            Segmentation.SetNull(&s->Gs, 0);
        }
    }

    /// <summary>
    /// INT n in virtual-8086 mode: through the IDT, or with CR4.VME and a clear redirection bit to the 8086 program's own handler.
    /// Intel SDM vol. 3B, "Class 3—Software Interrupt Handling in Virtual-8086 Mode", its table.
    /// </summary>
    public bool InterruptLeavesVirtual8086(byte vector)
    {
        ProcessorState* s = p.State;
        bool iopl3 = (s->FlagsOther & (uint)Rflags.Iopl) == (uint)Rflags.Iopl;
        if ((s->Cr4 & (ulong)Cr4.Vme) != 0)
        {
            uint map = p.Segments.ReadTss<ushort>(102);
            uint at = map - 32 + vector / 8u;
            if (map < 32 || at > s->Tr.Limit) throw p.GeneralProtection();
            if ((p.Mmu.ReadSystem<byte>(s->Tr.Base + at) >> (vector & 7) & 1) == 0) return false;
        }
        if (!iopl3) throw p.GeneralProtection();
        return true;
    }

    public void DeliverVirtual8086(byte vector, uint image, ulong returnRip)
    {
        ProcessorState* s = p.State;
        bool iopl3 = (image & (uint)Rflags.Iopl) == (uint)Rflags.Iopl;
        uint pointer = Access.Read<uint>(p, s, vector * 4u);
        if (!iopl3)
        {
            // The program sees its virtual interrupt flag, and IOPL 3.
            image = image & ~(uint)Rflags.If | (uint)Rflags.Iopl | ((image & (uint)Rflags.Vif) != 0 ? (uint)Rflags.If : 0);
        }
        var stack = p.Segments.CurrentStack();
        stack.Push16((ushort)image);
        stack.Push16(s->Cs.Selector);
        stack.Push16((ushort)returnRip);
        stack.Commit();
        Segmentation.LoadRealSegment(&s->Cs, (ushort)(pointer >> 16), virtual8086: true);
        s->Rip = (ushort)pointer;
        s->FlagsOther &= ~(uint)(Rflags.Tf | Rflags.Nt | Rflags.Rf | (iopl3 ? Rflags.If : Rflags.Vif));
    }
}
