using System.Numerics;

namespace Bunraku.Processor.X86;

/// <summary>Far JMP, CALL and RET, call gates. Intel SDM vol. 2, JMP, CALL, RET "Operation"; AMD APM vol. 2, "Control Transfers".</summary>
public sealed unsafe partial class Processor
{
    /// <summary>Checks of a code segment reached directly, without a gate.</summary>
    private void CheckDirectCode(Descriptor code, ushort selector)
    {
        ProcessorState* s = State;
        if (code.Conforming ? code.Dpl > s->Cpl : (selector & 3) > s->Cpl || code.Dpl != s->Cpl) throw SelectorFault(Vector.Gp, selector);
        if (IsLongMode(s) && code.Long && code.Default32) throw SelectorFault(Vector.Gp, selector);
        if (!code.Present) throw SelectorFault(Vector.Np, selector);
    }

    /// <summary>The target offset must be canonical in a 64-bit segment, else inside the limit.</summary>
    private void CheckTarget(Descriptor code, ulong rip)
    {
        if (IsLongMode(State) && code.Long ? !IsCanonical(rip) : rip > code.Limit) throw GeneralProtection();
    }

    private void CommitCode(Descriptor code, ushort selector, int cpl, ulong rip)
    {
        ProcessorState* s = State;
        MarkAccessed(selector, code).CopyTo(&s->Cs, (ushort)(selector & ~3 | cpl));
        s->Cpl = cpl;
        s->Rip = rip;
    }

    /// <summary>Far transfer in real and virtual-8086 mode.</summary>
    private void SetRealCode(ushort selector, ulong rip)
    {
        ProcessorState* s = State;
        if (rip > s->Cs.Limit) throw GeneralProtection();
        LoadRealSegment(&s->Cs, selector, IsVirtual8086(s));
        s->Rip = rip;
    }

    internal Insn* FarJump(Insn* i, ushort selector, ulong rip)
    {
        ProcessorState* s = State;
        if (!IsProtected(s)) SetRealCode(selector, rip);
        else FarJumpProtected(i, selector, rip);
        ModeChanged();
        return Flow.LeaveTo(s, i, s->Rip);
    }

    private void FarJumpProtected(Insn* i, ushort selector, ulong rip)
    {
        ProcessorState* s = State;
        if (IsNull(selector)) throw GeneralProtection();
        Descriptor d = ReadDescriptor(selector);
        if (d.IsCode)
        {
            CheckDirectCode(d, selector);
            CheckTarget(d, rip);
            CommitCode(d, selector, s->Cpl, rip);
            return;
        }
        if (!d.IsSystem) throw SelectorFault(Vector.Gp, selector);
        CheckGateAccess(d, selector);
        switch (d.Type)
        {
            case SystemType.CallGate:
            case SystemType.CallGate16 when !IsLongMode(s):
                {
                    (Descriptor code, ushort codeSelector, ulong target) = ResolveCallGate(d, selector);
                    if (!code.Conforming && code.Dpl != s->Cpl) throw SelectorFault(Vector.Gp, codeSelector);
                    if (!code.Present) throw SelectorFault(Vector.Np, codeSelector);
                    CheckTarget(code, target);
                    CommitCode(code, codeSelector, s->Cpl, target);
                    break;
                }
            case SystemType.TaskGate when !IsLongMode(s):
                if (!d.Present) throw SelectorFault(Vector.Np, selector);
                SwitchTaskThroughGate(d.GateSelector, TaskSwitchCause.Jump, Flow.NextRip(s, i), Flags.Get(s), null);
                break;
            case SystemType.Tss16Available or SystemType.TssAvailable when !IsLongMode(s):
                SwitchTask(selector, d, TaskSwitchCause.Jump, Flow.NextRip(s, i), Flags.Get(s), null);
                break;
            default:
                throw SelectorFault(Vector.Gp, selector);
        }
    }

    /// <summary>Gate and TSS descriptors: DPL must not be below CPL or RPL.</summary>
    private void CheckGateAccess(Descriptor d, ushort selector)
    {
        if (d.Dpl < Math.Max(State->Cpl, selector & 3)) throw SelectorFault(Vector.Gp, selector);
    }

    /// <summary>Code segment and offset behind a call gate, with the checks that CALL and JMP share; the segment's presence is the caller's check.</summary>
    private (Descriptor Code, ushort Selector, ulong Target) ResolveCallGate(Descriptor gate, ushort gateSelector)
    {
        ProcessorState* s = State;
        if (!gate.Present) throw SelectorFault(Vector.Np, gateSelector);
        bool longMode = IsLongMode(s);
        ulong upper = longMode ? ReadUpperHalf(gateSelector) : 0;
        ushort selector = gate.GateSelector;
        if (IsNull(selector)) throw GeneralProtection();
        Descriptor code = ReadDescriptor(selector);
        if (!code.IsCode || code.Dpl > s->Cpl) throw SelectorFault(Vector.Gp, selector);
        if (longMode && (!code.Long || code.Default32)) throw SelectorFault(Vector.Gp, selector);
        ulong target = gate.Type == SystemType.CallGate16 ? (ushort)gate.GateOffset : gate.GateOffset | upper << 32;
        return (code, selector, target);
    }

    /// <typeparam name="T">ushort, uint or ulong: the operand size, by which CS and the return address are pushed.</typeparam>
    internal Insn* FarCall<T>(Insn* i, ushort selector, ulong rip) where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = State;
        ulong returnRip = Flow.NextRip(s, i);
        if (!IsProtected(s))
        {
            StackWriter stack = CurrentStack();
            stack.PushValue(T.CreateTruncating(s->Cs.Selector));
            stack.PushValue(T.CreateTruncating(returnRip));
            if (rip > s->Cs.Limit) throw GeneralProtection();
            stack.Commit();
            SetRealCode(selector, rip);
        }
        else
        {
            FarCallProtected<T>(selector, rip, returnRip);
        }
        ModeChanged();
        return Flow.LeaveTo(s, i, s->Rip);
    }

    private void FarCallProtected<T>(ushort selector, ulong rip, ulong returnRip) where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = State;
        if (IsNull(selector)) throw GeneralProtection();
        Descriptor d = ReadDescriptor(selector);
        if (d.IsCode)
        {
            CheckDirectCode(d, selector);
            CallSameLevel<T>(d, selector, rip, returnRip);
            return;
        }
        if (!d.IsSystem) throw SelectorFault(Vector.Gp, selector);
        CheckGateAccess(d, selector);
        switch (d.Type)
        {
            case SystemType.CallGate:
            case SystemType.CallGate16 when !IsLongMode(s):
                CallThroughGate(d, selector, returnRip);
                break;
            case SystemType.TaskGate when !IsLongMode(s):
                if (!d.Present) throw SelectorFault(Vector.Np, selector);
                SwitchTaskThroughGate(d.GateSelector, TaskSwitchCause.Call, returnRip, Flags.Get(s), null);
                break;
            case SystemType.Tss16Available or SystemType.TssAvailable when !IsLongMode(s):
                SwitchTask(selector, d, TaskSwitchCause.Call, returnRip, Flags.Get(s), null);
                break;
            default:
                throw SelectorFault(Vector.Gp, selector);
        }
    }

    private void CallSameLevel<T>(Descriptor code, ushort selector, ulong rip, ulong returnRip) where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = State;
        StackWriter stack = CurrentStack();
        stack.PushValue(T.CreateTruncating(s->Cs.Selector));
        stack.PushValue(T.CreateTruncating(returnRip));
        CheckTarget(code, rip);
        code = MarkAccessed(selector, code);
        // Before CS changes: the stack's width is that of the caller's mode.
        stack.Commit();
        CommitCode(code, selector, s->Cpl, rip);
    }

    private void CallThroughGate(Descriptor gate, ushort gateSelector, ulong returnRip)
    {
        ProcessorState* s = State;
        (Descriptor code, ushort selector, ulong target) = ResolveCallGate(gate, gateSelector);
        if (!code.Present) throw SelectorFault(Vector.Np, selector);
        bool inner = !code.Conforming && code.Dpl < s->Cpl;
        if (IsLongMode(s))
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
        (ushort ssSelector, ulong esp) = ReadTssStack(cpl);
        if (IsNull(ssSelector)) throw SelectorFault(Vector.Ts, ssSelector);
        SegmentRegister newSs;
        CheckStackSegment(ssSelector, cpl, Vector.Ts, Vector.Ss).CopyTo(&newSs, ssSelector);
        var stack = new StackWriter(this, &newSs, esp, StackMask(&newSs), supervisor: true, ssSelector & 0xFFFCu);
        int size = wide ? 4 : 2;
        stack.Push(wide, s->Ss.Selector);
        stack.Push(wide, (uint)s->Rsp);
        ulong oldMask = StackMask(s);
        for (int n = gate.GateParameterCount - 1; n >= 0; n--)
        {
            ulong from = LinearAddress(Seg.Ss, (s->Rsp + (ulong)(n * size)) & oldMask, size, AccessKind.Read);
            stack.Push(wide, wide ? Access.Read<uint>(this, s, from) : Access.Read<ushort>(this, s, from));
        }
        stack.Push(wide, s->Cs.Selector);
        stack.Push(wide, (uint)returnRip);
        CheckTarget(code, target);
        CommitCode(code, selector, cpl, target);
        s->Ss = newSs;
        SetStackPointer(s, stack.Pointer);
    }

    private void CallThroughLongGate(Descriptor code, ushort selector, ulong target, ulong returnRip, bool inner)
    {
        ProcessorState* s = State;
        int cpl = inner ? code.Dpl : s->Cpl;
        ulong rsp = inner ? ReadTss<ulong>(4 + (uint)cpl * 8) : s->Rsp & StackMask(s);
        var stack = new StackWriter(this, null, rsp, ulong.MaxValue, cpl != 3, 0);
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
        if (inner) SetNull(&s->Ss, (ushort)cpl, cpl);
    }

    /// <summary>Far RET: <paramref name="release"/> bytes of parameters go too.</summary>
    internal Insn* FarReturn<T>(Insn* i, ulong release) where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = State;
        var stack = new StackReader(this);
        stack.Expect<T>(2);
        ulong rip = ulong.CreateTruncating(stack.Pop<T>());
        var selector = ushort.CreateTruncating(stack.Pop<T>());
        if (!IsProtected(s))
        {
            if (rip > s->Cs.Limit) throw GeneralProtection();
            stack.Skip(release);
            SetStackPointer(s, stack.Pointer);
            SetRealCode(selector, rip);
        }
        else
        {
            (Descriptor code, int cpl) = CheckReturnCode(selector);
            stack.Skip(release);
            if (cpl == s->Cpl)
            {
                CheckTarget(code, rip);
                code = MarkAccessed(selector, code);
                SetStackPointer(s, stack.Pointer);
                CommitCode(code, selector, cpl, rip);
            }
            else
            {
                stack.Expect<T>(2);
                ulong rsp = ulong.CreateTruncating(stack.Pop<T>());
                var ss = ushort.CreateTruncating(stack.Pop<T>());
                ReturnToOuterLevel(code, selector, cpl, rip, ss, rsp, release);
            }
        }
        ModeChanged();
        return Flow.LeaveTo(s, i, s->Rip);
    }

    /// <summary>Checks of CS that far RET and IRET share; the new CPL is its RPL.</summary>
    private (Descriptor Code, int Cpl) CheckReturnCode(ushort selector)
    {
        ProcessorState* s = State;
        if (IsNull(selector)) throw GeneralProtection();
        Descriptor code = ReadDescriptor(selector);
        int rpl = selector & 3;
        if (!code.IsCode || rpl < s->Cpl || (code.Conforming ? code.Dpl > rpl : code.Dpl != rpl)) throw SelectorFault(Vector.Gp, selector);
        if (IsLongMode(s) && code.Long && code.Default32) throw SelectorFault(Vector.Gp, selector);
        if (!code.Present) throw SelectorFault(Vector.Np, selector);
        return (code, rpl);
    }

    /// <summary>Loads CS:RIP and SS:RSP of level <paramref name="cpl"/> and nulls data segments that it may not use; when this throws nothing has changed.</summary>
    private void ReturnToOuterLevel(Descriptor code, ushort selector, int cpl, ulong rip, ushort ssSelector, ulong rsp, ulong release)
    {
        ProcessorState* s = State;
        SegmentRegister newSs;
        if (IsNull(ssSelector))
        {
            bool to64 = IsLongMode(s) && code.Long;
            if (!to64 || cpl == 3 || (ssSelector & 3) != cpl) throw GeneralProtection();
            SetNull(&newSs, ssSelector, cpl);
        }
        else
        {
            CheckStackSegment(ssSelector, cpl, Vector.Gp, Vector.Ss).CopyTo(&newSs, ssSelector);
        }
        CheckTarget(code, rip);
        bool outer = cpl != s->Cpl;
        CommitCode(code, selector, cpl, rip);
        s->Ss = newSs;
        ulong mask = StackMask(s);
        SetStackPointer(s, mask == ulong.MaxValue ? rsp + release : (rsp + release) & mask);
        if (outer) DropPrivilegedSegments();
    }
}
