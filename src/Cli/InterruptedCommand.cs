using System.Runtime.InteropServices;

namespace Bunraku.Cli;

/// <summary>Lets a command that runs guests of its own end them when the user has enough.</summary>
internal static class InterruptedCommand
{
    private const int Interrupt = 2, Terminate = 15;

    /// <summary>Runs a command whose token is cancelled by SIGINT and SIGTERM.</summary>
    /// <returns>Its status; 128 and the signal's number when it was cancelled.</returns>
    public static int Run(Func<CancellationToken, int> command)
    {
        using var cancel = new CancellationTokenSource();
        int signal = Interrupt;
        using PosixSignalRegistration interrupt = On(PosixSignal.SIGINT, Interrupt), terminate = On(PosixSignal.SIGTERM, Terminate);
        try
        {
            return command(cancel.Token);
        }
        catch (OperationCanceledException)
        {
            return ExitStatus.Signal + signal;
        }

        PosixSignalRegistration On(PosixSignal which, int number) => PosixSignalRegistration.Create(which, context =>
        {
            context.Cancel = true;
            signal = number;
            cancel.Cancel();
        });
    }
}
