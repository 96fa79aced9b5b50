using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio.Ports;

/// <summary>
/// One port of a <see cref="ConsoleDevice"/>: a stream of bytes in each direction, each with an end of its own. Linux has it as /dev/vportNpM, or as hvc0 and
/// so on where it is a console.
/// </summary>
/// <param name="name">What the guest can find it by; ASCII.</param>
/// <param name="isConsole">A terminal; else a plain stream.</param>
public sealed class ConsolePort(string name, bool isConsole = false)
{
    private readonly Queue<byte[]> _input = new();
    private int _taken; // of the first
    private DeviceLock? _lock;
    private Action? _changed;

    /// <summary>What the guest can find it by.</summary>
    public string Name => name;

    /// <summary>It is a terminal.</summary>
    public bool IsConsole => isConsole;

    /// <summary>Takes what the guest sends, on a vCPU's thread with the device's lock held: never waits. Set before the guest runs.</summary>
    public Action<ReadOnlySpan<byte>>? Output { get; set; }

    /// <summary>The guest has closed the port: all that it sent was taken before. As <see cref="Output"/>.</summary>
    public Action? OutputEnded { get; set; }

    /// <summary>The driver has the port, and has been told of it. With the device's lock held, as all below.</summary>
    internal bool IsReady { get; set; }

    /// <summary>A program of the guest has opened it.</summary>
    internal bool IsOpen { get; set; }

    /// <summary>A program had it and has closed it: nobody reads what comes until another opens it.</summary>
    internal bool WasClosed { get; set; }

    /// <summary>There is no more input behind what waits.</summary>
    internal bool InputEnded { get; set; }

    /// <summary>The driver has been told so.</summary>
    internal bool EndIsTold { get; set; }

    /// <summary>Columns and rows of the terminal; 0: not known.</summary>
    internal (ushort Columns, ushort Rows) Size { get; set; }

    /// <summary>The size has changed, and the driver is to be told.</summary>
    internal bool SizeIsNew { get; set; }

    /// <summary>Bytes that the guest has not taken yet.</summary>
    internal int Waiting { get; private set; }

    /// <summary>Most buffers for input that the driver was seen to have at once.</summary>
    internal int SeenBuffers { get; set; }

    internal void AttachTo(DeviceLock @lock, Action changed) => (_lock, _changed) = (@lock, changed);

    private DeviceLock Lock => _lock ?? throw new InvalidOperationException($"the port '{name}' is in no machine yet");

    /// <summary>
    /// Sends bytes to the guest, which waits for nobody. Nobody gets them while a program of the guest has closed the port and none has opened it again.
    /// Any thread.
    /// </summary>
    public void Send(ReadOnlySpan<byte> bytes)
    {
        lock (Lock)
        {
            if (bytes.IsEmpty || WasClosed || InputEnded) return;
            _input.Enqueue(bytes.ToArray());
            Waiting += bytes.Length;
        }
        _changed!();
    }

    /// <summary>The guest's reader finds the end behind what was sent. Any thread.</summary>
    public void End()
    {
        lock (Lock) InputEnded = true;
        _changed!();
    }

    /// <summary>The terminal has another size. Any thread.</summary>
    public void Resize(int columns, int rows)
    {
        lock (Lock)
        {
            Size = ((ushort)Math.Clamp(columns, 0, ushort.MaxValue), (ushort)Math.Clamp(rows, 0, ushort.MaxValue));
            SizeIsNew = true;
        }
        _changed!();
    }

    /// <summary>Waits until fewer than so many bytes wait for the guest, or the time is over. Any thread but the machine's own.</summary>
    /// <returns>There is room.</returns>
    public bool AwaitRoom(int below, int milliseconds)
    {
        lock (Lock)
        {
            if (Waiting >= below) Monitor.Wait(Lock, milliseconds);
            return Waiting < below;
        }
    }

    /// <summary>The next bytes to be sent, at most so many; empty: there are none.</summary>
    internal ReadOnlySpan<byte> Peek(int most)
    {
        if (!_input.TryPeek(out byte[]? first)) return default;
        return first.AsSpan(_taken, Math.Min(first.Length - _taken, most));
    }

    /// <summary>So many of them are sent.</summary>
    internal void Taken(int count)
    {
        Waiting -= count;
        _taken += count;
        if (_taken < _input.Peek().Length) return;
        _input.Dequeue();
        _taken = 0;
        Monitor.PulseAll(_lock!);
    }

    internal void Forget()
    {
        _input.Clear();
        (Waiting, _taken) = (0, 0);
        Monitor.PulseAll(_lock!);
    }

    /// <summary>As after power-on; what the host has said stays said.</summary>
    internal void Reset() => (IsReady, IsOpen, WasClosed, EndIsTold, SizeIsNew, SeenBuffers) = (false, false, false, false, Size != default, 0);

    /// <summary>What waits, for who saves it.</summary>
    internal byte[] Unsent => [.. _input.SelectMany(bytes => bytes).Skip(_taken)];

    internal void RestoreUnsent(ReadOnlySpan<byte> bytes)
    {
        _input.Clear();
        (Waiting, _taken) = (bytes.Length, 0);
        if (bytes.Length > 0) _input.Enqueue(bytes.ToArray());
    }
}
