using System.Buffers.Binary;

namespace Bunraku.Sessions.Migration;

/// <summary>
/// The console of a guest that came with a command: what that prints goes back over the connection to the process that was started with it, and its input
/// comes from there. When that process is gone, so is who wanted the command, and the VM ends as one whose output nobody reads.
/// </summary>
internal sealed class RelayedConsole : IGuestConsole, IDisposable
{
    /// <summary>How long a VM that was ended from outside waits for who does not read what it printed.</summary>
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(2);

    private readonly OutputPump _output, _errors;
    private readonly Timer _abandon;
    private RelayChannel? _channel; // from when on the guest is here
    private volatile Vm? _vm; // from its start on
    private Thread? _reader;

    public RelayedConsole()
    {
        _output = PumpTo(RelayMessage.Output);
        _errors = PumpTo(RelayMessage.Errors);
        _abandon = new Timer(_ => Abandon());
    }

    /// <summary>The guest is here now. Before the VM's start.</summary>
    /// <param name="stream">To where the command's streams are; is closed with this.</param>
    public void Connect(Stream stream) => _channel = new RelayChannel(stream);

    private OutputPump PumpTo(RelayMessage kind) => new(bytes => TrySend(kind, bytes) ? 0 : 1, _ => Gone());

    private bool TrySend(RelayMessage kind, ReadOnlyMemory<byte> bytes)
    {
        try
        {
            _channel!.Send(kind, bytes);
            return true;
        }
        catch (IOException)
        {
            return false;
        }
    }

    private void Gone() => _vm?.End(HostEnd.OutputClosed);

    /// <summary>The VM runs: what is typed there goes to it.</summary>
    public void Start(Vm vm)
    {
        _vm = vm;
        _reader = new Thread(Run) { Name = "relay", IsBackground = true };
        _reader.Start();
    }

    private void Run()
    {
        Vm vm = _vm!;
        try
        {
            for (; ; )
            {
                (RelayMessage kind, ReadOnlyMemory<byte> body) = _channel!.Receive();
                if (kind == RelayMessage.Input) vm.Send(body.Span);
                else if (kind == RelayMessage.InputEnd) vm.SendEnd();
                else if (kind == RelayMessage.Size && Size(body.Span) is ( > 0, > 0) size) vm.ResizeTerminal(size.Columns, size.Rows);
                else throw new IOException($"a message of the kind {kind} is for no guest");
            }
        }
        catch (IOException)
        {
            Gone(); // or the VM has ended
        }
    }

    private static (int Columns, int Rows) Size(ReadOnlySpan<byte> body) => body.Length != 2 * sizeof(ushort) ? default
        : (BinaryPrimitives.ReadUInt16LittleEndian(body), BinaryPrimitives.ReadUInt16LittleEndian(body[sizeof(ushort)..]));

    public void Write(ReadOnlySpan<byte> bytes) => _output.Write(bytes);

    public void WriteError(ReadOnlySpan<byte> bytes) => _errors.Write(bytes);

    public bool Throttle(int milliseconds) => _output.Throttle(milliseconds) && _errors.Throttle(milliseconds);

    public void Release()
    {
        _output.Release();
        _errors.Release();
    }

    /// <summary>Gives up what is not sent yet, and who sends. Any thread.</summary>
    public void Abandon() => _channel?.Dispose();

    /// <summary>The same, for who has ended the VM: a little later, so that what it printed is read where somebody reads.</summary>
    public void AbandonSoon() => _abandon.Change(s_patience, Timeout.InfiniteTimeSpan);

    /// <summary>The VM has ended: what it printed goes over, and how it ended. Returns when the other end has taken it.</summary>
    public void End(VmResult result)
    {
        _output.Flush();
        _errors.Flush();
        TrySend(RelayMessage.Ended, new RelayEnd(result.ExitStatus, result.CommandStatus, result.StreamDamage).ToBytes());
        // Closed with input that nobody has read, a TCP connection drops what is still on its way; who has read the last message closes it.
        _reader?.Join();
    }

    /// <summary>Closes the connection, whatever is not sent yet, and ends the threads. When the VM has stopped.</summary>
    public void Dispose()
    {
        Abandon();
        _abandon.Dispose();
        _reader?.Join();
        _output.Dispose();
        _errors.Dispose();
    }
}
