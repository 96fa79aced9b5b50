using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Bunraku.Hypervisor;
using Bunraku.Network;

namespace Bunraku.Machine.Ethernet;

/// <summary>What goes out: the manual's section 3.3 "Packet Transmission". With the device's lock held, but for <see cref="Send"/>.</summary>
internal sealed class E1000Transmitter
{
    private const int AddressesLength = 12;

    private readonly byte[] _frame = new byte[Frame.Largest + Frame.VlanLength], _descriptor = new byte[E1000Descriptor.Length];
    private E1000Context _checksums, _segments; // section 3.3.6: the card keeps one of each
    private int _length;
    private bool _isTooLong, _begun;
    private E1000Descriptor _first;
    private FrameWork _work;

    /// <summary>What a look at the ring has come to.</summary>
    public enum Outcome { Nothing, Descriptor, Packet, Dropped }

    public void Reset()
    {
        (_checksums, _segments, _work) = (default, default, default);
        Forget();
    }

    private void Forget() => (_length, _isTooLong, _begun) = (0, false, false);

    /// <summary>Takes one descriptor.</summary>
    /// <param name="at">Of the descriptor, in guest memory.</param>
    /// <param name="vlanType">Type of a tag that is put in.</param>
    /// <param name="reports">The driver is to be told.</param>
    public Outcome Take(DmaSpace dma, ulong at, ushort vlanType, out bool reports)
    {
        reports = false;
        if (!dma.Read(at, _descriptor)) return Outcome.Dropped;
        var d = new E1000Descriptor(_descriptor);
        Outcome outcome = Outcome.Descriptor;
        if (d.IsContext)
        {
            if (d.IsSegmented) _segments = d.Context;
            else _checksums = d.Context;
        }
        else if (d.IsData)
        {
            if (!_begun) (_first, _begun) = (d, true);
            if (d.Size > Frame.Largest - _length) _isTooLong = true;
            else if (d.Size > 0 && !dma.Read(d.Address, _frame.AsSpan(_length, d.Size))) _isTooLong = true;
            else _length += d.Size;
            if (d.Ends) outcome = Finish(d, vlanType) ? Outcome.Packet : Outcome.Dropped;
        }
        if (!d.Reports) return outcome;
        reports = true;
        dma.TryWrite(at + E1000Descriptor.StatusAt, d.DoneStatus);
        return outcome;
    }

    /// <summary>The packet is complete: what it asks for is done, or noted for <see cref="Send"/>. False: it is none.</summary>
    private bool Finish(E1000Descriptor last, ushort vlanType)
    {
        (int length, bool isNone) = (_length, _isTooLong || _length < Frame.HeaderLength);
        E1000Descriptor first = _first;
        Forget();
        if (isNone) return false;
        _work = default;
        Span<byte> frame = _frame.AsSpan(0, length);
        bool cuts = first.IsSegmented && _segments.SegmentSize > 0;
        if (cuts)
        {
            E1000Context s = _segments;
            int shift = last.HasVlan ? Frame.VlanLength : 0;
            _work = new FrameWork(FrameFlags.NeedsChecksum, s.IsIp4 ? Segmentation.Tcp4 : Segmentation.Tcp6, s.HeaderLength, s.SegmentSize,
                (ushort)(s.TcpStart + shift), (ushort)Math.Max(0, s.TcpPlace - s.TcpStart));
        }
        else if (first.IsExtended)
        {
            E1000Context c = first.IsSegmented ? _segments : _checksums;
            if (first.WantsIpChecksum) Put(frame, c.IpStart, c.IpEnd, c.IpPlace);
            if (first.WantsTcpChecksum) Put(frame, c.TcpStart, c.TcpEnd, c.TcpPlace);
        }
        else if (last.InsertsChecksum)
        {
            Put(frame, last.ChecksumStart, 0, last.ChecksumPlace);
        }
        Sending = length;
        if (!last.HasVlan) return true;
        _frame.AsSpan(AddressesLength, length - AddressesLength).CopyTo(_frame.AsSpan(AddressesLength + Frame.VlanLength));
        BinaryPrimitives.WriteUInt16BigEndian(_frame.AsSpan(AddressesLength), vlanType);
        BinaryPrimitives.WriteUInt16BigEndian(_frame.AsSpan(AddressesLength + 2), last.Vlan);
        Sending = length + Frame.VlanLength;
        return true;
    }

    /// <summary>Bytes of the packet that is complete.</summary>
    public int Sending { get; private set; }

    /// <summary>Section 3.5.4 "Checksum Offloading": what stands at the place counts, which a driver sets to the pseudo-header's sum.</summary>
    private static void Put(Span<byte> frame, int start, int end, int place)
    {
        end = end == 0 ? frame.Length : Math.Min(end + 1, frame.Length);
        if (start >= end || place + 2 > frame.Length) return;
        MemoryMarshal.Write(frame[place..], InternetChecksum.Fold(InternetChecksum.Sum(frame[start..end])));
    }

    /// <summary>Sends what is complete. Without the lock, on the thread that took it.</summary>
    public void Send(INetworkBackend backend)
    {
        ReadOnlySpan<byte> frame = _frame.AsSpan(0, Sending);
        if (_work.Segmentation != Segmentation.None) Segmenter.TryCut(_work, frame, segment => backend.Send(default, segment));
        else if (frame.Length <= Frame.Largest) backend.Send(default, frame);
    }

    /// <summary>Both contexts; a packet of which a part was taken is lost with the state.</summary>
    public E1000Context[] Save() => [_checksums, _segments];

    public void Restore(E1000Context[] state)
    {
        Forget();
        (_checksums, _segments) = (state[0], state[1]);
    }
}
