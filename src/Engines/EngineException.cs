namespace Bunraku.Engines;

/// <summary>An engine cannot make a VM on this host, or not this one. The message is one line for the user: what, and what to do.</summary>
/// <param name="message">The line.</param>
public class EngineException(string message) : Exception(message);
