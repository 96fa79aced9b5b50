using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The <c>interp</c> engine: every instruction is interpreted. Runs on any x86-64 host; the reference for the other engines.</summary>
public sealed class InterpreterEngine : IX86Engine
{
    /// <inheritdoc cref="TranslatorEngine.Sizes"/>
    public CodeCacheSizes Sizes { get; init; } = CodeCacheSizes.Usual;

    /// <inheritdoc/>
    public string Name => "interp";

    /// <inheritdoc/>
    public bool AsksForPages => true;

    /// <inheritdoc/>
    public int MaxCpus => ProcessorGroup.MostMembers;

    /// <inheritdoc/>
    public string? WhyNoDebugger => null;

    /// <inheritdoc/>
    public EngineProbe Probe() => new(true, "software processor, interpreted");

    /// <inheritdoc/>
    public IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) => new SoftwareVm(memory, model, clock, translateAfter: 0, Sizes);
}
