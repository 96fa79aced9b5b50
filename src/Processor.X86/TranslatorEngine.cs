using System.Runtime.Intrinsics.X86;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The <c>bt</c> engine: hot code is translated to the host's own, the rest is interpreted.</summary>
/// <param name="threshold">How often a block is entered before it is translated, at least 1.</param>
public sealed class TranslatorEngine(int threshold = TranslatorEngine.DefaultThreshold) : IX86Engine
{
    /// <summary>Translating pays from about so many entries on.</summary>
    public const int DefaultThreshold = 24;

    private readonly Lazy<DirectHost> _directHost = new(ProbeDirect);

    /// <summary>How large the caches of each vCPU are; others than the usual ones are for tests.</summary>
    public CodeCacheSizes Sizes { get; init; } = CodeCacheSizes.Usual;

    /// <summary>Which programs of the guest run directly on the host's processor instead; none where <see cref="WhyNotDirect"/> has a reason.</summary>
    public DirectUse Direct { get; init; }

    /// <inheritdoc/>
    public string Name => "bt";

    /// <inheritdoc/>
    public bool AsksForPages => true;

    /// <inheritdoc/>
    public int MaxCpus => ProcessorGroup.MostMembers;

    /// <inheritdoc/>
    public string? WhyNoDebugger => null;

    /// <inheritdoc/>
    public EngineProbe Probe() =>
        Lacking() is { } reason ? new(false, reason) : new(true, "software processor, hot code translated to the host's");

    /// <summary>
    /// Why programs cannot run directly on this host, in one line; null: they can. What direct execution counts on is tried out each time, in a process of its
    /// own and within milliseconds. Any thread.
    /// </summary>
    public static string? WhyNotDirect() => ProbeDirect().WhyNot;

    private static DirectHost ProbeDirect() => Lacking() is { } lacking ? new(lacking, SensitiveInstructions.None, 0, 0, false) : DirectProbe.Run();

    private static string? Lacking() => Missing() is { } missing ? $"the host's processor lacks {missing}, which translated code needs" : null;

    private static string? Missing() => !Avx2.IsSupported ? "AVX2" : !Bmi2.X64.IsSupported ? "BMI2" : null;

    /// <inheritdoc/>
    public IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) => new SoftwareVm(memory, model, clock, threshold, Sizes,
        Direct != DirectUse.None ? new DirectSetup(Direct, _directHost) : null);
}
