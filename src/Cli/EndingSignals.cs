using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Cli;

/// <summary>
/// The signals that ask this process to end, for as long as the object lives: the first one for an orderly end, the second one ends it at once. On every
/// way out, and after an exception that nobody caught, the terminal is what it was before.
/// </summary>
internal sealed class EndingSignals : IDisposable
{
    private readonly Action<int> _asked;
    private readonly PosixSignalRegistration[] _signals;
    private volatile Terminal? _terminal;
    private volatile int _first;
    private int _count;

    /// <param name="asked">Gets the number of the first one, once, on any thread, <see cref="First"/> being set.</param>
    public EndingSignals(Action<int> asked)
    {
        _asked = asked;
        AppDomain.CurrentDomain.UnhandledException += Restore;
        AppDomain.CurrentDomain.ProcessExit += Restore;
        _signals = [On(PosixSignal.SIGHUP, 1), On(PosixSignal.SIGINT, 2), On(PosixSignal.SIGQUIT, 3), On(PosixSignal.SIGTERM, 15)];
    }

    /// <summary>Number of the first one; 0: there was none.</summary>
    public int First => _first;

    /// <summary>The user's, if it is one. Somebody else disposes of it, later.</summary>
    public Terminal? Terminal { set => _terminal = value; }

    private PosixSignalRegistration On(PosixSignal signal, int number) => PosixSignalRegistration.Create(signal, context =>
    {
        context.Cancel = true;
        if (Interlocked.Increment(ref _count) == 1)
        {
            _first = number;
            _asked(number);
            return;
        }
        // Somebody asks again: the orderly end takes too long.
        _terminal?.Restore();
        Environment.Exit(ExitStatus.Signal + number);
    });

    private void Restore(object? sender, EventArgs e) => _terminal?.Restore();

    public void Dispose()
    {
        foreach (PosixSignalRegistration signal in _signals) signal.Dispose();
        AppDomain.CurrentDomain.UnhandledException -= Restore;
        AppDomain.CurrentDomain.ProcessExit -= Restore;
    }
}
