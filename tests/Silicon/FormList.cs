using Bunraku.Engines;
using Bunraku.Processor.X86;
using Iced.Intel;

namespace Bunraku.Silicon;

/// <summary>The instruction forms that a CPU model has, as Iced can decode them.</summary>
public static class FormList
{
    /// <summary>
    /// How the tests decode for the model: under the names that the forms have by themselves, which the processor lumps together when they are hints.
    /// </summary>
    internal static DecoderOptions Options(CpuModel model) => FeatureMap.Options(model) & ~DecoderOptions.ForceReservedNop;

    /// <summary>Forms whose CPUID features the model has and that exist in code of <paramref name="bitness"/> bits.</summary>
    public static IReadOnlyList<Code> For(CpuModel model, int bitness)
    {
        bool[] features = FeatureMap.For(model);
        var result = new List<Code>();
        foreach (Code code in Enum.GetValues<Code>())
        {
            OpCodeInfo info = code.ToOpCode();
            if (!info.IsInstruction || !info.IsAvailableInMode(bitness) || info.Encoding is not (EncodingKind.Legacy or EncodingKind.VEX)) continue;
            if (info.Fwait) continue; // WAIT and the no-wait form, decoded as one only when asked for
            bool decodes = (model.IsAmd, bitness) switch
            {
                (true, 64) => info.AmdDecoder64,
                (true, 32) => info.AmdDecoder32,
                (true, _) => info.AmdDecoder16,
                (false, 64) => info.IntelDecoder64,
                (false, 32) => info.IntelDecoder32,
                _ => info.IntelDecoder16,
            };
            if (!decodes) continue;
            // VMCALL and VMMCALL are implemented as hypercalls without the CPUID bits; the others exist in models that are asked for.
            if (Exclusions.IsOfHypervisors(code) && Exclusions.Reason(code) == null) continue;
            if (info.DecoderOption is not (DecoderOptions.None or DecoderOptions.AMD)) continue;
            // Iced's list names all features of a group of instructions; without one of them the form does not exist.
            if (code.CpuidFeatures().All(f => features[(int)f])) result.Add(code);
        }
        return result;
    }
}
