using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio;

/// <summary>
/// A graphics tablet: Virtual I/O Device (VIRTIO) Version 1.3, section 5.8 "Input Device", with the events of Linux's input-event-codes.h. It tells where the
/// pointer is, of all the screen, and not how far it has moved. While the driver has given no buffers, the newest position waits.
/// </summary>
/// <param name="id">Its name in the machine.</param>
public sealed class Tablet(string id) : VirtioDevice(id, VirtioType.Input, QueueSize, QueueSize)
{
    /// <summary>The largest coordinate: the right and the lower edge of the screen.</summary>
    public const int MostPosition = 0x7FFF;

    /// <summary>Buttons: left, right and middle one in bits 0 to 2.</summary>
    private const byte AllButtons = 7;

    private const ushort QueueSize = 64;
    private const int Events = 0, EventSize = 8, ConfigurationSize = 136, DataAt = 8, MostPending = 8;
    private const int MostWheel = 100;

    private static class Select
    {
        public const byte Name = 1, Identity = 3, Properties = 0x10, Bits = 0x11, Axis = 0x12;
    }

    private static class Kind
    {
        public const byte Synchronize = 0, Key = 1, Relative = 2, Absolute = 3;
    }

    private const ushort Left = 0x110, Right = 0x111, Middle = 0x112, Wheel = 8;
    private static readonly ushort[] s_buttons = [Left, Right, Middle];

    private readonly byte[] _configuration = new byte[ConfigurationSize];
    private readonly Queue<ulong> _pending = new(); // events of a report that has begun
    private Position _sent, _wanted;
    private DeviceLock? _lock;

    private readonly record struct Position(ushort X, ushort Y, byte Buttons, int Wheel);

    /// <summary>A driver listens. Any thread.</summary>
    public bool IsUsed
    {
        get
        {
            if (_lock is null) return false;
            lock (_lock) return IsReady;
        }
    }

    /// <inheritdoc/>
    protected internal override void AttachTo(X86Machine machine, DeviceLock @lock) => _lock = @lock;

    /// <summary>The pointer is somewhere, and buttons are down. Any thread; never waits.</summary>
    /// <param name="x">0 to <see cref="MostPosition"/>.</param>
    /// <param name="y">0 to <see cref="MostPosition"/>.</param>
    /// <param name="buttons">Bit 0 the left one, bit 1 the right one, bit 2 the middle one.</param>
    /// <param name="wheel">By how many notches the wheel was turned away from the user.</param>
    public void Point(int x, int y, byte buttons, int wheel)
    {
        if (_lock is null) return;
        lock (_lock)
        {
            if (!IsReady) return;
            _wanted = new((ushort)Math.Clamp(x, 0, MostPosition), (ushort)Math.Clamp(y, 0, MostPosition), (byte)(buttons & AllButtons),
                Math.Clamp(_wanted.Wheel + wheel, -MostWheel, MostWheel));
            Guarded(Deliver);
        }
    }

    private void Deliver()
    {
        Span<byte> bytes = stackalloc byte[EventSize];
        while (Live(Events) is { } live)
        {
            if (_pending.Count == 0 && !Begin()) return;
            if (live.Take() is { } buffer)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(bytes, _pending.Dequeue());
                if (buffer.WritableLength < EventSize || !buffer.TryWrite(Dma, 0, bytes)) throw new VirtqueueException("a buffer is no place for an event");
                Complete(Events, buffer, EventSize);
            }
            else if (!live.EnableNotifications()) return;
        }
    }

    /// <summary>Makes the events of what has changed; false when nothing has.</summary>
    private bool Begin()
    {
        if (_wanted == _sent) return false;
        if (_wanted.X != _sent.X) Add(Kind.Absolute, 0, _wanted.X);
        if (_wanted.Y != _sent.Y) Add(Kind.Absolute, 1, _wanted.Y);
        for (int n = 0; n < s_buttons.Length; n++)
        {
            if (((_wanted.Buttons ^ _sent.Buttons) >> n & 1) != 0) Add(Kind.Key, s_buttons[n], (uint)(_wanted.Buttons >> n & 1));
        }
        if (_wanted.Wheel != 0) Add(Kind.Relative, Wheel, (uint)_wanted.Wheel);
        Add(Kind.Synchronize, 0, 0);
        _sent = _wanted = _wanted with { Wheel = 0 };
        return true;

        void Add(byte kind, ushort code, uint value) => _pending.Enqueue(kind | (ulong)code << 16 | (ulong)value << 32);
    }

    /// <inheritdoc/>
    protected override void Notified(int queue)
    {
        if (queue == Events)
        {
            Deliver();
            return;
        }
        // The driver tells of lights, of which there are none.
        while (Live(queue) is { } live)
        {
            if (live.Take() is { } buffer) Complete(queue, buffer, 0);
            else if (!live.EnableNotifications()) return;
        }
    }

    /// <inheritdoc/>
    protected override void DeviceReset()
    {
        _pending.Clear();
        (_sent, _wanted) = (default, default);
        _configuration.AsSpan().Clear();
    }

    // ---- configuration space: the driver selects what it shows

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;

    /// <inheritdoc/>
    protected override void WriteConfiguration(int offset, ReadOnlySpan<byte> bytes)
    {
        const int selectors = 2;
        for (int n = 0; n < bytes.Length && offset + n < selectors; n++) _configuration[offset + n] = bytes[n];
        Show();
    }

    private void Show()
    {
        Span<byte> data = _configuration.AsSpan(DataAt);
        data.Clear();
        int length = 0;
        switch ((_configuration[0], _configuration[1]))
        {
            case (Select.Name, 0):
                length = Encoding.ASCII.GetBytes("Bunraku Tablet", data);
                break;
            case (Select.Identity, 0):
                const ushort virtualBus = 6;
                BinaryPrimitives.WriteUInt16LittleEndian(data, virtualBus);
                length = 8;
                break;
            case (Select.Bits, Kind.Key):
                foreach (ushort button in s_buttons) data[button / 8] |= (byte)(1 << button % 8);
                length = Middle / 8 + 1;
                break;
            case (Select.Bits, Kind.Relative):
                data[Wheel / 8] |= 1 << Wheel % 8;
                length = Wheel / 8 + 1;
                break;
            case (Select.Bits, Kind.Absolute):
                data[0] = 3;
                length = 1;
                break;
            case (Select.Axis, 0 or 1):
                BinaryPrimitives.WriteUInt32LittleEndian(data[4..], MostPosition);
                length = 20;
                break;
        }
        _configuration[2] = (byte)length;
    }

    // ---- state

    /// <inheritdoc/>
    protected override byte[] SaveOwn()
    {
        byte[] state = new byte[2 + 2 * PositionSize + _pending.Count * EventSize];
        (state[0], state[1]) = (_configuration[0], _configuration[1]);
        Write(state.AsSpan(2), _sent);
        Write(state.AsSpan(2 + PositionSize), _wanted);
        int at = 2 + 2 * PositionSize;
        foreach (ulong e in _pending)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(state.AsSpan(at), e);
            at += EventSize;
        }
        return state;
    }

    private const int PositionSize = 9;

    private static void Write(Span<byte> to, in Position p)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(to, p.X);
        BinaryPrimitives.WriteUInt16LittleEndian(to[2..], p.Y);
        to[4] = p.Buttons;
        BinaryPrimitives.WriteInt32LittleEndian(to[5..], p.Wheel);
    }

    private static Position ReadPosition(ReadOnlySpan<byte> from) => new(
        BinaryPrimitives.ReadUInt16LittleEndian(from), BinaryPrimitives.ReadUInt16LittleEndian(from[2..]), (byte)(from[4] & AllButtons),
        Math.Clamp(BinaryPrimitives.ReadInt32LittleEndian(from[5..]), -MostWheel, MostWheel));

    /// <inheritdoc/>
    protected override void RestoreOwn(byte[] state)
    {
        const int least = 2 + 2 * PositionSize;
        if (state.Length < least || (state.Length - least) % EventSize != 0 || state.Length > least + MostPending * EventSize)
            throw new StateFormatException($"{Id}: the state of a tablet has {state.Length} bytes");
        (_configuration[0], _configuration[1]) = (state[0], state[1]);
        Show();
        _sent = ReadPosition(state.AsSpan(2));
        _wanted = ReadPosition(state.AsSpan(2 + PositionSize));
        _pending.Clear();
        for (int at = least; at < state.Length; at += EventSize) _pending.Enqueue(BinaryPrimitives.ReadUInt64LittleEndian(state.AsSpan(at)));
    }
}
