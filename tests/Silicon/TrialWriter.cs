using System.Numerics;
using Iced.Intel;

namespace Bunraku.Silicon;

/// <summary>Fills contexts: random state, then what a case needs so that most trials do something else than fault.</summary>
/// <remarks>Writes straight into <see cref="Layout.Contexts"/> of this process; needs a live <see cref="HostSilicon"/>.</remarks>
internal sealed unsafe class TrialWriter(Rng rng)
{
    private static readonly ushort[] s_selectors =
        [0, 1, 3, Layout.Code64, Layout.Code32, Layout.Flat, Layout.Code16, Layout.Data16, 0x10, 0x18, 0x1B, 0x13, 0x20, 0x28, 0x30, 0x17];

    private byte* _context;
    private ulong Scratch => (ulong)_context + Context.Scratch;

    /// <summary>Random bytes for the shared data pages.</summary>
    public void FillData() => rng.Fill(new Span<byte>((void*)Layout.Data, (int)Layout.DataSize));

    public void Write(int trial, TestCase test)
    {
        int attempts = 0;
        do
        {
            if (++attempts > 1000) throw new InvalidOperationException($"{test.Instruction} always leaves the rig");
            Attempt(trial, test);
        }
        while (MeetsProcess(test));
    }

    /// <summary>
    /// True for an operand where this process may have memory of its own, which the guest has not: Linux puts
    /// <see cref="Platform.LowMemory"/> into the second GiB. Elsewhere a random address has next to no chance to meet any.
    /// </summary>
    private bool MeetsProcess(TestCase test)
    {
        Instruction i = test.Instruction;
        if (!FormBuilder.HasMemory(i) || test.Bitness == 16) return false;
        if (!IsGather(i)) return IsProcessMemory(OperandAddress(test, BitStringOffset(i)));
        byte* lanes = Lanes(i, out int width);
        for (int n = 0; n < 32; n += width)
        {
            long index = width == 8 ? *(long*)(lanes + n) : *(int*)(lanes + n);
            if (IsProcessMemory(OperandAddress(test, (ulong)index * (ulong)i.MemoryIndexScale))) return true;
        }
        return false;
    }

    private static bool IsProcessMemory(ulong address) => address is >= 0x4000_0000 and < 0x8000_0000;

    private static bool IsGather(in Instruction i) => i.MemoryIndex >= Register.XMM0;

    /// <summary>A gather's index register in the context, and the bytes of an index.</summary>
    private byte* Lanes(in Instruction i, out int width)
    {
        width = i.IsVsib64 ? 8 : 4;
        return _context + Context.Ymm + (i.MemoryIndex >= Register.YMM0 ? i.MemoryIndex - Register.YMM0 : i.MemoryIndex - Register.XMM0) * 32;
    }

    private void Attempt(int trial, TestCase test)
    {
        Instruction instruction = test.Instruction;
        Random(trial, test.Bitness);
        *(ulong*)(_context + Context.Target) = test.Entry;
        Stack(test);
        // Sequences matter here: explicit operands may sit in registers that implicit ones also use, then the implicit one wins.
        Explicit(test);
        Implicit(test);
        ulong operand = IsGather(instruction) ? 0 : OperandAddress(test);
        *(ulong*)(_context + Context.Operand) = operand;
        // MXCSR in an image to be loaded: without the bit that no model has.
        if (FormBuilder.AlignedArea(instruction.Mnemonic) && operand - Layout.Data < Layout.DataSize - 28) *(uint*)(operand + 24) &= ~0x2_0000u;
    }

    /// <summary>Where a bit string's bit lies from its operand's address on, in bytes. Intel SDM vol. 2, "Bit(BitBase, BitOffset)".</summary>
    private ulong BitStringOffset(in Instruction i)
    {
        if (!FormBuilder.IsBitString(i)) return 0;
        int size = i.Op1Register.GetSize(), unused = 64 - size * 8;
        long bit = (long)(Gpr(i.Op1Register.GetFullRegister() - Register.RAX) << unused) >> unused;
        return (ulong)((bit >> BitOperations.Log2((uint)size * 8)) * size);
    }

    /// <summary>Linear address of the memory operand; of a gather what base and displacement make of it.</summary>
    /// <param name="further">Bytes from there on, inside the width of an address.</param>
    private ulong OperandAddress(TestCase test, ulong further = 0)
    {
        Instruction i = test.Instruction;
        ulong offset = i.MemoryDisplacement64 + further;
        if (i.MemoryBase is not (Register.None or Register.RIP or Register.EIP)) offset += Gpr(i.MemoryBase.GetFullRegister() - Register.RAX);
        if (i.MemoryIndex != Register.None && !IsGather(i)) offset += Gpr(i.MemoryIndex.GetFullRegister() - Register.RAX) * (ulong)i.MemoryIndexScale;
        return (offset & Low(AddressBits(test))) + SegmentBase(i, test.Bitness);
    }

    /// <summary>State for a sequence: random, with a stack in the shared data and nearly always all exceptions masked.</summary>
    public void WriteSequence(int trial, TestCase test)
    {
        Random(trial, 64);
        *(ulong*)(_context + Context.Target) = test.Entry;
        Gpr(4) = Layout.Data + 0xC000;
        if (rng.OneIn(64)) return;
        *(uint*)(_context + Context.Mxcsr) |= 0x1F80;
        *(uint*)(_context + Context.Fx + 24) |= 0x1F80;
        *(ushort*)(_context + Context.Fx) |= 0x3F;
        *(ushort*)(_context + Context.Fx + 2) &= 0x7F7F;
    }

    /// <summary>A context full of random state and scratch memory. General registers above 32 bits stay zero outside 64-bit mode.</summary>
    public void Random(int trial, int bitness)
    {
        _context = (byte*)(Layout.Contexts + (ulong)trial * Context.Size);
        new Span<byte>(_context, Context.Size).Clear();
        *(ulong*)(_context + Context.FaultVector) = ulong.MaxValue;
        for (int n = 0; n < 16; n++) Gpr(n) = bitness == 64 || n >= 8 ? rng.Value() : (uint)rng.Value();
        *(ulong*)(_context + Context.Rflags) = 0x202 | rng.Next() & 0x8D5 | (rng.OneIn(4) ? 0x400ul : 0);
        *(uint*)(_context + Context.Mxcsr) = Mxcsr();
        rng.Fill(new Span<byte>(_context + Context.Ymm, 512));
        Fx(_context + Context.Fx);
        if (rng.OneIn(8)) new Span<byte>((void*)Scratch, Context.ScratchSize).Fill((byte)rng.Next());
        else rng.Fill(new Span<byte>((void*)Scratch, Context.ScratchSize));
    }

    /// <summary>
    /// Over a written trial: one of the 64 combinations of MXCSR's masks after the other with any rounding, FZ and DAZ, and floating-point operands near the
    /// limits of their format in vector registers and scratch memory.
    /// </summary>
    public void Unmask(int trial, Code code)
    {
        // Not in step with the encodings, which go round as well.
        uint masks = (uint)(trial + trial / 64 * 7) & 0x3F;
        uint zeros = (rng.OneIn(3) ? 0x8000u : 0) | (rng.OneIn(3) ? 0x40u : 0), flags = rng.OneIn(8) ? (uint)rng.Below(64) : 0;
        *(uint*)(_context + Context.Mxcsr) = masks << 7 | (uint)rng.Below(4) << 13 | zeros | flags;
        string name = code.Mnemonic().ToString();
        int conversion = name.IndexOf("2", StringComparison.Ordinal);
        bool isDouble = (conversion > 0 ? name[conversion - 1] : name[^1]) is 'd' or 'D';
        foreach ((int start, int length) in (ReadOnlySpan<(int, int)>)[(Context.Ymm, 512), (Context.Scratch, Context.ScratchSize)])
        {
            for (int n = 0; n + 8 <= length; n += 8)
                *(ulong*)(_context + start + n) = isDouble ? rng.EdgeOfDouble() : rng.EdgeOfSingle() | (ulong)rng.EdgeOfSingle() << 32;
        }
    }

    private ref ulong Gpr(int n) => ref *(ulong*)(_context + Context.Gpr + n * 8);

    private uint Mxcsr()
    {
        uint value = 0x1F80;
        if (rng.OneIn(2)) value |= (uint)rng.Below(4) << 13;
        if (rng.OneIn(4)) value |= 1u << 15;
        if (rng.OneIn(4)) value |= 1u << 6;
        if (rng.OneIn(4)) value |= (uint)rng.Below(64);
        if (rng.OneIn(6)) value &= ~((uint)rng.Below(64) << 7);
        return value;
    }

    private void Fx(byte* image)
    {
        uint control = 0x37F;
        if (rng.OneIn(2)) control = 0x7F | rng.Pick<uint>([0, 0x200, 0x300]) | (uint)rng.Below(4) << 10 | (rng.OneIn(2) ? 0u : 0x1000);
        if (rng.OneIn(6)) control &= ~(uint)rng.Below(64);
        uint status = (uint)rng.Below(8) << 11 | (uint)rng.Next() & 0x4700;
        if (rng.OneIn(3)) status |= (uint)rng.Below(64) | (uint)rng.Next() & 0x40;
        if (rng.OneIn(2)) status &= control | ~0x3Fu;  // no pending exception
        if ((status & ~control & 0x3F) != 0) status |= 0x8080;
        *(ushort*)image = (ushort)control;
        *(ushort*)(image + 2) = (ushort)status;
        image[4] = rng.Below(4) switch { 0 => (byte)rng.Next(), 1 => 0, _ => 0xFF };
        *(uint*)(image + 24) = *(uint*)(_context + Context.Mxcsr);
        *(uint*)(image + 28) = 0xFFFF;
        for (int n = 0; n < 8; n++)
        {
            rng.Extended(new Span<byte>(image + 32 + n * 16, 10));
            if (rng.OneIn(8)) // as MMX leaves it
            {
                rng.Fill(new Span<byte>(image + 32 + n * 16, 8));
                *(ushort*)(image + 40 + n * 16) = 0xFFFF;
            }
        }
        for (int n = 0; n < 16; n++) Buffer.MemoryCopy(_context + Context.Ymm + n * 32, image + 160 + n * 16, 16, 16);
    }

    private void Stack(TestCase test)
    {
        ulong offset = 0x100 + (ulong)rng.Below(0x80);
        if (!rng.OneIn(4)) offset &= ~7ul;
        Gpr(4) = test.Bitness == 16 ? 0x8000 + offset + (ulong)rng.Below(0x4000) : Scratch + offset;
        // In which order far returns and POPA read the stack is not architectural, so it does not cross the edge.
        if (rng.OneIn(32)
            && test.Instruction.Mnemonic is not (Mnemonic.Retf or Mnemonic.Iret or Mnemonic.Iretd or Mnemonic.Iretq or Mnemonic.Popa or Mnemonic.Popad)) Gpr(
                4) = (test.Bitness == 16 ? 0x10000 : Layout.DataEnd) - (ulong)rng.Below(12);
        Gpr(5) = rng.OneIn(2) ? Gpr(4) + (ulong)rng.Below(0x40) : Gpr(5);
    }

    private void Explicit(TestCase test)
    {
        Instruction i = test.Instruction;
        for (int n = 0; n < i.OpCount; n++)
        {
            if (i.GetOpKind(n) != OpKind.Memory) continue;
            if (i.MemoryBase is not (Register.RIP or Register.EIP)) Address(test);
        }
        if (FormBuilder.IsBitString(i))
        {
            int n = i.Op1Register.GetFullRegister() - Register.RAX;
            bool shared = i.MemoryBase.GetFullRegister() == i.Op1Register.GetFullRegister()
                || i.MemoryIndex.GetFullRegister() == i.Op1Register.GetFullRegister();
            if (!shared && !rng.OneIn(32)) Put(i.Op1Register, (ulong)(long)(rng.Below(0x8000) - 0x4000), i.Op1Register.GetSize() * 8, test.Bitness);
        }
    }

    private static ulong Low(int bits) => bits == 64 ? ulong.MaxValue : (1ul << bits) - 1;

    /// <summary>Chooses where the memory operand lies and gives base and index registers values that lead there.</summary>
    private void Address(TestCase test)
    {
        Instruction i = test.Instruction;
        int size = Math.Max(1, i.MemorySize.GetSize());
        bool vsib = IsGather(i);
        int bits = AddressBits(test);
        ulong target = Target(test, size, vsib);
        ulong segment = SegmentBase(i, test.Bitness);
        ulong offset = target - segment;
        if (vsib)
        {
            byte* lanes = Lanes(i, out int width);
            bool wide = width == 8;
            for (int n = 0; n < 32; n += width)
            {
                // Doublewords stay within 256 MiB of the rig (see MeetsProcess).
                long value = rng.OneIn(24) ? (long)rng.Next() >> (wide ? 0 : 38) : rng.Below(0x80) - 0x40;
                if (wide) *(long*)(lanes + n) = value;
                else *(int*)(lanes + n) = (int)value;
            }
            if (i.MemoryBase != Register.None) Put(i.MemoryBase, offset - i.MemoryDisplacement64, bits, test.Bitness);
            return;
        }
        if (i.MemoryBase == Register.None && i.MemoryIndex == Register.None) return;
        int scale = i.MemoryIndexScale;
        if (i.MemoryBase == Register.None) Put(i.MemoryIndex, (offset - i.MemoryDisplacement64) / (ulong)scale, bits, test.Bitness);
        else if (i.MemoryIndex == Register.AL) Put(i.MemoryBase, offset - 0x40, bits, test.Bitness); // XLAT
        else
        {
            ulong index = 0;
            if (i.MemoryIndex != Register.None && i.MemoryIndex.GetFullRegister() != i.MemoryBase.GetFullRegister())
            {
                index = rng.Value() & Low(bits);
                Put(i.MemoryIndex, index, bits, test.Bitness);
            }
            Put(i.MemoryBase, offset - i.MemoryDisplacement64 - index * (ulong)scale, bits, test.Bitness);
        }
        Content(test, target, size);
    }

    /// <summary>What the memory operand must hold for the case to come back: branch targets, selectors.</summary>
    private void Content(TestCase test, ulong target, int size)
    {
        Instruction i = test.Instruction;
        bool inside = target >= Scratch && target + 16 <= Scratch + Context.ScratchSize || test.Bitness == 16 && target >= Layout.Data
            && target + 16 <= Layout.DataEnd;
        if (!inside) return;
        ulong landing = test.Bitness == 16 ? test.Landing - Layout.Cases : test.Landing;
        if (i.IsJmpNearIndirect || i.IsCallNearIndirect) WriteSized(target, landing, size);
        else if (i.IsJmpFarIndirect || i.IsCallFarIndirect)
        {
            WriteSized(target, landing, size - 2);
            *(ushort*)(target + (ulong)size - 2) = CodeSelector(test.Bitness);
        }
        else if (i.Code is Code.Mov_Sreg_rm16 or Code.Mov_Sreg_r32m16 or Code.Mov_Sreg_r64m16 || IsSelectorTest(i.Mnemonic))
            *(ushort*)target = rng.Pick<ushort>(s_selectors);
        else if (i.Mnemonic is Mnemonic.Lds or Mnemonic.Les or Mnemonic.Lfs or Mnemonic.Lgs or Mnemonic.Lss)
            *(ushort*)(target + (ulong)size - 2) = rng.Pick<ushort>(s_selectors);
        else if (i.Mnemonic is Mnemonic.Popf or Mnemonic.Popfd or Mnemonic.Popfq) *(uint*)target &= ~0x4_0100u;
        else if (i.Mnemonic is Mnemonic.Ldmxcsr or Mnemonic.Vldmxcsr && !rng.OneIn(8)) *(uint*)target = Mxcsr();
        else if (i.Mnemonic is Mnemonic.Ldmxcsr or Mnemonic.Vldmxcsr) *(uint*)target &= ~0x2_0000u; // see Comparer.Normalize
        else if (size == 10 && i.MemorySize is MemorySize.Float80) rng.Extended(new Span<byte>((void*)target, 10));
        else if (i.Mnemonic == Mnemonic.Fbld && !rng.OneIn(3))
        {
            for (ulong n = 0; n < 9; n++) *(byte*)(target + n) = (byte)(rng.Below(10) | rng.Below(10) << 4);
        }
        else if (i.Mnemonic is Mnemonic.Cmpxchg8b or Mnemonic.Cmpxchg16b && rng.OneIn(2))
        {
            int half = size / 2;
            Buffer.MemoryCopy(_context + Context.Gpr, (void*)target, half, half);
            Buffer.MemoryCopy(_context + Context.Gpr + 16, (void*)(target + (ulong)half), half, half);
        }
        else if (i.Mnemonic == Mnemonic.Cmpxchg && rng.OneIn(2)) WriteSized(target, Gpr(0), size);
    }

    private static bool IsSelectorTest(Mnemonic m) => m is Mnemonic.Lar or Mnemonic.Lsl or Mnemonic.Verr or Mnemonic.Verw or Mnemonic.Arpl;

    private static ushort CodeSelector(int bitness) => bitness switch { 64 => Layout.Code64, 32 => Layout.Code32, _ => Layout.Code16 };

    private static void WriteSized(ulong address, ulong value, int size)
    {
        for (int n = 0; n < size && n < 8; n++) *(byte*)(address + (ulong)n) = (byte)(value >> (n * 8));
        for (int n = 8; n < size; n++) *(byte*)(address + (ulong)n) = 0;
    }

    private static int AddressBits(TestCase test)
    {
        Instruction i = test.Instruction;
        Register r = i.MemoryBase != Register.None ? i.MemoryBase : i.MemoryIndex;
        if (r == Register.None || r >= Register.XMM0) return test.Bitness;
        return r.GetSize() * 8;
    }

    private ulong Target(TestCase test, int size, bool vsib)
    {
        Instruction i = test.Instruction;
        bool bits = i.Mnemonic is Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc;
        int reach = Math.Max(size, 16);
        ulong alignment = rng.OneIn(4) ? 1 : (ulong)(size >= 64 ? 64 : size >= 16 ? size : 16);
        // Operands of several parts wrap at the end of a 16-bit segment part by part; how is not architectural.
        bool parts = test.Bitness == 16
            && (size > 8 || i.Mnemonic is Mnemonic.Lds or Mnemonic.Les or Mnemonic.Lfs or Mnemonic.Lgs or Mnemonic.Lss or Mnemonic.Bound || i.IsJmpFarIndirect
            || i.IsCallFarIndirect);
        if (!FormBuilder.AlignedArea(i.Mnemonic) && !parts && rng.OneIn(24))
        {
            // At the edges of what is mapped.
            return rng.Below(test.Bitness == 64 ? 4 : 3) switch
            {
                0 => Layout.DataEnd - (ulong)rng.Below(reach),
                1 => Layout.Data - (ulong)rng.Below(reach),
                2 when test.Bitness != 16 => Layout.ReadOnly + (ulong)rng.Below(0xF00),
                3 => 0x0000_8000_0000_0000 + (rng.Next() & 0xFFFF_FFFF) - (ulong)rng.Below(reach),
                _ => Layout.DataEnd - (ulong)rng.Below(reach),
            };
        }
        if (FormBuilder.AlignedArea(i.Mnemonic) || bits) return Layout.Data + 0x6000 + ((ulong)rng.Below(0x2000) & ~63ul);
        if (test.Bitness == 16) return Layout.Data + 0x2000 + ((ulong)rng.Below(0x2000) & ~(alignment - 1));
        if (vsib) return Scratch + 0x100;
        return Scratch + (ulong)rng.Below(Context.ScratchSize - reach) & ~(alignment - 1);
    }

    private void Put(Register register, ulong value, int bits, int bitness)
    {
        int n = register.GetFullRegister() - Register.RAX;
        if (n is < 0 or > 15) return;
        ulong upper = bitness == 64 ? rng.Next() : bits == 16 ? Gpr(n) & 0xFFFF_FFFF : 0;
        Gpr(n) = bits == 64 ? value : value & Low(bits) | upper & ~Low(bits);
    }

    private void Implicit(TestCase test)
    {
        Instruction i = test.Instruction;
        ulong data = test.Bitness == 16 ? 0x4000 + (ulong)rng.Below(0x1000) : Scratch;
        for (int n = 0; n < i.OpCount; n++)
        {
            switch (i.GetOpKind(n))
            {
                case OpKind.MemorySegRSI or OpKind.MemorySegESI or OpKind.MemorySegSI:
                    Put(Register.RSI, data + 0xA0 + (ulong)rng.Below(0x40) - StringBase(i, test.Bitness), Bits(i.GetOpKind(n)), test.Bitness);
                    Repeat(i, test.Bitness);
                    break;
                case OpKind.MemorySegRDI or OpKind.MemorySegEDI or OpKind.MemorySegDI:
                    Put(Register.RDI, (data + 0x140 + (ulong)rng.Below(0x40) - StringBase(i, test.Bitness)) & (rng.OneIn(2) ? ~15ul : ~0ul),
                        Bits(i.GetOpKind(n)), test.Bitness);
                    break;
                case OpKind.MemoryESRDI or OpKind.MemoryESEDI or OpKind.MemoryESDI:
                    Put(Register.RDI, data + (rng.OneIn(3) ? 0xA8ul : 0x1E0) + (ulong)rng.Below(0x40), Bits(i.GetOpKind(n)), test.Bitness);
                    Repeat(i, test.Bitness);
                    break;
                case OpKind.Register when i.Mnemonic is Mnemonic.Mov && i.GetOpRegister(n).IsSegmentRegister() && n == 0 && i.Op1Kind == OpKind.Register:
                    SetLow16(i.Op1Register, rng.Pick<ushort>(s_selectors));
                    break;
                case OpKind.Register when IsSelectorTest(i.Mnemonic):
                    SetLow16(i.GetOpRegister(n), rng.Pick<ushort>(s_selectors));
                    break;
            }
        }
        ulong landing = test.Bitness == 16 ? test.Landing - Layout.Cases : test.Landing;
        int operandSize = i.Code.ToOpCode().OperandSize is 0 ? 64 : i.Code.ToOpCode().OperandSize;
        if (i.IsJmpNearIndirect || i.IsCallNearIndirect)
        {
            if (i.Op0Kind == OpKind.Register && !rng.OneIn(16)) Gpr(i.Op0Register.GetFullRegister() - Register.RAX) = landing;
        }
        ulong top = test.Bitness == 16 ? Layout.Data + (ushort)Gpr(4) : Gpr(4);
        bool stack = test.Bitness == 16 ? (ushort)Gpr(4) < 0xFF00 : top >= Scratch && top + 0x80 < Scratch + Context.ScratchSize;
        switch (i.Mnemonic)
        {
            case Mnemonic.Ret when stack: WriteSized(top, landing, operandSize / 8); break;
            case Mnemonic.Retf when stack:
                WriteSized(top, landing, operandSize / 8);
                WriteSized(top + (ulong)(operandSize / 8), CodeSelector(test.Bitness), operandSize / 8);
                break;
            case Mnemonic.Iret or Mnemonic.Iretd or Mnemonic.Iretq when stack:
                ReadOnlySpan<ulong> frame =
                    [landing, CodeSelector(test.Bitness), 0x202 | rng.Next() & 0x8CD5, Gpr(4) + 0x40, test.Bitness == 16 ? Layout.Data16 : Layout.Flat];
                for (int n = 0; n < 5; n++) WriteSized(top + (ulong)(n * operandSize / 8), frame[n], operandSize / 8);
                break;
            case Mnemonic.Popf or Mnemonic.Popfd or Mnemonic.Popfq when stack: *(uint*)top = *(uint*)top & ~0x4_0100u; break;
            case Mnemonic.Pop when stack && i.Op0Kind == OpKind.Register
                && i.Op0Register.IsSegmentRegister():
                *(ushort*)top = rng.Pick<ushort>(s_selectors); break;
            case Mnemonic.Enter or Mnemonic.Leave: Gpr(5) = Gpr(4) + (ulong)rng.Below(0x20); break;
            case Mnemonic.Loop or Mnemonic.Loope or Mnemonic.Loopne or Mnemonic.Jcxz or Mnemonic.Jecxz or Mnemonic.Jrcxz:
                Gpr(1) = rng.Pick<ulong>(test.Bitness == 64 ? [0, 1, 2, 0x1_0000_0000, 0x1_0000_0001, ulong.MaxValue, 0x1_0000]
                    : [0, 1, 2, 0x1_0000, 0x1_0001, 0xFFFF]);
                break;
            case Mnemonic.Div when rng.OneIn(2): Gpr(2) = rng.OneIn(2) ? 0 : (ulong)rng.Below(8); break;
            case Mnemonic.Idiv when rng.OneIn(2): Gpr(2) = (ulong)((long)Gpr(0) >> 63) & (test.Bitness == 64 ? ulong.MaxValue : uint.MaxValue); break;
            case Mnemonic.Xsave or Mnemonic.Xsave64 or Mnemonic.Xsavec or Mnemonic.Xsavec64 or Mnemonic.Xsaveopt or Mnemonic.Xsaveopt64 or Mnemonic.Xrstor
                or Mnemonic.Xrstor64:
                Gpr(0) = (Gpr(0) & (test.Bitness == 64 ? ~0xFFFF_FFFFul : 0)) + (uint)rng.Below(8);
                Gpr(2) &= test.Bitness == 64 ? ~0xFFFF_FFFFul : 0;
                break;
        }
    }

    private static ulong SegmentBase(in Instruction i, int bitness) => i.SegmentPrefix switch
    {
        _ when bitness == 16 => Layout.Data,
        Register.FS when bitness == 64 => Layout.FsBase,
        Register.GS when bitness == 64 => Layout.GsBase,
        _ => 0,
    };

    private static ulong StringBase(in Instruction i, int bitness) => bitness == 64 ? SegmentBase(i, bitness) : 0;

    private static int Bits(OpKind kind) => kind switch
    {
        OpKind.MemorySegRSI or OpKind.MemorySegRDI or OpKind.MemoryESRDI => 64,
        OpKind.MemorySegESI or OpKind.MemorySegEDI or OpKind.MemoryESEDI => 32,
        _ => 16,
    };

    private void Repeat(in Instruction i, int bitness)
    {
        if (!i.HasRepPrefix && !i.HasRepnePrefix) return;
        OpKind kind = i.Op0Kind == OpKind.Register ? i.Op1Kind : i.Op0Kind;
        Put(Register.RCX, (ulong)rng.Below(18), Bits(kind), bitness);
    }

    private void SetLow16(Register register, ushort value)
    {
        int n = register.GetFullRegister() - Register.RAX;
        if (n is >= 0 and <= 15) Gpr(n) = Gpr(n) & ~0xFFFFul | value;
    }
}
