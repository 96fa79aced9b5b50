using Iced.Intel;

namespace Bunraku.Silicon;

/// <summary>
/// Outcomes that the manuals leave open, or that belong to the host's kernel: one row each, with the reason and the set of what is permitted. A row may make
/// the guest's value equal to the silicon's only when both are in that set; what our own processor chooses, and why, is in the reason.
/// </summary>
internal static class OpenOutcomes
{
    /// <param name="Reason">Why it is open, what is permitted, and what our processor does.</param>
    private sealed record Row(string Reason, Action<TrialOutcome> Permit);

    private static readonly Row[] s_rows =
    [
        new("CR2 belongs to page faults alone.",
            o => { if (o.SiliconVector != 14 && o.GuestVector != 14) o.Accept(Context.FaultAddress, 8); }),
        new("Linux reports every fault on a kernel address as a protection violation, so that nobody learns what is mapped there.",
            o => { if ((long)TrialOutcome.Word(o.Silicon, Context.FaultAddress) < 0) o.Guest[Context.FaultError] |= (byte)(
                o.Silicon[Context.FaultError] & 1); }),
        new("Limit of the stack segment and alignment of 16 bytes have the same priority (Intel SDM vol. 3A \"Priority Among Concurrent "
            + "Events\").", EqualPriority),
        new("Which byte of a save area is accessed first is not defined: CR2 may be that of any of its bytes. Ours begins with the first.", SaveAreaAddress),
        new("CMPS has two operands and no manual says which is read first: CR2 and the error code are those of [rSI] (AMD family 1Ah, ours) or "
            + "[rDI] (AMD family 19h model 11h, Intel).", CompareStrings),
        new("A masked move faults on a page of enabled elements; CR2 is any byte of the operand in that page (Intel SDM vol. 2C \"VMASKMOV\" "
            + "does not say). Ours is the first enabled element's.", MaskedAddress),
        new("A gather that faults has done the elements below (Intel SDM vol. 2C \"VPGATHERDD\"); of the others the mask may be as it was (AMD, "
            + "ours) or extended from its sign (Intel), and bits above the vector may be cleared.", GatherAfterFault),
        new("A store of an MMX register enters MMX mode with the instruction. When the store faults, TOP may be 0 already with tags as they "
            + "were (Intel) or nothing may have changed (AMD, ours).", MmxStoreFault),
        new("An x87 store that raises an unmasked exception other than precision stores nothing. Whether it accesses its operand, which may "
            + "fault, is open: it does not (Intel), or it does (AMD, ours).", X87StoreException),
        new("A store of ten bytes may be one of eight and one of two: when the second faults the first has happened (Intel, FBSTP) or not (AMD, "
            + "ours).", TenByteStore),
        new("CALL to a target that is not canonical or beyond the limit raises #GP(0) with the stack pointer as it was; the return address may "
            + "have been written below it (Intel) or not (AMD, ours).", CallStack),
        new("ENTER with a 32-bit operand and a 16-bit stack sets EBP: bits 31:16 are those of ESP (AMD, ours) or zero (Intel); the manuals' "
            + "FrameTemp is ESP or SP.", EnterFrame),
        new("A repeated string instruction with a 32-bit address size and a count of zero may leave RCX, RSI and RDI as they were (AMD, ours) "
            + "or extend the 32-bit registers that it uses (Intel).", ZeroCount),
        new("In which order a dot product's multiplications and additions meet an unmasked exception is left open (Intel SDM vol. 2A \"DPPS\"): "
            + "ours stops behind the step that raises it, as Intel's processors do.", DotProduct),
        new("VCVTPS2PH of a denormal with underflow unmasked sets PE (Intel), or not, as other exact results (ours for AMD's processors, where nobody "
            + "has measured it).", DenormalToHalf),
        new("MXCSR_MASK says that the host has the misaligned SSE mode, which no model has.", ControlMask),
        new("A loaded x87 pointer is made canonical, with 48 or 57 bits by generation.", LoadedPointers),
        new("FOP is stored for unmasked exceptions only, unless a processor always does (Intel SDM vol. 1 \"Fopcode Compatibility Sub-mode\"): it may be as " +
            "it was, "
            + "in a sequence that of an earlier instruction.",
            o => KeepX87(o, Context.OutFx + 6, 2, !HostModel.HostIsAmd)),
        new("FDP is stored for unmasked exceptions only where CPUID.(7,0):EBX[6] says so, which no model does: it may be as it was, in a sequence that of an " +
            "earlier instruction.",
            o => { if (HostModel.HostKeepsDataPointer) KeepX87(o, Context.OutFx + 16, 8, true); }),
        new("Returning to a 16-bit stack segment IRET leaves RSP above bit 15 as the kernel had it (Intel SDM vol. 2A \"IRET\", operation; Linux: espfix64).",
            o => { if (o.Test.Bitness == 16) o.Accept(Context.OutGpr + 4 * 8 + 2, 6); }),
        new("Flags of BCD arithmetic that the manuals leave undefined: see UndefinedFlags.", Undefined),
    ];

    /// <summary>Makes the guest's outcome equal to the silicon's where both are permitted.</summary>
    public static void Accept(in TrialOutcome outcome)
    {
        foreach (Row row in s_rows) row.Permit(outcome);
    }

    private static bool IsPermittedByte(ulong address, ulong start, int size) => address - start < (ulong)size;

    private static void EqualPriority(TrialOutcome o)
    {
        if (o.SiliconVector is 12 or 13 && o.GuestVector is 12 or 13 && o.Test.Bitness != 64 && (o.OperandSize >= 16 || FormBuilder.AlignedArea(o.Mnemonic)))
            o.Accept(Context.FaultVector, 8);
    }

    private static void SaveAreaAddress(TrialOutcome o)
    {
        if (o.SiliconVector != 14 || o.GuestVector != 14
            || !(FormBuilder.AlignedArea(o.Mnemonic) || o.Mnemonic is Mnemonic.Maskmovq or Mnemonic.Maskmovdqu or Mnemonic.Vmaskmovdqu)) return;
        const uint area = 0x400; // the largest save area of our models is smaller
        ulong mine = TrialOutcome.Word(o.Guest, Context.FaultAddress), its = TrialOutcome.Word(o.Silicon, Context.FaultAddress);
        if (unchecked((uint)(mine - its) + area) < 2 * area) o.Accept(Context.FaultAddress, 8);
    }

    private static void CompareStrings(TrialOutcome o)
    {
        if (o.SiliconVector != 14 || o.GuestVector != 14 || o.Mnemonic is not (Mnemonic.Cmpsb or Mnemonic.Cmpsw or Mnemonic.Cmpsd or Mnemonic.Cmpsq)) return;
        ulong its = TrialOutcome.Word(o.Silicon, Context.FaultAddress), mine = TrialOutcome.Word(o.Guest, Context.FaultAddress);
        ulong mask = o.Test.Instruction.Op0Kind switch { OpKind.MemorySegRSI => ulong.MaxValue, OpKind.MemorySegESI => uint.MaxValue, _ => ushort.MaxValue };
        ulong segment = o.Test.Bitness == 16 ? Layout.Data : 0;
        ulong prefix = o.Test.Bitness != 64 ? segment
            : o.Test.Instruction.SegmentPrefix switch { Register.FS => Layout.FsBase, Register.GS => Layout.GsBase, _ => 0 };
        int size = o.OperandSize;
        ulong source = (o.Out(Register.RSI) & mask) + prefix, destination = (o.Out(Register.RDI) & mask) + segment;
        if (IsPermittedByte(its, destination, size) && IsPermittedByte(mine, source, size))
        {
            o.Accept(Context.FaultError, 8);
            o.Accept(Context.FaultAddress, 8);
        }
    }

    private static void MaskedAddress(TrialOutcome o)
    {
        if (o.SiliconVector != 14 || o.GuestVector != 14
            || o.Mnemonic is not (Mnemonic.Vmaskmovps or Mnemonic.Vmaskmovpd or Mnemonic.Vpmaskmovd or Mnemonic.Vpmaskmovq)) return;
        ulong its = TrialOutcome.Word(o.Silicon, Context.FaultAddress), mine = TrialOutcome.Word(o.Guest, Context.FaultAddress);
        if (its >> 12 == mine >> 12 && IsPermittedByte(its, o.Operand, o.OperandSize) && IsPermittedByte(mine, o.Operand, o.OperandSize))
            o.Accept(Context.FaultAddress, 8);
    }

    private static void GatherAfterFault(TrialOutcome o)
    {
        if (!o.BothFaulted || o.Test.Instruction.MemoryIndex < Register.XMM0) return;
        Instruction i = o.Test.Instruction;
        int element = i.MemorySize.GetElementSize(), count = Math.Min(i.Op0Register.GetSize() / element, i.MemoryIndex.GetSize() / (i.IsVsib32 ? 4 : 8));
        int destination = i.Op0Register.GetNumber() * 32, mask = i.Op2Register.GetNumber() * 32;
        for (int n = 0; n < 32 / element; n++)
        {
            int at = mask + n * element;
            if (IsAsBefore(o, at, element) && (IsExtendedSign(o, at, element) || n >= count && IsZero(o, at, element))) o.Accept(Context.OutYmm + at, element);
            at = destination + n * element;
            if (n >= count && IsAsBefore(o, at, element) && IsZero(o, at, element)) o.Accept(Context.OutYmm + at, element);
        }
    }

    /// <summary>The guest has what was there.</summary>
    private static bool IsAsBefore(TrialOutcome o, int at, int length) =>
        o.Guest.Slice(Context.OutYmm + at, length).SequenceEqual(o.Guest.Slice(Context.Ymm + at, length));

    private static bool IsZero(TrialOutcome o, int at, int length) => !o.Silicon.Slice(Context.OutYmm + at, length).ContainsAnyExcept((byte)0);

    private static bool IsExtendedSign(TrialOutcome o, int at, int length) =>
        !o.Silicon.Slice(Context.OutYmm + at, length).ContainsAnyExcept((sbyte)o.Silicon[Context.Ymm + at + length - 1] < 0 ? (byte)0xFF : (byte)0);

    private static void MmxStoreFault(TrialOutcome o)
    {
        const int status = Context.OutFx + 2, registers = Context.OutFx + 32, topMask = 0x38;
        if (!o.BothFaulted || o.Test.Instruction.Op0Kind == OpKind.Register || !o.Test.Instruction.Op1Register.IsMM()
            || !o.Guest.Slice(Context.OutFx, 160).SequenceEqual(o.Guest.Slice(Context.Fx, 160))) return;
        int top = (o.Guest[status + 1] & topMask) >> 3;
        if ((o.Silicon[status + 1] & topMask) != 0 || ((o.Silicon[status + 1] ^ o.Guest[status + 1]) & ~topMask) != 0) return;
        // The same physical registers, from another top of stack.
        for (int n = 0; n < 8; n++)
        {
            if (!o.Silicon.Slice(registers + n * 16, 16).SequenceEqual(o.Guest.Slice(Context.Fx + 32 + ((n - top) & 7) * 16, 16))) return;
        }
        o.Accept(status, 2);
        o.Accept(registers, 128);
    }

    private static void DotProduct(TrialOutcome o)
    {
        if (!HostModel.HostIsAmd || o.SiliconVector != 19 || o.GuestVector != 19) return;
        if (o.Mnemonic is Mnemonic.Dpps or Mnemonic.Dppd or Mnemonic.Vdpps or Mnemonic.Vdppd) o.Accept(Context.OutMxcsr, 4);
    }

    private static void DenormalToHalf(TrialOutcome o)
    {
        const byte pe = 0x20;
        if (!HostModel.HostIsAmd || o.SiliconVector != 19 || o.GuestVector != 19 || o.Mnemonic != Mnemonic.Vcvtps2ph) return;
        o.Guest[Context.OutMxcsr] |= (byte)(o.Silicon[Context.OutMxcsr] & pe);
    }

    private static void CallStack(TrialOutcome o)
    {
        Instruction i = o.Test.Instruction;
        if (!o.BothFaulted || o.SiliconVector != 13 || !i.IsCallNearIndirect) return;
        int size = i.Op0Kind == OpKind.Register ? i.Op0Register.GetSize() : o.OperandSize;
        bool small = o.Test.Bitness == 16;
        ulong rsp = o.In(Register.RSP) - (ulong)size, slot = small ? Layout.Data + (ushort)rsp
            : rsp, next = o.Test.Address + (ulong)o.Test.Encoded.Length - (small ? Layout.Cases : 0);
        if (slot - Layout.Contexts > Layout.ContextsSize - (ulong)size && slot - Layout.Data > Layout.DataSize - (ulong)size) return;
        if (TrialOutcome.Host(slot, size).SequenceEqual(BitConverter.GetBytes(next).AsSpan(0, size)))
            TrialOutcome.Host(slot, size).CopyTo(o.InGuest(slot, size));
    }

    private static void EnterFrame(TrialOutcome o)
    {
        if (o.Mnemonic != Mnemonic.Enter || o.Test.Bitness != 16 || o.Test.Instruction.Code != Code.Enterd_imm16_imm8) return;
        const int rbp = Context.OutGpr + 5 * 8;
        ulong its = TrialOutcome.Word(o.Silicon, rbp), mine = TrialOutcome.Word(o.Guest, rbp);
        if (its == (ushort)its && mine == (its | o.In(Register.RSP) & 0xFFFF_0000)) o.Accept(rbp, 8);
    }

    private static void X87StoreException(TrialOutcome o)
    {
        const int control = Context.OutFx, status = Context.OutFx + 2;
        if (o.SiliconVector != ulong.MaxValue || o.GuestVector is not (12 or 13 or 14) || !IsX87Store(o.Test.Instruction)) return;
        int unmasked = BitConverter.ToUInt16(o.Silicon[status..]) & ~BitConverter.ToUInt16(o.Silicon[control..]) & 0x1F;
        if (unmasked == 0 || !o.Guest.Slice(Context.OutFx, 160).SequenceEqual(o.Guest.Slice(Context.Fx, 160))) return;
        o.Accept(Context.FaultVector, Context.FaultAddress + 8 - Context.FaultVector);
        o.Accept(Context.OutFx, 160);
    }

    private static bool IsX87Store(in Instruction i) =>
        i.Op0Kind == OpKind.Memory && i.Mnemonic is Mnemonic.Fst or Mnemonic.Fstp or Mnemonic.Fist or Mnemonic.Fistp or Mnemonic.Fisttp or Mnemonic.Fbstp;

    private static void TenByteStore(TrialOutcome o)
    {
        const int first = 8;
        if (!o.BothFaulted || o.SiliconVector != 14 || !IsX87Store(o.Test.Instruction) || o.OperandSize != 10) return;
        ulong operand = o.Operand;
        if (operand - Layout.Data > Layout.DataSize - first && operand - Layout.Contexts > Layout.ContextsSize - first) return;
        TrialOutcome.Host(operand, first).CopyTo(o.InGuest(operand, first));
    }

    private static void ZeroCount(TrialOutcome o)
    {
        Instruction i = o.Test.Instruction;
        if (o.Test.Bitness != 64 || !(i.HasRepPrefix || i.HasRepnePrefix) || (uint)o.In(Register.RCX) != 0 || !i.IsStringInstruction) return;
        bool source = i.Op0Kind == OpKind.MemorySegESI || i.Op1Kind == OpKind.MemorySegESI, destination = i.Op0Kind == OpKind.MemoryESEDI
            || i.Op1Kind == OpKind.MemoryESEDI;
        if (!source && !destination) return;
        Extended(o, Register.RCX);
        if (source) Extended(o, Register.RSI);
        if (destination) Extended(o, Register.RDI);

        static void Extended(TrialOutcome o, Register register) =>
            o.AcceptIf(Context.OutGpr + (register - Register.RAX) * 8, (uint)o.In(register), o.In(register));
    }

    private static void ControlMask(TrialOutcome o)
    {
        o.Accept(Context.OutFx + 28, 4);
        if (!FormBuilder.AlignedArea(o.Mnemonic)) return;
        ulong mask = o.Operand + 28;
        if (mask - Layout.Data < Layout.DataSize - 4) TrialOutcome.Host(mask, 4).CopyTo(o.InGuest(mask, 4));
    }

    private static void LoadedPointers(TrialOutcome o)
    {
        if (!FormBuilder.AlignedArea(o.Mnemonic)) return;
        foreach (int pointer in (ReadOnlySpan<int>)[8, 16]) o.Accept(Context.OutFx + pointer + 6, 2);
    }

    /// <summary>
    /// The silicon has left a field of the x87 image as it was before the trial or, with <paramref name="inSequence"/>, at some earlier instruction of a
    /// sequence.
    /// </summary>
    private static void KeepX87(TrialOutcome o, int offset, int length, bool inSequence)
    {
        bool isSequence = o.Test.Instruction.Code == Code.Nopd; // see SequenceFuzzer
        if (isSequence && inSequence || o.Silicon.Slice(offset, length).SequenceEqual(o.Silicon.Slice(offset - Context.OutFx + Context.Fx, length)))
            o.Accept(offset, length);
    }

    private static void Undefined(TrialOutcome o)
    {
        uint undefined = UndefinedFlags.Mask(o.Test.Instruction);
        if (undefined == 0) return;
        ulong flags = TrialOutcome.Word(o.Guest, Context.OutRflags) & ~(ulong)undefined | TrialOutcome.Word(o.Silicon, Context.OutRflags) & undefined;
        BitConverter.TryWriteBytes(o.Guest[Context.OutRflags..], flags);
    }
}
