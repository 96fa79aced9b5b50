namespace Bunraku.Cli.Running;

/// <summary>Takes bytes that the guest prints on its console. Never throws.</summary>
public delegate void GuestOutput(ReadOnlySpan<byte> bytes);
