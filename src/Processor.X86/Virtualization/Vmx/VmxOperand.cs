namespace Bunraku.Processor.X86;

/// <summary>The memory operand of an instruction, as its handler uses it and as an exit describes it.</summary>
/// <remarks>Intel SDM vol. 3C, "Information for VM Exits Due to Instruction Execution".</remarks>
internal static unsafe class VmxOperand
{
    private static readonly ushort s_firstGpr = RegisterOffsets.Of(Iced.Intel.Register.RAX);

    /// <summary>Number of the general register at an offset of the state.</summary>
    public static uint Number(ushort offset) => (uint)(offset - s_firstGpr) / 8 & 15;

    public static Seg Segment(Insn* i) => (Seg)((int)(i->Flags & InsnFlags.SegmentMask) / (int)InsnFlags.SegmentShift9);

    /// <summary>Linear address after all checks of segmentation; the row has <see cref="Row.OwnSegmentation"/>.</summary>
    public static ulong Address(Processor p, ProcessorState* s, Insn* i, int size, AccessKind kind) =>
        p.Segments.LinearAddress(Segment(i), Access.EffectiveAddress(s, i), size, kind);

    /// <summary>Exit qualification: the displacement, or what a RIP-relative operand comes to.</summary>
    public static ulong Displacement(ProcessorState* s, Insn* i)
    {
        if ((i->Flags & InsnFlags.HasMemory) == 0) return 0;
        ulong value = i->Base == RegisterOffsets.BlockRip ? s->BlockRip + (ulong)i->Disp : (ulong)i->Disp;
        return i->AddressMask == 0xFFFF ? (ulong)(short)value : i->AddressMask == uint.MaxValue ? (ulong)(int)value : value;
    }

    /// <summary>
    /// VM-exit instruction information of the VMX instructions, INVPCID and XSAVES: how the operand is addressed, and the register operand where there is one
    /// (Reg2).
    /// </summary>
    public static uint Information(ProcessorState* s, Insn* i)
    {
        var code = (Iced.Intel.Code)i->Code;
        bool memory = (i->Flags & InsnFlags.HasMemory) != 0;
        bool isRead = code is Iced.Intel.Code.Vmread_rm32_r32 or Iced.Intel.Code.Vmread_rm64_r64;
        if (!memory)
        {
            // VMREAD and VMWRITE of a register: Reg1 is the r/m operand, Reg2 the other.
            (ushort reg1, ushort reg2) = isRead ? (i->R0, i->R1) : (i->R1, i->R0);
            return 1u << 10 | Number(reg1) << 3 | Number(reg2) << 28;
        }
        bool hasRegister = isRead || code is Iced.Intel.Code.Vmwrite_r32_rm32 or Iced.Intel.Code.Vmwrite_r64_rm64 or Iced.Intel.Code.Invept_r32_m128
            or Iced.Intel.Code.Invept_r64_m128 or Iced.Intel.Code.Invvpid_r32_m128 or Iced.Intel.Code.Invvpid_r64_m128
            or Iced.Intel.Code.Invpcid_r32_m128 or Iced.Intel.Code.Invpcid_r64_m128;
        return Addressing(i) | (hasRegister ? Number(i->R0) << 28 : 0);
    }

    /// <summary>Scaling, address size, segment, index and base: the bits that all formats share.</summary>
    public static uint Addressing(Insn* i)
    {
        uint size = i->AddressMask == 0xFFFF ? 0u : i->AddressMask == uint.MaxValue ? 1u : 2u;
        uint info = i->Scale | size << 7 | (uint)Segment(i) << 15;
        info |= i->Index == RegisterOffsets.Zero ? 1u << 22 : Number(i->Index) << 18;
        info |= i->Base == RegisterOffsets.Zero || i->Base == RegisterOffsets.BlockRip ? 1u << 27 : Number(i->Base) << 23;
        return info;
    }

    /// <summary>LGDT, LIDT, SGDT, SIDT: bit 11 the operand size, bits 29:28 which of them.</summary>
    public static uint TableInformation(ProcessorState* s, Insn* i, uint identity)
    {
        bool wide = (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64
            || (Iced.Intel.Code)i->Code is Iced.Intel.Code.Lgdt_m1632 or Iced.Intel.Code.Lidt_m1632 or Iced.Intel.Code.Sgdt_m1632 or Iced.Intel.Code.Sidt_m1632;
        return Addressing(i) | (wide ? 1u << 11 : 0) | identity << 28;
    }

    /// <summary>LLDT, LTR, SLDT, STR: a register or memory, bits 29:28 which of them.</summary>
    public static uint SelectorInformation(Insn* i, uint identity) =>
        ((i->Flags & InsnFlags.HasMemory) != 0 ? Addressing(i) : 1u << 10 | Number(i->R0) << 3) | identity << 28;
}
