namespace Bunraku.Cli.CommandLine;

/// <summary>The command line is wrong; the message is one line for a person.</summary>
public sealed class UsageException(string message) : Exception(message);
