namespace Bunraku.Processor.X86;

/// <summary>
/// Accesses to guest-physical addresses without RAM. A read needs its value now: the instruction is abandoned with an exit and executed again
/// from the start, when the values that it already got are replayed. The handlers of the usual instructions see that a read failed and return
/// <see cref="Exits.LeaveForExit"/>; the others are left by an exception, which costs microseconds. A write is posted: the instruction completes, and the
/// exit comes before the next block, or before the next MMIO read, so the order among MMIO accesses is the program's.
/// </summary>
internal sealed unsafe class Mmio(Processor p)
{
    private readonly List<ulong> _replay = [];
    private int _replayIndex;
    private readonly Queue<(ulong Address, int Size, ulong Data)> _posted = new();

    /// <summary>The exit is a read, whose value the next entry finds in it.</summary>
    public bool ReadPending { get; private set; }

    /// <summary>Writes of earlier instructions have not exited yet.</summary>
    public bool HasPosted => _posted.Count > 0;

    /// <summary>
    /// The current instruction is fed with values of completed MMIO reads. A repeated string instruction must leave after each iteration then,
    /// since the next iteration's read is another access.
    /// </summary>
    public bool Replaying => _replay.Count > 0;

    /// <summary>False: the hypervisor must do something first, and the instruction is executed again afterwards.</summary>
    public bool TryRead(ulong physical, byte* destination, int length)
    {
        while (length > 0)
        {
            int n = Chunk(physical, length);
            ulong value;
            if (p.Physical.ReadOnlyPointer(physical) is var rom && rom != null)
            {
                // An instruction that reads and then writes: ROM is read where it is, and the write goes to the devices.
                value = 0;
                for (int k = 0; k < n; k++) value |= (ulong)rom[k] << (8 * k);
            }
            else if (_replayIndex < _replay.Count)
            {
                value = _replay[_replayIndex++];
            }
            else if (p.Delivery.IsDelivering)
            {
                // No device is meant to hold descriptor tables: nobody answers. The event's own faults follow from that.
                value = ulong.MaxValue;
            }
            else
            {
                if (_posted.Count > 0) return false;
                p.Exit.Reason = ExitReason.Mmio;
                p.Exit.IsWrite = false;
                p.Exit.Address = physical;
                p.Exit.Size = n;
                p.Exit.Data = 0;
                ReadPending = true;
                return false;
            }
            for (int k = 0; k < n; k++) destination[k] = (byte)(value >> (8 * k));
            destination += n;
            physical += (ulong)n;
            length -= n;
        }
        return true;
    }

    public void Post(ulong physical, byte* source, int length)
    {
        while (length > 0)
        {
            int n = Chunk(physical, length);
            ulong value = 0;
            for (int k = 0; k < n; k++) value |= (ulong)source[k] << (8 * k);
            _posted.Enqueue((physical, n, value));
            source += n;
            physical += (ulong)n;
            length -= n;
        }
        p.WantAttention();
    }

    /// <summary>Largest naturally possible piece: at most up to the next 8-byte boundary.</summary>
    private static int Chunk(ulong physical, int length) => (int)Math.Min((ulong)length, 8 - (physical & 7));

    public bool TakePosted()
    {
        if (!_posted.TryDequeue(out (ulong Address, int Size, ulong Data) write)) return false;
        p.Exit.Reason = ExitReason.Mmio;
        p.Exit.IsWrite = true;
        p.Exit.Address = write.Address;
        p.Exit.Size = write.Size;
        p.Exit.Data = write.Data;
        return true;
    }

    /// <summary>The value of a completed read is where the instruction, when it is executed again, finds it.</summary>
    public void BeginEntry()
    {
        if (ReadPending) _replay.Add(p.Exit.Data);
        ReadPending = false;
        _replayIndex = 0;
    }

    public void ForgetReplay()
    {
        _replay.Clear();
        _replayIndex = 0;
    }

    /// <summary>The instruction that reads is not completed.</summary>
    public void DropRead()
    {
        ForgetReplay();
        ReadPending = false;
    }

    /// <summary>The instruction at hand and the writes that are posted are not known any more.</summary>
    public void Reset()
    {
        DropRead();
        _posted.Clear();
    }

    public void Save(CpuState state)
    {
        state.MmioValues.Clear();
        state.MmioValues.AddRange(_replay);
        if (ReadPending) state.MmioValues.Add(p.Exit.Data);
        state.PostedWrites.Clear();
        foreach ((ulong address, int size, ulong data) in _posted) state.PostedWrites.Add(new PostedWrite(address, size, data));
    }

    public void Restore(CpuState state)
    {
        Reset();
        _replay.AddRange(state.MmioValues);
        foreach (PostedWrite write in state.PostedWrites) _posted.Enqueue((write.Address, write.Size, write.Data));
    }
}
