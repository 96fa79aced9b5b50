namespace Bunraku.Processor.X86;

/// <summary>What starts a task switch.</summary>
internal enum TaskSwitchCause { Jump, Call, Event, Iret }

/// <summary>Hardware task switch. Intel SDM vol. 3A, "Task Management", sections "Task Switching" and "Task Linking", 16- and 32-bit TSS layouts.</summary>
internal sealed unsafe class TaskSwitcher(Processor p)
{
    private const int Tss32MinimumLimit = 0x67, Tss16MinimumLimit = 0x2B;

    /// <summary>Through a task gate: the TSS selector is the gate's, and the gate's DPL has been checked instead of the TSS descriptor's.</summary>
    public void SwitchTaskThroughGate(ushort selector, TaskSwitchCause cause, ulong returnRip, uint flagsImage, uint? errorCode)
    {
        if ((selector & 4) != 0) throw p.SelectorFault(Vector.Gp, selector);
        SwitchTask(selector, p.Segments.ReadDescriptor(selector), cause, returnRip, flagsImage, errorCode);
    }

    /// <summary>JMP, CALL or an event to the task of an available TSS.</summary>
    public void SwitchTask(ushort selector, Descriptor tss, TaskSwitchCause cause, ulong returnRip, uint flagsImage, uint? errorCode)
    {
        if ((selector & 4) != 0 || !tss.IsSystem || tss.Type is not (SystemType.Tss16Available or SystemType.TssAvailable))
            throw p.SelectorFault(Vector.Gp, selector);
        Switch(selector, tss, cause, returnRip, flagsImage, errorCode);
    }

    /// <summary>IRET with NT: back to the task that the current TSS links to.</summary>
    public void ReturnToPreviousTask(ulong returnRip)
    {
        var link = p.Segments.ReadTss<ushort>(0);
        if ((link & 4) != 0 || Segmentation.IsNull(link)) throw p.SelectorFault(Vector.Ts, link);
        Descriptor tss = p.Segments.ReadDescriptor(link, Vector.Ts);
        if (!tss.IsSystem || tss.Type is not (SystemType.Tss16Busy or SystemType.TssBusy)) throw p.SelectorFault(Vector.Ts, link);
        Switch(link, tss, TaskSwitchCause.Iret, returnRip, Flags.Get(p.State) & ~(uint)Rflags.Nt, null);
    }

    /// <summary>The registers that a TSS holds, in the order of both layouts.</summary>
    private struct TaskImage
    {
        public uint Cr3, Rip, Rflags;
        public fixed uint Gpr[8];
        /// <summary>ES, CS, SS, DS, FS, GS.</summary>
        public fixed ushort Segments[6];
        public ushort Ldt;
        public bool Trap;
    }

    private void Switch(ushort selector, Descriptor tss, TaskSwitchCause cause, ulong returnRip, uint flagsImage, uint? errorCode)
    {
        ProcessorState* s = p.State;
        if (!tss.Present) throw p.SelectorFault(Vector.Np, selector);
        bool wide = (tss.Type & 8) != 0;
        if (tss.Limit < (wide ? Tss32MinimumLimit : Tss16MinimumLimit)) throw p.SelectorFault(Vector.Ts, selector);
        if (p.GuestHypervisor is { WantsTaskSwitches: true })
        {
            byte length = cause == TaskSwitchCause.Event || s->Current == null ? (byte)0 : s->Current->Length;
            throw p.Exits.ReflectedTaskSwitch(new TaskSwitchRequest(selector, cause, errorCode, length));
        }
        TaskImage image = ReadTask(tss.Base, wide);

        // What faults up to here, or on the old TSS and the descriptors, belongs to the old task: it is saved again at the next try.
        SaveTask(returnRip, flagsImage);
        bool nested = cause is TaskSwitchCause.Call or TaskSwitchCause.Event;
        if (nested) p.Mmu.WriteSystem(tss.Base, s->Tr.Selector);
        else SetBusy(s->Tr.Selector, busy: false);
        if (cause != TaskSwitchCause.Iret) SetBusy(selector, busy: true);

        // From here on the new task runs, and faults are its own.
        OldTask old = OldTask.Of(s);
        try
        {
            new Descriptor(tss.Raw | 2ul << 40).CopyTo(&s->Tr, selector);
            s->Cr0 |= (ulong)Cr0.Ts;
            LoadTask(image, wide, nested);
            LoadTaskSegments(image);
            if (errorCode is { } e)
            {
                StackWriter stack = p.Segments.CurrentStack();
                stack.Push(wide, e);
                stack.Commit();
            }
        }
        catch (GuestFault f) when (!p.Delivery.IsDelivering)
        {
            // The instruction that switched has completed: the fault's address is the new task's, not its own, and an event that led here is delivered.
            p.Delivery.ForgetVectoring();
            p.ModeChanged();
            if (!p.Exits.TryExitWithException(f.Vector, f.ErrorCode)) p.Delivery.DeliverException(f.Vector, f.ErrorCode);
        }
        catch (ExitRequest)
        {
            // The second stage refuses something that the new task needs: the whole switch is tried again, from the old task.
            old.Restore(s);
            p.Debug.UpdateBreakpoints();
            p.Tlb.Flush();
            p.ModeChanged();
            if (cause != TaskSwitchCause.Iret) SetBusy(selector, busy: false);
            if (!nested) SetBusy(s->Tr.Selector, busy: true);
            throw;
        }
        if (image.Trap) p.Debug.TrapAfterTaskSwitch();
    }

    /// <summary>The registers that the second half of a task switch changes.</summary>
    private struct OldTask
    {
        private fixed ulong _gpr[16], _pdptes[4];
        private ulong _rip, _cr0, _cr3, _dr7;
        private uint _flags;
        private int _cpl;
        private SegmentRegister _es, _cs, _ss, _ds, _fs, _gs, _ldtr, _tr;

        public static OldTask Of(ProcessorState* s)
        {
            var old = new OldTask { _rip = s->Rip, _cr0 = s->Cr0, _cr3 = s->Cr3, _dr7 = s->Dr7, _flags = Flags.Get(s), _cpl = s->Cpl };
            new ReadOnlySpan<ulong>(&s->Rax, 16).CopyTo(new Span<ulong>(old._gpr, 16));
            new ReadOnlySpan<ulong>(&s->Pdpte0, 4).CopyTo(new Span<ulong>(old._pdptes, 4));
            (old._es, old._cs, old._ss, old._ds, old._fs, old._gs, old._ldtr, old._tr) = (s->Es, s->Cs, s->Ss, s->Ds, s->Fs, s->Gs, s->Ldtr, s->Tr);
            return old;
        }

        public void Restore(ProcessorState* s)
        {
            (s->Rip, s->Cr0, s->Cr3, s->Dr7, s->Cpl) = (_rip, _cr0, _cr3, _dr7, _cpl);
            Flags.Set(s, _flags);
            fixed (ulong* gpr = _gpr) new ReadOnlySpan<ulong>(gpr, 16).CopyTo(new Span<ulong>(&s->Rax, 16));
            fixed (ulong* pdptes = _pdptes) new ReadOnlySpan<ulong>(pdptes, 4).CopyTo(new Span<ulong>(&s->Pdpte0, 4));
            (s->Es, s->Cs, s->Ss, s->Ds, s->Fs, s->Gs, s->Ldtr, s->Tr) = (_es, _cs, _ss, _ds, _fs, _gs, _ldtr, _tr);
        }
    }

    private TaskImage ReadTask(uint tss, bool wide)
    {
        var t = new TaskImage();
        if (wide)
        {
            t.Cr3 = p.Mmu.ReadSystem<uint>(tss + 0x1C);
            t.Rip = p.Mmu.ReadSystem<uint>(tss + 0x20);
            t.Rflags = p.Mmu.ReadSystem<uint>(tss + 0x24);
            for (uint n = 0; n < 8; n++) t.Gpr[n] = p.Mmu.ReadSystem<uint>(tss + 0x28 + n * 4);
            for (uint n = 0; n < 6; n++) t.Segments[n] = p.Mmu.ReadSystem<ushort>(tss + 0x48 + n * 4);
            t.Ldt = p.Mmu.ReadSystem<ushort>(tss + 0x60);
            t.Trap = (p.Mmu.ReadSystem<byte>(tss + 0x64) & 1) != 0;
        }
        else
        {
            t.Rip = p.Mmu.ReadSystem<ushort>(tss + 0x0E);
            t.Rflags = p.Mmu.ReadSystem<ushort>(tss + 0x10);
            for (uint n = 0; n < 8; n++) t.Gpr[n] = 0xFFFF_0000u | p.Mmu.ReadSystem<ushort>(tss + 0x12 + n * 2);
            for (uint n = 0; n < 4; n++) t.Segments[n] = p.Mmu.ReadSystem<ushort>(tss + 0x22 + n * 2);
            t.Ldt = p.Mmu.ReadSystem<ushort>(tss + 0x2A);
        }
        return t;
    }

    /// <summary>Saves the old task in the layout of its TSS.</summary>
    private void SaveTask(ulong returnRip, uint flagsImage)
    {
        ProcessorState* s = p.State;
        ulong tss = s->Tr.Base;
        bool wide = (s->Tr.Type & 8) != 0;
        if (s->Tr.IsUnusable || s->Tr.Limit < (wide ? Tss32MinimumLimit : Tss16MinimumLimit)) throw p.SelectorFault(Vector.Ts, s->Tr.Selector);
        if (wide)
        {
            p.Mmu.WriteSystem(tss + 0x20, (uint)returnRip);
            p.Mmu.WriteSystem(tss + 0x24, flagsImage);
            for (uint n = 0; n < 8; n++) p.Mmu.WriteSystem(tss + 0x28 + n * 4, (uint)(&s->Rax)[n]);
            for (uint n = 0; n < 6; n++) p.Mmu.WriteSystem(tss + 0x48 + n * 4, ProcessorState.Segment(s, (Seg)n)->Selector);
        }
        else
        {
            p.Mmu.WriteSystem(tss + 0x0E, (ushort)returnRip);
            p.Mmu.WriteSystem(tss + 0x10, (ushort)flagsImage);
            for (uint n = 0; n < 8; n++) p.Mmu.WriteSystem(tss + 0x12 + n * 2, (ushort)(&s->Rax)[n]);
            for (uint n = 0; n < 4; n++) p.Mmu.WriteSystem(tss + 0x22 + n * 2, ProcessorState.Segment(s, (Seg)n)->Selector);
        }
    }

    private void SetBusy(ushort selector, bool busy)
    {
        if (p.Segments.DescriptorAddress(selector) is not { } address) throw p.SelectorFault(Vector.Ts, selector);
        byte access = p.Mmu.ReadSystem<byte>(address + 5);
        p.Mmu.WriteSystem(address + 5, (byte)(busy ? access | 2 : access & ~2));
    }

    /// <summary>Everything but the descriptors.</summary>
    private void LoadTask(in TaskImage t, bool wide, bool nested)
    {
        ProcessorState* s = p.State;
        if (wide && (s->Cr0 & (ulong)Cr0.Pg) != 0)
        {
            s->Cr3 = t.Cr3;
            if ((s->Cr4 & (ulong)Cr4.Pae) != 0) p.Walker.LoadPdptesOrNone();
            p.Tlb.Flush();
        }
        for (int n = 0; n < 8; n++) (&s->Rax)[n] = t.Gpr[n];
        s->Rip = t.Rip;
        const uint defined =
            (uint)(Rflags.Arithmetic | Rflags.Tf | Rflags.If | Rflags.Df | Rflags.Iopl | Rflags.Nt | Rflags.Rf | Rflags.Vm | Rflags.Ac | Rflags.Vif | Rflags.Vip
            | Rflags.Id);
        Flags.Set(s, t.Rflags & defined | (nested ? (uint)Rflags.Nt : 0));
        // The local breakpoint enables are the old task's.
        s->Dr7 &= ~0x155ul;
        p.Debug.UpdateBreakpoints();
        // Until each descriptor is loaded its segment register holds the selector alone.
        for (int n = 0; n < 6; n++) Segmentation.SetNull(ProcessorState.Segment(s, (Seg)n), t.Segments[n]);
        Segmentation.SetNull(&s->Ldtr, t.Ldt);
        s->Cpl = CpuMode.IsVirtual8086(s) ? 3 : t.Segments[(int)Seg.Cs] & 3;
        s->Ss.Attributes |= (uint)s->Cpl << 5;
    }

    /// <summary>LDTR and the segment registers; a bad one raises #TS, an absent one #NP or #SS, in the new task.</summary>
    private void LoadTaskSegments(in TaskImage t)
    {
        ProcessorState* s = p.State;
        LoadTaskLdt(t.Ldt);
        if (CpuMode.IsVirtual8086(s))
        {
            for (int n = 0; n < 6; n++) Segmentation.LoadRealSegment(ProcessorState.Segment(s, (Seg)n), t.Segments[n], virtual8086: true);
        }
        else
        {
            int cpl = s->Cpl;
            ushort cs = t.Segments[(int)Seg.Cs], ss = t.Segments[(int)Seg.Ss];
            if (Segmentation.IsNull(cs)) throw p.SelectorFault(Vector.Ts, cs);
            Descriptor code = p.Segments.ReadDescriptor(cs, Vector.Ts);
            if (!code.IsCode || (code.Conforming ? code.Dpl > cpl : code.Dpl != cpl)) throw p.SelectorFault(Vector.Ts, cs);
            if (!code.Present) throw p.SelectorFault(Vector.Np, cs);
            if (Segmentation.IsNull(ss)) throw p.SelectorFault(Vector.Ts, ss);
            p.Segments.CheckStackSegment(ss, cpl, Vector.Ts, Vector.Ss).CopyTo(&s->Ss, ss);
            p.Segments.MarkAccessed(cs, code).CopyTo(&s->Cs, cs);
            p.Segments.LoadDataSegment(&s->Es, t.Segments[(int)Seg.Es], cpl, Vector.Ts);
            p.Segments.LoadDataSegment(&s->Ds, t.Segments[(int)Seg.Ds], cpl, Vector.Ts);
            p.Segments.LoadDataSegment(&s->Fs, t.Segments[(int)Seg.Fs], cpl, Vector.Ts);
            p.Segments.LoadDataSegment(&s->Gs, t.Segments[(int)Seg.Gs], cpl, Vector.Ts);
        }
        p.ModeChanged();
        if (s->Rip > s->Cs.Limit) throw p.GeneralProtection();
    }

    private void LoadTaskLdt(ushort selector)
    {
        ProcessorState* s = p.State;
        if (Segmentation.IsNull(selector)) return;
        if ((selector & 4) != 0) throw p.SelectorFault(Vector.Ts, selector);
        Descriptor d = p.Segments.ReadDescriptor(selector, Vector.Ts);
        if (!d.IsSystem || d.Type != SystemType.Ldt || !d.Present) throw p.SelectorFault(Vector.Ts, selector);
        d.CopyTo(&s->Ldtr, selector);
    }
}
