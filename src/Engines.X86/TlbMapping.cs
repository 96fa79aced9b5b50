namespace Bunraku.Engines.X86;

/// <summary>A page that a vCPU's TLB holds.</summary>
/// <param name="Tag">VPID or ASID; 0: the processor's own, outside a guest inside the guest.</param>
/// <param name="SecondStage">What names the second stage: the EPT pointer, or nested CR3 with how its tables are read; 0 without one.</param>
/// <param name="Pcid">0 to 4095.</param>
/// <param name="Linear">A multiple of 4096.</param>
/// <param name="Physical">The page in the memory of the machine, a multiple of 4096.</param>
/// <param name="Rights">What the entry allows without another look; more may be allowed.</param>
/// <param name="IsUser">For CPL 3, else for the others.</param>
public readonly record struct TlbMapping(ushort Tag, ulong SecondStage, uint Pcid, ulong Linear, ulong Physical, PageRights Rights, bool IsUser);
