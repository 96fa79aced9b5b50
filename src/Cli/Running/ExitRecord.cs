using System.Globalization;
using Bunraku.Engines;

namespace Bunraku.Cli.Running;

/// <summary>One VM exit as it was handled, copied out of the vCPU's reused <see cref="VmExit"/>.</summary>
/// <param name="Nanoseconds">Virtual time since power-on.</param>
public readonly record struct ExitRecord(
    long Nanoseconds, int Cpu, ExitReason Reason, bool IsWrite, int Size, ulong Address, ulong Data, bool Fault, uint Leaf, uint Subleaf, string? Message)
{
    public static ExitRecord From(long nanoseconds, int cpu, VmExit e) =>
        new(nanoseconds, cpu, e.Reason, e.IsWrite, e.Size, e.Address, e.Data, e.Fault, e.Leaf, e.Subleaf, e.Message);

    /// <summary>One line: seconds of virtual time, vCPU, reason, what was accessed.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Nanoseconds / 1e9,12:0.000000} cpu{Cpu} {Reason}{Details()}");

    private string Details() => Reason switch
    {
        ExitReason.Io => string.Create(CultureInfo.InvariantCulture, $" {(IsWrite ? "out" : "in")} port {Address:x4} size {Size} value {Masked:x}"),
        ExitReason.Mmio => string.Create(CultureInfo.InvariantCulture, $" {(IsWrite ? "write" : "read")} {Address:x} size {Size} value {Masked:x}"),
        ExitReason.Msr => string.Create(CultureInfo.InvariantCulture, $" {(IsWrite ? "wrmsr" : "rdmsr")} {Address:x8} {(Fault ? "#GP" : $"value {Data:x}")}"),
        ExitReason.CrAccess => string.Create(CultureInfo.InvariantCulture, $" {(IsWrite ? "write" : "read")} cr{Address} value {Data:x}"),
        ExitReason.DrAccess => string.Create(CultureInfo.InvariantCulture, $" {(IsWrite ? "write" : "read")} dr{Address}"),
        ExitReason.Cpuid => string.Create(CultureInfo.InvariantCulture, $" leaf {Leaf:x} subleaf {Subleaf:x}"),
        ExitReason.Exception => string.Create(CultureInfo.InvariantCulture, $" vector {Address}"),
        ExitReason.InternalError => $" {Message}",
        _ => "",
    };

    private ulong Masked => Size is > 0 and < 8 ? Data & ((1ul << (8 * Size)) - 1) : Data;
}

/// <summary>
/// The last exits of a VM, for the report after a crash, and every exit as a line when somebody traces. Each vCPU's thread adds its own exits and waits for nobody, unless there is a
/// trace; reading is for any thread.
/// </summary>
public sealed class ExitLog : IDisposable
{
    private const int Kept = 16;

    private readonly Ring[] _rings;
    private readonly TextWriter? _trace;
    private readonly Lock _traceLock = new();

    /// <param name="cpus">Number of vCPUs.</param>
    public ExitLog(int cpus, TextWriter? trace)
    {
        _rings = [.. Enumerable.Range(0, cpus).Select(_ => new Ring())];
        _trace = trace;
    }

    /// <summary>On the thread of the record's vCPU.</summary>
    public void Add(in ExitRecord record)
    {
        _rings[record.Cpu].Add(record);
        if (_trace == null) return;
        lock (_traceLock) _trace.WriteLine(record.ToString());
    }

    /// <summary>The last exits of all vCPUs, oldest first.</summary>
    public IReadOnlyList<ExitRecord> Last => [.. _rings.SelectMany(r => r.Last).OrderBy(r => r.Nanoseconds).TakeLast(Kept)];

    /// <summary>Flushes the trace; nothing may be added afterwards.</summary>
    public void Dispose()
    {
        lock (_traceLock) _trace?.Dispose();
    }

    /// <summary>The last exits of one vCPU. One thread writes; a reader sees by the count what was overwritten while it read.</summary>
    private sealed class Ring
    {
        private const int Size = 2 * Kept; // so that a reader finds enough records that the writer is far from

        private readonly ExitRecord[] _records = new ExitRecord[Size];
        private long _count;

        public void Add(in ExitRecord record)
        {
            long n = _count;
            _records[n % Size] = record;
            Volatile.Write(ref _count, n + 1);
        }

        public IEnumerable<ExitRecord> Last
        {
            get
            {
                long end = Volatile.Read(ref _count);
                ExitRecord[] copy = [.. _records];
                Thread.MemoryBarrier();
                // The record of this number is being written, over the one that is a whole round older.
                long writing = Volatile.Read(ref _count);
                for (long n = Math.Max(0, Math.Max(end - Kept, writing - Size + 1)); n < end; n++) yield return copy[n % Size];
            }
        }
    }
}
