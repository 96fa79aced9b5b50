namespace Bunraku.Machine;

/// <summary>A guest cannot be booted for a reason that the user can act on. The message is one line: what, where, what to do.</summary>
public sealed class BootException : Exception
{
    public BootException(string message) : base(message) { }

    public BootException(string message, Exception inner) : base(message, inner) { }
}
