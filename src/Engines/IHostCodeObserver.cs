namespace Bunraku.Engines;

/// <summary>
/// Is told where an engine puts the host code that it makes, and what it is made of: for tools that look at the process from outside. Members are called on
/// vCPUs' threads and before they start, by several at the same time, and must not throw.
/// </summary>
public interface IHostCodeObserver
{
    /// <summary>There is code from now on, or what there is has another name.</summary>
    /// <param name="address">Of its first byte.</param>
    /// <param name="length">Bytes, at least 1.</param>
    /// <param name="name">Without blanks and line ends: the guest's address and mode, or the engine's own word for it.</param>
    void CodeAdded(ulong address, ulong length, string name);

    /// <summary>All code that begins in this range is gone; other code may be put there.</summary>
    /// <param name="address">Of the first byte.</param>
    /// <param name="length">Bytes.</param>
    void CodeGone(ulong address, ulong length);
}
