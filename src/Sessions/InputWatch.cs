using Bunraku.Machine;
using Bunraku.Machine.Serial;

namespace Bunraku.Sessions;

/// <summary>
/// Finds out while a command runs that bytes of its input were lost between the host and the command's pipe: by the guest's kernel, which counts them, by
/// whoever made the frames unreadable, or on the line, when the guest's kernel has read all that there is and counted less than was sent. For one thread, or
/// with a lock of the caller's.
/// </summary>
internal sealed class InputWatch
{
    /// <summary>
    /// The driver counts a byte only after it has read it, so that a count may be behind. With this many equal ones, seconds apart, it is final.
    /// </summary>
    private const int EqualCounts = 3;

    private uint _sent, _lastSent, _lastReceived;
    private int _looks, _equal;

    /// <summary>What is wrong, in words; null while all is well.</summary>
    public string? Damage { get; private set; }

    /// <summary>So many more bytes went over the line, modulo 2^32 as Linux counts.</summary>
    public void Sent(int bytes) => _sent += (uint)bytes;

    /// <summary>What the guest's kernel says that it lost, in words.</summary>
    public static string? Counted(GuestLineCounters line) => line.Damaged == 0 ? null : $"the guest's kernel lost {line.Damaged} bytes of the command's input";

    /// <summary>Looks at what the guest said. True: <see cref="Damage"/> was found.</summary>
    public bool Look(GuestMessages said, Uart16550A port)
    {
        if (said.InputBroken) Damage = "bytes of the command's input were lost on their way through the guest";
        if (said.LineSoFar is not { } line || said.Looks == _looks) return Damage is not null;
        _looks = said.Looks;
        bool missing = _sent != line.Received && port.Unread == 0;
        _equal = missing && (_sent, line.Received) == (_lastSent, _lastReceived) ? _equal + 1 : 0;
        (_lastSent, _lastReceived) = (_sent, line.Received);
        if (Counted(line) is { } counted) Damage = counted;
        else if (_equal >= EqualCounts) Damage ??= $"{_sent - line.Received} bytes of the command's input were lost on the line to the guest";
        return Damage is not null;
    }

    /// <summary>What it has seen.</summary>
    public InputWatchState Save() => new(_sent, _lastSent, _lastReceived, _looks, _equal, Damage);

    /// <summary>Goes on as another one that was saved.</summary>
    public void Restore(InputWatchState state) =>
        (_sent, _lastSent, _lastReceived, _looks, _equal, Damage) =
            (state.Sent, state.LastSent, state.LastReceived, state.Looks, state.Equal, state.Damage);
}

/// <summary>State of <see cref="InputWatch"/>.</summary>
internal sealed record InputWatchState(uint Sent, uint LastSent, uint LastReceived, int Looks, int Equal, string? Damage);
