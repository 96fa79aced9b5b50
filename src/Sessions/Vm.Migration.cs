using Bunraku.Hypervisor;
using Bunraku.Sessions.Migration;
using Bunraku.Storage;

namespace Bunraku.Sessions;

// Moving a VM to another machine while it runs.
public sealed partial class Vm
{
    private static readonly TimeSpan s_longestGap = TimeSpan.FromHours(1);

    private volatile MachineDescription? _description; // null: it has parts that nobody can describe
    private DateTime? _pausedAt; // until when the guest ran where it came from; null: its time stood still since, or it was booted here
    private int _migrating;
    private volatile StreamRelay? _relay; // to the guest, which was moved while a command runs; set with the lock held

    /// <summary>
    /// Moves the guest to where <see cref="ReceiveAsync(Stream, VmBuilder, MigrationOptions, CancellationToken)"/> is at the other end of a stream, on the
    /// same host. It runs on meanwhile but for a short pause at the end. This VM ends (<see cref="HostEnd.Migrated"/>) when the other one has taken the guest
    /// over; whatever else happens, it goes on, and the other one does not. A VM that is paused by hand, has a network, shared folders, throwaway disks or
    /// parts of the caller's stays where it is. The streams of a command stay those of this VM, whose run ends when the command does.
    /// </summary>
    /// <param name="stream">Of both directions; is closed when it is of no more use: with a command, at its end.</param>
    /// <param name="options">Null: the defaults.</param>
    /// <exception cref="MigrationException">It was not moved, and goes on here.</exception>
    /// <exception cref="CannotStartException">It was not moved, and cannot go on here: its disks are somebody else's now. It is ended.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled, and goes on here.</exception>
    public Task<MigrationResult> MigrateAsync(Stream stream, MigrationOptions? options = null, CancellationToken cancel = default) =>
        MigrateAsync(stream, options, beforeSend: null, cancel);

    /// <param name="beforeSend">See <see cref="MigrationChannel.BeforeSend"/>.</param>
    internal Task<MigrationResult> MigrateAsync(Stream stream, MigrationOptions? options, Action<MigrationMessage>? beforeSend, CancellationToken cancel) =>
        Task.Factory.StartNew(() =>
        {
            bool first = Interlocked.Exchange(ref _migrating, 1) == 0;
            try
            {
                if (!first) throw new MigrationException("it is being moved already");
                options ??= new MigrationOptions();
                CompleteCheck();
                lock (_saveLock) // a live save uses the same log of pages
                    return new MigrationSender(this, new MigrationChannel(stream, options.AnswerLimit, cancel) { BeforeSend = beforeSend }, options).Run();
            }
            finally
            {
                if (first) Volatile.Write(ref _migrating, 0);
                if (_relay?.Stream != stream) stream.Dispose();
            }
        }, cancel, TaskCreationOptions.LongRunning, TaskScheduler.Default);

    /// <summary>The same, to who waits at an address.</summary>
    /// <inheritdoc cref="MigrateAsync(Stream, MigrationOptions, CancellationToken)"/>
    public async Task<MigrationResult> MigrateAsync(MigrationAddress target, MigrationOptions? options = null, CancellationToken cancel = default)
    {
        Stream stream = await target.ConnectAsync(cancel).ConfigureAwait(false);
        return await MigrateAsync(stream, options, cancel).ConfigureAwait(false);
    }

    /// <summary>
    /// Takes a guest over that <see cref="MigrateAsync(Stream, MigrationOptions, CancellationToken)"/> sends. What comes is checked, as from a stranger: but
    /// who sends decides what machine is made, and which files of this user are its disks.
    /// </summary>
    /// <param name="stream">Of both directions; is closed when it is of no more use, as at the other end.</param>
    /// <param name="builder">Engines, the engine's name, console, observers, words. What the machine is comes by the stream.</param>
    /// <param name="options">Null: the defaults.</param>
    /// <returns>The VM, which is this end's now: <see cref="Start"/> or <see cref="RunAsync"/> lets the guest go on. It stands still until then.</returns>
    /// <exception cref="MigrationException">None came; the other end goes on.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public static Task<Vm> ReceiveAsync(Stream stream, VmBuilder builder, MigrationOptions? options = null, CancellationToken cancel = default) =>
        ReceiveAsync(stream, builder, options, beforeSend: null, cancel);

    /// <param name="beforeSend">See <see cref="MigrationChannel.BeforeSend"/>.</param>
    internal static Task<Vm> ReceiveAsync(
        Stream stream, VmBuilder builder, MigrationOptions? options, Action<MigrationMessage>? beforeSend, CancellationToken cancel) =>
        Task.Factory.StartNew(() => new MigrationReceiver(
            new MigrationChannel(stream, (options ?? new MigrationOptions()).AnswerLimit, cancel) { BeforeSend = beforeSend }, builder, cancel).Run(),
            cancel, TaskCreationOptions.LongRunning, TaskScheduler.Default);

    /// <summary>What a machine has to be to take this one's state.</summary>
    /// <exception cref="MigrationException">This one stays where it is; why, in one line.</exception>
    internal MachineDescription DescribeForMove()
    {
        string? reason = _description is null ? "it has parts of the program that made it"
            : _options.Networks.Count > 0 ? "the connections of its network end in this process"
            : _options.Shares.Count > 0 ? "what its guest has open in shared folders is in this process"
            : _options.Vsock is not null ? "what is connected with its sockets ends in this process"
            : _options.Disks.Any(d => d.Throwaway) ? "what was written to its throwaway disks is in this process"
            : _vm.DirtyPages is null ? $"the engine '{_engine.Name}' does not say which pages it writes to"
            : State != VmState.Running ? "it does not run"
            : _machine.WhyItStays;
        return reason is null ? _description! : throw new MigrationException($"the VM cannot be moved: {reason}");
    }

    internal GuestDisks Disks => _disks;

    /// <summary>Does something while no vCPU runs.</summary>
    internal void WhileStill(Action action) => WhileStill(() =>
    {
        action();
        return 0;
    });

    /// <summary>
    /// Pauses the VM for the last part of a move; nobody else pauses it, or lets it go on, meanwhile.
    /// </summary>
    /// <param name="move">True: the guest is somewhere else now, and this VM ends. False, or an exception: it goes on.</param>
    /// <param name="stream">To where it is then.</param>
    internal void WhileMoved(Func<bool> move, Stream stream)
    {
        lock (_pauseLock)
            _machine.WhileInputWaits(() => Move(move, stream));
    }

    private void Move(Func<bool> move, Stream stream)
    {
        if (_paused || Ended) throw new MigrationException("the VM cannot be moved: it does not run any more");
        _vm.Pause();
        bool moved = false;
        try
        {
            moved = move();
        }
        finally
        {
            if (moved) Leave(stream);
            else _vm.Resume();
        }
    }

    /// <summary>The guest is somewhere else, where its command's output comes from now, and its input goes.</summary>
    private void Leave(Stream stream)
    {
        lock (_lock)
        {
            // Who has ended it before has ended the command.
            if (_options.Command is not null && _hostEnd == HostEnd.None && !_disposed) _machine.SendElsewhere(_relay = new StreamRelay(stream, _console));
            End(HostEnd.Migrated); // before anybody else's end, which is the command's then
        }
    }

    /// <summary>What somebody here wants when there is only the command's streams left: they end. With the lock held.</summary>
    private bool EndRelay(HostEnd reason, int signal)
    {
        if (_relay is null || _hostEnd != HostEnd.Migrated || _disposed) return false;
        (_hostEnd, _signal) = (reason, signal);
        LetGo();
        _relay.Dispose();
        return true;
    }

    /// <summary>Waits for the end of a command whose guest was moved; null: there is none.</summary>
    private async Task<RelayEnd?> RelayedAsync()
    {
        if (_relay is not { } relay) return null;
        RelayEnd? end = await relay.Ended.ConfigureAwait(false);
        lock (_lock)
        {
            if (end is null && _hostEnd == HostEnd.Migrated)
                Interlocked.CompareExchange(ref _failure, new MigrationException("the guest was moved, and the connection to its command has ended"), null);
        }
        return end;
    }

    // ---- the other end

    /// <summary>Holds a new machine, which is to take over a state.</summary>
    /// <remarks>It takes its own state over first: what is compiled for that is there when the guest stands still.</remarks>
    internal void HoldForMove()
    {
        HoldForState();
        byte[] state = MigrationState.Write(DateTime.UtcNow, _vm.SaveParts());
        _vm.RestoreParts(MigrationState.Read(state).Parts);
    }

    /// <summary>Takes over all but memory, which was written. While it is held.</summary>
    /// <exception cref="IOException">A disk cannot be had.</exception>
    internal void TakeOver(IReadOnlyList<SavedState> parts)
    {
        _vm.RestoreParts(parts);
        _disks.Open();
    }

    /// <summary>The guest is this VM's. Before the start.</summary>
    /// <param name="pausedAt">When it stood still, UTC.</param>
    internal void Own(DateTime pausedAt) => _pausedAt = pausedAt;
}
