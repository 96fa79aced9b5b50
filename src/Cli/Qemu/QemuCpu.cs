using System.Globalization;

namespace Bunraku.Cli.Qemu;

/// <summary>QEMU's <c>-cpu MODEL,feature=on,…</c> as a model of ours: the nearest one, and what was asked for of its features.</summary>
internal static class QemuCpu
{
    /// <summary>
    /// QEMU's models by the level of x86-64 that they reach; what is behind a dash (-noTSX, -IBRS, -v2) does not count. Models of 32 bits become the least that
    /// there is.
    /// </summary>
    private static readonly (string Model, string[] Names)[] s_levels =
    [
        ("max", ["host", "max"]),
        ("x86-64-v1", ["qemu64", "kvm64", "qemu32", "kvm32", "base", "486", "pentium", "pentium2", "pentium3", "athlon", "phenom", "coreduo", "core2duo",
            "n270",
            "Conroe", "Penryn", "Opteron_G1", "Opteron_G2"]),
        ("x86-64-v2", ["Nehalem", "Westmere", "SandyBridge", "IvyBridge", "Opteron_G3", "Opteron_G4", "Opteron_G5", "Denverton", "Snowridge", "KnightsMill"]),
        ("x86-64-v3-intel", ["Haswell", "Broadwell", "Skylake-Client", "Skylake-Server", "Cascadelake-Server", "Cooperlake", "Icelake-Client",
            "Icelake-Server", "SapphireRapids", "GraniteRapids", "SierraForest"]),
        ("x86-64-v3", ["EPYC", "EPYC-Rome", "EPYC-Milan", "EPYC-Genoa", "Dhyana"]),
    ];

    /// <summary>Properties of QEMU's that change nothing that our processor shows.</summary>
    private static readonly string[] s_passed =
    [
        "migratable", "host-cache-info", "l3-cache", "pmu", "check", "fill-mtrr-mask", "host-phys-bits", "host-phys-bits-limit", "phys-bits", "kvmclock",
            "vmware-cpuid-freq",
        "full-cpuid-auto-level", "cpuid-0xb", "legacy-cache", "xlevel", "min-level", "min-xlevel", "level", "model-id", "vendor", "family", "model", "stepping",
    ];

    /// <summary>Names for the help.</summary>
    public static IEnumerable<string> Names => s_levels.SelectMany(l => l.Names).Concat(CpuModels.All.Select(m => m.Name)).Distinct();

    /// <summary>Sets the machine's processor.</summary>
    /// <exception cref="UsageException">The model is unknown; or with 'enforce', a feature.</exception>
    public static void Read(QemuMachine machine, string text)
    {
        const string option = "-cpu";
        string[] words = text.Split(',', StringSplitOptions.RemoveEmptyEntries);
        if (words.Length == 0) throw new UsageException("-cpu: a model is missing");
        string model = ModelOf(words[0]) ?? throw new UsageException(Nearest.Message("CPU model", words[0], [.. Names]));
        bool enforce = words[1..].Any(w => w is "enforce" or "enforce=on");
        foreach (string word in words[1..])
        {
            (string name, string value) = word[0] is '+' or '-' ? (word[1..], word[0] == '+' ? "on" : "off")
                : word.IndexOf('=') is > 0 and int at ? (word[..at], word[(at + 1)..]) : (word, "on");
            switch (name)
            {
                case "enforce":
                    continue;
                case "kvm" or "hypervisor" when value == "off":
                    machine.Paravirtual = false;
                    if (name == "hypervisor") model += ",-hypervisor";
                    continue;
                case "kvm":
                    continue;
                case "tsc-frequency" or "tsc-freq":
                    machine.TscFrequency = ulong.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out ulong hertz) ? hertz
                        : throw new UsageException($"{option}: {name}={value} is no frequency in Hz");
                    continue;
            }
            if (s_passed.Contains(name) || name.StartsWith("hv-", StringComparison.Ordinal) || name.StartsWith("hv_", StringComparison.Ordinal)) continue;
            if (value is not ("on" or "off")) throw new UsageException($"{option}: '{name}={value}' is not had");
            string asked = $"{model},{(value == "on" ? '+' : '-')}{Feature(name)}";
            try
            {
                CpuModels.Parse(asked);
                model = asked;
            }
            catch (FormatException) when (value == "off")
            {
                // What it does not have, it need not lose.
            }
            catch (FormatException e)
            {
                if (enforce) throw new UsageException($"{option}: {e.Message}");
                machine.Notes.Add($"{option}: the guest does without {name}: {e.Message}");
            }
        }
        machine.Cpu = model;
    }

    private static string? ModelOf(string name)
    {
        if (CpuModels.All.FirstOrDefault(m => m.Name.Equals(name, StringComparison.OrdinalIgnoreCase)) is { } ours) return ours.Name;
        if (name.EndsWith("-x86_64-cpu", StringComparison.Ordinal)) name = name[..^"-x86_64-cpu".Length];
        // The longest name that fits: Skylake-Client-noTSX-IBRS is a Skylake-Client, and EPYC-Rome-v2 an EPYC-Rome.
        for (; ; name = name[..name.LastIndexOf('-')])
        {
            if (s_levels.FirstOrDefault(l => l.Names.Contains(name, StringComparer.OrdinalIgnoreCase)) is { Model: { } model }) return model;
            if (!name.Contains('-')) return null;
        }
    }

    private static string Feature(string name) => name switch
    {
        "invtsc" => "invarianttsc",
        "lahf-lm" or "lahf_lm" => "lahflm",
        "sse4.1" or "sse4_1" or "sse4-1" => "sse41",
        "sse4.2" or "sse4_2" or "sse4-2" => "sse42",
        _ => name,
    };
}
