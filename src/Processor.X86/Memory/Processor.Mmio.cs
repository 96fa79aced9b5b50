using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// Accesses to guest-physical addresses without RAM. A read needs its value now: the instruction is abandoned with an exit and executed again
/// from the start, when the values that it already got are replayed. The handlers of the usual instructions see that a read failed and return
/// <see cref="LeaveForExit"/>; the others are left by an exception, which costs microseconds. A write is posted: the instruction completes, and the
/// exit comes before the next block, or before the next MMIO read, so the order among MMIO accesses is the program's.
/// </summary>
public sealed unsafe partial class Processor
{
    private readonly List<ulong> _replay = [];
    private int _replayIndex;
    private bool _mmioReadPending; // Exit is an MMIO read whose data the next Enter puts into _replay
    private readonly Queue<(ulong Address, int Size, ulong Data)> _posted = new();

    /// <summary>
    /// The current instruction is fed with values of completed MMIO reads. A repeated string instruction must leave after each iteration then,
    /// since the next iteration's read is another access.
    /// </summary>
    internal bool Replaying => _replay.Count > 0;

    /// <summary>False: the hypervisor must do something first, and the instruction is executed again afterwards.</summary>
    private bool TryReadMmio(ulong physical, byte* destination, int length)
    {
        while (length > 0)
        {
            int n = MmioChunk(physical, length);
            ulong value;
            if (_replayIndex < _replay.Count)
            {
                value = _replay[_replayIndex++];
            }
            else if (_deliveringEvent)
            {
                // No device is meant to hold descriptor tables: nobody answers. The event's own faults follow from that.
                value = ulong.MaxValue;
            }
            else
            {
                if (_posted.Count > 0) return false;
                Exit.Reason = ExitReason.Mmio;
                Exit.IsWrite = false;
                Exit.Address = physical;
                Exit.Size = n;
                Exit.Data = 0;
                _mmioReadPending = true;
                return false;
            }
            for (int k = 0; k < n; k++) destination[k] = (byte)(value >> (8 * k));
            destination += n;
            physical += (ulong)n;
            length -= n;
        }
        return true;
    }

    private void PostMmio(ulong physical, byte* source, int length)
    {
        while (length > 0)
        {
            int n = MmioChunk(physical, length);
            ulong value = 0;
            for (int k = 0; k < n; k++) value |= (ulong)source[k] << (8 * k);
            _posted.Enqueue((physical, n, value));
            source += n;
            physical += (ulong)n;
            length -= n;
        }
        Interlocked.Or(ref State->AttentionFlags, (int)Attention.Event);
    }

    /// <summary>Largest naturally possible piece: at most up to the next 8-byte boundary.</summary>
    private static int MmioChunk(ulong physical, int length) => (int)Math.Min((ulong)length, 8 - (physical & 7));

    private bool TakePostedMmio()
    {
        if (!_posted.TryDequeue(out (ulong Address, int Size, ulong Data) write)) return false;
        Exit.Reason = ExitReason.Mmio;
        Exit.IsWrite = true;
        Exit.Address = write.Address;
        Exit.Size = write.Size;
        Exit.Data = write.Data;
        return true;
    }

    /// <summary>The instruction is abandoned: what exits is the read that it wants, or a posted write, which stands before it.</summary>
    private void ChooseExit()
    {
        if (_accessRefused)
        {
            _accessRefused = false; // what devices have already answered stays: the instruction is tried again
            return;
        }
        if (_mmioReadPending) return;
        ForgetReplay();
        TakePostedMmio();
    }

    /// <summary>Leaves the current instruction, which has changed nothing, for an exit; it is executed again afterwards. Returns what the handler must return.</summary>
    internal Insn* LeaveForExit(Insn* i)
    {
        ChooseExit();
        ExitPending = true;
        _leftForExit = true;
        return Flow.Again(State, i);
    }

    private bool _leftForExit; // the exit that is pending does not belong to an instruction that was executed

    /// <summary>Moves the value of a completed MMIO read to where the re-executed instruction finds it.</summary>
    private void CompleteMmio()
    {
        if (!_mmioReadPending) return;
        _mmioReadPending = false;
        _replay.Add(Exit.Data);
    }

    private void ForgetReplay()
    {
        _replay.Clear();
        _replayIndex = 0;
    }
}
