namespace Bunraku.Processor.X86;

/// <summary>The processors of one VM, and what they share.</summary>
internal sealed class ProcessorGroup
{
    private volatile Processor[] _members = [];

    /// <summary>How many processors the VM has.</summary>
    public int Count => _members.Length;

    /// <summary>Serialises locked operations that cannot be one host atomic (split, MMIO), among all vCPUs of the VM.</summary>
    public Lock BusLock { get; } = new();

    /// <summary>Before the VM runs.</summary>
    public void Add(Processor processor) => _members = [.. _members, processor];
}
