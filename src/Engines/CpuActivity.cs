namespace Bunraku.Engines;

/// <summary>What a vCPU does between events. Intel SDM vol. 3C, "Guest Non-Register State", activity state.</summary>
public enum CpuActivity
{
    /// <summary>It executes instructions.</summary>
    Active,
    /// <summary>HLT: it waits for an interrupt, an NMI or INIT.</summary>
    Halted,
    /// <summary>A fault while it delivered a double fault: only RESET ends that.</summary>
    Shutdown,
    /// <summary>Wait-for-SIPI: it waits for a start-up IPI or another INIT.</summary>
    WaitForStartUp,
}
