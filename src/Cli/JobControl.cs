using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Cli;

/// <summary>
/// Stopping by job control gives the terminal back for as long as it lasts, and the guest's clock stands still. For as long as this object lives; the VM lives
/// longer.
/// </summary>
internal sealed class JobControl : IDisposable
{
    private readonly Vm? _vm;
    private readonly Terminal? _terminal;
    private readonly Action<Terminal> _enter;
    private readonly PosixSignalRegistration[] _signals;

    /// <param name="vm">Null: it is another process's, and runs on.</param>
    /// <param name="terminal">The user's; null: there is none.</param>
    /// <param name="enter">Puts it into the guest's mode.</param>
    public JobControl(Vm? vm, Terminal? terminal, Action<Terminal> enter)
    {
        (_vm, _terminal, _enter) = (vm, terminal, enter);
        _signals =
        [
            PosixSignalRegistration.Create(PosixSignal.SIGTSTP, context =>
            {
                context.Cancel = true;
                bool runs = _vm is { Paused: false };
                _vm?.Pause();
                _terminal?.Restore();
                HostProcess.Suspend();
                Reenter();
                if (runs) _vm!.Resume();
            }),
            // After a SIGSTOP, which nobody can catch, the shell has reset the modes.
            PosixSignalRegistration.Create(PosixSignal.SIGCONT, _ => Reenter()),
        ];
    }

    private void Reenter()
    {
        try
        {
            if (_vm is not { Ended: true } && _terminal is not null) _enter(_terminal);
        }
        catch (System.ComponentModel.Win32Exception)
        {
            // The terminal went away; SIGHUP or the end of input follows.
        }
    }

    public void Dispose()
    {
        foreach (PosixSignalRegistration signal in _signals) signal.Dispose();
    }
}
