namespace Bunraku.Cli;

/// <summary>A word of the command line is wrong.</summary>
internal sealed class UsageException(string message) : SessionException(message);
