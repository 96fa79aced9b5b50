namespace Bunraku.Storage;

/// <summary>A disk cannot be had, or an image is not what it should be; the message is one line for the user: what, where, what to do.</summary>
public sealed class DiskException(string message, Exception? inner = null) : IOException(message, inner);

/// <summary>
/// The host could not make lasting what was written before, and has dropped some of it: whatever the reason was, there is nothing that could be tried again.
/// </summary>
public sealed class LostWritesException(string message, Exception inner) : IOException(message, inner);
