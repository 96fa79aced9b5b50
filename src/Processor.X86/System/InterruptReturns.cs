using System.Numerics;

namespace Bunraku.Processor.X86;

/// <summary>IRET, IRETD, IRETQ. Intel SDM vol. 2, IRET "Operation".</summary>
internal sealed unsafe class InterruptReturns(Processor p)
{
    /// <typeparam name="T">ushort, uint or ulong: the operand size.</typeparam>
    public Insn* InterruptReturn<T>(Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = p.State;
        bool nmiBlocked = p.Events.NmiBlocked;
        // Also when the instruction faults (SDM vol. 3A, "Nonmaskable Interrupt (NMI)").
        if (nmiBlocked && p.GuestHypervisor is not { IretUnblocksNmis: false })
        {
            p.Events.NmiBlocked = false;
            p.Events.IretUnblockedNmis = true;
        }
        try
        {
            if ((s->Cr0 & (ulong)Cr0.Pe) == 0) ReturnReal<T>();
            else if (CpuMode.IsVirtual8086(s)) ReturnInVirtual8086<T>();
            else if (CpuMode.IsLong(s)) ReturnLong<T>();
            else if ((s->FlagsOther & (uint)Rflags.Nt) != 0) p.Tasks.ReturnToPreviousTask(Flow.NextRip(s, i));
            else ReturnProtected<T>();
        }
        catch (ExitRequest)
        {
            // It is executed again, and has not happened until then.
            p.Events.NmiBlocked = nmiBlocked;
            throw;
        }
        p.Events.IretUnblockedNmis = false;
        if ((s->FlagsOther & (uint)Rflags.Rf) != 0) p.Debug.KeepResumeFlag(s->Retired + i->Ordinal + 1);
        p.ModeChanged();
        p.Direct?.ReturnedToUser();
        return Flow.LeaveTo(s, i, s->Rip);
    }

    private const uint FlagsOf16Bits = 0x7FD5;
    private const uint FlagsFromAnyLevel = (uint)(Rflags.Arithmetic | Rflags.Tf | Rflags.Df | Rflags.Nt);

    /// <summary>What is on the stack in every mode.</summary>
    /// <param name="expected">Values of which all must lie in the stack segment.</param>
    private static (ulong Rip, ushort Selector, uint Flags) PopFrame<T>(ref StackReader stack, int expected = 3) where T : unmanaged, IBinaryInteger<T>
    {
        stack.Expect<T>(expected);
        return (ulong.CreateTruncating(stack.Pop<T>()), ushort.CreateTruncating(stack.Pop<T>()), uint.CreateTruncating(stack.Pop<T>()));
    }

    private void SetFlags(uint image, uint mask) => Flags.Set(p.State, Flags.Get(p.State) & ~mask | image & mask);

    private void ReturnReal<T>() where T : unmanaged, IBinaryInteger<T>
    {
        var stack = new StackReader(p);
        (ulong rip, ushort selector, uint image) = PopFrame<T>(ref stack);
        p.FarTransfers.ReturnReal(ref stack, selector, rip);
        SetFlags(image, sizeof(T) == 2 ? FlagsOf16Bits : FlagsOf16Bits | (uint)(Rflags.Rf | Rflags.Ac | Rflags.Id));
    }

    /// <summary>In virtual-8086 mode: with IOPL 3, or with CR4.VME and 16-bit operands on the virtual interrupt flag.</summary>
    private void ReturnInVirtual8086<T>() where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = p.State;
        bool iopl3 = (s->FlagsOther & (uint)Rflags.Iopl) == (uint)Rflags.Iopl;
        if (!iopl3 && (sizeof(T) != 2 || (s->Cr4 & (ulong)Cr4.Vme) == 0)) throw p.GeneralProtection();
        var stack = new StackReader(p);
        (ulong rip, ushort selector, uint image) = PopFrame<T>(ref stack);
        if (!iopl3)
        {
            bool pending = (s->FlagsOther & (uint)Rflags.Vip) != 0;
            if ((image & (uint)Rflags.Tf) != 0 || (pending && (image & (uint)Rflags.If) != 0)) throw p.GeneralProtection();
        }
        p.FarTransfers.ReturnReal(ref stack, selector, rip);
        if (iopl3)
        {
            uint mask = FlagsFromAnyLevel | (uint)Rflags.If | (sizeof(T) == 2 ? 0 : (uint)(Rflags.Rf | Rflags.Ac | Rflags.Id));
            SetFlags(image, mask);
        }
        else
        {
            image = (image & (uint)Rflags.If) != 0 ? image | (uint)Rflags.Vif : image & ~(uint)Rflags.Vif;
            SetFlags(image, FlagsFromAnyLevel | (uint)Rflags.Vif);
        }
    }

    /// <summary>Bits of the popped image that take effect, decided by the privilege before the return.</summary>
    private static uint FlagsMask<T>(ProcessorState* s) where T : unmanaged
    {
        uint mask = FlagsFromAnyLevel;
        int iopl = (int)(s->FlagsOther >> 12) & 3;
        if (s->Cpl <= iopl) mask |= (uint)Rflags.If;
        if (s->Cpl == 0) mask |= (uint)Rflags.Iopl;
        if (sizeof(T) != 2)
        {
            mask |= (uint)(Rflags.Rf | Rflags.Ac | Rflags.Id);
            if (s->Cpl == 0) mask |= (uint)(Rflags.Vif | Rflags.Vip);
        }
        return mask;
    }

    private void ReturnProtected<T>() where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = p.State;
        var stack = new StackReader(p);
        (ulong rip, ushort selector, uint image) = PopFrame<T>(ref stack);
        if ((image & (uint)Rflags.Vm) != 0 && s->Cpl == 0 && sizeof(T) != 2)
        {
            ReturnToVirtual8086(stack, (uint)rip, selector, image);
            return;
        }
        uint mask = FlagsMask<T>(s);
        p.FarTransfers.Return<T>(ref stack, selector, rip, popsStack: false);
        SetFlags(image, mask);
    }

    private void ReturnToVirtual8086(StackReader stack, uint rip, ushort selector, uint image)
    {
        ProcessorState* s = p.State;
        stack.Expect<uint>(6);
        uint esp = stack.Pop<uint>();
        var ss = (ushort)stack.Pop<uint>();
        var es = (ushort)stack.Pop<uint>();
        var ds = (ushort)stack.Pop<uint>();
        var fs = (ushort)stack.Pop<uint>();
        var gs = (ushort)stack.Pop<uint>();
        if (rip > 0xFFFF) throw p.GeneralProtection();
        SetFlags(image, FlagsMask<uint>(s) | (uint)Rflags.Vm);
        s->Cpl = 3;
        Segmentation.LoadRealSegment(&s->Cs, selector, virtual8086: true);
        Segmentation.LoadRealSegment(&s->Ss, ss, virtual8086: true);
        Segmentation.LoadRealSegment(&s->Es, es, virtual8086: true);
        Segmentation.LoadRealSegment(&s->Ds, ds, virtual8086: true);
        Segmentation.LoadRealSegment(&s->Fs, fs, virtual8086: true);
        Segmentation.LoadRealSegment(&s->Gs, gs, virtual8086: true);
        s->Rsp = esp;
        s->Rip = rip;
    }

    /// <summary>Long mode: from 64-bit mode SS:RSP is always popped.</summary>
    private void ReturnLong<T>() where T : unmanaged, IBinaryInteger<T>
    {
        ProcessorState* s = p.State;
        if ((s->FlagsOther & (uint)Rflags.Nt) != 0) throw p.GeneralProtection();
        bool is64 = CpuMode.Is64Bit(s);
        var stack = new StackReader(p);
        (ulong rip, ushort selector, uint image) = PopFrame<T>(ref stack, is64 ? 5 : 3);
        uint mask = FlagsMask<T>(s);
        p.FarTransfers.Return<T>(ref stack, selector, rip, popsStack: is64);
        SetFlags(image, mask);
    }
}
