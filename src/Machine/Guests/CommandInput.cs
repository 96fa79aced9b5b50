using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

namespace Bunraku.Machine;

/// <summary>
/// Carries the host's standard input over the guest's COM2 in <see cref="GuestConsole.Command"/>, in frames: a line with the frame's
/// number, from 1 on, and its number of bytes, both in decimal, then that many bytes, whatever they are. A frame of 0 bytes is the end of the input. The guest
/// says when the command's pipe has taken a frame (<see cref="GuestMessages.FramesTaken"/>), and only then may another one follow. Behind a lost byte the guest
/// finds no line with the number that it expects, and says so (<see cref="GuestMessages.InputBroken"/>).
/// </summary>
/// <remarks>
/// Linux's serial driver takes characters as fast as they come into a buffer of 640 KiB (TTYB_DEFAULT_MEM_LIMIT) and drops what is beyond. RTS falls only when
/// the line discipline, another thread, finds its own buffer full, which on several processors can be too late. What is under way here fits into that buffer
/// whenever RTS falls. For one thread, or with a lock of the caller's.
/// </remarks>
public sealed class CommandInput
{
    /// <summary>Bytes of the longest frame.</summary>
    public const int LongestFrame = 1 << 16;

    /// <summary>Frames that may be under way: one is being taken while the next is on the line.</summary>
    public const int MostFrames = 2;

    private readonly List<byte> _waiting = [];
    private int _sent, _taken;
    private bool _ending, _ended;

    /// <summary>Bytes that are in no frame yet.</summary>
    public int Waiting => _waiting.Count;

    /// <summary>More input. Not after <see cref="End"/>.</summary>
    public void Add(ReadOnlySpan<byte> input) => _waiting.AddRange(input);

    /// <summary>There is no more input.</summary>
    public void End() => _ending = true;

    /// <summary>The guest has taken so many frames since it started.</summary>
    public void Acknowledge(int taken) => _taken = taken;

    /// <summary>Appends what may go over the line now to <paramref name="line"/>.</summary>
    public void Take(List<byte> line)
    {
        while (_waiting.Count > 0 && _sent - _taken < MostFrames)
        {
            int size = Math.Min(_waiting.Count, LongestFrame);
            Header(line, ++_sent, size);
            line.AddRange(CollectionsMarshal.AsSpan(_waiting)[..size]);
            _waiting.RemoveRange(0, size);
        }
        if (!_ending || _ended || _waiting.Count > 0) return;
        Header(line, _sent + 1, 0);
        _ended = true;
    }

    /// <summary>What waits and what is under way.</summary>
    public CommandInputState Save() => new([.. _waiting], _sent, _taken, _ending, _ended);

    /// <summary>Goes on as another one that was saved.</summary>
    /// <exception cref="Engines.StateFormatException">Its numbers make no sense.</exception>
    public void Restore(CommandInputState state, string id)
    {
        _waiting.Clear();
        _waiting.AddRange(state.Waiting);
        _sent = Engines.StateCheck.Range(state.Sent, 0, int.MaxValue, id);
        _taken = Engines.StateCheck.Range(state.Taken, 0, _sent, id);
        (_ending, _ended) = (state.Ending, state.Ended);
    }

    private static void Header(List<byte> line, int number, int size) =>
        line.AddRange(Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{number} {size}\n")));
}

/// <summary>State of <see cref="CommandInput"/>.</summary>
public sealed record CommandInputState(byte[] Waiting, int Sent, int Taken, bool Ending, bool Ended);
