namespace Bunraku.Machine;

/// <summary>A guest cannot be booted for a reason that the user can act on. The message is one line: what, where, what to do.</summary>
public sealed class BootException : Exception
{
    /// <param name="message">One line.</param>
    public BootException(string message) : base(message) { }

    /// <param name="message">One line.</param>
    /// <param name="inner">What caused it.</param>
    public BootException(string message, Exception inner) : base(message, inner) { }

    /// <summary>Bytes of guest RAM with which this could be booted, a multiple of 1 MiB; null when memory is not what is missing.</summary>
    public ulong? MemoryNeeded { get; init; }
}
