using System.Runtime.InteropServices;
using Bunraku.Platform;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Cli.Qemu.Characters;

/// <summary>Descriptors for the two directions: standard input and output, a pipe, a pseudo-terminal.</summary>
internal sealed class DescriptorCharacters : CharacterDevice
{
    private const int Buffer = 64 << 10;

    private readonly OutputPump _pump;
    private readonly DescriptorReader _reader;
    private readonly Thread _thread;
    private readonly IDisposable[] _owned;
    private readonly Terminal? _terminal;
    private readonly bool _comesBack;
    private readonly ManualResetEventSlim _ended = new();
    private bool _started;

    private DescriptorCharacters(CharacterSpec spec, int input, int output, Terminal? terminal, bool comesBack, params IDisposable[] owned) : base(spec)
    {
        (_terminal, _comesBack, _owned) = (terminal, comesBack, owned);
        // A reader that went away is not the guest's affair.
        _pump = new OutputPump(bytes =>
        {
            DescriptorWriter.WriteAll(output, bytes.Span);
            return 0;
        }, _ => { });
        _reader = new DescriptorReader(input);
        _thread = new Thread(Read) { Name = $"input of {spec.Id}", IsBackground = true };
    }

    /// <summary>Standard input and output.</summary>
    public static DescriptorCharacters Stdio(CharacterSpec spec) =>
        new(spec, ConsoleHost.Stdin, ConsoleHost.Stdout, Terminal.Open(ConsoleHost.Stdin), comesBack: false);

    /// <summary>PATH.in and PATH.out, where they are there; else PATH in both directions.</summary>
    /// <exception cref="CannotStartException">It cannot be opened.</exception>
    public static DescriptorCharacters Pipe(CharacterSpec spec)
    {
        string path = spec.Path!;
        try
        {
            SafeFileHandle input = Open(File.Exists(path + ".in") ? path + ".in" : path);
            SafeFileHandle output = File.Exists(path + ".out") ? Open(path + ".out") : input;
            return new(spec, Number(input), Number(output), null, comesBack: true, input, output);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new CannotStartException($"the pipe {path} of '{spec.Id}' cannot be opened: {HostError.Reason(e)}; 'mkfifo {path}.in {path}.out' makes it",
                e);
        }
    }

    /// <summary>A new terminal; its name is told.</summary>
    /// <exception cref="CannotStartException">The host gives none.</exception>
    public static DescriptorCharacters Pty(CharacterSpec spec)
    {
        try
        {
            var terminal = new PseudoTerminal();
            Console.Error.WriteLine($"char device redirected to {terminal.Path} (label {spec.Id})"); // QEMU's words, for programs that look for them
            return new(spec, terminal.Descriptor, terminal.Descriptor, null, comesBack: true, terminal);
        }
        catch (IOException e)
        {
            throw new CannotStartException($"the host gives no terminal for '{spec.Id}': {e.Message}", e);
        }
    }

    // For both directions: opening waits for nobody, and the end of one writer is not the end of all.
    private static SafeFileHandle Open(string path) => File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);

    private static int Number(SafeHandle handle) => (int)handle.DangerousGetHandle();

    /// <summary>The user's terminal, if it is one.</summary>
    public Terminal? Terminal => _terminal;

    /// <summary>Puts the terminal into the mode that the guest needs.</summary>
    public void EnterRaw() => _terminal?.EnterRaw(Spec.HasSignals);

    public override void Start()
    {
        _started = true;
        Connected?.Invoke();
        _thread.Start();
    }

    private void Read()
    {
        const int pause = 100; // ms
        byte[] buffer = new byte[Buffer];
        while (!_ended.IsSet)
        {
            if (_reader.Read(buffer) is > 0 and int n) Take(buffer.AsSpan(0, n));
            else if (!_comesBack || _ended.Wait(pause)) return; // nobody has the other end open, for now
        }
    }

    protected override void Send(ReadOnlySpan<byte> bytes)
    {
        if (!(MayLose && _pump.IsFull)) _pump.Write(bytes);
    }

    public override bool Throttle(int milliseconds) => MayLose || _pump.Throttle(milliseconds);

    public override bool IsFull => _pump.IsFull;

    public override bool AwaitRoom()
    {
        Throttle(Timeout.Infinite);
        return !_ended.IsSet;
    }

    public override void Release() => _pump.Release();

    public override void Flush()
    {
        // A pseudo-terminal or pipe that nobody reads holds nothing up.
        if (_comesBack) Task.Run(_pump.Flush).Wait(TimeSpan.FromSeconds(1));
        else _pump.Flush();
    }

    public override void Dispose()
    {
        _ended.Set();
        _pump.Release();
        _reader.Stop();
        if (_started) _thread.Join();
        _reader.Dispose();
        _terminal?.Dispose();
        // Its thread may be in a write that nobody takes; it ends with the process.
        if (!_comesBack) _pump.Dispose();
        foreach (IDisposable owned in _owned) owned.Dispose();
        base.Dispose();
    }
}

/// <summary>A file that takes what the guest sends, and perhaps another one that it reads.</summary>
internal sealed class FileCharacters : CharacterDevice
{
    private readonly FileStream _file;
    private readonly FileStream? _input;
    private readonly OutputPump _pump;
    private readonly Lock _taking = new();
    private Thread? _thread;
    private volatile bool _ended;

    /// <exception cref="CannotStartException">It cannot be written.</exception>
    public FileCharacters(CharacterSpec spec) : base(spec)
    {
        string path = spec.Path!;
        try
        {
            _file = new FileStream(path, spec.Append ? FileMode.Append : FileMode.Create, FileAccess.Write, FileShare.ReadWrite, bufferSize: 0);
            if (spec.InputPath is { } input) _input = new FileStream(path = input, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, bufferSize: 0);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            _file?.Dispose();
            throw new CannotStartException($"the file {path} of '{spec.Id}' cannot be opened: {HostError.Reason(e)}", e);
        }
        _pump = new OutputPump(WriteAll, _ => { });
    }

    private int WriteAll(ReadOnlyMemory<byte> bytes)
    {
        try
        {
            _file.Write(bytes.Span);
            return 0;
        }
        catch (IOException e)
        {
            Console.Error.WriteLine($"bunraku: cannot write {Spec.Path}, the rest is lost: {HostError.Reason(e)}");
            return 1;
        }
    }

    public override void Start()
    {
        Connected?.Invoke();
        if (_input is null) return;
        _thread = new Thread(Read) { Name = $"input of {Spec.Id}", IsBackground = true };
        _thread.Start();
    }

    private void Read()
    {
        byte[] buffer = new byte[4096];
        try
        {
            while (!_ended && _input!.Read(buffer) is > 0 and int n)
            {
                lock (_taking)
                {
                    if (!_ended) Take(buffer.AsSpan(0, n));
                }
            }
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException)
        {
            // There is no more of it.
        }
    }

    protected override void Send(ReadOnlySpan<byte> bytes) => _pump.Write(bytes);

    public override bool Throttle(int milliseconds) => _pump.Throttle(milliseconds);

    public override bool IsFull => _pump.IsFull;

    public override bool AwaitRoom()
    {
        _pump.Throttle();
        return !_ended;
    }

    public override void Release() => _pump.Release();

    public override void Flush() => _pump.Flush();

    public override void Dispose()
    {
        _ended = true;
        _pump.Release();
        lock (_taking)
        {
            // Nothing is taken any more. The thread may wait for a FIFO that nobody writes; it ends with the process.
        }
        _pump.Dispose();
        _file.Dispose();
        _input?.Dispose();
        base.Dispose();
    }
}
