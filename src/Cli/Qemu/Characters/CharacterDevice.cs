using Bunraku.Cli.Terminals;

namespace Bunraku.Cli.Qemu.Characters;

/// <summary>
/// A stream of bytes in both directions whose other end is outside: a terminal, a file, a pipe, a socket. Who uses it sets what takes its input and then starts
/// it. Writing is for any thread; input comes on a thread of the device's own, which may be held up.
/// </summary>
internal abstract class CharacterDevice : IDisposable
{
    private readonly ReportFile? _log;
    private readonly Lock _logLock = new();
    private bool _logEnded;

    protected CharacterDevice(CharacterSpec spec)
    {
        Spec = spec;
        if (spec.LogFile is { } path) _log = new ReportFile(path, "logfile=", spec.LogAppend);
    }

    /// <summary>What it was asked to be.</summary>
    public CharacterSpec Spec { get; }

    /// <summary>Takes what comes in. Set before the start.</summary>
    public ShowBytes? Received { get; set; }

    /// <summary>Told that somebody is at the other end from now on. As <see cref="Received"/>, and on the same thread or before it.</summary>
    public Action? Connected { get; set; }

    /// <summary>Told that nobody is any more, before the next one comes. As <see cref="Received"/>.</summary>
    public Action? Disconnected { get; set; }

    /// <summary>What cannot be written in time is left out, where nobody may be held up by a reader that does not read: as on a serial line.</summary>
    public bool MayLose { get; set; }

    /// <summary>Begins to read.</summary>
    public abstract void Start();

    /// <summary>Queues bytes without waiting. They are lost where nobody is at the other end.</summary>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        if (_log is not null)
        {
            lock (_logLock)
            {
                try
                {
                    if (!_logEnded) _log.Write(bytes);
                }
                catch (CannotWriteException)
                {
                    // The log is a copy.
                }
            }
        }
        Send(bytes);
    }

    /// <summary>Hands over what came in. False: it could not be taken, and who sent it is to be sent away.</summary>
    protected bool Take(ReadOnlySpan<byte> bytes)
    {
        try
        {
            Received?.Invoke(bytes);
            return true;
        }
        catch (Exception e) // what somebody sends ends neither the thread nor the machine
        {
            Console.Error.WriteLine($"bunraku: input of '{Spec.Id}' is given up: {e.Message.ReplaceLineEndings(" ")}");
            return false;
        }
    }

    protected abstract void Send(ReadOnlySpan<byte> bytes);

    /// <summary>Waits while much is queued, no longer than said.</summary>
    /// <returns>There is room, or nobody may wait any more.</returns>
    public virtual bool Throttle(int milliseconds) => true;

    /// <summary>So much is queued that <see cref="Throttle"/> waits.</summary>
    public virtual bool IsFull => false;

    /// <summary>
    /// Waits, on the thread on which input comes, until there is room for an answer: who asks and does not read is not heard for as long. False: there will be
    /// no room.
    /// </summary>
    public virtual bool AwaitRoom() => true;

    /// <summary>Sends away who is at the other end, where that can be done. Any thread; waits for nothing.</summary>
    public virtual void Disconnect()
    {
    }

    /// <summary>Nobody may wait in <see cref="Throttle"/> any more.</summary>
    public virtual void Release()
    {
    }

    /// <summary>Waits until what was written is out, as far as somebody takes it.</summary>
    public virtual void Flush()
    {
    }

    /// <summary>Ends its threads and closes what it has opened.</summary>
    public virtual void Dispose()
    {
        // The machine lives longer, and its threads may still write.
        lock (_logLock)
        {
            _logEnded = true;
            _log?.Dispose();
        }
    }
}

/// <summary>Nobody is at the other end.</summary>
internal sealed class NullCharacters(CharacterSpec spec) : CharacterDevice(spec)
{
    public override void Start()
    {
    }

    protected override void Send(ReadOnlySpan<byte> bytes)
    {
    }
}
