namespace Bunraku.Storage;

/// <summary>A disk cannot be had, or an image is not what it should be; the message is one line for the user: what, where, what to do.</summary>
public sealed class DiskException(string message, Exception? inner = null) : IOException(message, inner);
