namespace Bunraku.Sessions.Migration;

/// <summary>
/// The console of a guest that came with a command: what that prints goes back over the connection to the process that was started with it, and its input
/// comes from there. When that process is gone, so is who wanted the command, and the VM ends as one whose output nobody reads.
/// </summary>
internal sealed class RelayedConsole : IGuestConsole, IDisposable
{
    private readonly OutputPump _output, _errors;
    private RelayChannel? _channel; // from when on the guest is here
    private volatile Vm? _vm; // from its start on
    private Thread? _reader;

    public RelayedConsole()
    {
        _output = PumpTo(RelayMessage.Output);
        _errors = PumpTo(RelayMessage.Errors);
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
                else throw new IOException($"a message of the kind {kind} is for no guest");
            }
        }
        catch (IOException)
        {
            Gone(); // or the VM has ended
        }
    }

    public void Write(ReadOnlySpan<byte> bytes) => _output.Write(bytes);

    public void WriteError(ReadOnlySpan<byte> bytes) => _errors.Write(bytes);

    public void Throttle()
    {
        _output.Throttle();
        _errors.Throttle();
    }

    public void Release()
    {
        _output.Release();
        _errors.Release();
    }

    /// <summary>The VM has ended: what it printed goes over, and how it ended.</summary>
    public void End(VmResult result)
    {
        _output.Flush();
        _errors.Flush();
        TrySend(RelayMessage.Ended, new RelayEnd(result.ExitStatus, result.CommandStatus, result.StreamDamage).ToBytes());
    }

    /// <summary>Closes the connection, whatever is not sent yet, and ends the threads. When the VM has stopped.</summary>
    public void Dispose()
    {
        _channel?.Dispose();
        _reader?.Join();
        _output.Dispose();
        _errors.Dispose();
    }
}
