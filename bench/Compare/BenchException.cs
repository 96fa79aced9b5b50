namespace Bunraku.Compare;

/// <summary>Something the user can put right: the message is one line.</summary>
internal sealed class BenchException(string message, int exitStatus = 1) : Exception(message)
{
    /// <summary>1, or 2 for wrong usage.</summary>
    public int ExitStatus => exitStatus;
}
