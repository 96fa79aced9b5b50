namespace Bunraku.Sessions;

/// <summary>What a <see cref="Vm"/> does at a moment.</summary>
public enum VmState
{
    /// <summary>It is made, its guest is loaded, and nothing has run yet.</summary>
    Created,
    /// <summary>The guest runs.</summary>
    Running,
    /// <summary>Virtual time and all vCPUs stand still, and can go on.</summary>
    Paused,
    /// <summary>It has come to its end.</summary>
    Ended,
}
