namespace Bunraku.Engines.X86;

/// <summary>What an engine has in tables that the host's processor walks, of one address space of the guest: a cache of the guest's own.</summary>
/// <param name="Space">Names the address space: another one, also where the guest has only flushed it, has another number.</param>
/// <param name="IsInForce">The vCPU is in this address space.</param>
/// <param name="Mappings">In no order.</param>
/// <param name="Refused">Linear pages whose code the host's processor must not execute.</param>
public sealed record ShadowTable(ulong Space, bool IsInForce, IReadOnlyList<ShadowMapping> Mappings, IReadOnlyList<ulong> Refused);

/// <summary>A page in it.</summary>
/// <param name="Linear">A multiple of 4096.</param>
/// <param name="Offset">Of the page in the memory behind the guest's, a multiple of 4096.</param>
/// <param name="Rights">What the guest's program may do there without being noticed.</param>
/// <param name="Guards">Linear addresses in the page where the host's processor stops before it executes an instruction.</param>
public readonly record struct ShadowMapping(ulong Linear, ulong Offset, ShadowRights Rights, IReadOnlyList<ulong> Guards);

/// <summary>As a process of the host has them.</summary>
[Flags]
public enum ShadowRights
{
    /// <summary>Each access is noticed.</summary>
    None = 0,
    /// <summary>It may read.</summary>
    Read = 1,
    /// <summary>It may write.</summary>
    Write = 2,
    /// <summary>It may execute what lies there.</summary>
    Execute = 4,
}
