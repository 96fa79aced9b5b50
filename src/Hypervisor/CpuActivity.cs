namespace Bunraku.Hypervisor;

/// <summary>What a vCPU does between events. Intel SDM vol. 3C, "Guest Non-Register State", activity state.</summary>
public enum CpuActivity
{
    /// <summary>It executes instructions.</summary>
    Active,
    /// <summary>HLT: it waits for an interrupt, an NMI or INIT.</summary>
    Halted,
    /// <summary>Wait-for-SIPI: it waits for a start-up IPI or another INIT.</summary>
    WaitForStartUp,
}
