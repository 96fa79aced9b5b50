namespace Bunraku.Engines.X86;

/// <summary>
/// What a hypervisor tells its guests through CPUID from 40000000h on, and the MSRs that it has for them. The engine knows no more about it: the leaves are
/// data, accesses to the MSRs exit with <see cref="ExitReason.Msr"/>.
/// </summary>
/// <param name="Signature">12 characters, EBX, ECX and EDX of leaf 40000000h.</param>
/// <param name="Leaves">Answers beyond 40000000h and 40000010h, by leaf.</param>
/// <param name="Msrs">First and last of each range.</param>
public sealed record HypervisorInterface(string Signature, IReadOnlyDictionary<uint, CpuidResult> Leaves, IReadOnlyList<(uint First, uint Last)> Msrs)
{
    /// <summary>Who we are to guests for which nothing else is played.</summary>
    public static HypervisorInterface None { get; } = new("BunrakuVMM", new Dictionary<uint, CpuidResult>(), []);

    /// <summary>The engine's own interface, which it handles itself; <see cref="None"/> where it has none.</summary>
    public static HypervisorInterface OfEngine { get; } = None with { };

    /// <summary>True for an MSR of this interface.</summary>
    public bool HasMsr(uint index)
    {
        foreach ((uint first, uint last) in Msrs)
            if (index >= first && index <= last) return true;
        return false;
    }
}
