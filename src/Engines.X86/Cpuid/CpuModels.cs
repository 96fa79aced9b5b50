using System.Runtime.Intrinsics.X86;

namespace Bunraku.Engines.X86;

/// <summary>The CPU models, and how the command line names them: MODEL[,+feature,-feature].</summary>
/// <remarks>
/// All AMD-like models are of family 19h (Zen 3) and report AutoIBRS, SRSO_NO, TSA_*_NO and SSB_NO, which is true of a processor that executes nothing
/// speculatively: a guest kernel then needs no retpolines and no other mitigation that costs time.
/// </remarks>
public static class CpuModels
{
    /// <summary>The model when the user names none.</summary>
    public const string Default = "x86-64-v3";

    private static readonly CpuFeature[] s_level1 =
    [
        CpuFeature.Fpu, CpuFeature.Vme, CpuFeature.De, CpuFeature.Pse, CpuFeature.Tsc, CpuFeature.Msr, CpuFeature.Pae, CpuFeature.Mce, CpuFeature.Cx8,
        CpuFeature.Apic,
        CpuFeature.Sep, CpuFeature.Mtrr, CpuFeature.Pge, CpuFeature.Mca, CpuFeature.Cmov, CpuFeature.Pat, CpuFeature.Pse36, CpuFeature.Clflush, CpuFeature.Mmx,
        CpuFeature.Fxsr, CpuFeature.Sse, CpuFeature.Sse2, CpuFeature.Syscall, CpuFeature.Nx, CpuFeature.Lm, CpuFeature.Arat, CpuFeature.InvariantTsc,
        CpuFeature.Hypervisor, // an operating system then expects no performance counters and no hardware that needs workarounds
    ];

    private static readonly CpuFeature[] s_level2 =
    [
        .. s_level1, CpuFeature.Cx16, CpuFeature.LahfLm, CpuFeature.Popcnt, CpuFeature.Sse3, CpuFeature.Ssse3, CpuFeature.Sse41, CpuFeature.Sse42,
        CpuFeature.Rdtscp, CpuFeature.TscAdjust, CpuFeature.TscDeadline, CpuFeature.X2apic, CpuFeature.Pdpe1gb, CpuFeature.Prefetchw,
    ];

    private static readonly CpuFeature[] s_level3 =
    [
        .. s_level2, CpuFeature.Avx, CpuFeature.Avx2, CpuFeature.Bmi1, CpuFeature.Bmi2, CpuFeature.Fma, CpuFeature.F16c, CpuFeature.Movbe, CpuFeature.Lzcnt,
        CpuFeature.Aes, CpuFeature.Pclmulqdq, CpuFeature.Rdrand, CpuFeature.Rdseed, CpuFeature.Xsave, CpuFeature.Xsaveopt, CpuFeature.Xsavec,
        CpuFeature.Xgetbv1,
        CpuFeature.Fsgsbase, CpuFeature.Smep, CpuFeature.Smap, CpuFeature.Umip, CpuFeature.Pcid, CpuFeature.Invpcid, CpuFeature.Pku, CpuFeature.Erms,
        CpuFeature.Adx, CpuFeature.Clflushopt,
    ];

    private static readonly CpuFeature[] s_amdSpeculation =
        [CpuFeature.SsbNo, CpuFeature.NullSelClearsBase, CpuFeature.AutoIbrs, CpuFeature.SrsoNo, CpuFeature.TsaSqNo, CpuFeature.TsaL1No];

    /// <summary>What <c>max</c> has beyond x86-64-v3.</summary>
    private static readonly CpuFeature[] s_beyondLevel3 = [CpuFeature.La57, CpuFeature.Rdpid, CpuFeature.Clwb, CpuFeature.Sha];

    private static CpuModel Amd(string name, string brand, CpuFeature[] features) =>
        new(name, "AuthenticAMD", 0x19, 0x01, 1, brand, new HashSet<CpuFeature>((CpuFeature[])[.. features, .. s_amdSpeculation]));

    private static readonly CpuModel[] s_models =
    [
        Amd("x86-64-v1", "Bunraku x86-64-v1", s_level1),
        Amd("x86-64-v2", "Bunraku x86-64-v2", s_level2),
        Amd("x86-64-v3", "Bunraku x86-64-v3", s_level3),
        new("x86-64-v3-intel", "GenuineIntel", 6, 0x6A, 6, "Bunraku x86-64-v3 (Intel)",
            new HashSet<CpuFeature>((CpuFeature[])[.. s_level3, CpuFeature.ArchCapabilities])),
        Amd("max", "Bunraku max", [.. s_level3, .. s_beyondLevel3]),
    ];

    /// <summary>What <c>+svm</c> brings: SVM and each of its parts that this processor has. All of it is off unless it is asked for.</summary>
    private static readonly CpuFeature[] s_svm =
    [
        CpuFeature.Svm, CpuFeature.Npt, CpuFeature.Lbrv, CpuFeature.SvmLock, CpuFeature.NripSave, CpuFeature.TscScale, CpuFeature.VmcbClean,
        CpuFeature.FlushByAsid, CpuFeature.DecodeAssists, CpuFeature.PauseFilter, CpuFeature.PfThreshold, CpuFeature.Avic, CpuFeature.VVmsaveVmload,
        CpuFeature.Vgif, CpuFeature.Gmet, CpuFeature.X2avic, CpuFeature.Vnmi,
    ];

    /// <summary>What <c>+vmx</c> brings: VMX and each of its parts that can be left out.</summary>
    private static readonly CpuFeature[] s_vmx =
    [
        CpuFeature.Vmx, CpuFeature.VmxVnmi, CpuFeature.VmxPreemptionTimer, CpuFeature.VmxFlexpriority, CpuFeature.VmxMtf, CpuFeature.VmxEpt,
        CpuFeature.VmxDescExit, CpuFeature.VmxVpid, CpuFeature.VmxUnrestrictedGuest, CpuFeature.VmxPle, CpuFeature.VmxVmfunc, CpuFeature.VmxShadowVmcs,
        CpuFeature.VmxPml, CpuFeature.VmxEptViolationVe, CpuFeature.VmxMbec, CpuFeature.VmxTscScaling, CpuFeature.VmxEptExeconly, CpuFeature.VmxEpt1gb,
        CpuFeature.VmxEptad, CpuFeature.VmxApicvXapic, CpuFeature.VmxApicvX2apic, CpuFeature.VmxApicvRegister, CpuFeature.VmxApicvVid,
        CpuFeature.VmxPostedIntr,
    ];

    /// <summary>Every model as it is defined, whatever the host can do.</summary>
    public static IReadOnlyList<CpuModel> All => s_models;

    /// <summary>Features that <c>+feature</c> may ask for.</summary>
    private static readonly CpuFeature[] s_supported =
        [.. s_level3, .. s_amdSpeculation, .. s_beyondLevel3, .. s_svm, .. s_vmx, CpuFeature.ArchCapabilities, CpuFeature.Monitor];

    /// <summary>The model that a text like <c>x86-64-v3,+la57,-pku</c> describes.</summary>
    /// <exception cref="FormatException">Unknown model or feature, or a feature that this host or this processor cannot give; the message is one line for the
    /// user.</exception>
    public static CpuModel Parse(string text) => Parse(text, mayMissTechnique: false);

    private static CpuModel Parse(string text, bool mayMissTechnique)
    {
        string[] parts = text.Split(',', StringSplitOptions.TrimEntries);
        CpuModel? model = Array.Find(s_models, m => m.Name.Equals(parts[0], StringComparison.OrdinalIgnoreCase));
        if (model == null)
            throw new FormatException(Nearest.Message("CPU model", parts[0], [.. s_models.Select(m => m.Name)]));
        var features = new HashSet<CpuFeature>(model.Features);
        RemoveWhatTheHostLacks(features);
        HashSet<CpuFeature> leftOut = [], asked = [];
        foreach (string part in parts[1..])
        {
            if (part.Length < 2 || part[0] is not ('+' or '-')) throw new FormatException($"'{part}' in '{text}': write +feature or -feature");
            CpuFeature feature = ParseFeature(part[1..]);
            if (part[0] == '-')
            {
                features.Remove(feature);
                asked.Remove(feature);
                leftOut.Add(feature);
                continue;
            }
            if (!s_supported.Contains(feature)) throw new FormatException($"CPU feature '{Name(feature)}' is not implemented by this processor");
            if (!HostHas(feature)) throw new FormatException($"CPU feature '{Name(feature)}' needs a host processor that has it, and this one does not");
            if (s_svm.Contains(feature) && !model.IsAmd)
                throw new FormatException($"'{text}': '{model.Name}' is an Intel model, and '{Name(feature)}' is AMD's: take x86-64-v3 or max");
            features.Add(feature);
            asked.Add(feature);
            leftOut.Remove(feature);
            // What was left out before stays out.
            if (feature == CpuFeature.Svm) features.UnionWith(s_svm.Except(leftOut));
            if (feature == CpuFeature.Vmx) features.UnionWith(s_vmx.Except(leftOut));
        }
        foreach ((CpuFeature technique, CpuFeature[] its) in ((CpuFeature, CpuFeature[])[])[(CpuFeature.Svm, s_svm), (CpuFeature.Vmx, s_vmx)])
        {
            if (!mayMissTechnique && !features.Contains(technique) && asked.Overlaps(its))
                throw new FormatException(
                    $"'{text}': '{Name(asked.First(its.Contains))}' is a part of {Name(technique)}, which is not asked for: add +{Name(technique)}");
        }
        DropDependents(features);
        if (features.Contains(CpuFeature.Vmx) && features.Contains(CpuFeature.Svm))
            throw new FormatException($"'{text}' asks for VMX, which is Intel's, and SVM, which is AMD's: take one");
        model = model with { Features = features };
        return features.Contains(CpuFeature.Vmx) ? AsIntel(model) : model;
    }

    /// <summary>The same model with Intel's behaviour: who asks for VMX gets a processor that could have it.</summary>
    private static CpuModel AsIntel(CpuModel model)
    {
        if (!model.IsAmd) return model;
        CpuFeature[] amd = [.. s_amdSpeculation, CpuFeature.Sse4a, CpuFeature.Misalignsse, CpuFeature.CmpLegacy, CpuFeature.Cr8Legacy];
        return model with
        {
            Vendor = "GenuineIntel",
            Family = 6,
            Model = 0x6A,
            Stepping = 6,
            Features = model.Features.Except(amd).Append(CpuFeature.ArchCapabilities).ToHashSet(),
        };
    }

    /// <summary>The model of a text, which need not say anything of virtualization, with the one that is asked for beside it.</summary>
    /// <param name="text">As for <see cref="Parse(string)"/>; null: the default model.</param>
    /// <param name="nested">Null: what the text says.</param>
    /// <exception cref="FormatException">As there; or the two contradict each other.</exception>
    public static CpuModel Parse(string? text, NestedVirtualization? nested)
    {
        CpuModel model = Parse(text ?? Default, mayMissTechnique: nested is not null);
        switch (nested)
        {
            case NestedVirtualization.Off when model.Has(CpuFeature.Svm):
                throw new FormatException($"'{text}' asks for SVM, and nested virtualization is to be off");
            case NestedVirtualization.Off when model.Has(CpuFeature.Vmx):
                throw new FormatException($"'{text}' asks for VMX, and nested virtualization is to be off");
            case NestedVirtualization.Vmx when model.Has(CpuFeature.Svm):
                throw new FormatException($"'{text}' asks for SVM, and nested virtualization is to be VMX");
            case NestedVirtualization.Vmx when !model.Has(CpuFeature.Vmx):
                return With(text ?? Default, CpuFeature.Vmx);
            case NestedVirtualization.Svm when model.Has(CpuFeature.Vmx):
                throw new FormatException($"'{text}' asks for VMX, and nested virtualization is to be SVM");
            case NestedVirtualization.Svm when !model.IsAmd:
                throw new FormatException($"'{model.Name}' is an Intel model, and SVM is AMD's: take x86-64-v3 or max");
            case NestedVirtualization.Svm when !model.Has(CpuFeature.Svm):
                return With(text ?? Default, CpuFeature.Svm);
            default:
                return model;
        }
    }

    /// <summary>The feature comes right behind the model, so that a text which leaves it out contradicts it.</summary>
    private static CpuModel With(string text, CpuFeature technique)
    {
        int end = text.IndexOf(',', StringComparison.Ordinal);
        CpuModel model = Parse(text.Insert(end < 0 ? text.Length : end, $",+{Name(technique)}"));
        string name = technique.ToString().ToUpperInvariant();
        return model.Has(technique) ? model : throw new FormatException($"'{text}' leaves {name} out, and nested virtualization is to be {name}");
    }

    /// <summary>Words of the features that <c>+feature</c> may ask for, in alphabetical order.</summary>
    public static IReadOnlyList<string> FeatureNames => [.. s_supported.Select(Name).Order()];

    /// <summary>Whether this host can give what <see cref="FeatureNames"/> has; a model is made without what it cannot.</summary>
    public static bool OnThisHost(string name) => HostHas(ParseFeature(name));

    /// <summary>The word for a feature on the command line.</summary>
    public static string Name(CpuFeature feature) => feature.ToString().ToLowerInvariant();

    private static CpuFeature ParseFeature(string word)
    {
        string plain = Plain(word);
        foreach (CpuFeature f in Enum.GetValues<CpuFeature>())
        {
            if (Name(f) == plain) return f;
        }
        throw new FormatException(Nearest.Message("CPU feature", word, plain, [.. s_supported.Select(Name).Order()]));
    }

    // sse4_1, sse4.1 and SSE41 are the same; so are abm and lzcnt, as /proc/cpuinfo has it.
    private static string Plain(string word)
    {
        string plain = word.Replace("_", "").Replace(".", "").Replace("-", "").ToLowerInvariant();
        return plain switch { "abm" => "lzcnt", "pni" => "sse3", "tscdeadlinetimer" => "tscdeadline", "3dnowprefetch" => "prefetchw", _ => plain };
    }

    /// <summary>A feature without what it builds on cannot be enumerated.</summary>
    private static readonly (CpuFeature Feature, CpuFeature Needs)[] s_dependencies =
    [
        (CpuFeature.Sse2, CpuFeature.Sse), (CpuFeature.Sse3, CpuFeature.Sse2), (CpuFeature.Ssse3, CpuFeature.Sse3), (CpuFeature.Sse41, CpuFeature.Ssse3),
        (CpuFeature.Sse42, CpuFeature.Sse41), (CpuFeature.Aes, CpuFeature.Sse2), (CpuFeature.Pclmulqdq, CpuFeature.Sse2), (CpuFeature.Sha, CpuFeature.Sse2),
        (CpuFeature.Avx, CpuFeature.Xsave), (CpuFeature.Avx, CpuFeature.Sse42), (CpuFeature.Avx2, CpuFeature.Avx), (CpuFeature.Fma, CpuFeature.Avx),
        (CpuFeature.F16c, CpuFeature.Avx),
        (CpuFeature.Pku, CpuFeature.Xsave), (CpuFeature.Xsaveopt, CpuFeature.Xsave), (CpuFeature.Xsavec, CpuFeature.Xsave),
        (CpuFeature.Xgetbv1, CpuFeature.Xsave),
        (CpuFeature.PfThreshold, CpuFeature.PauseFilter),
        (CpuFeature.Gmet, CpuFeature.Npt), (CpuFeature.VVmsaveVmload, CpuFeature.Npt), (CpuFeature.Avic, CpuFeature.Npt), (CpuFeature.X2avic, CpuFeature.Avic),
        (CpuFeature.Vnmi, CpuFeature.Vgif),
        (CpuFeature.VmxUnrestrictedGuest, CpuFeature.VmxEpt),
        (CpuFeature.VmxVmfunc, CpuFeature.VmxEpt), (CpuFeature.VmxEptViolationVe, CpuFeature.VmxEpt), (CpuFeature.VmxMbec, CpuFeature.VmxEpt),
        (CpuFeature.VmxEptExeconly, CpuFeature.VmxEpt), (CpuFeature.VmxEpt1gb, CpuFeature.VmxEpt), (CpuFeature.VmxEptad, CpuFeature.VmxEpt),
        (CpuFeature.VmxPml, CpuFeature.VmxEptad), (CpuFeature.VmxApicvX2apic, CpuFeature.VmxFlexpriority),
        (CpuFeature.VmxApicvRegister, CpuFeature.VmxFlexpriority), (CpuFeature.VmxApicvVid, CpuFeature.VmxFlexpriority),
        (CpuFeature.VmxPostedIntr, CpuFeature.VmxApicvVid),
        (CpuFeature.La57, CpuFeature.Lm), (CpuFeature.TscDeadline, CpuFeature.Apic), (CpuFeature.X2apic, CpuFeature.Apic),
    ];

    private static void DropDependents(HashSet<CpuFeature> features)
    {
        if (!features.Contains(CpuFeature.Svm)) features.ExceptWith(s_svm);
        if (!features.Contains(CpuFeature.Vmx)) features.ExceptWith(s_vmx);
        bool changed;
        do
        {
            changed = false;
            foreach ((CpuFeature feature, CpuFeature needs) in s_dependencies)
                changed |= !features.Contains(needs) && features.Remove(feature);
        }
        while (changed);
    }

    private static void RemoveWhatTheHostLacks(HashSet<CpuFeature> features)
    {
        foreach (CpuidFeatureBit row in CpuidFeatureBits.Rows)
        {
            if (row.HostExecuted && features.Contains(row.Feature) && !HostHas(row.Feature)) features.Remove(row.Feature);
        }
    }

    /// <summary>True unless the feature's instructions run on host units that this host lacks.</summary>
    private static bool HostHas(CpuFeature feature)
    {
        foreach (CpuidFeatureBit row in CpuidFeatureBits.Rows)
        {
            if (row.Feature != feature || !row.HostExecuted) continue;
            if (!X86Base.IsSupported) return false;
            (int a, int b, int c, int d) = X86Base.CpuId((int)row.Leaf, (int)row.Subleaf);
            int register = row.Register switch { CpuidRegister.Eax => a, CpuidRegister.Ebx => b, CpuidRegister.Ecx => c, _ => d };
            if ((register >> row.Bit & 1) == 0) return false;
        }
        return true;
    }
}
