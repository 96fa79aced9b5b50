using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Machine.Pci;
using Bunraku.Network;

namespace Bunraku.Machine.Ethernet;

/// <summary>
/// Intel's 82540EM, the network card that installers know: "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual" (317453, revision
/// 4.0). A thread of its own carries frames between guest memory and the back end, each with the device's lock held for the copy alone.
/// </summary>
/// <remarks>
/// Delays of interrupts for single descriptors (RDTR, TIDV) are taken as 0; the throttle for all of them (ITR) counts. Frames that wait for descriptors, up to
/// <see cref="MostWaiting"/> bytes, are not saved. There is no wake-up, management or flow control.
/// </remarks>
public sealed class E1000 : PciDevice, IDoublewordDevice, IPortDevice, IFrameReceiver, INetworkCard
{
    private const ushort Device = 0x100E;
    private const int RegisterBar = 0, PortBar = 1, Ports = 64, MacLength = 6;
    private const int FramesOfRound = 64, SmallestFrame = 60, CheckSequence = 4, LongestCommon = 1522, LongestJumbo = 16384;
    private const long MostWaiting = 1 << 20;
    private const long ThrottleUnit = 256; // ns

    private static readonly uint[] s_masks = Masks();

    private readonly INetworkBackend _backend;
    private readonly byte[] _mac;
    private readonly E1000Eeprom _eeprom;
    private readonly E1000Phy _phy = new();
    private readonly E1000Transmitter _transmitter = new();
    private readonly Queue<byte[]> _waiting = new();
    private readonly uint[] _registers = new uint[E1000Register.Kept / 4];
    private readonly byte[] _receiveDescriptor = new byte[E1000Descriptor.Length];
    private readonly Action _serve;
    private readonly Func<int, uint> _register;
    private IoThread? _thread;
    private IMachineTimer? _throttle;
    private E1000Cause _causes, _mask;
    private bool _asserted, _linkWanted = true, _linkIsUp;
    private long _quietUntil, _bytesWaiting;
    private uint _portAddress;

    /// <param name="id">Its name in the machine.</param>
    /// <param name="backend">Closed by who made it, after the machine's end.</param>
    /// <param name="mac">6 bytes, a unicast address.</param>
    public E1000(string id, INetworkBackend backend, ReadOnlySpan<byte> mac)
        : base(id, PciHost.Intel, Device, classCode: 0x020000, revision: 3, PciHost.QemuVendor, PciHost.QemuSubsystem)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(mac.Length, MacLength);
        (_backend, _mac, _eeprom) = (backend, mac.ToArray(), new E1000Eeprom(mac, Device));
        (_serve, _register) = (Serve, Register);
        AddMemory(RegisterBar, PciBarKind.Memory32, E1000Register.Length, this);
        AddPorts(PortBar, Ports, this);
        ResetRegisters();
        _linkIsUp = backend.IsConnected;
    }

    private static uint[] Masks()
    {
        var masks = new uint[E1000Register.Kept / 4];
        foreach ((int offset, uint mask) in E1000Register.Plain) masks[offset / 4] = mask;
        return masks;
    }

    /// <summary>What of a saved register can be: no more than the driver could have written, or the card.</summary>
    private static uint Keep(int offset, uint value) => offset switch
    {
        E1000Register.DeviceControl => value & ~(uint)(E1000Control.Reset | E1000Control.PhyReset),
        E1000Register.EepromRead or E1000Register.PhyControl or E1000Register.PacketBuffer => value, // nobody goes by them
        >= E1000Register.FirstStatistic and <= E1000Register.LastStatistic => value,
        _ => value & s_masks[offset / 4],
    };

    private uint Register(int offset) => _registers[offset / 4];

    private bool Has(E1000Receive bit) => ((E1000Receive)Register(E1000Register.ReceiveControl)).HasFlag(bit);

    /// <inheritdoc/>
    protected override void Attached()
    {
        _throttle = Machine.Timers.Create(ThrottleIsOver, Lock);
        // Who had the network interface before may have left them on, and this card takes complete frames alone.
        if (_backend.HasOffloads) _backend.Accept(false, false, false);
        _thread = Machine.CreateIoThread(Id, _backend.Wake);
        _thread.Post(_serve);
    }

    /// <summary>Section 14.4 "Software Initialization": as after power-on, with the address from the EEPROM.</summary>
    private void ResetRegisters()
    {
        Array.Clear(_registers);
        _registers[E1000Register.ReceiveAddresses / 4] = BinaryPrimitives.ReadUInt32LittleEndian(_mac);
        _registers[E1000Register.ReceiveAddresses / 4 + 1] = BinaryPrimitives.ReadUInt16LittleEndian(_mac.AsSpan(4)) | 1u << 31;
        _registers[E1000Register.DeviceControl / 4] = (uint)(E1000Control.FullDuplex | E1000Control.SetLinkUp);
        _registers[E1000Register.PacketBuffer / 4] = 0x0010_0030; // KiB for receiving and sending
        _registers[E1000Register.VlanType / 4] = Frame.Vlan;
        (_causes, _mask, _quietUntil, _portAddress) = (0, 0, 0, 0);
        _throttle?.Cancel();
        _asserted = false;
        _transmitter.Reset();
        _eeprom.Reset();
        _waiting.Clear();
        _bytesWaiting = 0;
    }

    // ---- registers

    /// <summary>Section 13.2.1.2 "I/O-Mapped Internal Register": an address, and what stands there.</summary>
    public uint ReadPort(ushort port, int size) => size != 4 ? uint.MaxValue : port switch
    {
        0 => _portAddress,
        4 => ReadRegister((int)_portAddress),
        _ => 0,
    };

    /// <inheritdoc cref="ReadPort"/>
    public void WritePort(ushort port, int size, uint value)
    {
        if (size != 4) return;
        if (port == 0) _portAddress = value & E1000Register.Length - 1 & ~3u;
        else if (port == 4) WriteRegister((int)_portAddress, value);
    }

    /// <summary>Registers are doublewords: section 13.2.2 "Register Conventions".</summary>
    public uint ReadRegister(int offset)
    {
        switch (offset)
        {
            case E1000Register.DeviceStatus:
                return (uint)(E1000Status.FullDuplex | E1000Status.Speed1000 | E1000Status.DetectedSpeed1000 | (_linkIsUp ? E1000Status.LinkUp : 0));
            case E1000Register.EepromControl: return _eeprom.Control;
            case E1000Register.Causes:
                E1000Cause causes = _causes;
                _causes = 0;
                UpdateInterrupt();
                return (uint)causes;
            case E1000Register.MaskSet: return (uint)_mask;
            case >= E1000Register.Kept or E1000Register.CausesSet or E1000Register.MaskClear: return 0;
            default:
                uint value = _registers[offset / 4];
                if (offset is >= E1000Register.FirstStatistic and <= E1000Register.LastStatistic) _registers[offset / 4] = 0;
                return value;
        }
    }

    /// <inheritdoc/>
    public void WriteRegister(int offset, uint value)
    {
        if (offset >= E1000Register.Kept) return;
        switch (offset)
        {
            case E1000Register.DeviceControl:
                var control = (E1000Control)value;
                if (control.HasFlag(E1000Control.Reset)) ResetRegisters();
                else _registers[offset / 4] = (uint)(control & ~E1000Control.PhyReset);
                if (control.HasFlag(E1000Control.PhyReset)) _phy.Reset();
                UpdateInterrupt();
                break;
            case E1000Register.EepromControl: _eeprom.Control = value; break;
            case E1000Register.EepromRead:
                const uint start = 1, done = 1 << 4;
                _registers[offset / 4] = (value & start) == 0 ? value & 0xFF00 : value & 0xFF00 | done | (uint)_eeprom[(int)(value >> 8 & 0xFF)] << 16;
                break;
            case E1000Register.PhyControl: AccessPhy(value); break;
            case E1000Register.Causes:
                _causes &= ~(E1000Cause)value;
                UpdateInterrupt();
                break;
            case E1000Register.CausesSet: Raise((E1000Cause)value & E1000Cause.All); break;
            case E1000Register.MaskSet:
                _mask |= (E1000Cause)value & E1000Cause.All;
                UpdateInterrupt();
                break;
            case E1000Register.MaskClear:
                _mask &= ~(E1000Cause)value;
                UpdateInterrupt();
                break;
            default:
                _registers[offset / 4] = value & s_masks[offset / 4];
                // Something may go out, or come in that waits.
                if (offset is E1000Register.TransmitTail or E1000Register.TransmitControl
                    || offset is E1000Register.ReceiveTail or E1000Register.ReceiveControl && _waiting.Count > 0) _backend.Wake();
                break;
        }
    }

    /// <summary>Section 13.4.8.</summary>
    private void AccessPhy(uint value)
    {
        const uint write = 1 << 26, read = 2 << 26, ready = 1 << 28, interrupt = 1 << 29, error = 1 << 30;
        (int register, uint address) = ((int)(value >> 16 & 31), value >> 21 & 31);
        uint result = value & ~error;
        if (address != 1) result |= error;
        else if ((value & read) != 0) result = result & ~0xFFFFu | _phy.Read(register, _linkIsUp);
        else if ((value & write) != 0) _phy.Write(register, (ushort)value);
        _registers[E1000Register.PhyControl / 4] = result | ready;
        if ((value & interrupt) != 0) Raise(E1000Cause.PhyAccess);
    }

    // ---- interrupts

    private void Raise(E1000Cause cause)
    {
        _causes |= cause;
        UpdateInterrupt();
    }

    /// <summary>Section 13.4.18 "Interrupt Throttling Register": the pin rises no sooner than that after it rose.</summary>
    private void UpdateInterrupt()
    {
        bool wanted = (_causes & _mask) != 0;
        if (!wanted || _asserted)
        {
            if (!wanted && _asserted) SetPin(_asserted = false);
            return;
        }
        long now = _throttle is null ? 0 : Machine.Clock.Nanoseconds;
        if (now < _quietUntil)
        {
            _throttle!.Arm(_quietUntil);
            return;
        }
        _quietUntil = now + Register(E1000Register.Throttling) * ThrottleUnit;
        SetPin(_asserted = true);
    }

    private void ThrottleIsOver() => UpdateInterrupt();

    // ---- link

    /// <inheritdoc/>
    public void SetLink(bool up)
    {
        lock (Lock)
        {
            _linkWanted = up;
            UpdateLink();
        }
    }

    /// <inheritdoc/>
    public void TellLink()
    {
        lock (Lock) Raise(E1000Cause.LinkChanged);
    }

    void IFrameReceiver.ConnectionChanged()
    {
        lock (Lock) UpdateLink();
    }

    private void UpdateLink()
    {
        bool up = _linkWanted && _backend.IsConnected;
        if (up == _linkIsUp) return;
        _linkIsUp = up;
        Raise(E1000Cause.LinkChanged);
    }

    // ---- frames

    /// <summary>One round of the thread; the next one follows at once.</summary>
    private void Serve()
    {
        bool more = SendSome();
        lock (Lock)
        {
            while (_waiting.TryPeek(out byte[]? next) && TryDeliver(next))
            {
                _waiting.Dequeue();
                _bytesWaiting -= next.Length;
            }
        }
        _backend.Serve(this, waits: !more);
        _thread!.Post(_serve);
    }

    /// <summary>True: there may be more.</summary>
    private bool SendSome()
    {
        for (int n = 0; n < FramesOfRound; n++)
        {
            E1000Transmitter.Outcome outcome;
            bool connected;
            lock (Lock)
            {
                outcome = TakeFrame();
                connected = _linkIsUp;
            }
            if (outcome == E1000Transmitter.Outcome.Nothing) return false;
            if (outcome == E1000Transmitter.Outcome.Packet && connected) _transmitter.Send(_backend);
        }
        return true;
    }

    /// <summary>Takes descriptors until a packet is complete, or there are no more.</summary>
    private E1000Transmitter.Outcome TakeFrame()
    {
        const uint enable = 2;
        const int mostDescriptors = 256; // with the lock held; the rest come in another round
        ulong ring = Register(E1000Register.TransmitBaseLow) | (ulong)Register(E1000Register.TransmitBaseHigh) << 32;
        uint count = Register(E1000Register.TransmitLength) / E1000Descriptor.Length, tail = Register(E1000Register.TransmitTail);
        var vlanType = (ushort)Register(E1000Register.VlanType);
        ref uint head = ref _registers[E1000Register.TransmitHead / 4];
        if ((Register(E1000Register.TransmitControl) & enable) == 0 || head >= count || tail >= count) return E1000Transmitter.Outcome.Nothing;
        E1000Cause causes = 0;
        var outcome = E1000Transmitter.Outcome.Nothing;
        for (int n = 0; n < mostDescriptors && head != tail && outcome is E1000Transmitter.Outcome.Nothing or E1000Transmitter.Outcome.Descriptor; n++)
        {
            outcome = _transmitter.Take(Dma, ring + head * (ulong)E1000Descriptor.Length, vlanType, out bool reports);
            if (reports) causes |= E1000Cause.TransmitWritten;
            head = head + 1 == count ? 0 : head + 1;
            if (head == tail) causes |= E1000Cause.TransmitEmpty;
        }
        if (outcome == E1000Transmitter.Outcome.Packet) Count(E1000Register.GoodSent, E1000Register.TotalSent, E1000Register.OctetsSent,
            E1000Register.TotalOctetsSent, _transmitter.Sending);
        if (causes != 0) Raise(causes);
        return outcome == E1000Transmitter.Outcome.Descriptor ? E1000Transmitter.Outcome.Dropped : outcome;
    }

    private void Count(int good, int total, int octets, int totalOctets, int length)
    {
        _registers[good / 4]++;
        _registers[total / 4]++;
        foreach (int place in (ReadOnlySpan<int>)[octets / 4, totalOctets / 4])
        {
            ulong sum = _registers[place] | (ulong)_registers[place + 1] << 32;
            sum += (uint)(length + CheckSequence);
            (_registers[place], _registers[place + 1]) = ((uint)sum, (uint)(sum >> 32));
        }
    }

    /// <summary>On the thread.</summary>
    void IFrameReceiver.Receive(in FrameWork work, ReadOnlySpan<byte> frame)
    {
        lock (Lock)
        {
            if (!_linkIsUp || !Has(E1000Receive.Enable) || frame.Length < Frame.HeaderLength || !E1000Filter.Passes(frame, _register)) return;
            int length = Math.Max(frame.Length, SmallestFrame) + CheckSequence;
            if (length > (Has(E1000Receive.LongPackets) ? LongestJumbo : LongestCommon))
            {
                _registers[E1000Register.Oversized / 4]++;
                return;
            }
            if (_waiting.Count == 0 && TryDeliver(frame)) return;
            if (_bytesWaiting + frame.Length > MostWaiting)
            {
                _registers[E1000Register.MissedPackets / 4]++;
                Raise(E1000Cause.ReceiveOverrun);
                return;
            }
            _waiting.Enqueue(frame.ToArray());
            _bytesWaiting += frame.Length;
        }
    }

    /// <summary>Section 3.2.3 "Receive Descriptor Format". False: there are no descriptors for it yet.</summary>
    private bool TryDeliver(ReadOnlySpan<byte> frame)
    {
        const byte done = 1, end = 2, ignoreChecksum = 4, vlanPacket = 8;
        if (!Has(E1000Receive.Enable)) return true;
        ulong ring = Register(E1000Register.ReceiveBaseLow) | (ulong)Register(E1000Register.ReceiveBaseHigh) << 32;
        uint count = Register(E1000Register.ReceiveLength) / E1000Descriptor.Length, tail = Register(E1000Register.ReceiveTail);
        ref uint head = ref _registers[E1000Register.ReceiveHead / 4];
        if (head >= count || tail >= count) return false;
        ushort tag = 0;
        bool strips = ((E1000Control)Register(E1000Register.DeviceControl)).HasFlag(E1000Control.VlanMode)
            && frame.Length >= Frame.HeaderLength + Frame.VlanLength
            && BinaryPrimitives.ReadUInt16BigEndian(frame[12..]) == (ushort)Register(E1000Register.VlanType);
        // What is behind the frame is its padding and its check sequence, which nobody computes here.
        int length = Math.Max(frame.Length - (strips ? Frame.VlanLength : 0), SmallestFrame) + (Has(E1000Receive.StripChecksum) ? 0 : CheckSequence);
        int size = BufferSize, needed = (length + size - 1) / size;
        if (needed > (int)((tail + count - head) % count)) return false;
        byte[] bytes = new byte[length];
        if (strips)
        {
            tag = BinaryPrimitives.ReadUInt16BigEndian(frame[14..]);
            frame[..12].CopyTo(bytes);
            frame[16..].CopyTo(bytes.AsSpan(12));
        }
        else
        {
            frame.CopyTo(bytes);
        }
        for (int at = 0; at < length; at += size)
        {
            int part = Math.Min(size, length - at);
            ulong descriptor = ring + head * (ulong)E1000Descriptor.Length;
            if (Dma.Read(descriptor, _receiveDescriptor))
            {
                Dma.Write(BinaryPrimitives.ReadUInt64LittleEndian(_receiveDescriptor), bytes.AsSpan(at, part));
                Span<byte> rest = _receiveDescriptor.AsSpan(8);
                rest.Clear();
                BinaryPrimitives.WriteUInt16LittleEndian(rest, (ushort)part);
                rest[4] = (byte)(done | ignoreChecksum | (at + part == length ? end : 0) | (strips ? vlanPacket : 0));
                BinaryPrimitives.WriteUInt16LittleEndian(rest[6..], tag);
                // The status comes behind all else.
                Dma.Write(descriptor + 8, rest[..4]);
                Dma.TryWrite(descriptor + 14, tag);
                Dma.TryWrite(descriptor + 12, BinaryPrimitives.ReadUInt16LittleEndian(rest[4..]));
            }
            head = head + 1 == count ? 0 : head + 1;
        }
        Count(E1000Register.GoodReceived, E1000Register.TotalReceived, E1000Register.OctetsReceived, E1000Register.TotalOctetsReceived, bytes.Length);
        if ((frame[0] & 1) != 0)
            _registers[(frame[..MacLength].ContainsAnyExcept((byte)0xFF) ? E1000Register.MulticastReceived : E1000Register.BroadcastReceived) / 4]++;
        uint left = (tail + count - head) % count;
        int fraction = (int)(Register(E1000Register.ReceiveControl) >> 8 & 3); // RDMTS: a half, a quarter, an eighth
        Raise(E1000Cause.Received | (left <= count >> 1 + fraction ? E1000Cause.ReceiveFew : 0));
        return true;
    }

    /// <summary>BSIZE and BSEX: section 13.4.22.</summary>
    private int BufferSize => (Has(E1000Receive.SizeExtension), Register(E1000Register.ReceiveControl) >> 16 & 3) switch
    {
        (false, 0) or (true, 0) => 2048,
        (false, 1) => 1024,
        (false, 2) => 512,
        (false, _) => 256,
        (true, 1) => 16384,
        (true, 2) => 8192,
        (true, _) => 4096,
    };

    // ---- state

    /// <inheritdoc/>
    public override void Reset()
    {
        base.Reset();
        ResetRegisters();
        _phy.Reset();
    }

    /// <inheritdoc/>
    public override void Resume() => _backend.Wake();

    /// <inheritdoc/>
    public override Type StateType => typeof(E1000State);

    /// <inheritdoc/>
    public override object Save()
    {
        (byte lines, byte count, ushort command) = _eeprom.State;
        return new E1000State(SaveInterrupts(), [.. _registers], _phy.Save(), _transmitter.Save(), (uint)_causes, (uint)_mask, _asserted, _quietUntil,
            _throttle?.Deadline, _portAddress, lines, count, command, _linkIsUp);
    }

    /// <inheritdoc/>
    public override void Restore(object state)
    {
        E1000State s = StateCheck.Record<E1000State>(state, Id);
        StateCheck.Length(s.Registers, _registers.Length, Id);
        StateCheck.Length(s.Phy, 32, Id);
        StateCheck.Length(s.Contexts, 2, Id);
        RestoreInterrupts(s.Interrupts);
        for (int n = 0; n < _registers.Length; n++) _registers[n] = Keep(n * 4, s.Registers[n]);
        _phy.Restore(s.Phy);
        _transmitter.Restore(s.Contexts);
        _eeprom.Restore((s.EepromLines, s.EepromCount, s.EepromCommand), Id);
        (_causes, _mask) = ((E1000Cause)s.Causes & E1000Cause.All, (E1000Cause)s.Mask & E1000Cause.All);
        (_asserted, _quietUntil) = (s.IsAsserted, s.QuietUntil);
        _portAddress = s.PortAddress & E1000Register.Length - 1 & ~3u;
        _throttle!.Restore(s.Throttled);
        _waiting.Clear();
        (_bytesWaiting, _linkIsUp) = (0, s.LinkIsUp);
        UpdateLink();
    }
}

/// <summary>State of the card.</summary>
/// <param name="QuietUntil">Virtual time before which the pin does not rise again.</param>
/// <param name="Throttled">When the timer for that is due; null: it is not armed.</param>
[StateRecord("e1000", version: 1)]
internal sealed record E1000State(
    PciDeviceState Interrupts, uint[] Registers, ushort[] Phy, E1000Context[] Contexts, uint Causes, uint Mask, bool IsAsserted, long QuietUntil,
    long? Throttled, uint PortAddress, byte EepromLines, byte EepromCount, ushort EepromCommand, bool LinkIsUp);

/// <summary>The card in a PCI slot of a board.</summary>
/// <param name="card">What it is.</param>
/// <param name="slot">Device number on bus 0, 1 to 31; null: the first that is free.</param>
public sealed class E1000Part(E1000 card, int? slot = null) : IBoardPart
{
    /// <inheritdoc/>
    public void AttachTo(IBoard board) => card.AttachTo(board, slot ?? board.Pci.FindFreeSlot());
}
