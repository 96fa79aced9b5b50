namespace Bunraku.Sessions;

/// <summary>The other end of the guest's console, as a <see cref="Vm"/> needs it.</summary>
public interface IGuestConsole
{
    /// <summary>
    /// Bytes that the guest printed. On a vCPU's thread with the port's lock held, so several ports' at a time: never waits, throws or calls back.
    /// </summary>
    void Write(ReadOnlySpan<byte> bytes);

    /// <summary>
    /// Bytes that the guest's command wrote to its standard error, where that comes apart from its output; as <see cref="Write"/>, which takes them if nothing
    /// else is said.
    /// </summary>
    void WriteError(ReadOnlySpan<byte> bytes) => Write(bytes);

    /// <summary>
    /// Called by each vCPU after each exit, without locks: waits while the reader is far behind, but no longer than said, since somebody may want the vCPU to
    /// stand still.
    /// </summary>
    /// <param name="milliseconds">The longest wait; -1: no limit.</param>
    /// <returns>There is room, or nobody may wait any more.</returns>
    bool Throttle(int milliseconds);

    /// <summary>The VM is about to stop: nothing may wait in <see cref="Throttle"/> any more. Any thread.</summary>
    void Release();
}

/// <summary>The user's terminal, when the guest gets one.</summary>
/// <param name="Columns">Characters; 0 when unknown.</param>
/// <param name="Rows">Characters; 0 when unknown.</param>
/// <param name="Term">The terminal's type, null when unknown.</param>
public sealed record TerminalInfo(int Columns, int Rows, string? Term);
