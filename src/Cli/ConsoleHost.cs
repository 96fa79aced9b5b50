using System.Runtime.InteropServices;
using Bunraku.Cli.CommandLine;
using Bunraku.Cli.Terminals;
using Bunraku.Platform;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli;

/// <summary>
/// Lends this process's terminal, standard streams and signals to one <see cref="Vm"/>: keys in, output out, escape keys and monitor,
/// and everything as it was before on every way out.
/// </summary>
internal sealed class ConsoleHost : IGuestConsole, IDisposable
{
    internal const int Stdin = 0, Stdout = 1, Stderr = 2;
    private const int InputBuffer = 64 << 10;

    private readonly RunOptions _options;
    private readonly Terminal? _terminal;
    private readonly ReportFile? _file;
    private readonly DetachedTerminal? _detached; // of a VM in the background, in place of the terminal
    private readonly OutputPump? _output, _errors; // errors: of a command, where they come apart
    private readonly EndingSignals _signals;
    private readonly CancellationTokenSource _interrupted = new();
    private volatile Vm? _vm;
    private SharedTerminal? _shared;
    private JobControl? _jobControl;
    private PosixSignalRegistration? _resized;
    private volatile int _outputErrno;
    private int _lastByte = '\n';

    /// <exception cref="CannotStartException">The serial file cannot be written.</exception>
    public ConsoleHost(RunOptions options)
    {
        _options = options;
        _signals = new EndingSignals(number =>
        {
            if (_vm is { } vm) vm.End(HostEnd.Signal, number);
            else _interrupted.Cancel();
        });
        if (options.Detach)
        {
            DetachedTerminal detached = _detached = new DetachedTerminal(ControlClients.Folder, options.Name!, options.Escape);
            _output = new OutputPump(bytes =>
            {
                detached.Write(bytes.Span);
                return 0;
            }, _ => { });
            return;
        }
        if (options.Serial.Kind == SerialKind.None) return;
        if (options.Serial.Kind == SerialKind.File)
        {
            _file = new ReportFile(options.Serial.Path!, "--serial");
            _output = PumpTo(_file.Descriptor);
            return;
        }
        _output = PumpTo(Stdout);
        // Who reads no errors loses them alone.
        if (options.Command is not null) _errors = new OutputPump(bytes => DescriptorWriter.WriteAll(Stderr, bytes.Span), _ => { });
        // A command whose output goes elsewhere reads lines as any other program would: the terminal stays as it is.
        if (options.Command is null || Terminal.Is(Stdout)) _signals.Terminal = _terminal = Terminal.Open(Stdin);
    }

    private OutputPump PumpTo(int descriptor) => new(bytes => DescriptorWriter.WriteAll(descriptor, bytes.Span), OnOutputFailed);

    /// <summary>Cancelled when a signal asks for the end before there is a VM.</summary>
    public CancellationToken Interrupted => _interrupted.Token;

    /// <summary>Number of the first signal that asked for the end; 0 when there was none.</summary>
    public int Signal => _signals.First;

    /// <summary>The terminal that the guest gets, or null for streams.</summary>
    public TerminalInfo? GuestTerminal
    {
        get
        {
            // Who attaches later has a terminal; a command in the background has plain streams.
            if (_detached is not null && _options.Command is null) return new TerminalInfo(0, 0, Environment.GetEnvironmentVariable("TERM"));
            if (_terminal is null) return null;
            (int columns, int rows) = _terminal.Size ?? default;
            return new TerminalInfo(columns, rows, Environment.GetEnvironmentVariable("TERM"));
        }
    }

    /// <summary>Takes the guest's output.</summary>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        if (_shared is { } shared) shared.GuestWrote(bytes);
        else Show(bytes);
    }

    /// <summary>Takes what the guest's command writes to its standard error.</summary>
    public void WriteError(ReadOnlySpan<byte> bytes)
    {
        if (_errors is null) Write(bytes);
        else _errors.Write(bytes);
    }

    /// <summary>What the guest printed could not be written; null when it was, and when nobody wanted to read it. After <see cref="Run"/>.</summary>
    public CannotWriteException? OutputError => _outputErrno is 0 or HostError.BrokenPipe ? null
        : _file is null ? StandardStreams.CannotWriteOutput(_outputErrno) : new CannotWriteException(_options.Serial.Path!, HostError.Reason(_outputErrno));

    /// <summary>The exit status that stands for lost output; 0 when all was written.</summary>
    public int OutputStatus => _outputErrno switch { 0 => ExitStatus.Success, HostError.BrokenPipe => VmResult.OutputClosedStatus, _ => ExitStatus.Failure };

    private void Show(ReadOnlySpan<byte> bytes)
    {
        if (bytes.IsEmpty) return;
        _lastByte = bytes[^1];
        _output?.Write(bytes);
    }

    public bool Throttle(int milliseconds) => _output?.Throttle(milliseconds) is not false && _errors?.Throttle(milliseconds) is not false;

    public void Release()
    {
        _output?.Release();
        _errors?.Release();
    }

    /// <summary>Runs the VM to its end.</summary>
    public VmResult Run(Vm vm)
    {
        _vm = vm;
        if (Signal != 0) vm.End(HostEnd.Signal, Signal);
        if (_outputErrno != 0) EndForOutput();
        // A command that came from another process has its streams, and its terminal, there.
        Terminal? terminal = vm.HasStreamsElsewhere ? null : _terminal;
        if (terminal is not null) _shared = new SharedTerminal(vm, Show, () => terminal.Size?.Columns ?? TextLayout.DefaultWidth, escape: _options.Escape);
        if (_detached is not null)
        {
            _shared = new SharedTerminal(vm, Show, () => TextLayout.DefaultWidth, escape: _options.Escape, detaches: true);
            _detached.Received = _shared.Feed;
            _detached.Start();
        }
        using var input = new DescriptorReader(Stdin);
        bool reads = _options.Serial.Kind == SerialKind.Stdio && _detached is null && !vm.HasStreamsElsewhere;
        Thread? reader = reads ? new Thread(() => ReadInput(input)) { Name = "input", IsBackground = true } : null;
        try
        {
            _jobControl = new JobControl(vm, terminal, t => t.EnterRaw());
            terminal?.EnterRaw();
            if (terminal is not null)
            {
                _resized = PosixSignalRegistration.Create(PosixSignal.SIGWINCH, _ => TellSize(vm));
                if (_options.RestoreFrom is not null) TellSize(vm); // the guest knows the terminal of who saved it
            }
            vm.Start();
            reader?.Start();
            Background.Ready(_detached?.Messages, _file?.Descriptor);
            VmResult result = vm.Wait();
            input.Stop();
            reader?.Join();
            _output?.Flush();
            _errors?.Flush();
            return result;
        }
        finally
        {
            // The VM is disposed of before this host.
            _jobControl?.Dispose();
            _resized?.Dispose();
            // Without a reader the descriptor would be closed under it.
            input.Stop();
            if (reader is { IsAlive: true }) reader.Join();
            _terminal?.Restore();
            if (_lastByte != '\n' && Terminal.Is(Stdout) && _outputErrno == 0) _output?.Write("\n"u8);
            _output?.Flush();
            _errors?.Flush();
        }
    }

    private void TellSize(Vm vm)
    {
        if (_terminal!.Size is ( > 0 and var columns, > 0 and var rows)) vm.ResizeTerminal(columns, rows);
    }

    private void ReadInput(DescriptorReader input)
    {
        byte[] buffer = new byte[InputBuffer];
        bool any = false;
        while (input.Read(buffer) is > 0 and int n)
        {
            any = true;
            if (_shared is null) _vm!.Send(buffer.AsSpan(0, n));
            else _shared.Feed(buffer.AsSpan(0, n));
        }
        // Without any input (/dev/null) nobody meant to type, and a shell goes on without.
        if (_terminal is null && (any || _options.Command is not null)) _vm!.SendEnd();
    }

    private void OnOutputFailed(int errno)
    {
        _outputErrno = errno;
        EndForOutput();
    }

    private void EndForOutput() => _vm?.End(_outputErrno == HostError.BrokenPipe ? HostEnd.OutputClosed : HostEnd.OutputFailed);

    public void Dispose()
    {
        _signals.Dispose();
        _interrupted.Dispose();
        _terminal?.Dispose();
        _output?.Dispose();
        _errors?.Dispose();
        _file?.Dispose();
        _detached?.Dispose();
    }
}
