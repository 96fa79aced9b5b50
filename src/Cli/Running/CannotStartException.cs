namespace Bunraku.Cli.Running;

/// <summary>The machine cannot be made on this host; the message is one line: what, where, what to do.</summary>
public sealed class CannotStartException(string message, Exception? inner = null) : Exception(message, inner);
