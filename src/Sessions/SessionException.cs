namespace Bunraku.Sessions;

/// <summary>Something that the user can act on ended a session or kept it from starting. The message is one line: what, where, what to do.</summary>
public abstract class SessionException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>An option or an argument is wrong.</summary>
public sealed class UsageException(string message) : SessionException(message);

/// <summary>The machine cannot be made on this host.</summary>
public sealed class CannotStartException(string message, Exception? inner = null) : SessionException(message, inner);

/// <summary>Something asked for cannot be written: a full disk, no permission.</summary>
/// <param name="what">A path, or "standard output".</param>
/// <param name="reason">The system's words for it.</param>
public sealed class CannotWriteException(string what, string reason, Exception? inner = null) : SessionException($"cannot write {what}: {reason}", inner);
