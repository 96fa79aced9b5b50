namespace Bunraku.Machine;

/// <summary>
/// Codes the host's standard input for the guest's COM2 in <see cref="GuestConsole.Command"/>. The guest's terminal there is in canonical
/// mode with nothing but EOF (Ctrl-D) and literal-next (Ctrl-V) active, the only mode in which a serial line can tell the end of input.
/// </summary>
/// <remarks>
/// For one thread. Send nothing before <see cref="GuestMessages.InputReady"/>, and nothing while the guest holds RTS down: it does so when its
/// buffer is full. Input that comes in small amounts (a user at a terminal) is handed over with <see cref="Push"/> after each. The guest's program sees every byte as given.
/// </remarks>
public sealed class CommandInput
{
    private const byte EndOfFile = 0x04, LiteralNext = 0x16;

    /// <summary>A line is handed over in pieces well below the 4095 bytes that Linux holds of one (N_TTY_BUF_SIZE).</summary>
    private const int LongestPiece = 1021;

    private int _piece;

    /// <summary>Appends the coded form of <paramref name="input"/> to <paramref name="output"/>.</summary>
    public void Encode(ReadOnlySpan<byte> input, List<byte> output)
    {
        foreach (byte b in input)
        {
            if (b is EndOfFile or LiteralNext) output.Add(LiteralNext);
            output.Add(b);
            _piece = b == '\n' ? 0 : _piece + 1;
            if (_piece < LongestPiece) continue;
            Push(output);
        }
    }

    /// <summary>Hands over an unfinished line, as a terminal user does with Ctrl-D. After this the guest has everything.</summary>
    public void Push(List<byte> output)
    {
        if (_piece > 0) output.Add(EndOfFile);
        _piece = 0;
    }

    /// <summary>Appends the end of input.</summary>
    public void End(List<byte> output)
    {
        Push(output);
        output.Add(EndOfFile);
    }
}
