using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio.Ports;

/// <summary>
/// The console device: Virtual I/O Device (VIRTIO) Version 1.3, section 5.3, with several ports. What the guest sends is handed on at once, on the vCPU's
/// thread; what it is sent goes on an I/O thread's, and on the vCPU's when that gives new buffers.
/// </summary>
public sealed class ConsoleDevice : VirtioDevice
{
    private const int QueueSize = 64, ControlSize = 64, MessageLength = 8, Chunk = 64 << 10, ControlIn = 2, ControlOut = 3, MostMessages = 256, MostHanded = 32;

    // Section 5.3.3.
    [Flags]
    private enum Feature : ulong { Size = 1, MultiPort = 2 }

    /// <summary>Section 5.3.6.2 "Multiport Device Operation".</summary>
    private enum Message : ushort
    {
        DeviceReady = 0, PortAdd = 1, PortReady = 3, ConsolePort = 4, Resize = 5, PortOpen = 6, PortName = 7,
    }

    // Section 5.3.4.
    private static class Field
    {
        public const int Columns = 0, Rows = 2, Ports = 4, Length = 12;
    }

    private readonly ConsolePort?[] _ports;
    private readonly byte[] _configuration = new byte[Field.Length], _chunk = new byte[Chunk];
    private readonly Queue<byte[]> _messages = new(); // for the driver
    private readonly List<DescriptorChain> _filled = []; // not given back yet
    private readonly List<uint> _written = [];
    private readonly Action _work;
    private DeviceLock? _lock;
    private IoThread? _thread;
    private bool _posted;

    /// <param name="id">Its name in the machine.</param>
    /// <param name="ports">By number; null: no such port. A driver without the feature has the first one alone.</param>
    public ConsoleDevice(string id, params IReadOnlyList<ConsolePort?> ports)
        : base(id, VirtioType.Console, QueueSizes(2 * (ports.Count + 1)))
    {
        _ports = [.. ports];
        _work = Work;
        BinaryPrimitives.WriteInt32LittleEndian(_configuration.AsSpan(Field.Ports), _ports.Length);
    }

    private static ushort[] QueueSizes(int count)
    {
        var sizes = new ushort[count];
        for (int n = 0; n < count; n++) sizes[n] = n is ControlIn or ControlOut ? (ushort)ControlSize : (ushort)QueueSize;
        return sizes;
    }

    /// <summary>Section 5.3.2: receive and transmit queue of port 0, those for messages, then those of the other ports.</summary>
    private static int InputQueue(int port) => port == 0 ? 0 : 2 * port + 2;

    /// <summary>The port that a queue is of; null: it is for messages, or there is no such port.</summary>
    private int? PortOf(int queue)
    {
        int port = queue < 2 ? 0 : queue / 2 - 1;
        return queue is ControlIn or ControlOut || _ports[port] is null ? null : port;
    }

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => (ulong)(Feature.Size | Feature.MultiPort);

    private bool HasPorts => ((Feature)Features).HasFlag(Feature.MultiPort);

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;

    /// <inheritdoc/>
    protected internal override void AttachTo(X86Machine machine, DeviceLock @lock)
    {
        _lock = @lock;
        _thread = machine.CreateIoThread(Id);
        foreach (ConsolePort? port in _ports) port?.AttachTo(@lock, Changed);
    }

    /// <summary>A port has something new for the guest.</summary>
    private void Changed()
    {
        lock (_lock!)
        {
            if (_posted) return;
            _posted = true;
        }
        _thread!.Post(_work);
    }

    private void Work()
    {
        lock (_lock!)
        {
            _posted = false;
            if (_ports[0] is { SizeIsNew: true } console && !HasPorts)
            {
                BinaryPrimitives.WriteUInt16LittleEndian(_configuration.AsSpan(Field.Columns), console.Size.Columns);
                BinaryPrimitives.WriteUInt16LittleEndian(_configuration.AsSpan(Field.Rows), console.Size.Rows);
                console.SizeIsNew = false;
                ConfigurationChanged();
            }
            Guarded(() =>
            {
                for (int n = 0; n < _ports.Length; n++) Deliver(n);
                SendMessages();
            });
        }
    }

    /// <inheritdoc/>
    protected override void Notified(int queue)
    {
        if (queue == ControlIn) SendMessages();
        else if (queue == ControlOut) TakeMessages();
        else if (PortOf(queue) is not { } port) return;
        else if ((queue & 1) != 0) TakeOutput(port);
        else
        {
            Deliver(port);
            SendMessages(); // the end, where it was the last of it
        }
    }

    private void TakeOutput(int number)
    {
        int queue = InputQueue(number) + 1;
        ConsolePort port = _ports[number]!;
        while (Live(queue) is { } live)
        {
            if (live.Take() is not { } buffer)
            {
                if (!live.EnableNotifications()) return;
                continue;
            }
            // Descriptors can name the same memory again and again: what one buffer may hold is bounded.
            ulong length = Math.Min(buffer.ReadableLength, LongestOutput);
            for (ulong at = 0; at < length; at += Chunk)
            {
                Span<byte> part = _chunk.AsSpan(0, (int)Math.Min(Chunk, length - at));
                if (!buffer.TryRead(Dma, at, part)) throw new VirtqueueException("a buffer is not in RAM");
                port.Output?.Invoke(part);
            }
            Complete(queue, buffer, 0);
        }
    }

    private const ulong LongestOutput = 1 << 20;

    /// <summary>Gives the guest what waits for it, as far as it has buffers, and the end behind it.</summary>
    private void Deliver(int number)
    {
        if (_ports[number] is not { } port) return;
        int queue = InputQueue(number);
        // Linux drops what comes while nobody has the port open. Without the feature there is no word for it.
        if (!HasPorts || port.IsOpen)
        {
            while (port.Waiting > 0 && Live(queue) is { } live)
            {
                port.SeenBuffers = Math.Max(port.SeenBuffers, live.Available);
                if (live.Take() is not { } buffer)
                {
                    Hand(queue);
                    // One exit for each buffer would be many. The driver has so many buffers, and all are in its hands: it will give half of them again.
                    if (live.EnableNotifications(Math.Max(1, port.SeenBuffers / 2))) continue;
                    break;
                }
                ReadOnlySpan<byte> part = port.Peek((int)Math.Min(buffer.WritableLength, Chunk));
                if (!buffer.TryWrite(Dma, 0, part)) throw new VirtqueueException("a buffer is not in RAM");
                _filled.Add(buffer);
                _written.Add((uint)part.Length);
                port.Taken(part.Length);
                if (_filled.Count == MostHanded) Hand(queue);
            }
            Hand(queue);
        }
        if (!HasPorts || !port.IsReady) return;
        if (port.SizeIsNew && port.IsConsole)
        {
            port.SizeIsNew = false;
            Tell(number, Message.Resize, 0, [.. BitConverter.GetBytes(port.Size.Columns), .. BitConverter.GetBytes(port.Size.Rows)]);
        }
        if (!port.InputEnded || port.EndIsTold || port.Waiting > 0) return;
        port.EndIsTold = true;
        Tell(number, Message.PortOpen, 0);
    }

    /// <summary>Gives the driver what is filled, with one interrupt.</summary>
    private void Hand(int queue)
    {
        if (_filled.Count == 0) return;
        Complete(queue, CollectionsMarshal.AsSpan(_filled), CollectionsMarshal.AsSpan(_written));
        _filled.Clear();
        _written.Clear();
    }

    private void Tell(int port, Message message, ushort value, ReadOnlySpan<byte> more = default)
    {
        if (_messages.Count >= MostMessages) return; // a driver that asks and asks and takes no answers
        byte[] bytes = new byte[MessageLength + more.Length];
        BinaryPrimitives.WriteInt32LittleEndian(bytes, port);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(4), (ushort)message);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(6), value);
        more.CopyTo(bytes.AsSpan(MessageLength));
        _messages.Enqueue(bytes);
    }

    private void SendMessages()
    {
        while (_messages.Count > 0 && Live(ControlIn) is { } live)
        {
            if (live.Take() is not { } buffer)
            {
                if (live.EnableNotifications()) continue;
                return;
            }
            byte[] message = _messages.Dequeue();
            int length = (int)Math.Min((ulong)message.Length, buffer.WritableLength);
            if (!buffer.TryWrite(Dma, 0, message.AsSpan(0, length))) throw new VirtqueueException("a buffer is not in RAM");
            Complete(ControlIn, buffer, (uint)length);
        }
    }

    private void TakeMessages()
    {
        Span<byte> message = stackalloc byte[MessageLength];
        while (Live(ControlOut) is { } live)
        {
            if (live.Take() is not { } buffer)
            {
                if (!live.EnableNotifications()) break;
                continue;
            }
            if (buffer.TryRead(Dma, 0, message))
                Take(BinaryPrimitives.ReadUInt32LittleEndian(message), (Message)BinaryPrimitives.ReadUInt16LittleEndian(message[4..]), message[6] != 0);
            Complete(ControlOut, buffer, 0);
        }
        SendMessages();
    }

    private void Take(uint number, Message message, bool yes)
    {
        if (message == Message.DeviceReady)
        {
            for (int n = 0; yes && n < _ports.Length; n++)
            {
                if (_ports[n] is not null) Tell(n, Message.PortAdd, 1);
            }
            return;
        }
        if (number >= (uint)_ports.Length || _ports[number] is not { } port) return;
        switch (message)
        {
            case Message.PortReady when yes:
                port.IsReady = true;
                if (port.IsConsole) Tell((int)number, Message.ConsolePort, 1);
                Tell((int)number, Message.PortName, 1, Encoding.ASCII.GetBytes(port.Name));
                Tell((int)number, Message.PortOpen, 1);
                Deliver((int)number);
                break;
            case Message.PortOpen:
                if (!yes) TakeOutput((int)number); // what was sent before it was closed
                bool closes = port.IsOpen && !yes;
                port.IsOpen = yes;
                if (closes && !port.IsConsole)
                {
                    port.WasClosed = true;
                    port.Forget();
                    port.OutputEnded?.Invoke();
                }
                else
                {
                    if (yes) port.WasClosed = false; // another program has it now
                    Deliver((int)number);
                }
                break;
        }
    }

    /// <inheritdoc/>
    protected override void DeviceReset()
    {
        _messages.Clear();
        _filled.Clear();
        _written.Clear();
        foreach (ConsolePort? port in _ports) port?.Reset();
    }

    [Flags]
    private enum PortState : byte { Ready = 1, Open = 2, Closed = 4, Ended = 8, EndTold = 16, SizeNew = 32 }

    /// <inheritdoc/>
    protected override byte[] SaveOwn()
    {
        using var bytes = new MemoryStream();
        using var writer = new BinaryWriter(bytes);
        foreach (ConsolePort? port in _ports)
        {
            if (port is null) continue;
            writer.Write((byte)((port.IsReady ? PortState.Ready : 0) | (port.IsOpen ? PortState.Open : 0) | (port.WasClosed ? PortState.Closed : 0)
                | (port.InputEnded ? PortState.Ended : 0) | (port.EndIsTold ? PortState.EndTold : 0) | (port.SizeIsNew ? PortState.SizeNew : 0)));
            writer.Write(port.Size.Columns);
            writer.Write(port.Size.Rows);
            Put(writer, port.Unsent);
        }
        writer.Write(_messages.Count);
        foreach (byte[] message in _messages) Put(writer, message);
        writer.Flush();
        return bytes.ToArray();

        static void Put(BinaryWriter writer, byte[] bytes)
        {
            writer.Write(bytes.Length);
            writer.Write(bytes);
        }
    }

    /// <inheritdoc/>
    protected override void RestoreOwn(byte[] state)
    {
        using var reader = new BinaryReader(new MemoryStream(state));
        try
        {
            foreach (ConsolePort? port in _ports)
            {
                if (port is null) continue;
                var flags = (PortState)reader.ReadByte();
                (port.IsReady, port.IsOpen, port.WasClosed) = (flags.HasFlag(PortState.Ready), flags.HasFlag(PortState.Open), flags.HasFlag(PortState.Closed));
                (port.InputEnded, port.EndIsTold) = (flags.HasFlag(PortState.Ended), flags.HasFlag(PortState.EndTold));
                port.Size = (reader.ReadUInt16(), reader.ReadUInt16());
                port.SizeIsNew = flags.HasFlag(PortState.SizeNew);
                port.RestoreUnsent(Get(state.Length));
            }
            _messages.Clear();
            int count = StateCheck.Range(reader.ReadInt32(), 0, MostMessages, Id);
            for (int n = 0; n < count; n++) _messages.Enqueue(Get(MessageLength + byte.MaxValue));
        }
        catch (EndOfStreamException e)
        {
            throw new StateFormatException($"{Id}: its state breaks off: {e.Message}");
        }

        byte[] Get(int most)
        {
            byte[] bytes = reader.ReadBytes(StateCheck.Range(reader.ReadInt32(), 0, most, Id));
            return bytes;
        }
    }
}
