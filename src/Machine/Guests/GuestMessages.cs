using System.Text;

namespace Bunraku.Machine;

/// <summary>
/// Takes what the guest's init script says to the host out of the console stream. A message is an APC string, which terminals ignore:
/// <c>ESC _ bunraku;TOKEN;WORDS ESC \</c>. TOKEN differs for each run, so that old output shown again is no message.
/// </summary>
/// <remarks>
/// For one thread. Holds back at most one unfinished message. A message of the kernel may come between any two bytes of ours, and then ours is lost; the
/// acknowledgement of a frame, on which the input depends, is therefore one byte that occurs in no UTF-8 text.
/// </remarks>
public sealed class GuestMessages
{
    /// <summary>The guest has taken a frame of <see cref="CommandInput"/>.</summary>
    public const byte FrameTaken = 0xFF;

    /// <summary>Says that the guest has booted and waits for its command.</summary>
    public const string WaitsMessage = "waits";

    private const int LongestMessage = 256;
    private readonly byte[] _prefix;
    private readonly bool _frames;
    private readonly List<byte> _held = [];

    /// <param name="token">See <see cref="LinuxGuest.Token"/>.</param>
    /// <param name="console">How the guest is wired: only with <see cref="GuestConsole.Command"/> are there frames.</param>
    public GuestMessages(string token, GuestConsole console = GuestConsole.Shell)
    {
        _prefix = Encoding.ASCII.GetBytes($"\x1B_bunraku;{token};");
        _frames = console == GuestConsole.Command;
    }

    /// <summary>The first user process runs.</summary>
    public bool InitStarted { get; private set; }

    /// <summary>The guest has booted and waits for its command: see <see cref="LinuxGuest.CommandPort"/>.</summary>
    public bool Waits { get; private set; }

    /// <summary>The command is about to start, or the shell shows its first prompt: input is taken; what is sent before may be lost or echoed.</summary>
    public bool InputReady { get; private set; }

    /// <summary>Exit status of the command, 0 to 255, once it ended: 127 not found, 128 + n ended by signal n. All its output was sent before.</summary>
    public int? ExitStatus { get; private set; }

    /// <summary>Frames of input that the command's pipe has taken.</summary>
    public int FramesTaken { get; private set; }

    /// <summary>What the guest's kernel counted on COM2 when all output was sent; null when it did not say.</summary>
    public GuestLineCounters? Line { get; private set; }

    /// <summary>The guest found something else than a frame where one had to begin: bytes of the input are missing, and it takes no more.</summary>
    public bool InputBroken { get; private set; }

    /// <summary>
    /// What the guest's kernel counted on COM2 so far; the guest looks every few seconds while the command runs. Null before.
    /// </summary>
    public GuestLineCounters? LineSoFar { get; private set; }

    /// <summary>How often the guest has told <see cref="LineSoFar"/>.</summary>
    public int Looks { get; private set; }

    /// <summary>Raised on the caller's thread of <see cref="Filter"/> for each message: "init", "input", "exit 3".</summary>
    public event Action<string>? Received;

    /// <summary>What was said so far.</summary>
    public GuestMessagesState Save() => new(InitStarted, Waits, InputReady, ExitStatus, FramesTaken, Line, InputBroken, LineSoFar, Looks, [.. _held]);

    /// <summary>Goes on as another one that was saved.</summary>
    /// <exception cref="Engines.StateFormatException">Its numbers make no sense.</exception>
    public void Restore(GuestMessagesState state, string id)
    {
        (InitStarted, Waits, InputReady, ExitStatus, Line, InputBroken, LineSoFar) =
            (state.InitStarted, state.Waits, state.InputReady, state.ExitStatus, state.Line, state.InputBroken, state.LineSoFar);
        FramesTaken = Engines.StateCheck.Range(state.FramesTaken, 0, int.MaxValue, id);
        Looks = Engines.StateCheck.Range(state.Looks, 0, int.MaxValue, id);
        _held.Clear();
        _held.AddRange(state.Held.AsSpan(0, Engines.StateCheck.Range(state.Held.Length, 0, LongestMessage, id)));
    }

    /// <summary>Passes console bytes on to <paramref name="output"/>, without the messages.</summary>
    public void Filter(ReadOnlySpan<byte> console, List<byte> output)
    {
        foreach (byte b in console)
        {
            if (b == FrameTaken && _frames)
            {
                FramesTaken++;
                continue;
            }
            _held.Add(b);
            int n = _held.Count;
            if (n <= _prefix.Length)
            {
                if (b == _prefix[n - 1]) continue;
                // Only ESC begins a message, and it occurs nowhere else in the prefix.
                int keep = b == _prefix[0] ? 1 : 0;
                Release(output, keep);
            }
            else if (b == '\\' && _held[n - 2] == 0x1B)
            {
                string message = Encoding.ASCII.GetString([.. _held.Skip(_prefix.Length).Take(n - _prefix.Length - 2)]);
                _held.Clear();
                Take(message);
            }
            else if (n > LongestMessage)
            {
                Release(output, 0);
            }
        }
    }

    /// <summary>Passes on what is held back, at the end of the stream.</summary>
    public void Flush(List<byte> output) => Release(output, 0);

    private void Release(List<byte> output, int keep)
    {
        output.AddRange(_held.Take(_held.Count - keep));
        _held.RemoveRange(0, _held.Count - keep);
    }

    private void Take(string message)
    {
        if (message == "init") InitStarted = true;
        else if (message == WaitsMessage) Waits = true;
        else if (message == "input") InputReady = true;
        else if (message.StartsWith("exit ", StringComparison.Ordinal) && byte.TryParse(message.AsSpan(5), out byte status)) ExitStatus = status;
        else if (message == "broken") InputBroken = true;
        else if (message.StartsWith("line ", StringComparison.Ordinal)) Line = GuestLineCounters.Parse(message[5..]);
        else if (message.StartsWith("now ", StringComparison.Ordinal)) (LineSoFar, Looks) = (GuestLineCounters.Parse(message[4..]), Looks + 1);
        Received?.Invoke(message);
    }
}

/// <summary>State of <see cref="GuestMessages"/>.</summary>
/// <param name="Held">The beginning of a message.</param>
public sealed record GuestMessagesState(
    bool InitStarted, bool Waits, bool InputReady, int? ExitStatus, int FramesTaken, GuestLineCounters? Line, bool InputBroken, GuestLineCounters? LineSoFar,
    int Looks, byte[] Held);
