namespace Bunraku.Processor.X86;

/// <summary>VMXON to VMWRITE, INVEPT, INVVPID, VMCALL, VMFUNC. Intel SDM vol. 3C, "VMX Instruction Reference".</summary>
internal static unsafe class VmxInstructions
{
    public const uint Failed = (uint)Rflags.Zf, FailedInvalid = (uint)Rflags.Cf;

    /// <summary>
    /// #UD outside VMX operation and where there are no such instructions; an exit in the guest; #GP(0) outside CPL 0. Null when the instruction executes.
    /// </summary>
    /// <param name="next">What the handler returns when the result is null.</param>
    private static Vmx? Begin(Processor p, ProcessorState* s, Insn* i, VmxExitReason reason, out Insn* next, bool hasOperand = true)
    {
        next = null;
        if (p.Vmx is not { InOperation: true } vmx || !CpuMode.IsProtected(s) || (CpuMode.IsLong(s) && !s->Cs.Long)) throw p.InvalidOpcode();
        if (vmx.InGuest)
        {
            ulong displacement = hasOperand ? VmxOperand.Displacement(s, i) : 0;
            next = vmx.Leave(i, reason, displacement, hasOperand ? VmxOperand.Information(s, i) : 0);
            return null;
        }
        if (s->Cpl > 0) throw p.GeneralProtection();
        return vmx;
    }

    private static Insn* Finish(ProcessorState* s, Insn* i, uint flags)
    {
        Flags.SetArithmetic(s, flags);
        return Flow.Leave(s, i);
    }

    private static Insn* Succeed(ProcessorState* s, Insn* i) => Finish(s, i, 0);

    /// <summary>VMfail: with the error number where there is a current VMCS to take it.</summary>
    private static Insn* Fail(Vmx vmx, ProcessorState* s, Insn* i, VmxError error)
    {
        if (!vmx.HasCurrent) return Finish(s, i, FailedInvalid);
        vmx.Current[VmcsField.InstructionError] = (uint)error;
        return Finish(s, i, Failed);
    }

    private static bool IsRegionAddress(Processor p, ulong address) => (address & 0xFFF) == 0 && address >> p.Model.PhysicalAddressBits == 0;

    private static ulong ReadPointer(Processor p, ProcessorState* s, Insn* i) =>
        Access.Read<ulong>(p, s, VmxOperand.Address(p, s, i, sizeof(ulong), AccessKind.Read));

    public static Insn* Vmxon(Processor p, ProcessorState* s, Insn* i)
    {
        if (p.Vmx is not { } vmx || (s->Cr4 & (ulong)Cr4.Vmxe) == 0) throw p.InvalidOpcode();
        if (vmx.InOperation)
        {
            if (Begin(p, s, i, VmxExitReason.Vmxon, out Insn* next) == null) return next;
            return Fail(vmx, s, i, VmxError.VmxonInRoot);
        }
        if (!CpuMode.IsProtected(s) || (CpuMode.IsLong(s) && !s->Cs.Long)) throw p.InvalidOpcode();
        const ulong enabled = VmxCapabilities.FeatureControlLock | VmxCapabilities.FeatureControlVmxOutsideSmx;
        if (s->Cpl > 0 || (s->Cr0 & VmxCapabilities.Cr0Required) != VmxCapabilities.Cr0Required
            || !p.Msrs.TryRead(VmxCapabilities.FeatureControl, out ulong control)
            || (control & enabled) != enabled) throw p.GeneralProtection();
        ulong address = ReadPointer(p, s, i);
        if (!IsRegionAddress(p, address) || vmx.Memory.Read<uint>(address) != Vmcs.Revision) return Finish(s, i, FailedInvalid);
        vmx.EnterOperation(address);
        return Succeed(s, i);
    }

    public static Insn* Vmxoff(Processor p, ProcessorState* s, Insn* i)
    {
        if (Begin(p, s, i, VmxExitReason.Vmxoff, out Insn* next, hasOperand: false) is not { } vmx) return next;
        vmx.LeaveOperation();
        return Succeed(s, i);
    }

    public static Insn* Vmclear(Processor p, ProcessorState* s, Insn* i)
    {
        if (Begin(p, s, i, VmxExitReason.Vmclear, out Insn* next) is not { } vmx) return next;
        ulong address = ReadPointer(p, s, i);
        if (!IsRegionAddress(p, address)) return Fail(vmx, s, i, VmxError.VmclearInvalidAddress);
        if (address == vmx.OperationPointer) return Fail(vmx, s, i, VmxError.VmclearVmxonPointer);
        vmx.Clear(address);
        return Succeed(s, i);
    }

    public static Insn* Vmptrld(Processor p, ProcessorState* s, Insn* i)
    {
        if (Begin(p, s, i, VmxExitReason.Vmptrld, out Insn* next) is not { } vmx) return next;
        ulong address = ReadPointer(p, s, i);
        if (!IsRegionAddress(p, address)) return Fail(vmx, s, i, VmxError.VmptrldInvalidAddress);
        if (address == vmx.OperationPointer) return Fail(vmx, s, i, VmxError.VmptrldVmxonPointer);
        uint revision = vmx.Memory.Read<uint>(address);
        if (vmx.OffersShadowing) revision &= ~Vmcs.ShadowIndicator;
        if (revision != Vmcs.Revision) return Fail(vmx, s, i, VmxError.VmptrldRevision);
        vmx.SelectCurrent(address);
        return Succeed(s, i);
    }

    public static Insn* Vmptrst(Processor p, ProcessorState* s, Insn* i)
    {
        if (Begin(p, s, i, VmxExitReason.Vmptrst, out Insn* next) is not { } vmx) return next;
        Access.Write(p, s, VmxOperand.Address(p, s, i, sizeof(ulong), AccessKind.Write), vmx.CurrentPointer);
        return Succeed(s, i);
    }

    public static Insn* Vmread<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, System.Numerics.IBinaryInteger<T>
    {
        bool memory = (i->Flags & InsnFlags.HasMemory) != 0;
        ulong encoding = ulong.CreateTruncating(Register.Get<T>(s, memory ? i->R0 : i->R1));
        ulong value;
        if (p.Vmx is { InGuest: true } guest && guest.UsesShadow(s, encoding, VmcsField.VmreadBitmap))
        {
            if (guest.FindShadowed(encoding, out VmcsField shadowed, out bool half) is { } failure) return Finish(s, i, failure);
            value = guest.ReadShadow(shadowed, half);
        }
        else
        {
            if (Begin(p, s, i, VmxExitReason.Vmread, out Insn* next) is not { } vmx) return next;
            if (!vmx.HasCurrent) return Finish(s, i, FailedInvalid);
            if (!VmcsFields.TryFind(encoding, out VmcsField field, out bool high)) return Fail(vmx, s, i, VmxError.UnsupportedField);
            value = high ? vmx.Current[field] >> 32 : vmx.Current[field];
        }
        if (memory) Access.Write(p, s, VmxOperand.Address(p, s, i, sizeof(T), AccessKind.Write), T.CreateTruncating(value));
        else Register.Set(s, i->R0, T.CreateTruncating(value));
        return Succeed(s, i);
    }

    public static Insn* Vmwrite<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, System.Numerics.IBinaryInteger<T>
    {
        ulong encoding = ulong.CreateTruncating(Register.Get<T>(s, i->R0));
        if (p.Vmx is { InGuest: true } guest && guest.UsesShadow(s, encoding, VmcsField.VmwriteBitmap))
        {
            ulong source = Source();
            if (guest.FindShadowed(encoding, out VmcsField shadowed, out bool half) is { } failure) return Finish(s, i, failure);
            guest.WriteShadow(shadowed, half, source);
            return Succeed(s, i);
        }
        if (Begin(p, s, i, VmxExitReason.Vmwrite, out Insn* next) is not { } vmx) return next;
        if (!vmx.HasCurrent) return Finish(s, i, FailedInvalid);
        ulong value = Source();
        if (!VmcsFields.TryFind(encoding, out VmcsField field, out bool high)) return Fail(vmx, s, i, VmxError.UnsupportedField);
        vmx.Current.Write(field, Vmx.Merge(vmx.Current[field], field, high, value, sizeof(T) == sizeof(ulong)));
        return Succeed(s, i);

        ulong Source() => ulong.CreateTruncating((i->Flags & InsnFlags.HasMemory) == 0 ? Register.Get<T>(s, i->R1)
            : Access.Read<T>(p, s, VmxOperand.Address(p, s, i, sizeof(T), AccessKind.Read)));
    }

    public static Insn* Vmlaunch(Processor p, ProcessorState* s, Insn* i) => Enter(p, s, i, launch: true);

    public static Insn* Vmresume(Processor p, ProcessorState* s, Insn* i) => Enter(p, s, i, launch: false);

    private static Insn* Enter(Processor p, ProcessorState* s, Insn* i, bool launch)
    {
        if (Begin(p, s, i, launch ? VmxExitReason.Vmlaunch : VmxExitReason.Vmresume, out Insn* next, hasOperand: false) is not { } vmx) return next;
        if (!vmx.HasCurrent || vmx.CurrentIsShadow) return Finish(s, i, FailedInvalid);
        if (p.Events.InMovSsShadow) return Fail(vmx, s, i, VmxError.EntryBlockedByMovSs);
        if (launch == vmx.Current.Launched) return Fail(vmx, s, i, launch ? VmxError.VmlaunchNotClear : VmxError.VmresumeNotLaunched);
        if (p.Exits.MustExitFirst) return p.Exits.LeaveForExit(i);
        if (vmx.Entry.CheckControls() is { } failure) return Fail(vmx, s, i, failure);
        Flow.Leave(s, i);
        vmx.Entry.Enter(launch);
        return null;
    }

    /// <summary>VMCALL: in the guest an exit, which needs no privilege; in VMX root operation there is no dual-monitor treatment to call.</summary>
    public static Insn* Vmcall(Processor p, ProcessorState* s, Insn* i)
    {
        if (p.Vmx is not { InOperation: true } vmx) return ControlInstructions.Hypercall(p, s, i);
        if (vmx.InGuest) return vmx.Leave(i, VmxExitReason.Vmcall, 0);
        if ((p.Controls.Instructions & InterceptedInstructions.Hypercall) != 0) return ControlInstructions.Hypercall(p, s, i);
        if (Begin(p, s, i, VmxExitReason.Vmcall, out Insn* next, hasOperand: false) == null) return next;
        return Fail(vmx, s, i, VmxError.VmcallInRoot);
    }

    /// <summary>VMFUNC: only in a guest whose hypervisor has enabled it.</summary>
    public static Insn* Vmfunc(Processor p, ProcessorState* s, Insn* i)
    {
        if (p.Vmx is not { InGuest: true } vmx || !vmx.Has(SecondaryControls.EnableVmFunctions)) throw p.InvalidOpcode();
        return vmx.Function(i);
    }

    public static Insn* Invept<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, System.Numerics.IBinaryInteger<T>
    {
        if (Begin(p, s, i, VmxExitReason.Invept, out Insn* next) is not { } vmx) return next;
        ulong type = ulong.CreateTruncating(Register.Get<T>(s, i->R0));
        if (type is not (1 or 2)) return Fail(vmx, s, i, VmxError.InvalidOperandToInvalidation);
        ulong at = VmxOperand.Address(p, s, i, 16, AccessKind.Read);
        ulong pointer = Access.Read<ulong>(p, s, at), reserved = Access.Read<ulong>(p, s, at + 8);
        if (type == 1 && (reserved != 0 || !vmx.Entry.IsEptPointer(pointer))) return Fail(vmx, s, i, VmxError.InvalidOperandToInvalidation);
        vmx.InvalidateEpt(type == 1 ? pointer : null);
        return Succeed(s, i);
    }

    public static Insn* Invvpid<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, System.Numerics.IBinaryInteger<T>
    {
        if (Begin(p, s, i, VmxExitReason.Invvpid, out Insn* next) is not { } vmx) return next;
        ulong type = ulong.CreateTruncating(Register.Get<T>(s, i->R0));
        if (type > 3) return Fail(vmx, s, i, VmxError.InvalidOperandToInvalidation);
        ulong at = VmxOperand.Address(p, s, i, 16, AccessKind.Read);
        ulong vpid = Access.Read<ulong>(p, s, at), address = Access.Read<ulong>(p, s, at + 8);
        if (vpid > 0xFFFF || (type != 2 && vpid == 0) || (type == 0 && !p.IsCanonicalBase(address)))
            return Fail(vmx, s, i, VmxError.InvalidOperandToInvalidation);
        vmx.InvalidateVpid(type == 2 ? null : (ushort)vpid, type == 0 ? address : null);
        return Succeed(s, i);
    }
}
