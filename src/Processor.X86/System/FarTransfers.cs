using System.Numerics;

namespace Bunraku.Processor.X86;

/// <summary>Far JMP, CALL and RET, call gates. Intel SDM vol. 2, JMP, CALL, RET "Operation"; AMD APM vol. 2, "Control Transfers".</summary>
internal sealed unsafe class FarTransfers(Processor p)
{
    /// <summary>Checks of a code segment reached directly, without a gate.</summary>
    private void CheckDirectCode(Descriptor code, ushort selector)
    {
        ProcessorState* s = p.State;
        if (code.Conforming ? code.Dpl > s->Cpl : (selector & 3) > s->Cpl || code.Dpl != s->Cpl) throw p.SelectorFault(Vector.Gp, selector);
        if (CpuMode.IsLong(s) && code.Long && code.Default32) throw p.SelectorFault(Vector.Gp, selector);
        if (!code.Present) throw p.SelectorFault(Vector.Np, selector);
    }

    /// <summary>The target offset must be canonical in a 64-bit segment, else inside the limit.</summary>
    private void CheckTarget(Descriptor code, ulong rip)
    {
        if (CpuMode.IsLong(p.State) && code.Long ? !p.IsCanonical(rip) : rip > code.Limit) throw p.GeneralProtection();
    }

    private void CommitCode(Descriptor code, ushort selector, int cpl, ulong rip)
    {
        ProcessorState* s = p.State;
        p.Segments.MarkAccessed(selector, code).CopyTo(&s->Cs, (ushort)(selector & ~3 | cpl));
        s->Cpl = cpl;
        s->Rip = rip;
    }

    /// <summary>Far transfer in real and virtual-8086 mode.</summary>
    private void SetRealCode(ushort selector, ulong rip)
    {
        ProcessorState* s = p.State;
        if (rip > s->Cs.Limit) throw p.GeneralProtection();
        Segmentation.LoadRealSegment(&s->Cs, selector, CpuMode.IsVirtual8086(s));
        s->Rip = rip;
    }

    public Insn* FarJump(Insn* i, ushort selector, ulong rip)
    {
        ProcessorState* s = p.State;
        if (!CpuMode.IsProtected(s)) SetRealCode(selector, rip);
        else FarJumpProtected(i, selector, rip);
        p.ModeChanged();
        return Flow.LeaveTo(s, i, s->Rip);
    }

    private void FarJumpProtected(Insn* i, ushort selector, ulong rip)
    {
        ProcessorState* s = p.State;
        if (Segmentation.IsNull(selector)) throw p.GeneralProtection();
        Descriptor d = p.Segments.ReadDescriptor(selector);
        if (d.IsCode)
        {
            CheckDirectCode(d, selector);
            CheckTarget(d, rip);
            CommitCode(d, selector, s->Cpl, rip);
            return;
        }
        if (!d.IsSystem) throw p.SelectorFault(Vector.Gp, selector);
        CheckGateAccess(d, selector);
        switch (d.Type)
        {
            case SystemType.CallGate:
            case SystemType.CallGate16 when !CpuMode.IsLong(s):
                {
                    (Descriptor code, ushort codeSelector, ulong target) = ResolveCallGate(d, selector);
                    if (!code.Conforming && code.Dpl != s->Cpl) throw p.SelectorFault(Vector.Gp, codeSelector);
                    if (!code.Present) throw p.SelectorFault(Vector.Np, codeSelector);
                    CheckTarget(code, target);
                    CommitCode(code, codeSelector, s->Cpl, target);
                    break;
                }
            case SystemType.TaskGate when !CpuMode.IsLong(s):
                if (!d.Present) throw p.SelectorFault(Vector.Np, selector);
                p.Tasks.SwitchTaskThroughGate(d.GateSelector, TaskSwitchCause.Jump, Flow.NextRip(s, i), Flags.Get(s), null);
                break;
            case SystemType.Tss16Available or SystemType.TssAvailable when !CpuMode.IsLong(s):
                p.Tasks.SwitchTask(selector, d, TaskSwitchCause.Jump, Flow.NextRip(s, i), Flags.Get(s), null);
                break;
            default:
                throw p.SelectorFault(Vector.Gp, selector);
        }
    }

    /// <summary>Gate and TSS descriptors: DPL must not be below CPL or RPL.</summary>
    private void CheckGateAccess(Descriptor d, ushort selector)
    {
        if (d.Dpl < Math.Max(p.State->Cpl, selector & 3)) throw p.SelectorFault(Vector.Gp, selector);
    }

    /// <summary>Code segment and offset behind a call gate, with the checks that CALL and JMP share; the segment's presence is the caller's check.</summary>
    private (Descriptor Code, ushort Selector, ulong Target) ResolveCallGate(Descriptor gate, ushort gateSelector)
    {
        ProcessorState* s = p.State;
        if (!gate.Present) throw p.SelectorFault(Vector.Np, gateSelector);
        bool longMode = CpuMode.IsLong(s);
        ulong upper = longMode ? p.Segments.ReadUpperHalf(gateSelector) : 0;
        ushort selector = gate.GateSelector;
        if (Segmentation.IsNull(selector)) throw p.GeneralProtection();
        Descriptor code = p.Segments.ReadDescriptor(selector);
        if (!code.IsCode || code.Dpl > s->Cpl) throw p.SelectorFault(Vector.Gp, selector);
        if (longMode && (!code.Long || code.Default32)) throw p.SelectorFault(Vector.Gp, selector);
        ulong target = gate.Type == SystemType.CallGate16 ? (ushort)gate.GateOffset : gate.GateOffset | upper << 32;
        return (code, selector, target);
    }

    /// <typeparam name="T">ushort, uint or ulong: the operand size, by which CS and the return address are pushed.</typeparam>
    public Insn* FarCall<T>(Insn* i, ushort selector, ulong rip) where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = p.State;
        ulong returnRip = Flow.NextRip(s, i);
        if (!CpuMode.IsProtected(s))
        {
            StackWriter stack = p.Segments.CurrentStack();
            stack.PushValue(T.CreateTruncating(s->Cs.Selector));
            stack.PushValue(T.CreateTruncating(returnRip));
            if (rip > s->Cs.Limit) throw p.GeneralProtection();
            stack.Commit();
            SetRealCode(selector, rip);
        }
        else
        {
            FarCallProtected<T>(selector, rip, returnRip);
        }
        p.ModeChanged();
        return Flow.LeaveTo(s, i, s->Rip);
    }

    private void FarCallProtected<T>(ushort selector, ulong rip, ulong returnRip) where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = p.State;
        if (Segmentation.IsNull(selector)) throw p.GeneralProtection();
        Descriptor d = p.Segments.ReadDescriptor(selector);
        if (d.IsCode)
        {
            CheckDirectCode(d, selector);
            CallSameLevel<T>(d, selector, rip, returnRip);
            return;
        }
        if (!d.IsSystem) throw p.SelectorFault(Vector.Gp, selector);
        CheckGateAccess(d, selector);
        switch (d.Type)
        {
            case SystemType.CallGate:
            case SystemType.CallGate16 when !CpuMode.IsLong(s):
                CallThroughGate(d, selector, returnRip);
                break;
            case SystemType.TaskGate when !CpuMode.IsLong(s):
                if (!d.Present) throw p.SelectorFault(Vector.Np, selector);
                p.Tasks.SwitchTaskThroughGate(d.GateSelector, TaskSwitchCause.Call, returnRip, Flags.Get(s), null);
                break;
            case SystemType.Tss16Available or SystemType.TssAvailable when !CpuMode.IsLong(s):
                p.Tasks.SwitchTask(selector, d, TaskSwitchCause.Call, returnRip, Flags.Get(s), null);
                break;
            default:
                throw p.SelectorFault(Vector.Gp, selector);
        }
    }

    private void CallSameLevel<T>(Descriptor code, ushort selector, ulong rip, ulong returnRip) where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = p.State;
        StackWriter stack = p.Segments.CurrentStack();
        stack.PushValue(T.CreateTruncating(s->Cs.Selector));
        stack.PushValue(T.CreateTruncating(returnRip));
        CheckTarget(code, rip);
        code = p.Segments.MarkAccessed(selector, code);
        // Before CS changes: the stack's width is that of the caller's mode.
        stack.Commit();
        CommitCode(code, selector, s->Cpl, rip);
    }

    private void CallThroughGate(Descriptor gate, ushort gateSelector, ulong returnRip)
    {
        ProcessorState* s = p.State;
        (Descriptor code, ushort selector, ulong target) = ResolveCallGate(gate, gateSelector);
        if (!code.Present) throw p.SelectorFault(Vector.Np, selector);
        bool inner = !code.Conforming && code.Dpl < s->Cpl;
        if (CpuMode.IsLong(s))
        {
            CallThroughLongGate(code, selector, target, returnRip, inner);
            return;
        }
        bool wide = gate.Type == SystemType.CallGate;
        if (!inner)
        {
            if (wide) CallSameLevel<uint>(code, selector, target, returnRip);
            else CallSameLevel<ushort>(code, selector, target, returnRip);
            return;
        }

        int cpl = code.Dpl;
        (ushort ssSelector, ulong esp) = p.Segments.ReadTssStack(cpl);
        if (Segmentation.IsNull(ssSelector)) throw p.SelectorFault(Vector.Ts, ssSelector);
        SegmentRegister newSs;
        p.Segments.CheckStackSegment(ssSelector, cpl, Vector.Ts, Vector.Ss).CopyTo(&newSs, ssSelector);
        var stack = new StackWriter(p, &newSs, esp, Stacks.Mask(&newSs), supervisor: true, ssSelector & 0xFFFCu);
        int size = wide ? 4 : 2;
        stack.Push(wide, s->Ss.Selector);
        stack.Push(wide, (uint)s->Rsp);
        ulong oldMask = Stacks.Mask(s);
        for (int n = gate.GateParameterCount - 1; n >= 0; n--)
        {
            ulong from = p.Segments.LinearAddress(Seg.Ss, (s->Rsp + (ulong)(n * size)) & oldMask, size, AccessKind.Read);
            stack.Push(wide, wide ? Access.Read<uint>(p, s, from) : Access.Read<ushort>(p, s, from));
        }
        stack.Push(wide, s->Cs.Selector);
        stack.Push(wide, (uint)returnRip);
        CheckTarget(code, target);
        CommitCode(code, selector, cpl, target);
        s->Ss = newSs;
        Stacks.SetPointer(s, stack.Pointer);
    }

    private void CallThroughLongGate(Descriptor code, ushort selector, ulong target, ulong returnRip, bool inner)
    {
        ProcessorState* s = p.State;
        int cpl = inner ? code.Dpl : s->Cpl;
        ulong rsp = inner ? p.Segments.ReadTss<ulong>(4 + (uint)cpl * 8) : s->Rsp & Stacks.Mask(s);
        var stack = new StackWriter(p, null, rsp, ulong.MaxValue, cpl != 3, 0);
        if (inner)
        {
            stack.Push64(s->Ss.Selector);
            stack.Push64(s->Rsp);
        }
        stack.Push64(s->Cs.Selector);
        stack.Push64(returnRip);
        CheckTarget(code, target);
        CommitCode(code, selector, cpl, target);
        s->Rsp = stack.Pointer;
        if (inner) Segmentation.SetNull(&s->Ss, (ushort)cpl, cpl);
    }

    /// <summary>Far RET: <paramref name="release"/> bytes of parameters go too.</summary>
    public Insn* FarReturn<T>(Insn* i, ulong release) where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = p.State;
        var stack = new StackReader(p);
        stack.Expect<T>(2);
        ulong rip = ulong.CreateTruncating(stack.Pop<T>());
        var selector = ushort.CreateTruncating(stack.Pop<T>());
        if (CpuMode.IsProtected(s)) Return<T>(ref stack, selector, rip, popsStack: false, release);
        else ReturnReal(ref stack, selector, rip, release);
        p.ModeChanged();
        return Flow.LeaveTo(s, i, s->Rip);
    }

    /// <summary>The end of far RET and IRET in real and virtual-8086 mode, with everything popped.</summary>
    public void ReturnReal(ref StackReader stack, ushort selector, ulong rip, ulong release = 0)
    {
        ProcessorState* s = p.State;
        if (rip > s->Cs.Limit) throw p.GeneralProtection();
        stack.Skip(release);
        Stacks.SetPointer(s, stack.Pointer);
        SetRealCode(selector, rip);
    }

    /// <summary>
    /// The end of far RET and IRET in protected and long mode, with everything popped but SS:RSP, which is on the stack for a return to an outer level, and in
    /// any case if
    /// <paramref name="popsStack"/> says so. When this throws nothing has changed.
    /// </summary>
    public void Return<T>(ref StackReader stack, ushort selector, ulong rip, bool popsStack, ulong release = 0) where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = p.State;
        (Descriptor code, int cpl) = CheckReturnCode(selector);
        stack.Skip(release);
        if (cpl == s->Cpl && !popsStack)
        {
            CheckTarget(code, rip);
            code = p.Segments.MarkAccessed(selector, code);
            Stacks.SetPointer(s, stack.Pointer);
            CommitCode(code, selector, cpl, rip);
            return;
        }
        stack.Expect<T>(2);
        ulong rsp = ulong.CreateTruncating(stack.Pop<T>());
        var ss = ushort.CreateTruncating(stack.Pop<T>());
        ReturnToOuterLevel(code, selector, cpl, rip, ss, rsp, release);
    }

    /// <summary>Checks of CS that far RET and IRET share; the new CPL is its RPL.</summary>
    private (Descriptor Code, int Cpl) CheckReturnCode(ushort selector)
    {
        ProcessorState* s = p.State;
        if (Segmentation.IsNull(selector)) throw p.GeneralProtection();
        Descriptor code = p.Segments.ReadDescriptor(selector);
        int rpl = selector & 3;
        if (!code.IsCode || rpl < s->Cpl || (code.Conforming ? code.Dpl > rpl : code.Dpl != rpl)) throw p.SelectorFault(Vector.Gp, selector);
        if (CpuMode.IsLong(s) && code.Long && code.Default32) throw p.SelectorFault(Vector.Gp, selector);
        if (!code.Present) throw p.SelectorFault(Vector.Np, selector);
        return (code, rpl);
    }

    /// <summary>
    /// Loads CS:RIP and SS:RSP of level <paramref name="cpl"/> and nulls data segments that it may not use; when this throws nothing has changed.
    /// </summary>
    private void ReturnToOuterLevel(Descriptor code, ushort selector, int cpl, ulong rip, ushort ssSelector, ulong rsp, ulong release)
    {
        ProcessorState* s = p.State;
        SegmentRegister newSs;
        if (Segmentation.IsNull(ssSelector))
        {
            bool to64 = CpuMode.IsLong(s) && code.Long;
            if (!to64 || cpl == 3 || (ssSelector & 3) != cpl) throw p.GeneralProtection();
            Segmentation.SetNull(&newSs, ssSelector, cpl);
        }
        else
        {
            p.Segments.CheckStackSegment(ssSelector, cpl, Vector.Gp, Vector.Ss).CopyTo(&newSs, ssSelector);
        }
        CheckTarget(code, rip);
        bool outer = cpl != s->Cpl;
        CommitCode(code, selector, cpl, rip);
        s->Ss = newSs;
        ulong mask = Stacks.Mask(s);
        Stacks.SetPointer(s, mask == ulong.MaxValue ? rsp + release : (rsp + release) & mask);
        if (outer) p.Segments.DropPrivilegedSegments();
    }
}
