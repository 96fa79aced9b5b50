using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio.Balloons;

/// <summary>
/// The traditional memory balloon: Virtual I/O Device (VIRTIO) Version 1.3, section 5.5. The guest gives pages back that it is asked for, and tells of those
/// that are free; they take no memory of the host until the guest touches them again, and are zero then. For everybody else in the machine (logs of written
/// pages, who has decoded code from there) a device has written zeros.
/// </summary>
/// <remarks>
/// Whole lists of pages are done on a thread of its own with the device's lock held, one buffer, or one piece of a report, at a time: a driver that has reset
/// the device finds that nothing takes its pages any more.
/// </remarks>
public sealed class Balloon : VirtioDevice
{
    // Section 5.5.2. Without the feature of free page hints, which is not had, drivers number the queue for reports in two ways: by that section 4, and by
    // counting the queues that there are 3, or 2 (Linux before 6.11).
    private const int Inflate = 0, Statistics = 2, LastQueue = 4; // 1 gives pages back to the guest, which simply has them
    private const int QueueSize = 128;
    private const int PageShift = 12; // section 5.5.6: always
    private const ulong PageSize = 1ul << PageShift;

    /// <summary>Bytes of a list of pages that are looked at: 16384 pages. Linux sends 256 at a time.</summary>
    private const int LongestList = 64 << 10, LongestStatistics = 1024;

    // Section 5.5.3.
    [Flags]
    private enum Feature : ulong { Statistics = 2, DeflateOnOom = 4, Reporting = 32 }

    // Section 5.5.4.
    private static class Field
    {
        public const int Wanted = 0, Given = 4, Length = 8;
    }

    private readonly byte[] _configuration = new byte[Field.Length], _list = new byte[LongestList];
    private readonly bool _deflatesOnOom, _reports;
    private readonly Action[] _serve;
    private readonly Action _ask, _askForStatistics, _tell;
    private bool _asking, _telling; // posted
    private uint _target; // pages; the guest is told of it
    private readonly bool[] _posted = new bool[LastQueue + 1];
    private readonly Action[] _work;
    private DeviceLock? _lock;
    private IoThread? _thread;
    private ulong _ram, _reported;
    private DescriptorChain? _held; // given back when statistics are wanted
    private int _answers; // that came with statistics
    private Dictionary<BalloonStatistic, ulong> _statistics = [];

    /// <param name="id">Its name in the machine.</param>
    /// <param name="deflatesOnOom">The guest may take pages back by itself before it kills programs.</param>
    /// <param name="reports">The guest tells of pages that are free.</param>
    public Balloon(string id, bool deflatesOnOom = true, bool reports = true)
        : base(id, VirtioType.Balloon, QueueSize, QueueSize, QueueSize, QueueSize, QueueSize)
    {
        (_deflatesOnOom, _reports) = (deflatesOnOom, reports);
        _serve = [.. Enumerable.Range(0, LastQueue + 1).Select(queue => (Action)(() => Serve(queue)))];
        (_ask, _askForStatistics, _tell) = (Ask, AskForStatistics, Tell);
        _work = [.. Enumerable.Range(0, LastQueue + 1).Select(queue => (Action)(() => TakeOne(queue)))];
    }

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => (ulong)(Feature.Statistics | (_deflatesOnOom ? Feature.DeflateOnOom : 0) | (_reports ? Feature.Reporting : 0));

    private bool Has(Feature feature) => ((Feature)Features).HasFlag(feature);

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;

    /// <summary>The driver tells how many pages it has given.</summary>
    protected override void WriteConfiguration(int offset, ReadOnlySpan<byte> bytes)
    {
        for (int n = 0; n < bytes.Length; n++)
        {
            if (offset + n is >= Field.Given and < Field.Length) _configuration[offset + n] = bytes[n];
        }
    }

    /// <inheritdoc/>
    protected internal override void AttachTo(X86Machine machine, DeviceLock @lock)
    {
        (_lock, _ram) = (@lock, machine.Memory.RamSize);
        _thread = machine.CreateIoThread(Id);
    }

    private DeviceLock Lock => _lock ?? throw new InvalidOperationException($"{Id} is in no machine yet");

    private uint Pages(int field) => BinaryPrimitives.ReadUInt32LittleEndian(_configuration.AsSpan(field));

    /// <summary>
    /// Asks the guest to make do with so many bytes. Any thread; the guest may take its time, or not do it at all. Where the machine stands still, it is asked
    /// when it goes on.
    /// </summary>
    public void SetTarget(ulong bytes)
    {
        lock (Lock)
        {
            _target = (uint)Math.Min((_ram - Math.Min(bytes, _ram)) >> PageShift, uint.MaxValue);
            if (_telling || _target == Pages(Field.Wanted)) return;
            _telling = true;
            _thread!.Post(_tell);
        }
    }

    private void Tell()
    {
        lock (_lock!)
        {
            _telling = false;
            if (_target == Pages(Field.Wanted)) return;
            BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(Field.Wanted), _target);
            ConfigurationChanged();
        }
    }

    /// <summary>How it stands. Any thread but the machine's own.</summary>
    /// <param name="milliseconds">
    /// The guest is asked for statistics first, and for so long at most is waited for them; 0: it is not asked. Where the machine stands still, it is asked
    /// when it goes on: who saves it finds that nothing changes.
    /// </param>
    public BalloonState Look(int milliseconds)
    {
        lock (Lock)
        {
            int before = _answers;
            if (milliseconds > 0 && !_asking)
            {
                _asking = true;
                _thread!.Post(_ask);
            }
            long end = Environment.TickCount64 + milliseconds;
            while (_answers == before && IsReady && Has(Feature.Statistics) && end - Environment.TickCount64 is > 0 and { } left) Monitor.Wait(Lock, (int)left);
            return new BalloonState((ulong)_target << PageShift, (ulong)Pages(Field.Given) << PageShift, IsReady, _reported, _statistics,
                _ram);
        }
    }

    private void Ask()
    {
        lock (_lock!)
        {
            _asking = false;
            Guarded(_askForStatistics);
        }
    }

    private void AskForStatistics()
    {
        if (_held is not { } buffer) return;
        _held = null;
        Complete(Statistics, buffer, 0);
        Notified(Statistics);
    }

    private bool IsForReports(int queue) => Has(Feature.Reporting) && (queue > Statistics || queue == Statistics && !Has(Feature.Statistics));

    /// <inheritdoc/>
    protected override void Notified(int queue)
    {
        if (_posted[queue]) return;
        _posted[queue] = true;
        _thread!.Post(_serve[queue]);
    }

    private void Serve(int queue)
    {
        lock (_lock!)
        {
            _posted[queue] = false;
            Guarded(_work[queue]);
        }
    }

    /// <summary>Takes one buffer; whoever waits for the lock comes before the next one.</summary>
    private void TakeOne(int queue)
    {
        DescriptorChain? buffer = null;
        while (Live(queue) is { } live && (buffer = live.Take()) is null)
        {
            if (!live.EnableNotifications()) return;
        }
        if (buffer is null) return;
        if (queue == Statistics && Has(Feature.Statistics)) TakeStatistics(buffer);
        else
        {
            if (queue == Inflate) TakePages(buffer);
            else if (IsForReports(queue)) TakeReport(queue, buffer);
            Complete(queue, buffer, 0);
        }
        Notified(queue);
    }

    private Span<byte> ReadList(DescriptorChain buffer, int most)
    {
        Span<byte> list = _list.AsSpan(0, (int)Math.Min(buffer.ReadableLength, (ulong)most));
        return buffer.TryRead(Dma, 0, list) ? list : throw new VirtqueueException("a buffer is not in RAM");
    }

    /// <summary>Section 5.5.6: an array of 32-bit page numbers. Pages that follow each other are given back together, in whichever order they come.</summary>
    private void TakePages(DescriptorChain buffer)
    {
        Span<byte> list = ReadList(buffer, LongestList);
        Span<uint> pages = MemoryMarshal.Cast<byte, uint>(list); // the host's byte order is the device's
        pages.Sort();
        for (int n = 0; n < pages.Length;)
        {
            int first = n++;
            while (n < pages.Length && pages[n] - pages[n - 1] <= 1) n++;
            Dma.Forget((ulong)pages[first] << PageShift, ((ulong)(pages[n - 1] - pages[first]) + 1) << PageShift);
        }
    }

    /// <summary>Section 5.5.6.6 "Free Page Reporting": the buffer's memory itself is free until it is given back.</summary>
    private void TakeReport(int queue, DescriptorChain buffer)
    {
        ulong done = 0;
        foreach (BufferPiece piece in buffer.Writable)
        {
            ulong from = piece.Address + (PageSize - 1) & ~(PageSize - 1), to = piece.Address + piece.Length & ~(PageSize - 1);
            if (from >= to || from < piece.Address) continue;
            if (Dma.Forget(from, to - from)) _reported += to - from;
            done += to - from; // what cannot be given is work, too
            if (done >= _ram) return; // it names the same pages again and again
            // Who waits for the lock comes before the next piece. It may have reset the device.
            Monitor.Exit(_lock!);
            Monitor.Enter(_lock!);
            if (Live(queue)?.Generation != buffer.Generation) return;
        }
    }

    private void TakeStatistics(DescriptorChain buffer)
    {
        _statistics = BalloonStatistics.Read(ReadList(buffer, LongestStatistics));
        _answers++;
        Monitor.PulseAll(_lock!);
        // Section 5.5.6.3: the device keeps it, and gives it back to ask again. A driver that has given another one meanwhile gets this one at once.
        DescriptorChain? before = _held;
        _held = buffer;
        if (before is not null) Complete(Statistics, before, 0);
    }

    /// <inheritdoc/>
    protected override int EntriesUnderWay(int queue) =>
        queue == Statistics && _held is { } held && Live(queue)?.Generation == held.Generation ? held.Entries : 0;

    /// <inheritdoc/>
    protected override void QueueWasReset(int queue)
    {
        if (queue == Statistics) _held = null;
    }

    /// <summary>What is wanted stays wanted.</summary>
    protected override void DeviceReset()
    {
        _held = null;
        _statistics = [];
        _configuration.AsSpan(Field.Given, sizeof(uint)).Clear();
        if (_lock is not null) Monitor.PulseAll(_lock);
    }

    /// <inheritdoc/>
    protected override byte[] SaveOwn() => [.. _configuration];

    /// <inheritdoc/>
    protected override void RestoreOwn(byte[] state)
    {
        StateCheck.Length(state, Field.Length, Id);
        _held = null;
        _statistics = [];
        state.CopyTo(_configuration, 0);
        _target = Pages(Field.Wanted);
    }
}
