namespace Bunraku.Network;

/// <summary>A network cannot be had: one line that says what, where and what to do.</summary>
public sealed class NetworkException(string message, Exception? inner = null) : IOException(message, inner);
