using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Silicon;

/// <summary>Compares one instruction form with the silicon over many encodings and operands.</summary>
public sealed class FormTester(Comparer comparer, CpuModel model)
{
    /// <summary>Encodings of each form, half of them with a memory operand where there is one, and trials of each encoding.</summary>
    public int Encodings { get; init; } = 24;
    public int TrialsPerEncoding { get; init; } = 10;

    /// <summary>Every combination of MXCSR's masks, and operands whose results overflow, are tiny or inexact.</summary>
    public bool Unmasked { get; init; }

    /// <summary>Runs the form; differences are appended. False when no encoding of the form could be made.</summary>
    public bool Run(Code code, int bitness, ulong seed, List<Difference> differences)
    {
        var rng = new Rng(seed * 0x9E37_79B9 + (ulong)code * 0x1_0001 + (ulong)bitness);
        StateParts parts = Parts(code);
        RoutineCode routine = comparer.Routine(parts);
        var builder = new FormBuilder(rng, routine, FormList.Options(model));
        var writer = new TrialWriter(rng);
        var code64 = new ByteWriter();
        var cases = new List<TestCase>();
        for (int n = 0; n < Encodings; n++)
        {
            // Far from each other, and some instructions across pages.
            while (code64.Count % 64 != 0) code64.Append([0xCC]);
            TestCase? test = builder.Build(code, bitness, Layout.Cases + (ulong)code64.Count, preferMemory: n % 2 == 0);
            if (test == null) return false;
            code64.Append(test.Code);
            cases.Add(test);
        }
        int trials = Math.Min(Layout.MaxTrials, Encodings * TrialsPerEncoding);
        writer.FillData();
        for (int n = 0; n < trials; n++)
        {
            writer.Write(n, cases[n % cases.Count]);
            if (Unmasked) writer.Unmask(n, code);
        }
        comparer.Run(parts, code64.ToArray(), trials, n => cases[n % cases.Count], differences);
        return true;
    }

    /// <summary>True when encodings of the form can be made, with which <see cref="Run"/> compares it.</summary>
    public bool CanEncode(Code code, int bitness) =>
        new FormBuilder(new Rng(1), comparer.Routine(Parts(code)), FormList.Options(model)).Build(code, bitness, Layout.Cases, preferMemory: true) != null;

    /// <summary>The state that the form can touch.</summary>
    public static StateParts Parts(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        CpuidFeature[] features = code.CpuidFeatures();
        bool x87 = info.Mnemonic == Mnemonic.Wait
            || features.Any(f => f is CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387 or CpuidFeature.MMX or CpuidFeature.FXSR
            or CpuidFeature.XSAVE or CpuidFeature.XSAVEC or CpuidFeature.XSAVEOPT or CpuidFeature.XSAVES);
        bool vector = x87, mmx = false;
        for (int n = 0; n < info.OpCount; n++)
        {
            string kind = info.GetOpKind(n).ToString();
            mmx |= kind.StartsWith("mm_", StringComparison.Ordinal);
            vector |= kind.Contains("xmm", StringComparison.Ordinal) || kind.Contains("ymm", StringComparison.Ordinal)
                || info.Mnemonic is Mnemonic.Ldmxcsr or Mnemonic.Stmxcsr or Mnemonic.Vldmxcsr or Mnemonic.Vstmxcsr or Mnemonic.Vzeroall or Mnemonic.Vzeroupper;
        }
        return (vector || mmx ? StateParts.Vector : 0) | (x87 || mmx ? StateParts.X87 : 0);
    }
}
