using System.Text;
using Bunraku.Engines;
using Iced.Intel;
using Decoder = Iced.Intel.Decoder;
using Register = Iced.Intel.Register;

namespace Bunraku.Silicon;

/// <summary>
/// Random 64-bit instruction sequences of all families mixed: loads and stores into an arena through registers that the sequence itself computes,
/// forward branches on its own flags, pushes and pops; each sequence runs on many random states in both worlds.
/// </summary>
public sealed class SequenceFuzzer
{
    private const int BlockLength = 180, TrialsPerBlock = 512;

    private readonly Comparer _comparer;
    private readonly GuestRig _guest;
    private readonly DecoderOptions _options;
    private readonly Code[][] _pool; // by family, so that the many vector forms do not crowd out the rest
    private readonly InstructionInfoFactory _infos = new();
    private double _overheadPerTrial;

    /// <summary>A piece of a sequence that stays together: address set-up and the instruction, or a branch over the next pieces.</summary>
    private sealed record Piece(byte[] Bytes, string Text, int Instructions, int Skip);

    public SequenceFuzzer(Comparer comparer, GuestRig guest, CpuModel model)
    {
        _comparer = comparer;
        _guest = guest;
        _options = FormList.Options(model);
        var families = new Dictionary<int, List<Code>>();
        foreach (Code code in FormList.For(model, 64))
        {
            if (!Usable(code)) continue;
            int family = Family(code);
            if (!families.TryGetValue(family, out List<Code>? list)) families[family] = list = [];
            list.Add(code);
        }
        _pool = [.. families.OrderBy(f => f.Key).Select(f => f.Value.ToArray())];
    }

    /// <summary>Instructions of sequences that both worlds executed so far, without the routine around them.</summary>
    public long Compared { get; private set; }

    /// <summary>Generates and runs the sequence number <paramref name="seed"/>. Null when nothing differs, else a minimal reproduction in text.</summary>
    public string? Run(ulong seed)
    {
        var rng = new Rng(seed);
        List<Piece> pieces = Generate(rng);
        if (_overheadPerTrial == 0) Calibrate();
        ulong before = _guest.Retired;
        List<Difference> differences = Execute(seed, pieces, TrialsPerBlock);
        Compared += (long)(_guest.Retired - before - _overheadPerTrial * TrialsPerBlock);
        return differences.Count == 0 ? null : Reduce(seed, pieces);
    }

    private void Calibrate()
    {
        ulong before = _guest.Retired;
        Execute(0, [], TrialsPerBlock);
        _overheadPerTrial = (_guest.Retired - before) / (double)TrialsPerBlock;
    }

    private List<Difference> Execute(ulong seed, List<Piece> pieces, int trials)
    {
        const StateParts parts = StateParts.Vector | StateParts.X87;
        RoutineCode routine = _comparer.Routine(parts);
        var writer = new TrialWriter(new Rng(seed ^ 0x5EED));
        byte[] body = Layout(pieces);
        ulong end = Silicon.Layout.Cases + (ulong)body.Length;
        byte[] code = [.. body, 0xE9, .. BitConverter.GetBytes((int)(routine.Store - (end + 5)))];
        var test = new TestCase
        {
            Instruction = new Instruction { Code = Code.Nopd },
            Bitness = 64,
            Encoded = body,
            Code = code,
            Entry = Silicon.Layout.Cases,
            Address = Silicon.Layout.Cases,
            Landing = end,
        };
        writer.FillData();
        for (int n = 0; n < trials; n++) writer.WriteSequence(n, test);
        var differences = new List<Difference>();
        _comparer.Run(parts, code, trials, _ => test, differences);
        return differences;
    }

    private static byte[] Layout(List<Piece> pieces)
    {
        var bytes = new List<byte>();
        for (int n = 0; n < pieces.Count; n++)
        {
            bytes.AddRange(pieces[n].Bytes);
            if (pieces[n].Skip == 0) continue;
            int distance = pieces.Skip(n + 1).Take(pieces[n].Skip).Sum(p => p.Bytes.Length);
            BitConverter.GetBytes(distance).CopyTo(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(bytes)[^4..]);
        }
        return [.. bytes];
    }

    /// <summary>Removes pieces as long as a difference remains.</summary>
    private string Reduce(ulong seed, List<Piece> pieces)
    {
        var kept = new List<Piece>(pieces);
        for (int chunk = kept.Count / 2; chunk >= 1; chunk /= 2)
        {
            for (int at = 0; at + chunk <= kept.Count;)
            {
                var attempt = new List<Piece>(kept);
                attempt.RemoveRange(at, chunk);
                if (Execute(seed, attempt, TrialsPerBlock).Count > 0) kept = attempt;
                else at += chunk;
            }
        }
        List<Difference> differences = Execute(seed, kept, TrialsPerBlock);
        var text = new StringBuilder($"seed {seed}: silicon and guest differ in {differences.Count} of {TrialsPerBlock} trials after\n");
        foreach (Piece p in kept)
            text.Append("    ").Append(p.Text).Append(p.Skip > 0 ? $" over {p.Skip}" : "").Append($"  [{Convert.ToHexString(p.Bytes)}]").Append('\n');
        if (differences.Count > 0) text.Append("    ").Append(differences[0].Detail);
        return text.ToString();
    }

    private List<Piece> Generate(Rng rng)
    {
        var builder = new FormBuilder(rng, _comparer.Routine(StateParts.Vector | StateParts.X87), _options);
        var pieces = new List<Piece>();
        while (pieces.Count < BlockLength)
        {
            if (rng.OneIn(12))
            {
                byte condition = (byte)rng.Below(16);
                pieces.Add(new Piece([0x0F, (byte)(0x80 | condition), 0, 0, 0, 0], $"j{condition:x}", 1, 1 + rng.Below(4)));
                continue;
            }
            Code[] family = _pool[rng.Below(_pool.Length)];
            Piece? piece = Make(rng, builder, family[rng.Below(family.Length)]);
            if (piece != null) pieces.Add(piece);
        }
        return pieces;
    }

    private Piece? Make(Rng rng, FormBuilder builder, Code code)
    {
        Instruction instruction = builder.Draft(code, 64, rng.OneIn(2));
        var setup = new List<Instruction>();
        instruction.SegmentPrefix = Register.None;
        int size = Math.Max(1, instruction.MemorySize.GetSize());
        for (int n = 0; n < instruction.OpCount; n++)
        {
            switch (instruction.GetOpKind(n))
            {
                case OpKind.Memory:
                    if (instruction.Mnemonic == Mnemonic.Lea) break;
                    Address(rng, ref instruction, size, setup);
                    break;
                case OpKind.MemorySegRSI or OpKind.MemorySegESI: Load(Register.RSI, Area(rng, 64)); break;
                case OpKind.MemorySegRDI or OpKind.MemorySegEDI or OpKind.MemoryESRDI or OpKind.MemoryESEDI: Load(Register.RDI, Area(rng, 64)); break;
            }
        }
        if (instruction.HasRepPrefix || instruction.HasRepnePrefix) Load(Register.RCX, (ulong)rng.Below(9));
        if (FormBuilder.IsBitString(instruction))
        {
            Register r = instruction.Op1Register.GetFullRegister();
            if (setup.Any(s => s.Op0Register.GetFullRegister() == r)) return null;
            Load(r, (ulong)rng.Below(0x800));
        }
        if (instruction.Mnemonic is Mnemonic.Div or Mnemonic.Idiv)
        {
            if (instruction.Op0Kind != OpKind.Register) return null;
            Register r = instruction.Op0Register.GetFullRegister();
            if (r is Register.RAX or Register.RDX || instruction.Op0Register is Register.AH or Register.BH or Register.CH or Register.DH) return null;
            Load(r, (ulong)rng.Below(100) + 20);
            Load(Register.RDX, (ulong)rng.Below(8));
            if (instruction.Op0Register.GetSize() == 1) Load(Register.RAX, (ulong)rng.Below(0x800));
        }
        // RSP is the sequence's stack and moves by pushes and pops only.
        bool stack = instruction.Mnemonic is Mnemonic.Push or Mnemonic.Pop or Mnemonic.Pushf or Mnemonic.Pushfq;
        if (stack && instruction.Op0Kind == OpKind.Register && instruction.Op0Register.GetFullRegister() == Register.RSP) return null;
        if (!stack
            && _infos.GetInfo(instruction).GetUsedRegisters().Any(u => u.Register.GetFullRegister() == Register.RSP
            && u.Access is not (OpAccess.Read or OpAccess.CondRead or OpAccess.NoMemAccess or OpAccess.None))) return null;

        var bytes = new List<byte>();
        var text = new StringBuilder();
        setup.Add(instruction);
        foreach (Instruction i in setup)
        {
            byte[]? encoded = builder.Encode(i, 64, 0);
            if (encoded == null) return null;
            var decoder = Decoder.Create(64, encoded, _options);
            Instruction decoded = decoder.Decode();
            if (i.Code == code && decoded.Code != code) return null;
            bytes.AddRange(encoded);
            text.Append(text.Length > 0 ? "; " : "").Append(decoded.ToString());
        }
        return new Piece([.. bytes], text.ToString(), setup.Count, 0);

        void Load(Register register, ulong value) => setup.Add(Instruction.Create(Code.Mov_r32_imm32, Register.EAX + (register - Register.RAX), (uint)value));
    }

    /// <summary>Points the memory operand into the arena: through a computed register where alignment does not matter, else where it is aligned.</summary>
    private static void Address(Rng rng, ref Instruction instruction, int size, List<Instruction> setup)
    {
        bool aligned = size >= 16 && !rng.OneIn(16);
        ulong area = Area(rng, size);
        instruction.MemoryDisplSize = 8;
        instruction.MemoryIndexScale = 1;
        instruction.MemoryIndex = Register.None;
        if (rng.OneIn(4) || FormBuilder.AlignedArea(instruction.Mnemonic))
        {
            instruction.MemoryBase = Register.None;
            instruction.MemoryDisplacement64 = area & ~(aligned ? 31ul : FormBuilder.AlignedArea(instruction.Mnemonic) ? 63ul : 0);
            return;
        }
        int number;
        do number = rng.Below(16); while (number == 4);
        Register register = Register.RAX + number;
        Register low = number < 4 ? Register.AL + number : number < 8 ? Register.SPL + (number - 4) : Register.R8L + (number - 8);
        if (aligned)
        {
            setup.Add(Instruction.Create(Code.Mov_r32_imm32, Register.EAX + number, (uint)(area & ~31ul)));
            instruction.MemoryBase = register;
            instruction.MemoryDisplSize = 0;
            instruction.MemoryDisplacement64 = 0;
        }
        else
        {
            // The address depends on what the sequence computed.
            setup.Add(Instruction.Create(Code.Movzx_r32_rm8, Register.EAX + number, low));
            instruction.MemoryBase = Register.None;
            instruction.MemoryIndex = register;
            instruction.MemoryIndexScale = 1 << rng.Below(4);
            instruction.MemoryDisplacement64 = area;
        }
        if (instruction.MemoryBase != Register.None && (number & 7) == 5) instruction.MemoryDisplSize = 1;
    }

    private static ulong Area(Rng rng, int size) => Silicon.Layout.Data + 0x1000 + (ulong)rng.Below(0x800) + (size >= 512 ? 0x4000ul : 0);

    private static int Family(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        CpuidFeature[] features = code.CpuidFeatures();
        if (features.Any(f => f is CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387)) return 5;
        if (features.Contains(CpuidFeature.MMX)) return 6;
        StateParts parts = FormTester.Parts(code);
        if (parts == StateParts.General)
            return info.Encoding == EncodingKind.VEX ? 4 : code.CpuidFeatures().Any(f => f >= CpuidFeature.INTEL186) && extended(info) ? 3 : (int)code % 3;
        return info.Encoding == EncodingKind.VEX ? 8 : 7;

        static bool extended(OpCodeInfo info) => info.OpCodeLength > 1;
    }

    private static bool Usable(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        if (Exclusions.Reason(code) != null || info.IsPrivileged || info.IsInputOutput || info.IsSaveRestore || info.IsReservedNop) return false;
        var probe = new Instruction { Code = code };
        if (probe.FlowControl != FlowControl.Next) return false;
        for (int n = 0; n < info.OpCount; n++)
        {
            string kind = info.GetOpKind(n).ToString();
            if (kind is "seg_reg" or "cr_reg" or "dr_reg" or "es" or "ss" or "ds" or "fs" or "gs" or "mem_offs" or "seg_rBX_al"
                || kind.StartsWith("mem_vsib", StringComparison.Ordinal)) return false;
        }
        return info.Mnemonic is not (Mnemonic.Ldmxcsr or Mnemonic.Vldmxcsr or Mnemonic.Fldcw or Mnemonic.Fldenv or Mnemonic.Frstor or Mnemonic.Fnstenv
            or Mnemonic.Fnsave
            or Mnemonic.Wrfsbase or Mnemonic.Wrgsbase or Mnemonic.Rdfsbase or Mnemonic.Rdgsbase or Mnemonic.Popf or Mnemonic.Popfq or Mnemonic.Popfd
                or Mnemonic.Enter or Mnemonic.Leave
            or Mnemonic.Lar or Mnemonic.Lsl or Mnemonic.Verr or Mnemonic.Verw or Mnemonic.Mwait or Mnemonic.Monitor or Mnemonic.Cmpxchg16b or Mnemonic.Clzero
            or Mnemonic.Dpps or Mnemonic.Dppd or Mnemonic.Vdpps or Mnemonic.Vdppd // see Comparer.Normalize
            or Mnemonic.Lfs or Mnemonic.Lgs or Mnemonic.Lss
            or Mnemonic.Emms or Mnemonic.Fninit or Mnemonic.Hlt or Mnemonic.Fxsave or Mnemonic.Fxsave64);
    }
}
