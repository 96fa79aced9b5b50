using Bunraku.Machine.Board;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Sockets;

namespace Bunraku.Sessions;

/// <summary>The socket device of one VM with what of it is the host's, from before its start until it is disposed of.</summary>
internal sealed class GuestSockets : IDisposable
{
    private readonly HostSockets? _host;
    private readonly SocketDevice? _device;

    /// <exception cref="CannotStartException">The host's socket cannot be had.</exception>
    public GuestSockets(VmOptions options)
    {
        if (options.Vsock is not { } vsock) return;
        try
        {
            if (vsock.Path is { } path) _host = new HostSockets(path);
        }
        catch (IOException e)
        {
            throw new CannotStartException(e.Message, e);
        }
        _device = new SocketDevice("vsock", vsock.Cid ?? VmVsock.DefaultCid, _host);
        Parts = [new VirtioPart(_device)];
    }

    /// <summary>What goes on the board.</summary>
    public IReadOnlyList<IBoardPart> Parts { get; } = [];

    /// <summary>The guest runs no more; the machine is still there.</summary>
    public void GuestEnded() => _device?.GuestEnded();

    /// <summary>Behind the machine's end.</summary>
    public void Dispose()
    {
        _device?.Dispose();
        _host?.Dispose();
    }
}
