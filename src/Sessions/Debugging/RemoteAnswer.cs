namespace Bunraku.Sessions.Debugging;

/// <summary>What follows from a packet, beside the packets that answer it.</summary>
internal enum RemoteAction
{
    /// <summary>Nothing.</summary>
    None,
    /// <summary>The guest goes on, and a stop answers later.</summary>
    Resume,
    /// <summary>The debugger goes, and the guest goes on.</summary>
    Detach,
    /// <summary>The guest ends.</summary>
    Kill,
    /// <summary>Packets are not acknowledged any more.</summary>
    StopAcknowledging,
}

/// <summary>The answer to one packet.</summary>
/// <param name="Replies">Contents of the packets that are sent, in their order.</param>
/// <param name="Action">What is done when they are sent.</param>
internal readonly record struct RemoteAnswer(IReadOnlyList<byte[]> Replies, RemoteAction Action = RemoteAction.None)
{
    /// <summary>One packet of text.</summary>
    public static RemoteAnswer Text(string reply, RemoteAction action = RemoteAction.None) => new([System.Text.Encoding.ASCII.GetBytes(reply)], action);

    /// <summary>No packet.</summary>
    public static RemoteAnswer Silence(RemoteAction action) => new([], action);

    /// <summary>The packet is not known here.</summary>
    public static RemoteAnswer Unknown { get; } = Text("");

    public static RemoteAnswer Ok { get; } = Text("OK");

    /// <summary>The packet is wrong in itself.</summary>
    public static RemoteAnswer Malformed { get; } = Text("E02");

    /// <summary>There is no such thing, or it cannot be set to that.</summary>
    public static RemoteAnswer Impossible { get; } = Text("E01");

    /// <summary>There is no memory.</summary>
    public static RemoteAnswer NoMemory { get; } = Text("E14");
}
