namespace Bunraku.Sessions;

/// <summary>Something that the caller or the user can act on ended a VM, or kept it from starting. The message is one line: what, where, what to do.</summary>
/// <param name="message">One line.</param>
/// <param name="inner">What caused it.</param>
public abstract class SessionException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>The description of a VM is wrong: an option has an impossible value, or does not go with another one.</summary>
/// <param name="option">Name of the property of <see cref="VmOptions"/> or <see cref="VmBuilder"/>.</param>
/// <param name="message">One line, which names the option as <see cref="VmWords.Option"/> does.</param>
/// <param name="inner">What caused it.</param>
public sealed class VmOptionException(string option, string message, Exception? inner = null) : SessionException(message, inner)
{
    /// <summary>Name of the property of <see cref="VmOptions"/> or <see cref="VmBuilder"/>.</summary>
    public string Option { get; } = option;
}

/// <summary>The machine cannot be made on this host: a file, a package, memory or a right is missing.</summary>
/// <param name="message">One line.</param>
/// <param name="inner">What caused it.</param>
public sealed class CannotStartException(string message, Exception? inner = null) : SessionException(message, inner);

/// <summary>Something asked for cannot be written: a full disk, no permission, a stream that its reader has closed.</summary>
/// <param name="what">A path, or words such as "standard output".</param>
/// <param name="reason">The system's words for it.</param>
/// <param name="inner">What caused it.</param>
public sealed class CannotWriteException(string what, string reason, Exception? inner = null) : SessionException($"cannot write {what}: {reason}", inner);

/// <summary>A stream that was to give the guest's input failed.</summary>
/// <param name="what">What was read.</param>
/// <param name="reason">The stream's words for it.</param>
/// <param name="inner">What it threw.</param>
public sealed class CannotReadException(string what, string reason, Exception? inner = null) : SessionException($"cannot read {what}: {reason}", inner);

/// <summary>A method of an <see cref="IVmObserver"/> threw. The VM was ended.</summary>
/// <param name="observer">Its type's name.</param>
/// <param name="method">The method's name.</param>
/// <param name="inner">What it threw.</param>
public sealed class ObserverException(string observer, string method, Exception inner)
    : SessionException($"the observer {observer} failed in {method}: {inner.Message.ReplaceLineEndings(" ")}", inner);
