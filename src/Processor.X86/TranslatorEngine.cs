using System.Runtime.Intrinsics.X86;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The <c>bt</c> engine: hot code is translated to the host's own, the rest is interpreted.</summary>
/// <param name="threshold">How often a block is entered before it is translated, at least 1.</param>
public sealed class TranslatorEngine(int threshold = TranslatorEngine.DefaultThreshold) : IX86Engine
{
    /// <summary>Translating pays from about so many entries on.</summary>
    public const int DefaultThreshold = 24;

    /// <summary>How large the caches of each vCPU are; others than the usual ones are for tests.</summary>
    public CodeCacheSizes Sizes { get; init; } = CodeCacheSizes.Usual;

    /// <summary>Which programs of the guest run directly on the host's processor instead.</summary>
    public DirectUse Direct { get; init; }

    /// <inheritdoc/>
    public string Name => "bt";

    /// <inheritdoc/>
    public int MaxCpus => ProcessorGroup.MostMembers;

    /// <inheritdoc/>
    public string? WhyNoDebugger => null;

    /// <inheritdoc/>
    public EngineProbe Probe() =>
        Missing() is { } missing ? new(false, $"the host's processor lacks {missing}, which translated code needs")
            : new(true, "software processor, hot code translated to the host's");

    /// <summary>Why programs cannot run directly on this host; null: they can.</summary>
    public static unsafe string? WhyNotDirect()
    {
        try
        {
            using var memory = new Platform.RamBacking(GuestMemory.PageSize, shared: true);
            using var helper = new DirectHelper(memory, new DirectRegisters(null));
            return null;
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            return e.Message;
        }
    }

    private static string? Missing() => !Avx2.IsSupported ? "AVX2" : !Bmi2.X64.IsSupported ? "BMI2" : null;

    /// <inheritdoc/>
    public IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) => new SoftwareVm(memory, model, clock, threshold, Sizes, Direct);
}
