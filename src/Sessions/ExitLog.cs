namespace Bunraku.Sessions;

/// <summary>
/// The last exits of a VM, for the report after a crash. Each vCPU's thread adds its own exits and waits for nobody; reading is for any thread.
/// </summary>
internal sealed class ExitLog
{
    private const int Kept = 16;

    private readonly Ring[] _rings;

    /// <param name="cpus">Number of vCPUs.</param>
    public ExitLog(int cpus)
    {
        _rings = new Ring[cpus];
        for (int n = 0; n < cpus; n++) _rings[n] = new Ring();
    }

    /// <summary>On the thread of the record's vCPU.</summary>
    public void Add(in ExitRecord record) => _rings[record.Cpu].Add(record);

    /// <summary>The last exits of all vCPUs, oldest first.</summary>
    public IReadOnlyList<ExitRecord> Last => [.. _rings.SelectMany(r => r.Last).OrderBy(r => r.Nanoseconds).TakeLast(Kept)];

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
