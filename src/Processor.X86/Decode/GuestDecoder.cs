using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Iced's decoder with what the CPU model's vendor makes of bytes that the other vendor's processors execute differently or not at all. Whoever decodes
/// guest code uses this, so that interpreter and translator agree.
/// </summary>
/// <param name="bytes">The decoder reads from here; the caller sets it before <see cref="Begin"/>.</param>
internal sealed class GuestDecoder(CodeBytes bytes, CpuModel model)
{
    private readonly VendorBehavior _behavior = model.Behavior;
    private readonly DecoderOptions _options = FeatureMap.Options(model);
    private readonly Decoder[] _decoders = DecodersFor(bytes, FeatureMap.Options(model));
    private Decoder? _current;

    private static Decoder[] DecodersFor(CodeBytes bytes, DecoderOptions options) =>
        [Decoder.Create(16, bytes, options), Decoder.Create(32, bytes, options), Decoder.Create(64, bytes, options)];

    /// <summary>Starts at the first of <c>bytes</c>, which is at <paramref name="rip"/>.</summary>
    public void Begin(uint mode, ulong rip)
    {
        _current = _decoders[mode & ModeKey.CodeSizeMask];
        _current.IP = rip;
    }

    /// <summary>The next instruction; false when it is not complete.</summary>
    public bool Decode(out Instruction instruction)
    {
        Decoder decoder = _current!;
        int start = bytes.Position;
        ulong ip = decoder.IP;
        decoder.Decode(out instruction);
        if (decoder.LastError == DecoderError.NoMoreBytes) return false;
        if (instruction.IsInvalid && _behavior.IgnoresWOfQuadwordPermutes && StartsQuadwordPermuteWithoutW(start))
            return DecodeWithW(decoder, start, ip, out instruction);
        if (_behavior.RepeatPrefixChoosesLoopCondition) instruction.Code = LoopByPrefix(instruction);
        return true;
    }

    /// <summary>LOOPNE with REPE (F3) is LOOPE, and LOOPE with REPNE (F2) is LOOPNE.</summary>
    private static Code LoopByPrefix(in Instruction instruction)
    {
        const int distance = Code.Loope_rel8_16_CX - Code.Loopne_rel8_16_CX;
        Code code = instruction.Code;
        return code switch
        {
            >= Code.Loopne_rel8_16_CX and < Code.Loopne_rel8_16_CX + distance when instruction.HasRepPrefix => code + distance,
            >= Code.Loope_rel8_16_CX and < Code.Loope_rel8_16_CX + distance when instruction.HasRepnePrefix => code - distance,
            _ => code,
        };
    }

    private const byte Vex3 = 0xC4, VexW = 0x80, Map0F3A = 3, Length256 = 4, Prefix66 = 1;

    /// <summary>VEX.256.66.0F3A.W0 00 or 01: VPERMQ, VPERMPD.</summary>
    private bool StartsQuadwordPermuteWithoutW(int start)
    {
        ReadOnlySpan<byte> taken = bytes.Taken(start);
        int at = VexAt(taken);
        return taken.Length > at + 3 && taken[at] == Vex3 && (taken[at + 1] & 0x1F) == Map0F3A && (taken[at + 2] & VexW) == 0
            && (taken[at + 2] & 7) == (Length256 | Prefix66) && taken[at + 3] is 0 or 1;
    }

    /// <summary>Behind the prefixes that may precede VEX.</summary>
    private static int VexAt(ReadOnlySpan<byte> code)
    {
        int at = 0;
        while (at < code.Length && code[at] is 0x26 or 0x2E or 0x36 or 0x3E or 0x64 or 0x65 or 0x67) at++;
        return at;
    }

    private bool DecodeWithW(Decoder decoder, int start, ulong ip, out Instruction instruction)
    {
        while (bytes.Position - start < CodeBytes.MaxInstructionLength && bytes.ReadByte() >= 0) { }
        byte[] copy = bytes.Taken(start).ToArray();
        copy[VexAt(copy) + 2] |= VexW;
        var other = Decoder.Create(decoder.Bitness, new ByteArrayCodeReader(copy), _options);
        other.IP = ip;
        other.Decode(out instruction);
        if (other.LastError == DecoderError.NoMoreBytes) return false;
        bytes.Rewind(start + instruction.Length);
        decoder.IP = ip + (ulong)instruction.Length;
        return true;
    }
}
