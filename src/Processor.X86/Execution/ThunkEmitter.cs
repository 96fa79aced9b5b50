using Iced.Intel;
using static Iced.Intel.Register;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>
/// Writes the machine code of thunks: RDI = <see cref="ProcessorState"/>, RSI = memory operand; everything else that they touch is
/// caller-saved in the System V ABI. The host is left with its default MXCSR (exception flags aside) and x87 control word, an empty x87 stack
/// and clean upper halves.
/// </summary>
internal sealed unsafe class ThunkEmitter
{
    private static readonly int s_fxsave = Offset(nameof(ProcessorState.Fxsave)), s_simd = Offset(nameof(ProcessorState.Simd));
    private static readonly int s_mxcsr = Offset(nameof(ProcessorState.ThunkMxcsr)), s_unmasked = Offset(nameof(ProcessorState.ThunkUnmasked)),
        s_flags = Offset(nameof(ProcessorState.ThunkFlags));

    private static int Offset(string field) => (int)System.Runtime.InteropServices.Marshal.OffsetOf<ProcessorState>(field);

    private readonly InstructionInfoFactory _information = new();
    private readonly Writer _writer = new();
    private readonly Encoder _encoder;

    public ThunkEmitter()
    {
        // FXRSTOR faults on an unaligned image; a change of ProcessorState must keep this.
        if (s_fxsave % 16 != 0 || s_simd % 32 != 0) throw new InvalidOperationException("ProcessorState.Fxsave or .Simd is not aligned");
        _encoder = Encoder.Create(64, _writer);
    }

    private sealed class Writer : CodeWriter
    {
        private readonly byte[] _bytes = new byte[512];
        public int Length;
        public override void WriteByte(byte value) => _bytes[Length++] = value;
        public ReadOnlySpan<byte> Span => _bytes.AsSpan(0, Length);
        public void Patch(int at, byte value) => _bytes[at] = value;
    }

    /// <summary>
    /// The instruction with its memory operand at [RSI] and its general-register operands in R8 and R9, and as the key its encoding (at most
    /// 8 bytes without a displacement), its length and the original general registers.
    /// </summary>
    public Instruction Normalise(in Instruction instruction, out ThunkKey key)
    {
        Instruction normal = instruction;
        normal.HasRepPrefix = normal.HasRepnePrefix = normal.HasLockPrefix = false;
        uint registers = 0;
        int next = 0;
        for (int n = 0; n < instruction.OpCount; n++)
        {
            if (instruction.GetOpKind(n) == OpKind.Memory)
            {
                normal.MemoryBase = RSI;
                normal.MemoryIndex = None;
                normal.MemoryIndexScale = 1;
                normal.MemoryDisplacement64 = 0;
                normal.MemoryDisplSize = 0;
                normal.SegmentPrefix = None;
            }
            else if (instruction.GetOpKind(n) == OpKind.Register && instruction.GetOpRegister(n).IsGPR() && !IsImplicit(instruction, n))
            {
                HostRegister r = instruction.GetOpRegister(n);
                normal.SetOpRegister(n, Sized(next++, r));
                registers = (registers << 8) | (byte)r;
            }
        }
        _writer.Length = 0;
        _encoder.Encode(normal, 0);
        ulong code = 0;
        foreach (byte b in _writer.Span) code = (code << 8) | b;
        key = new ThunkKey(code, (uint)_writer.Length << 24 | registers);
        return normal;
    }

    // FNSTSW AX has its own handler; no host-executed form names a fixed general register as an operand.
    private static bool IsImplicit(in Instruction instruction, int n) =>
        instruction.OpCode.GetOpKind(n) is OpCodeOperandKind.ax or OpCodeOperandKind.eax or OpCodeOperandKind.rax or OpCodeOperandKind.al;

    private static HostRegister Sized(int n, HostRegister like) => like.GetSize() switch
    {
        1 => R8L + n,
        2 => R8W + n,
        4 => R8D + n,
        _ => R8 + n,
    };

    /// <summary>FOP: the low bits of the first opcode byte and the ModRM byte. SDM vol. 1, "x87 FPU Opcode Register".</summary>
    public long X87Opcode(in Instruction instruction)
    {
        _writer.Length = 0;
        Instruction plain = instruction;
        plain.SegmentPrefix = None;
        int bits = instruction.CodeSize switch { CodeSize.Code16 => 16, CodeSize.Code32 => 32, _ => 64 };
        Encoder encoder = bits == 64 ? _encoder : Encoder.Create(bits, _writer);
        // An IP-relative operand is encoded as a distance: at the instruction's own address it always fits.
        encoder.Encode(plain, instruction.IP);
        ReadOnlySpan<byte> bytes = _writer.Span;
        while (bytes.Length > 2 && (bytes[0] & 0xF8) != 0xD8) bytes = bytes[1..];
        return (bytes[0] & 7) << 8 | bytes[1];
    }

    /// <summary>The thunk's code; valid until the next call.</summary>
    public ReadOnlySpan<byte> Emit(in Instruction original, in Instruction normal)
    {
        _writer.Length = 0;
        if (ThunkForm.Get(original.Code).IsX87) EmitX87(normal);
        else EmitSimd(original, normal);
        Add(Instruction.Create(Code.Retnq));
        return _writer.Span;
    }

    private void Add(in Instruction instruction) => _encoder.Encode(instruction, (ulong)_writer.Length);

    private static MemoryOperand State(int offset) => new(RDI, offset);

    private void EmitX87(in Instruction normal)
    {
        ThunkForm form = ThunkForm.Get(normal.Code);
        Add(Instruction.Create(Code.Fxrstor64_m512byte, State(s_fxsave)));
        if (form.ReadsFlags || form.WritesFlags)
        {
            Add(Instruction.Create(Code.Mov_r32_rm32, EAX, State(s_flags)));
            Add(Instruction.Create(Code.Push_r64, RAX));
            Add(Instruction.Create(Code.Popfq));
        }
        Add(normal);
        if (form.WritesFlags) AddStoreFlags();
        Add(Instruction.Create(Code.Fxsave64_m512byte, State(s_fxsave)));
        // A pending exception would be raised by the next waiting instruction, here or in the host's libraries.
        Add(Instruction.Create(Code.Test_rm8_imm8, State(s_fxsave + X87.StatusOffset), 0x80));
        int skip = Jump(0x74);
        Add(Instruction.Create(Code.Fnclex));
        Land(skip);
        Add(Instruction.Create(Code.Emms));
        Add(Instruction.Create(Code.Pushq_imm32, X87.DefaultControl));
        Add(Instruction.Create(Code.Fldcw_m2byte, new MemoryOperand(RSP)));
        Add(Instruction.Create(Code.Pop_r64, RAX));
    }

    private void AddStoreFlags()
    {
        Add(Instruction.Create(Code.Pushfq));
        Add(Instruction.Create(Code.Pop_r64, RAX));
        Add(Instruction.Create(Code.Mov_rm32_r32, State(s_flags), EAX));
    }

    private void EmitSimd(in Instruction original, in Instruction normal)
    {
        ThunkForm form = ThunkForm.Get(original.Code);
        Used(normal, out uint vectors, out uint vectorsWritten, out uint mmx, out uint mmxWritten, out uint general, out uint generalWritten, out bool wide);
        for (int n = 0; n < 16; n++)
        {
            if ((vectors >> n & 1) != 0)
            {
                Add(wide ? Instruction.Create(Code.VEX_Vmovups_ymm_ymmm256, YMM0 + n, State(s_simd + n * 32))
                    : form.IsVex ? Instruction.Create(Code.VEX_Vmovups_xmm_xmmm128, XMM0 + n, State(s_simd + n * 32))
                    : Instruction.Create(Code.Movups_xmm_xmmm128, XMM0 + n, State(s_simd + n * 32)));
            }
            if ((mmx >> n & 1) != 0) Add(Instruction.Create(Code.Movq_mm_mmm64, MM0 + n, State(s_fxsave + X87.RegisterOffset + n * 16)));
            if ((general >> n & 1) != 0 && n is not (8 or 9)) Add(Instruction.Create(Code.Mov_r64_rm64, RAX + n, State(n * 8)));
        }
        LoadExplicit(original, normal);

        if (form.IsFloat) Add(Instruction.Create(Code.Ldmxcsr_m32, State(s_mxcsr)));
        Add(form.IsSha && normal.GetOpKind(1) == OpKind.Memory ? AddLoad(normal) : normal);
        int skip = -1;
        if (form.WritesFlags) AddStoreFlags();
        if (form.IsFloat)
        {
            Add(Instruction.Create(Code.Stmxcsr_m32, State(s_mxcsr)));
            Add(Instruction.Create(Code.Mov_r32_rm32, EAX, State(s_mxcsr)));
            Add(Instruction.Create(Code.And_rm32_imm8, EAX, ~(int)Mxcsr.Flags));
            Add(Instruction.Create(Code.Cmp_rm32_imm32, EAX, (int)Simd.DefaultMxcsr));
            int unchanged = Jump(0x74); // only flags differ from the host's default, which nobody looks at; loading the same value again is cheap
            Add(Instruction.Create(Code.Pushq_imm32, (int)Simd.DefaultMxcsr));
            Add(Instruction.Create(Code.Ldmxcsr_m32, new MemoryOperand(RSP)));
            Add(Instruction.Create(Code.Pop_r64, RAX));
            Land(unchanged);
            Add(Instruction.Create(Code.Mov_r32_rm32, EAX, State(s_mxcsr)));
            Add(Instruction.Create(Code.Test_rm32_r32, State(s_unmasked), EAX));
            skip = Jump(0x75);
        }

        for (int n = 0; n < 16; n++)
        {
            if ((vectorsWritten >> n & 1) != 0)
            {
                // A VEX destination is always written whole: the host has cleared what lies above the vector length.
                Add(form.IsVex ? Instruction.Create(Code.VEX_Vmovups_ymmm256_ymm, State(s_simd + n * 32), YMM0 + n)
                    : Instruction.Create(Code.Movups_xmmm128_xmm, State(s_simd + n * 32), XMM0 + n));
            }
            if ((mmxWritten >> n & 1) != 0)
            {
                Add(Instruction.Create(Code.Movq_mmm64_mm, State(s_fxsave + X87.RegisterOffset + n * 16), MM0 + n));
                Add(Instruction.Create(Code.Mov_rm16_imm16, State(s_fxsave + X87.RegisterOffset + n * 16 + 8), 0xFFFF));
            }
            if ((generalWritten >> n & 1) != 0 && n is not (8 or 9)) Add(Instruction.Create(Code.Mov_rm64_r64, State(n * 8), RAX + n));
        }
        StoreExplicit(original, normal, generalWritten);
        if (skip >= 0) Land(skip);
        if (wide) Add(Instruction.Create(Code.VEX_Vzeroupper));
        if (form.IsMmx) Add(Instruction.Create(Code.Emms));
    }

    /// <summary>Loads the second operand from memory, aligned or not, and returns the instruction with it in a register.</summary>
    private Instruction AddLoad(in Instruction normal)
    {
        // XMM0 is the implied third operand of SHA256RNDS2.
        HostRegister free = normal.Op0Register == XMM1 ? XMM2 : XMM1;
        Add(Instruction.Create(Code.Movups_xmm_xmmm128, free, new MemoryOperand(RSI)));
        Instruction loaded = normal;
        loaded.SetOpKind(1, OpKind.Register);
        loaded.SetOpRegister(1, free);
        return loaded;
    }

    /// <summary>Registers that the normalised instruction uses, as bit masks by number; <paramref name="wide"/>: some are YMM.</summary>
    private void Used(in Instruction normal, out uint vectors, out uint vectorsWritten, out uint mmx, out uint mmxWritten, out uint general,
        out uint generalWritten, out bool wide)
    {
        vectors = vectorsWritten = mmx = mmxWritten = general = generalWritten = 0;
        wide = false;
        for (int n = 0; n < normal.OpCount; n++)
            wide |= normal.GetOpKind(n) == OpKind.Register && normal.GetOpRegister(n).IsYMM();
        foreach (UsedRegister used in _information.GetInfo(normal).GetUsedRegisters())
        {
            HostRegister r = used.Register;
            bool written = used.Access is OpAccess.Write or OpAccess.CondWrite or OpAccess.ReadWrite or OpAccess.ReadCondWrite;
            uint bit = 1u << (r.GetFullRegister().GetNumber() & 31); // an 8-bit register's own number counts AH to BH
            if (r.IsVectorRegister())
            {
                vectors |= bit;
                if (written) vectorsWritten |= bit;
            }
            else if (r.IsMM())
            {
                mmx |= bit;
                if (written) mmxWritten |= bit;
            }
            else if (r.IsGPR())
            {
                if (r.GetFullRegister() == RSI) continue;
                general |= bit;
                if (written) generalWritten |= bit;
            }
        }
    }

    private void LoadExplicit(in Instruction original, in Instruction normal)
    {
        for (int n = 0; n < original.OpCount; n++)
        {
            if (!Remapped(original, normal, n, out HostRegister from, out HostRegister host)) continue;
            if (from is AH or CH or DH or BH) Add(Instruction.Create(Code.Movzx_r32_rm8, R8D + (host - R8L), State((from - AH) * 8 + 1)));
            else Add(Instruction.Create(Code.Mov_r64_rm64, host.GetFullRegister(), State(from.GetFullRegister().GetNumber() * 8)));
        }
    }

    private void StoreExplicit(in Instruction original, in Instruction normal, uint written)
    {
        for (int n = 0; n < original.OpCount; n++)
        {
            // Only 32- and 64-bit general registers are destinations, so the whole register is right: the host has cleared the upper half.
            if (Remapped(original, normal, n, out HostRegister from, out HostRegister host) && (written >> host.GetFullRegister().GetNumber() & 1) != 0)
                Add(Instruction.Create(Code.Mov_rm64_r64, State(from.GetFullRegister().GetNumber() * 8), host.GetFullRegister()));
        }
    }

    private static bool Remapped(in Instruction original, in Instruction normal, int n, out HostRegister from, out HostRegister host)
    {
        from = original.GetOpKind(n) == OpKind.Register ? original.GetOpRegister(n) : None;
        host = normal.GetOpKind(n) == OpKind.Register ? normal.GetOpRegister(n) : None;
        return from.IsGPR() && !IsImplicit(original, n);
    }

    private int Jump(byte opcode)
    {
        _writer.WriteByte(opcode);
        _writer.WriteByte(0);
        return _writer.Length;
    }

    private void Land(int from) => _writer.Patch(from - 1, checked((byte)(sbyte)(_writer.Length - from)));
}
