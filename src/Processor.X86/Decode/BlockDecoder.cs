using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Turns guest code into operations: everything that the mode, the privilege, the CPU model and the execution controls decide is decided here, once a
/// block. One for each vCPU.
/// </summary>
internal sealed unsafe class BlockDecoder
{
    /// <summary>Most instructions in a block; with two micro-operations for each, the count and the end, the buffer below is never exceeded.</summary>
    public const int MaxInstructions = 64;
    public const int MaxOperations = 3 * MaxInstructions + 3;

    private readonly Processor _processor;
    private readonly bool[] _features;
    private readonly CodeBytes _bytes = new();
    private readonly GuestDecoder _decoder;
    // Pinned: handlers' preparation takes addresses of elements.
    private readonly Insn[] _operations = GC.AllocateArray<Insn>(MaxOperations, pinned: true);
    private int _count;

    public BlockDecoder(Processor processor)
    {
        _processor = processor;
        _features = FeatureMap.For(processor.Model);
        _decoder = new GuestDecoder(_bytes, processor.Model);
    }

    /// <summary>The operations of the last decoded block.</summary>
    public ReadOnlySpan<Insn> Operations => _operations.AsSpan(0, _count);

    /// <summary>The last decoding stopped since the thunk arena is full: the caller gives all code up and decodes again.</summary>
    public bool OutOfThunks { get; private set; }

    /// <summary>Bytes of guest code in the last decoded block.</summary>
    public int Length { get; private set; }

    /// <summary>Of those bytes: see <see cref="CodeBytes.Checksum"/>.</summary>
    public ulong Checksum => _bytes.Checksum(Length);

    /// <summary>
    /// Decodes a block from <paramref name="available"/> bytes. False when not even one instruction is complete in them: the caller supplies more, from the
    /// next page.
    /// </summary>
    /// <param name="rip">RIP of the first byte, for branch targets only.</param>
    /// <param name="offset">Of the first byte in its page.</param>
    /// <param name="maxInstructions">1 for single steps and for instructions across pages.</param>
    /// <param name="crosses">The block lies in two pages: its end must not be linked.</param>
    /// <param name="counted">An operation that counts, and enters the block's translation once there is one, comes first.</param>
    public bool Decode(byte* code, int available, ulong rip, int offset, uint mode, int maxInstructions, bool crosses, bool counted = false)
    {
        _count = 0;
        Length = 0;
        if (counted)
        {
            ref Insn count = ref New(0);
            count.Handler = &TranslatedBlocks.Count;
            count.Flags = InsnFlags.Counted;
        }
        OutOfThunks = false;
        _bytes.Set(code, available);
        _decoder.Begin(mode, rip);
        int limit = Math.Min(maxInstructions, MaxInstructions);
        int ordinal = 0;
        for (; ordinal < limit; ordinal++)
        {
            if (!_decoder.Decode(out Instruction instruction))
            {
                if (ordinal == 0) return false;
                break;
            }
            if (_processor.Debugger.MayBreakAt((offset + Length) & 0xFFF)) EmitBreakpoint(ordinal);
            if (!Emit(instruction, mode, ordinal, rip, code + Length)) return Finish(crosses);
            Length += instruction.Length;
        }
        EndOfBlock(ordinal);
        return Finish(crosses);
    }

    private bool Finish(bool crosses)
    {
        if (crosses)
        {
            foreach (ref Insn i in _operations.AsSpan(0, _count)) i.Flags |= InsnFlags.NoLink;
        }
        return true;
    }

    private void EmitBreakpoint(int ordinal)
    {
        ref Insn i = ref New(ordinal);
        i.Handler = &HostDebugger.Check;
        i.Code = Insn.BreakpointCode;
    }

    private void EndOfBlock(int ordinal)
    {
        ref Insn end = ref New(ordinal);
        end.Handler = &X86.Operations.EndOfBlock;
        end.Imm = Length;
    }

    private ref Insn New(int ordinal)
    {
        ref Insn i = ref _operations[_count++];
        i = default;
        i.Offset = (ushort)Length;
        i.Ordinal = (ushort)ordinal;
        i.Base = i.Index = i.SegmentBase = RegisterOffsets.Zero;
        return ref i;
    }

    /// <summary>Appends one instruction; false when it ends the block (then the block is complete).</summary>
    private bool Emit(in Instruction instruction, uint mode, int ordinal, ulong rip, byte* code)
    {
        if (Refusal(instruction, mode, code) is var refusal && refusal != null)
        {
            ref Insn bad = ref New(ordinal);
            bad.Handler = refusal;
            bad.Length = (byte)instruction.Length;
            bad.Flags = InsnFlags.OtherHandler;
            bad.Code = (ushort)instruction.Code;
            Length += instruction.Length;
            return false;
        }

        ref readonly InstructionRow row = ref InstructionTable.Get(instruction.Code);
        bool memory = HasMemory(instruction);
        bool segmented = memory && (row.Flags & (Row.AddressOnly | Row.OwnSegmentation)) == 0 && NeedsSegmentation(instruction, mode);
        if (segmented) EmitSegmentation(instruction, row.Flags, ordinal);

        ref Insn i = ref New(ordinal);
        i.Code = (ushort)instruction.Code;
        i.Length = (byte)instruction.Length;
        i.Handler = !memory ? row.Register : instruction.HasLockPrefix ? row.Locked : row.Memory;
        if (memory && instruction.Code == Code.Movsxd_r16_rm16 && _processor.Model.Behavior.WordMovsxdReadsDoubleword) i.Handler = &Extend<uint, ushort>.RegMem;
        FillFlags(ref i, instruction, memory);
        if (Intercepts.Applies(_processor, instruction, row))
        {
            i.Handler = &Intercepts.Exit;
            i.Flags |= InsnFlags.OtherHandler | InsnFlags.OuterIntercept;
        }
        if (_processor.GuestIntercepts != 0 && (GuestInterceptTable.Find(instruction) & _processor.GuestIntercepts) != 0)
        {
            i.Handler = &GuestInterception.Ask;
            i.Flags |= InsnFlags.OtherHandler;
        }
        FillOperands(ref i, instruction, rip);
        if (memory)
        {
            if (segmented)
            {
                i.Base = RegisterOffsets.PreparedAddress;
                i.AddressMask = ulong.MaxValue;
            }
            else
            {
                FillAddress(ref i, instruction, withBase: (row.Flags & (Row.OwnSegmentation | Row.AddressOnly)) == 0);
            }
        }
        if ((row.Flags & Row.Host) != 0 && !_processor.Thunks.Prepare(instruction, (Insn*)System.Runtime.CompilerServices.Unsafe.AsPointer(ref i)))
        {
            OutOfThunks = true;
            return false;
        }
        if ((row.Flags & (Row.EndsBlock | Row.Serializes)) == 0) return true;

        Length += instruction.Length;
        if (HasFallthrough(instruction.FlowControl) || (row.Flags & Row.Serializes) != 0) EndOfBlock(ordinal + 1);
        return false;
    }

    private static bool HasFallthrough(FlowControl flow) => flow == FlowControl.ConditionalBranch;

    /// <summary>The handler that raises what forbids this instruction here, or null when it may run.</summary>
    private Handler Refusal(in Instruction instruction, uint mode, byte* code)
    {
        if (instruction.IsInvalid) return TooLong(instruction, mode, code) ? &X86.Operations.RaiseGp0 : &X86.Operations.RaiseUd;
        ref readonly InstructionRow row = ref InstructionTable.Get(instruction.Code);
        bool memory = HasMemory(instruction);
        Handler handler = memory ? row.Memory : row.Register;
        if (!memory && _processor.Model.Behavior.PrefetchOfRegisterIsUndefined && IsPrefetchOfRegister(instruction.Code)) handler = null;
        if (handler == null) return &X86.Operations.RaiseUd;
        if (!HasFeatures(instruction) && !FeatureMap.IsHint(instruction)) return &X86.Operations.RaiseUd;
        if (instruction.HasLockPrefix && (!memory || row.Locked == null)) return &X86.Operations.RaiseUd;
        bool real = (mode & ModeKey.Protected) == 0, v86 = (mode & ModeKey.Virtual8086) != 0;
        Row f = row.Flags;
        if ((real || v86) && (f & (Row.ProtectedOnly | Row.Avx | Row.Vex)) != 0) return &X86.Operations.RaiseUd;
        bool em = (mode & ModeKey.Em) != 0, ts = (mode & ModeKey.Ts) != 0;
        if ((f & Row.Mmx) != 0 && em) return &X86.Operations.RaiseUd;
        if ((f & Row.Sse) != 0 && (em || (mode & ModeKey.Osfxsr) == 0)) return &X86.Operations.RaiseUd;
        if ((f & Row.Avx) != 0 && (mode & ModeKey.AvxEnabled) == 0) return &X86.Operations.RaiseUd;
        if ((f & Row.X87) != 0 && (em || ts)) return &X86.Operations.RaiseNm;
        if ((f & (Row.Mmx | Row.Sse | Row.Avx)) != 0 && ts) return &X86.Operations.RaiseNm;
        if ((f & Row.Wait) != 0 && ts && (mode & ModeKey.Mp) != 0) return &X86.Operations.RaiseNm;
        if ((f & Row.Cpl0) != 0 && ModeKey.Cpl(mode) != 0) return &X86.Operations.RaiseGp0;
        return null;
    }

    private static bool IsPrefetchOfRegister(Code code) =>
        code is Code.Reservednop_rm16_r16_0F0D or Code.Reservednop_rm32_r32_0F0D or Code.Reservednop_rm64_r64_0F0D;

    /// <summary>More than 15 bytes raise #GP(0), not #UD (SDM vol. 3A "General Protection Exception").</summary>
    private static bool TooLong(in Instruction instruction, uint mode, byte* code)
    {
        if (instruction.Length < 15) return false;
        int prefixes = 0;
        while (prefixes < 15 && IsPrefix(code[prefixes], mode)) prefixes++;
        return prefixes >= 14;

        static bool IsPrefix(byte b, uint mode) =>
            b is 0x26 or 0x2E or 0x36 or 0x3E or 0x64 or 0x65 or 0x66 or 0x67 or 0xF0 or 0xF2 or 0xF3
            || ((mode & ModeKey.CodeSizeMask) == ModeKey.Code64 && b is >= 0x40 and <= 0x4F);
    }

    private bool HasFeatures(in Instruction instruction)
    {
        foreach (CpuidFeature feature in instruction.CpuidFeatures)
            if (!_features[(int)feature]) return false;
        return true;
    }

    private static bool HasMemory(in Instruction instruction)
    {
        for (int n = 0; n < instruction.OpCount; n++)
            if (instruction.GetOpKind(n) is >= OpKind.MemorySegSI and <= OpKind.Memory) return true;
        return false;
    }

    /// <summary>In 64-bit mode a base is simply added; elsewhere the flat segments need nothing and all others are checked.</summary>
    private static bool NeedsSegmentation(in Instruction instruction, uint mode)
    {
        if ((mode & ModeKey.CodeSizeMask) == ModeKey.Code64) return false;
        if ((mode & ModeKey.Flat) == 0) return true;
        return instruction.MemorySegment is Iced.Intel.Register.FS or Iced.Intel.Register.GS or Iced.Intel.Register.CS;
    }

    private void EmitSegmentation(in Instruction instruction, Row flags, int ordinal)
    {
        ref Insn i = ref New(ordinal);
        i.Handler = &X86.Operations.Segmentation;
        i.Code = (ushort)instruction.Code;
        FillAddress(ref i, instruction, withBase: false);
        FillFlags(ref i, instruction, memory: true);
        i.R0 = (ushort)SegmentOf(instruction);
        i.R1 = (ushort)Math.Max(1, instruction.MemorySize.GetSize());
        i.R2 = (ushort)((flags & (Row.Writes | Row.Modifies)) != 0 ? AccessKind.Write : AccessKind.Read);
        // All but the no-wait forms, which are called FNxxx, and FXSAVE and FXRSTOR, which belong to neither group.
        i.R3 = (ushort)(((flags & (Row.X87 | Row.Mmx)) != 0 || instruction.Op0Register.IsMM()) && !WaitsForNothing(instruction.Mnemonic) ? 1 : 0);
    }

    private static bool WaitsForNothing(Mnemonic m) => m is Mnemonic.Fnstcw or Mnemonic.Fnstsw or Mnemonic.Fnstenv or Mnemonic.Fnsave
        or Mnemonic.Fxsave or Mnemonic.Fxsave64 or Mnemonic.Fxrstor or Mnemonic.Fxrstor64;

    /// <summary>
    /// The segment of the memory operand. 64-bit mode ignores prefixes other than those of FS and GS (SDM vol. 1, "Segmentation in 64-Bit Mode"), also where
    /// #SS or #GP depends on it.
    /// </summary>
    private static Iced.Intel.Register MemorySegment(in Instruction instruction)
    {
        Iced.Intel.Register segment = instruction.MemorySegment;
        if (instruction.CodeSize != CodeSize.Code64 || segment is Iced.Intel.Register.None or Iced.Intel.Register.FS or Iced.Intel.Register.GS) return segment;
        if (!HasExplicitMemory(instruction)) return Iced.Intel.Register.DS;
        bool isStack = instruction.MemoryBase is Iced.Intel.Register.RBP or Iced.Intel.Register.RSP or Iced.Intel.Register.EBP or Iced.Intel.Register.ESP;
        return isStack ? Iced.Intel.Register.SS : Iced.Intel.Register.DS;
    }

    private static Seg SegmentOf(in Instruction instruction) => (Seg)(instruction.MemorySegment - Iced.Intel.Register.ES);

    private static void FillAddress(ref Insn i, in Instruction instruction, bool withBase)
    {
        int size = AddressSize(instruction);
        i.AddressMask = size == 16 ? 0xFFFF : size == 32 ? 0xFFFF_FFFF : ulong.MaxValue;
        if (!HasExplicitMemory(instruction)) return; // string operands: the handler computes
        if (instruction.IsIPRelativeMemoryOperand)
        {
            // Iced gives the target; relative to the block's start it holds wherever the block is mapped.
            i.Base = RegisterOffsets.BlockRip;
            i.Disp = (long)(instruction.IPRelativeMemoryAddress - (instruction.IP - i.Offset));
        }
        else
        {
            i.Base = RegisterOffsets.Of(instruction.MemoryBase);
            i.Disp = (long)instruction.MemoryDisplacement64;
            Iced.Intel.Register index = instruction.MemoryIndex;
            if (index.IsGPR() && index != Iced.Intel.Register.AL)
            {
                i.Index = RegisterOffsets.Of(index);
                i.Scale = (byte)System.Numerics.BitOperations.Log2((uint)instruction.MemoryIndexScale);
            }
        }
        if (withBase && instruction.MemorySegment is Iced.Intel.Register.FS or Iced.Intel.Register.GS)
            i.SegmentBase = RegisterOffsets.BaseOf(SegmentOf(instruction));
    }

    private static bool HasExplicitMemory(in Instruction instruction)
    {
        for (int n = 0; n < instruction.OpCount; n++)
            if (instruction.GetOpKind(n) == OpKind.Memory) return true;
        return false;
    }

    private static int AddressSize(in Instruction instruction)
    {
        for (int n = 0; n < instruction.OpCount; n++)
        {
            switch (instruction.GetOpKind(n))
            {
                case OpKind.MemorySegSI or OpKind.MemorySegDI or OpKind.MemoryESDI:
                    return 16;
                case OpKind.MemorySegESI or OpKind.MemorySegEDI or OpKind.MemoryESEDI:
                    return 32;
                case OpKind.MemorySegRSI or OpKind.MemorySegRDI or OpKind.MemoryESRDI:
                    return 64;
                case OpKind.Memory:
                    if (instruction.MemoryBase == Iced.Intel.Register.EIP) return 32;
                    if (instruction.MemoryBase != Iced.Intel.Register.None) return instruction.MemoryBase.GetSize() * 8;
                    if (instruction.MemoryIndex.IsGPR()) return instruction.MemoryIndex.GetSize() * 8;
                    return instruction.MemoryDisplSize switch { 8 => 64, 2 => 16, _ => 32 };
                default:
                    break;
            }
        }
        return instruction.CodeSize switch { CodeSize.Code16 => 16, CodeSize.Code32 => 32, _ => 64 };
    }

    private static void FillFlags(ref Insn i, in Instruction instruction, bool memory)
    {
        InsnFlags flags = memory ? InsnFlags.HasMemory : 0;
        if (instruction.HasRepPrefix) flags |= InsnFlags.Rep;
        if (instruction.HasRepnePrefix) flags |= InsnFlags.Repne;
        if (instruction.HasLockPrefix) flags |= InsnFlags.Lock;
        if (memory)
        {
            Iced.Intel.Register segment = MemorySegment(instruction);
            if (HasExplicitMemory(instruction) && segment == Iced.Intel.Register.SS) flags |= InsnFlags.StackSegment;
            int size = AddressSize(instruction);
            flags |= size == 16 ? InsnFlags.Address16 : size == 32 ? InsnFlags.Address32 : 0;
            if (segment != Iced.Intel.Register.None) flags |= (InsnFlags)((segment - Iced.Intel.Register.ES) << 9);
        }
        else if (instruction.IsStackInstruction)
        {
            flags |= InsnFlags.StackSegment;
        }
        i.Flags = flags;
    }

    private static void FillOperands(ref Insn i, in Instruction instruction, ulong rip)
    {
        int register = 0;
        bool haveImmediate = false;
        for (int n = 0; n < instruction.OpCount; n++)
        {
            switch (instruction.GetOpKind(n))
            {
                case OpKind.Register:
                    ushort offset = RegisterOffsets.Of(instruction.GetOpRegister(n));
                    switch (register++)
                    {
                        case 0: i.R0 = offset; break;
                        case 1: i.R1 = offset; break;
                        case 2: i.R2 = offset; break;
                        default: i.R3 = offset; break;
                    }
                    break;
                case OpKind.NearBranch16 or OpKind.NearBranch32 or OpKind.NearBranch64:
                    i.Imm = (long)(instruction.NearBranchTarget - rip);
                    break;
                case OpKind.FarBranch16:
                    i.Imm = instruction.FarBranch16;
                    i.Extra = instruction.FarBranchSelector;
                    break;
                case OpKind.FarBranch32:
                    i.Imm = instruction.FarBranch32;
                    i.Extra = instruction.FarBranchSelector;
                    break;
                case OpKind.Immediate8_2nd:
                    i.Extra = instruction.Immediate8_2nd;
                    break;
                case >= OpKind.Immediate8 and <= OpKind.Immediate32to64:
                    if (haveImmediate) i.Extra = instruction.GetImmediate(n);
                    else i.Imm = (long)instruction.GetImmediate(n);
                    haveImmediate = true;
                    break;
                default:
                    break;
            }
        }
    }
}
