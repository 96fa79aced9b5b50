using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Ethernet;
using Bunraku.Network;

namespace Bunraku.Machine.Virtio.Net;

/// <summary>
/// The network device: Virtual I/O Device (VIRTIO) Version 1.3, section 5.1. A thread of its own carries frames between guest memory and the back end, one by
/// one with the device's lock held for the copy alone: a device that is reset finds nothing of old frames in guest memory.
/// </summary>
/// <remarks>
/// Nothing waits: where the driver gives no buffers, frames wait up to <see cref="MostWaiting"/> bytes and are lost then, as on any cable. While the machine is
/// paused the thread stands still; frames that wait then are not saved.
/// </remarks>
public sealed class NetworkCard : VirtioDevice, IFrameReceiver, INetworkCard
{
    /// <summary>Most pairs of queues.</summary>
    public const int MostPairs = 32;

    private const int QueueSize = 256, ControlQueueSize = 64, MacLength = 6, FramesOfRound = 64, LongestCommand = 4096;
    private const long MostWaiting = 4 << 20;
    // Behind the filter in the saved state.
    private const int MacAt = ReceiveFilter.StateLength, PairsAt = MacAt + MacLength, OffloadsAt = PairsAt + 2, StateLength = OffloadsAt + 8;

    private readonly INetworkBackend _backend;
    private readonly int _mostPairs;
    private readonly byte[] _mac, _configuration = new byte[NetworkField.Length];
    private readonly ReceiveFilter _filter = new();
    private readonly FlowTable _flows = new();
    private readonly ReceiveBuffers[] _buffers;
    private readonly Queue<(FrameWork Work, byte[] Frame)> _waiting = new();
    private readonly byte[] _sending = new byte[FrameWork.Length + Frame.Largest];
    private readonly Action _serve, _takeFrame;
    private DeviceLock? _lock;
    private IoThread? _thread;
    private long _bytesWaiting;
    private int _pairs = 1;
    private NetworkFeature _offloads, _accepted; // what frames to the guest may lack; what the back end knows of that
    private bool _linkWanted = true;
    // Of the thread: the frame that TakeFrame takes from a queue.
    private int _takenFrom, _taken;
    private const int Nothing = -1, Dropped = 0;

    /// <param name="id">Its name in the machine.</param>
    /// <param name="backend">Closed by who made it, after the machine's end.</param>
    /// <param name="mac">6 bytes, a unicast address.</param>
    /// <param name="pairs">1 to <see cref="MostPairs"/> receive queues, and as many that send.</param>
    public NetworkCard(string id, INetworkBackend backend, ReadOnlySpan<byte> mac, int pairs = 1)
        : base(id, VirtioType.Network, [.. Enumerable.Repeat((ushort)QueueSize, 2 * pairs), (ushort)ControlQueueSize])
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pairs, MostPairs);
        ArgumentOutOfRangeException.ThrowIfNotEqual(mac.Length, MacLength);
        (_backend, _mostPairs, _mac) = (backend, pairs, mac.ToArray());
        (_serve, _takeFrame) = (Serve, TakeFrame);
        _buffers = [.. Enumerable.Range(0, pairs).Select(_ => new ReceiveBuffers())];
        SetMac(_mac);
        BinaryPrimitives.WriteUInt16LittleEndian(_configuration.AsSpan(NetworkField.MaxPairs), (ushort)pairs);
        BinaryPrimitives.WriteUInt16LittleEndian(_configuration.AsSpan(NetworkField.Mtu), (ushort)backend.Mtu);
        SetLinkBit();
    }

    private void SetMac(ReadOnlySpan<byte> mac) => mac.CopyTo(_configuration.AsSpan(NetworkField.Mac));

    private ReadOnlySpan<byte> Mac => _configuration.AsSpan(NetworkField.Mac, MacLength);

    private bool LinkIsUp => _configuration[NetworkField.Status] == NetworkField.LinkUp;

    private bool SetLinkBit()
    {
        byte status = _linkWanted && _backend.IsConnected ? NetworkField.LinkUp : (byte)0, before = _configuration[NetworkField.Status];
        _configuration[NetworkField.Status] = status;
        return status != before;
    }

    /// <inheritdoc/>
    public void SetLink(bool up)
    {
        if (_lock is null) throw new InvalidOperationException($"{Id} is in no machine yet");
        lock (_lock)
        {
            _linkWanted = up;
            if (SetLinkBit()) ConfigurationChanged();
        }
    }

    /// <inheritdoc/>
    public void TellLink()
    {
        if (_lock is null) throw new InvalidOperationException($"{Id} is in no machine yet");
        lock (_lock) ConfigurationChanged();
    }

    void IFrameReceiver.ConnectionChanged()
    {
        lock (_lock!)
        {
            if (SetLinkBit()) ConfigurationChanged();
        }
    }

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => (ulong)(NetworkFeature.Checksum | NetworkFeature.GuestChecksum | NetworkFeature.Mtu | NetworkFeature.Mac
        | NetworkFeature.HostTcp4 | NetworkFeature.HostTcp6 | NetworkFeature.HostEcn | NetworkFeature.MergeBuffers | NetworkFeature.Status
        | NetworkFeature.ControlQueue | NetworkFeature.ReceiveModes | NetworkFeature.Vlan | NetworkFeature.MoreReceiveModes | NetworkFeature.SetMac
        | NetworkFeature.GuestOffloads | (_backend.HasOffloads ? NetworkFeature.GuestTcp4 | NetworkFeature.GuestTcp6 | NetworkFeature.GuestEcn : 0)
        | (_mostPairs > 1 ? NetworkFeature.MultiQueue : 0));

    private bool Has(NetworkFeature feature) => ((NetworkFeature)Features).HasFlag(feature);

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;

    /// <summary>Section 5.1.2: behind the pairs that the driver knows of.</summary>
    private int ControlQueue => Has(NetworkFeature.MultiQueue) ? 2 * _mostPairs : 2;

    /// <inheritdoc/>
    protected internal override void AttachTo(X86Machine machine, DeviceLock @lock)
    {
        _lock = @lock;
        _thread = machine.CreateIoThread(Id, _backend.Wake);
        _thread.Post(_serve);
    }

    /// <inheritdoc/>
    protected override void Notified(int queue)
    {
        if (queue == ControlQueue && Has(NetworkFeature.ControlQueue)) Control(queue);
        else if ((queue & 1) != 0 || _waiting.Count > 0) _backend.Wake();
    }

    /// <inheritdoc/>
    protected override int EntriesUnderWay(int queue) => (queue & 1) == 0 && queue < 2 * _mostPairs && queue != ControlQueue ? _buffers[queue / 2].Entries : 0;

    /// <inheritdoc/>
    protected override void QueueWasReset(int queue)
    {
        if ((queue & 1) == 0 && queue < 2 * _mostPairs) _buffers[queue / 2].Clear();
    }

    /// <inheritdoc/>
    protected override void DeviceReset()
    {
        foreach (ReceiveBuffers buffers in _buffers) buffers.Clear();
        ForgetWaiting();
        _filter.Reset();
        SetMac(_mac);
        (_pairs, _offloads) = (1, 0);
    }

    private void ForgetWaiting()
    {
        _waiting.Clear();
        _bytesWaiting = 0;
    }

    /// <summary>One round of the thread; the next one follows at once.</summary>
    private void Serve()
    {
        TellOffloads();
        bool more = false;
        for (int pair = 0; pair < _mostPairs; pair++) more |= SendFrom(2 * pair + 1);
        lock (_lock!)
        {
            while (_waiting.TryPeek(out (FrameWork Work, byte[] Frame) next) && TryDeliver(next.Work, next.Frame))
            {
                // A device that the frame broke has forgotten all that waited.
                if (_waiting.TryDequeue(out _)) _bytesWaiting -= next.Frame.Length;
            }
        }
        _backend.Serve(this, waits: !more);
        _thread!.Post(_serve);
    }

    /// <summary>The driver's features are known only when it is ready, and it can change them (section 5.1.6.5.7).</summary>
    private void TellOffloads()
    {
        if (!_backend.HasOffloads) return;
        NetworkFeature wanted;
        lock (_lock!) wanted = _offloads;
        if (wanted == _accepted) return;
        _accepted = wanted;
        _backend.Accept(wanted.HasFlag(NetworkFeature.GuestChecksum), wanted.HasFlag(NetworkFeature.GuestTcp4), wanted.HasFlag(NetworkFeature.GuestTcp6));
    }

    /// <inheritdoc/>
    protected override void DriverIsReady() =>
        _offloads = (NetworkFeature)Features & (NetworkFeature.GuestChecksum | NetworkFeature.GuestTcp4 | NetworkFeature.GuestTcp6);

    /// <summary>Sends what waits in a queue, up to so many frames. True: there may be more.</summary>
    private bool SendFrom(int queue)
    {
        for (int n = 0; n < FramesOfRound; n++)
        {
            (_takenFrom, _taken) = (queue, Nothing);
            bool connected;
            lock (_lock!)
            {
                Guarded(_takeFrame);
                connected = LinkIsUp;
            }
            if (_taken == Nothing) return false;
            if (_taken != Dropped && connected) Send(FrameWork.Read(_sending), _sending.AsSpan(FrameWork.Length, _taken));
        }
        return true;
    }

    private void TakeFrame()
    {
        int queue = _takenFrom;
        if (Live(queue) is not { } live) return;
        DescriptorChain? buffer;
        while ((buffer = live.Take()) is null)
        {
            if (!live.EnableNotifications()) return;
        }
        ulong length = buffer.ReadableLength;
        _taken = Dropped;
        if (length is >= FrameWork.Length + Frame.HeaderLength and <= FrameWork.Length + Frame.Largest)
        {
            if (!buffer.TryRead(Dma, 0, _sending.AsSpan(0, (int)length))) throw new VirtqueueException("a buffer is not in RAM");
            _taken = (int)length - FrameWork.Length;
            if (_pairs > 1) _flows.Sent(_sending.AsSpan(FrameWork.Length, _taken), queue / 2);
        }
        Complete(queue, buffer, 0);
    }

    /// <summary>Section 5.1.6.2: what the driver left to the device is done by it, or by the back end. What the driver does wrong loses the frame.</summary>
    private void Send(in FrameWork work, Span<byte> frame)
    {
        if (_backend.HasOffloads)
        {
            _backend.Send(work, frame);
            return;
        }
        if (work.Segmentation != Segmentation.None && !_backend.TakesLargeFrames)
        {
            Segmenter.TryCut(work, frame, segment => _backend.Send(default, segment));
            return;
        }
        if (!work.Flags.HasFlag(FrameFlags.NeedsChecksum) || InternetChecksum.TryComplete(work, frame)) _backend.Send(default, frame);
    }

    /// <summary>On the thread.</summary>
    void IFrameReceiver.Receive(in FrameWork work, ReadOnlySpan<byte> frame)
    {
        lock (_lock!)
        {
            if (!LinkIsUp || !IsReady || !_filter.Passes(frame, Mac, Has(NetworkFeature.Vlan))) return;
            if (_waiting.Count == 0 && TryDeliver(work, frame)) return;
            if (_bytesWaiting + frame.Length > MostWaiting) return;
            _waiting.Enqueue((work, frame.ToArray()));
            _bytesWaiting += frame.Length;
        }
    }

    /// <summary>False: there are no buffers for it yet.</summary>
    private bool TryDeliver(FrameWork work, ReadOnlySpan<byte> frame)
    {
        int pair = _pairs > 1 ? _flows.For(frame, _pairs) : 0, queue = 2 * pair;
        if (Live(queue) is not { } live) return true; // nobody wants it
        if (work.Segmentation != Segmentation.None && !CanTake(work.Segmentation)) return true; // the driver has changed its mind meanwhile
        byte[]? completed = null;
        if (!_offloads.HasFlag(NetworkFeature.GuestChecksum))
        {
            // Section 5.1.6.4.1: without the feature there are no flags.
            if (work.Flags.HasFlag(FrameFlags.NeedsChecksum) && !InternetChecksum.TryComplete(work, completed = frame.ToArray())) return true;
            work = default;
        }
        var outcome = ReceiveBuffers.Outcome.TooLong;
        try
        {
            ReceiveBuffers buffers = _buffers[pair];
            ReadOnlySpan<byte> bytes = completed ?? frame;
            outcome = buffers.Gather(live, (ulong)(FrameWork.Length + bytes.Length), Has(NetworkFeature.MergeBuffers));
            if (outcome == ReceiveBuffers.Outcome.Ready)
            {
                (DescriptorChain[] filled, uint[] written) = buffers.Fill(Dma, work, bytes);
                Complete(queue, filled, written);
            }
        }
        catch (VirtqueueException)
        {
            AskForReset();
        }
        return outcome != ReceiveBuffers.Outcome.NoBuffers;
    }

    private bool CanTake(Segmentation segmentation) =>
        _offloads.HasFlag((segmentation & ~Segmentation.Ecn) == Segmentation.Tcp6 ? NetworkFeature.GuestTcp6 : NetworkFeature.GuestTcp4);

    private void Control(int queue)
    {
        const byte ok = 0, error = 1;
        Span<byte> command = stackalloc byte[LongestCommand];
        while (Live(queue) is { } live)
        {
            if (live.Take() is not { } buffer)
            {
                if (!live.EnableNotifications()) return;
                continue;
            }
            int length = (int)Math.Min(buffer.ReadableLength, LongestCommand);
            if (!buffer.TryRead(Dma, 0, command[..length])) throw new VirtqueueException("a buffer is not in RAM");
            bool done = length >= 2 && buffer.ReadableLength <= LongestCommand && Do((ControlClass)command[0], command[1], command[2..length]);
            if (!buffer.TryWrite(Dma, 0, [done ? ok : error])) throw new VirtqueueException("a command has no room for its answer");
            Complete(queue, buffer, 1);
        }
    }

    private bool Do(ControlClass kind, byte command, ReadOnlySpan<byte> data)
    {
        switch (kind)
        {
            case ControlClass.Receive when Has(NetworkFeature.ReceiveModes): return _filter.SetMode(command, data);
            case ControlClass.Mac when command == 0 && Has(NetworkFeature.ReceiveModes): return _filter.SetTable(data);
            case ControlClass.Mac when command == 1 && Has(NetworkFeature.SetMac) && data.Length >= MacLength:
                SetMac(data[..MacLength]);
                return true;
            case ControlClass.Vlan when Has(NetworkFeature.Vlan): return _filter.SetVlan(command, data);
            case ControlClass.Queues when command == 0 && Has(NetworkFeature.MultiQueue) && data.Length >= 2:
                int pairs = BinaryPrimitives.ReadUInt16LittleEndian(data);
                if (pairs < 1 || pairs > _mostPairs) return false;
                _pairs = pairs;
                return true;
            case ControlClass.Offloads when command == 0 && Has(NetworkFeature.GuestOffloads) && data.Length >= 8:
                var offloads = (NetworkFeature)BinaryPrimitives.ReadUInt64LittleEndian(data);
                if ((offloads & ~((NetworkFeature)Features & (NetworkFeature.GuestChecksum | NetworkFeature.GuestTcp4 | NetworkFeature.GuestTcp6
                    | NetworkFeature.GuestEcn))) != 0) return false;
                _offloads = offloads;
                _backend.Wake();
                return true;
            default: return false;
        }
    }

    /// <inheritdoc/>
    protected override byte[] SaveOwn()
    {
        byte[] state = new byte[StateLength];
        _filter.Save(state);
        Mac.CopyTo(state.AsSpan(MacAt));
        BinaryPrimitives.WriteUInt16LittleEndian(state.AsSpan(PairsAt), (ushort)_pairs);
        BinaryPrimitives.WriteUInt64LittleEndian(state.AsSpan(OffloadsAt), (ulong)_offloads);
        return state;
    }

    /// <inheritdoc/>
    protected override void RestoreOwn(byte[] state)
    {
        StateCheck.Length(state, StateLength, Id);
        foreach (ReceiveBuffers buffers in _buffers) buffers.Clear();
        ForgetWaiting();
        _filter.Restore(state, Id);
        SetMac(state.AsSpan(MacAt, MacLength));
        _pairs = StateCheck.Range((int)BinaryPrimitives.ReadUInt16LittleEndian(state.AsSpan(PairsAt)), 1, _mostPairs, Id);
        _offloads = (NetworkFeature)BinaryPrimitives.ReadUInt64LittleEndian(state.AsSpan(OffloadsAt)) & (NetworkFeature)Features;
    }
}
