using Iced.Intel;

namespace Bunraku.Silicon;

/// <summary>One encoded instruction with its way in and out, ready to be executed from the cases area.</summary>
public sealed class TestCase
{
    public required Instruction Instruction { get; init; }
    public required int Bitness { get; init; }
    /// <summary>The tested instruction's own bytes.</summary>
    public required byte[] Encoded { get; init; }
    /// <summary>Everything: far pointer and trampoline outside 64-bit mode, the instruction, the jumps back.</summary>
    public required byte[] Code { get; init; }
    /// <summary>Linear address where the routine enters.</summary>
    public required ulong Entry { get; init; }
    /// <summary>Linear address of the tested instruction.</summary>
    public required ulong Address { get; init; }
    /// <summary>Linear address of the landing place of branches.</summary>
    public required ulong Landing { get; init; }

    /// <summary>Stands for no case.</summary>
    public static TestCase Empty { get; } = new() { Instruction = default, Bitness = 64, Encoded = [], Code = [], Entry = 0, Address = 0, Landing = 0 };

    public override string ToString() => $"{Bitness}-bit {Instruction.Code}: {Instruction} [{Convert.ToHexString(Encoded)}]";
}

/// <summary>Makes random encodings of an instruction form.</summary>
internal sealed class FormBuilder(Rng rng, RoutineCode routine, DecoderOptions options)
{
    private readonly ByteWriter _writer = new();

    /// <summary>
    /// A random encoding of <paramref name="code"/> to be placed at <paramref name="start"/>.
    /// Null when the encoder knows none after many attempts (the form does not exist in this mode).
    /// </summary>
    public TestCase? Build(Code code, int bitness, ulong start, bool preferMemory)
    {
        for (int attempt = 0; attempt < 60; attempt++)
        {
            // Some forms exist with a register or with memory only.
            Instruction instruction = Draft(code, bitness, preferMemory ^ attempt % 8 == 7);
            TestCase? built = Assemble(instruction, bitness, start);
            if (built != null && built.Instruction.Code == code) return built;
        }
        return null;
    }

    private TestCase? Assemble(Instruction instruction, int bitness, ulong start)
    {
        var code = new ByteWriter();
        ulong entry = start;
        if (bitness != 64)
        {
            // The way in: data segments, then a far jump through a pointer that precedes it.
            ulong slot = bitness == 32 ? Slot.FlatSelector : Slot.Data16Selector;
            ReadOnlySpan<byte> modrms = bitness == 32 ? [0x1C, 0x04] : [0x14, 0x1C, 0x04]; // DS, ES; SS too in 16-bit code
            entry = start + 8;
            ulong body = entry + (ulong)(modrms.Length * 8 + 7);
            ulong offset = bitness == 32 ? body : body - Layout.Cases;
            code.Append(BitConverter.GetBytes((uint)offset));
            code.Append(BitConverter.GetBytes((uint)(bitness == 32 ? Layout.Code32 : Layout.Code16)));
            foreach (byte modrm in modrms) code.Append([0x8E, modrm, 0x25, .. BitConverter.GetBytes((uint)slot), 0x90]);
            code.Append([0xFF, 0x2C, 0x25, .. BitConverter.GetBytes((uint)start)]);
        }
        ulong address = start + (ulong)code.Count;
        ulong rip = bitness == 16 ? address - Layout.Cases : address;
        SetBranchTarget(ref instruction, bitness, rip + 16);
        byte[]? encoded = Encode(instruction, bitness, rip);
        if (encoded == null) return null;
        byte[] back = JumpTo(routine.Store, bitness, address + (ulong)encoded.Length);
        ulong landing = address + (ulong)(encoded.Length + back.Length);
        ulong landingRip = bitness == 16 ? landing - Layout.Cases : landing;
        if (SetBranchTarget(ref instruction, bitness, landingRip))
        {
            int length = encoded.Length;
            encoded = Encode(instruction, bitness, rip);
            if (encoded == null || encoded.Length != length) return null;
        }
        code.Append(encoded);
        code.Append(back);
        code.Append(JumpTo(routine.StoreMarked, bitness, landing));

        var decoder = Decoder.Create(bitness, new ByteArrayCodeReader(encoded), rip, options);
        Instruction decoded = decoder.Decode();
        return new TestCase
        {
            Instruction = decoded,
            Bitness = bitness,
            Encoded = encoded,
            Code = code.ToArray(),
            Entry = entry,
            Address = address,
            Landing = landing,
        };
    }

    private static byte[] JumpTo(ulong target, int bitness, ulong from) => bitness switch
    {
        64 => [0xE9, .. BitConverter.GetBytes((int)(target - (from + 5)))],
        32 => [0xEA, .. BitConverter.GetBytes((uint)target), .. BitConverter.GetBytes(Layout.Code64)],
        _ => [0x66, 0xEA, .. BitConverter.GetBytes((uint)target), .. BitConverter.GetBytes(Layout.Code64)],
    };

    private static bool SetBranchTarget(ref Instruction instruction, int bitness, ulong landing)
    {
        for (int n = 0; n < instruction.OpCount; n++)
        {
            switch (instruction.GetOpKind(n))
            {
                case OpKind.NearBranch16: instruction.NearBranch16 = (ushort)landing; return true;
                case OpKind.NearBranch32: instruction.NearBranch32 = (uint)landing; return true;
                case OpKind.NearBranch64: instruction.NearBranch64 = landing; return true;
                case OpKind.FarBranch16:
                    instruction.FarBranch16 = (ushort)landing; instruction.FarBranchSelector = bitness == 16 ? Layout.Code16
                    : Layout.Code32; return true;
                case OpKind.FarBranch32:
                    instruction.FarBranch32 = (uint)landing; instruction.FarBranchSelector = bitness == 16 ? Layout.Code16
                    : Layout.Code32; return true;
            }
        }
        return false;
    }

    internal byte[]? Encode(in Instruction instruction, int bitness, ulong rip)
    {
        _writer.Clear();
        var encoder = Encoder.Create(bitness, _writer);
        encoder.PreventVEX2 = rng.OneIn(4);
        encoder.VEX_WIG = (uint)rng.Below(2);
        encoder.VEX_LIG = (uint)rng.Below(2);
        return encoder.TryEncode(instruction, rip, out _, out _) ? _writer.ToArray() : null;
    }

    internal Instruction Draft(Code code, int bitness, bool preferMemory)
    {
        OpCodeInfo info = code.ToOpCode();
        var instruction = new Instruction { Code = code };
        bool highBytes = rng.OneIn(3);                  // AH to BH exclude every REX register
        int registers = bitness == 64 && !highBytes ? 16 : 8;
        int addressSize = bitness == 64 ? (rng.OneIn(8) ? 32 : 64) : rng.OneIn(bitness == 32 ? 16 : 6) ? 48 - bitness : bitness;
        bool memory = false;
        for (int n = 0; n < info.OpCount; n++)
        {
            string kind = info.GetOpKind(n).ToString();
            if (kind.EndsWith("_or_mem", StringComparison.Ordinal) && preferMemory || kind is "mem" or "mem_mib" or "sibmem"
                || kind.StartsWith("mem_vsib", StringComparison.Ordinal))
            {
                memory = true;
                instruction.SetOpKind(n, OpKind.Memory);
                SetMemory(ref instruction, bitness, addressSize, registers, kind, info);
            }
            else SetOperand(ref instruction, n, kind, bitness, addressSize, registers, highBytes);
        }
        if (code is Code.Int_imm8 && instruction.Immediate8 is 0x80 or Layout.DoneVector) instruction.Immediate8 = 0x42;
        if (info.CanUseLockPrefix && memory && rng.OneIn(3)) instruction.HasLockPrefix = true;
        if (info.CanUseRepPrefix && rng.OneIn(2)) instruction.HasRepPrefix = true;
        else if (info.CanUseRepnePrefix && rng.OneIn(2)) instruction.HasRepnePrefix = true;
        return instruction;
    }

    private void SetOperand(ref Instruction instruction, int n, string kind, int bitness, int addressSize, int registers, bool highBytes)
    {
        Register Reg(Register first, int count) => first + rng.Below(count);
        int last = kind.IndexOf('_');
        string family = last < 0 ? kind : kind[..last];
        switch (family)
        {
            case "r8":
                instruction.SetOpRegister(n,
                    registers == 8 ? Reg(Register.AL, 8) : rng.OneIn(3) ? Reg(Register.R8L, 8) : rng.OneIn(2) ? Reg(Register.SPL, 4) : Reg(Register.AL, 4));
                if (registers != 8 || !highBytes) break;
                break;
            case "r16": instruction.SetOpRegister(n, Reg(Register.AX, registers)); break;
            case "r32": instruction.SetOpRegister(n, Reg(Register.EAX, registers)); break;
            case "r64": instruction.SetOpRegister(n, Reg(Register.RAX, 16)); break;
            case "mm": instruction.SetOpRegister(n, Reg(Register.MM0, 8)); break;
            case "xmm": instruction.SetOpRegister(n, Reg(Register.XMM0, bitness == 64 ? 16 : 8)); break;
            case "ymm": instruction.SetOpRegister(n, Reg(Register.YMM0, bitness == 64 ? 16 : 8)); break;
            case "sti": instruction.SetOpRegister(n, Reg(Register.ST0, 8)); break;
            case "cr": instruction.SetOpRegister(n, rng.Pick<Register>([Register.CR0, Register.CR2, Register.CR3, Register.CR4])); break;
            case "dr": instruction.SetOpRegister(n, Reg(Register.DR0, 8)); break;
            case "st0": instruction.SetOpRegister(n, Register.ST0); break;
            case "al": instruction.SetOpRegister(n, Register.AL); break;
            case "cl": instruction.SetOpRegister(n, Register.CL); break;
            case "ax": instruction.SetOpRegister(n, Register.AX); break;
            case "dx": instruction.SetOpRegister(n, Register.DX); break;
            case "eax": instruction.SetOpRegister(n, Register.EAX); break;
            case "rax": instruction.SetOpRegister(n, Register.RAX); break;
            case "es" when kind == "es": instruction.SetOpRegister(n, Register.ES); break;
            case "cs": instruction.SetOpRegister(n, Register.CS); break;
            case "ss": instruction.SetOpRegister(n, Register.SS); break;
            case "ds": instruction.SetOpRegister(n, Register.DS); break;
            case "fs": instruction.SetOpRegister(n, Register.FS); break;
            case "gs": instruction.SetOpRegister(n, Register.GS); break;
            case "seg" when kind == "seg_reg": instruction.SetOpRegister(n, Reg(Register.ES, 6)); break;
            case "seg" when kind == "seg_rSI":
                instruction.SetOpKind(n,
                addressSize switch { 64 => OpKind.MemorySegRSI, 32 => OpKind.MemorySegESI, _ => OpKind.MemorySegSI }); break;
            case "seg" when kind == "seg_rDI":
                if (bitness == 32) addressSize = 32; // what MASKMOVQ has done to the x87 state when it faults is not architectural
                instruction.SetOpKind(n, addressSize switch { 64 => OpKind.MemorySegRDI, 32 => OpKind.MemorySegEDI, _ => OpKind.MemorySegDI });
                break;
            case "seg" when kind == "seg_rBX_al":
                instruction.SetOpKind(n, OpKind.Memory);
                instruction.MemoryBase = addressSize switch { 64 => Register.RBX, 32 => Register.EBX, _ => Register.BX };
                instruction.MemoryIndex = Register.AL;
                break;
            case "es": instruction.SetOpKind(n, addressSize switch { 64 => OpKind.MemoryESRDI, 32 => OpKind.MemoryESEDI, _ => OpKind.MemoryESDI }); break;
            case "mem" when kind == "mem_offs":
                instruction.SetOpKind(n, OpKind.Memory);
                instruction.MemoryDisplSize = addressSize / 8;
                instruction.MemoryDisplacement64 = bitness == 16 ? (ulong)rng.Below(0x8000) : Layout.Data + (ulong)rng.Below(0x8000);
                break;
            case "br16": instruction.SetOpKind(n, OpKind.NearBranch16); break;
            case "br32": instruction.SetOpKind(n, OpKind.NearBranch32); break;
            case "br64": instruction.SetOpKind(n, OpKind.NearBranch64); break;
            case "farbr2": instruction.SetOpKind(n, OpKind.FarBranch16); break;
            case "farbr4": instruction.SetOpKind(n, OpKind.FarBranch32); break;
            case "imm8" or "imm8sex16" or "imm8sex32" or "imm8sex64" or "imm16" or "imm32" or "imm32sex64"
                or "imm64":
                SetImmediate(ref instruction, n, kind); break;
            default: throw new NotSupportedException($"operand kind {kind} of {instruction.Code}");
        }
    }

    private void SetImmediate(ref Instruction instruction, int n, string kind)
    {
        ulong value = rng.Value();
        OpKind opKind = kind switch
        {
            "imm8" or "imm8_const_1" =>
                n > 0 && instruction.GetOpKind(n - 1) is OpKind.Immediate8 or OpKind.Immediate16 ? OpKind.Immediate8_2nd : OpKind.Immediate8,
            "imm8sex16" => OpKind.Immediate8to16,
            "imm8sex32" => OpKind.Immediate8to32,
            "imm8sex64" => OpKind.Immediate8to64,
            "imm16" => OpKind.Immediate16,
            "imm32" => OpKind.Immediate32,
            "imm32sex64" => OpKind.Immediate32to64,
            _ => OpKind.Immediate64,
        };
        instruction.SetOpKind(n, opKind);
        switch (opKind)
        {
            case OpKind.Immediate8_2nd: instruction.Immediate8_2nd = (byte)value; break;
            case OpKind.Immediate8: instruction.Immediate8 = kind == "imm8_const_1" ? (byte)1 : (byte)value; break;
            case OpKind.Immediate8to16: instruction.Immediate8to16 = (sbyte)value; break;
            case OpKind.Immediate8to32: instruction.Immediate8to32 = (sbyte)value; break;
            case OpKind.Immediate8to64: instruction.Immediate8to64 = (sbyte)value; break;
            case OpKind.Immediate16: instruction.Immediate16 = (ushort)value; break;
            case OpKind.Immediate32: instruction.Immediate32 = (uint)value; break;
            case OpKind.Immediate32to64: instruction.Immediate32to64 = (int)value; break;
            default: instruction.Immediate64 = value; break;
        }
        // Wide frames and frees only leave the mapped stack.
        if (instruction.Mnemonic == Mnemonic.Enter && opKind == OpKind.Immediate16) instruction.Immediate16 = (ushort)rng.Below(0x40);
        if (instruction.Mnemonic is Mnemonic.Ret or Mnemonic.Retf && opKind == OpKind.Immediate16) instruction.Immediate16 = (ushort)rng.Below(0x40);
    }

    private void SetMemory(ref Instruction instruction, int bitness, int addressSize, int registers, string kind, OpCodeInfo info)
    {
        ulong data = bitness == 16 ? 0x4000u + (ulong)rng.Below(0x4000) : Layout.Data + 0x4000 + (ulong)rng.Below(0x4000);
        if (AlignedArea(info.Mnemonic)) data &= ~63ul;
        int width = addressSize / 8;
        if (kind.StartsWith("mem_vsib", StringComparison.Ordinal))
        {
            Register index = (kind[^1] == 'x' ? Register.XMM0 : Register.YMM0) + rng.Below(bitness == 64 ? 16 : 8);
            Register @base = (width == 8 ? Register.RAX : Register.EAX) + rng.Below(registers);
            if (width == 2) { @base = Register.EBX; width = 4; }
            Set(ref instruction, @base, index, 1 << rng.Below(4), (ulong)(long)(sbyte)rng.Next(), rng.OneIn(2) ? 1 : width);
            return;
        }
        if (rng.OneIn(6))
        {
            // Absolute, or relative to RIP.
            if (bitness == 64 && rng.OneIn(2)) Set(ref instruction, width == 8 ? Register.RIP : Register.EIP, Register.None, 1, data, width);
            else Set(ref instruction, Register.None, Register.None, 1, data, width);
        }
        else if (width == 2)
        {
            (Register b, Register i) =
                rng.Pick<(Register,
                Register)>([(Register.BX, Register.SI), (Register.BX, Register.DI), (Register.BP, Register.SI), (Register.BP, Register.DI),
                (Register.SI, Register.None), (Register.DI, Register.None), (Register.BP, Register.None), (Register.BX, Register.None)]);
            (ulong disp, int size) = Displacement(2, mustHave: b == Register.BP && i == Register.None);
            Set(ref instruction, b, i, 1, disp, size);
        }
        else
        {
            Register first = width == 8 ? Register.RAX : Register.EAX;
            Register b = first + rng.Below(registers), i = first + rng.Below(registers);
            // XSAVE and XRSTOR take a mask from EDX:EAX, so the address there could be anything.
            if (AlignedArea(info.Mnemonic)) (b, i) = (first + (b - first | 1), first + (i - first | 1));
            bool indexed = rng.OneIn(2) && i - first != 4 && (b != i || instruction.Mnemonic == Mnemonic.Lea);
            (ulong disp, int size) = Displacement(width, mustHave: (b - first & 7) == 5);
            if (indexed && rng.OneIn(4))
            {
                Set(ref instruction, Register.None, i, 1 << rng.Below(4), Layout.Data + (ulong)rng.Below(0x8000), width);
                if (AlignedArea(info.Mnemonic)) instruction.MemoryDisplacement64 &= ~63ul;
            }
            else Set(ref instruction, b, indexed ? i : Register.None, indexed ? 1 << rng.Below(4) : 1, disp, size);
        }
        if (rng.OneIn(6))
            instruction.SegmentPrefix = bitness == 64 ? rng.Pick<Register>([Register.FS, Register.GS])
                : rng.Pick<Register>([Register.ES, Register.SS, Register.DS, Register.CS]);

        if (instruction.MemoryBase is Register.None or Register.RIP or Register.EIP && bitness == 64)
            instruction.MemoryDisplacement64 -= instruction.SegmentPrefix switch { Register.FS => Layout.FsBase, Register.GS => Layout.GsBase, _ => 0 };
        // ARPL needs a writable segment only if it writes.
        if (instruction.SegmentPrefix == Register.CS && info.Mnemonic == Mnemonic.Arpl) instruction.SegmentPrefix = Register.DS;
        // Whether a masked store of nothing into a code segment faults is another matter of processor generations.
        if (instruction.SegmentPrefix == Register.CS
            && info.Mnemonic is Mnemonic.Vmaskmovps or Mnemonic.Vmaskmovpd or Mnemonic.Vpmaskmovd or Mnemonic.Vpmaskmovq) instruction.SegmentPrefix =
            Register.DS;

        static void Set(ref Instruction instruction, Register b, Register i, int scale, ulong disp, int displSize)
        {
            instruction.MemoryBase = b;
            instruction.MemoryIndex = i;
            instruction.MemoryIndexScale = scale;
            instruction.MemoryDisplacement64 = disp;
            instruction.MemoryDisplSize = displSize;
        }
    }

    private (ulong, int) Displacement(int width, bool mustHave) => rng.Below(3) switch
    {
        0 when !mustHave => (0, 0),
        1 => ((ulong)(long)(width == 8 ? (int)rng.Next() : width == 4 ? (long)(uint)rng.Next() : (ushort)rng.Next()), width),
        _ => (Truncate((ulong)(long)(sbyte)rng.Next(), width), 1),
    };

    private static ulong Truncate(ulong value, int width) => width switch { 2 => (ushort)value, 4 => (uint)value, _ => value };

    /// <summary>The bit that it names may lie far from its operand's address.</summary>
    public static bool IsBitString(in Instruction i) =>
        i.Mnemonic is Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc && i.Op0Kind == OpKind.Memory && i.Op1Kind == OpKind.Register;

    /// <summary>One of the operands is named memory: not a string's, which its instruction implies.</summary>
    internal static bool HasMemory(in Instruction i)
    {
        for (int n = 0; n < i.OpCount; n++)
        {
            if (i.GetOpKind(n) == OpKind.Memory) return true;
        }
        return false;
    }

    /// <summary>The operand is a save area: many bytes, 64-byte aligned.</summary>
    internal static bool AlignedArea(Mnemonic mnemonic) =>
        mnemonic is Mnemonic.Fxsave or Mnemonic.Fxsave64 or Mnemonic.Fxrstor or Mnemonic.Fxrstor64 or Mnemonic.Xsave or Mnemonic.Xsave64
        or Mnemonic.Xsavec or Mnemonic.Xsavec64 or Mnemonic.Xsaveopt or Mnemonic.Xsaveopt64 or Mnemonic.Xrstor or Mnemonic.Xrstor64 or Mnemonic.Xsaves
            or Mnemonic.Xsaves64 or Mnemonic.Xrstors or Mnemonic.Xrstors64
        or Mnemonic.Fnsave or Mnemonic.Frstor or Mnemonic.Fnstenv or Mnemonic.Fldenv or Mnemonic.Fsave or Mnemonic.Fstenv;
}
