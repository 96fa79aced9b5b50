using System.Diagnostics;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Machine.Ethernet;
using Bunraku.Sessions.Snapshots;

namespace Bunraku.Sessions;

// Saving to a file, and going on from one.
public sealed partial class Vm
{
    /// <summary>What may still change when a live save stops the guest, in pages: 16 MiB, which take some milliseconds to write.</summary>
    private const int FewPages = 4096;
    private const int MostRounds = 6;

    /// <summary>One save at a time; before the pause lock.</summary>
    private readonly Lock _saveLock = new();
    private bool _isCopy; // others may go on from the same state
    private bool _heldForState; // it has, or is to take over, a state, and did not go on yet; guarded by the pause lock

    private MemoryCheck? _check; // of what was restored and not looked at before

    private void Restore(SnapshotFile snapshot, bool isKept)
    {
        try
        {
            // Nobody answers for what is in a file, but for what was never out of our hands.
            if (!isKept && snapshot.Manifest.Fork is null)
            {
                if (_vm.Memory.Backing.IsShared || !_engine.AsksForPages) snapshot.Verify();
                else snapshot.VerifyLater(why => ContentIsDamaged(snapshot.Unusable(why)));
            }
            HoldForState();
            _vm.Restore(snapshot.Parts, snapshot);
            if (snapshot.LaterCheck is { Damage: { } damage }) throw snapshot.Unusable(damage); // in what has been looked at by now
            _check = snapshot.LaterCheck;
            (_isCopy, _pausedAt) = (true, snapshot.Manifest.Fork?.Paused);
        }
        catch (Exception e) when (e is not CannotStartException && snapshot.LaterCheck is { Damage: not null })
        {
            throw snapshot.Unusable(snapshot.LaterCheck.Damage!); // whatever a part has made of that
        }
        catch (StateFormatException e)
        {
            throw isKept ? new KeptGuestException(snapshot.Path, e) : new CannotStartException($"snapshot {snapshot.Path}: {e.Message}", e);
        }
        finally
        {
            if (_check is null) snapshot.LaterCheck?.Dispose();
        }
    }

    /// <summary>The guest must not run on what nobody has written. Any thread: a vCPU's, too, which is in the middle of an access then.</summary>
    private void ContentIsDamaged(CannotStartException failure)
    {
        Fail(failure);
        foreach (X86CpuThread cpu in _vm.Cpus) cpu.Cpu.Kick();
    }

    /// <summary>For who looks at all of the memory.</summary>
    private void CompleteCheck()
    {
        if (!_vm.Memory.CompleteCheck()) throw new InvalidOperationException("the VM has ended");
    }

    /// <summary>Holds a new machine, which is to take over a state, until it is started.</summary>
    internal void HoldForState()
    {
        lock (_pauseLock)
        {
            _vm.Pause();
            _heldForState = true;
        }
    }

    /// <summary>
    /// The vCPUs' threads are there. A guest that was moved or forked learns of the time that has gone by; one that was restored may be a copy, and learns
    /// that. With the pause lock held.
    /// </summary>
    private void GoOnFromState()
    {
        if (!_heldForState) return;
        _heldForState = false;
        if (_pausedAt is { } since)
        {
            TimeSpan gap = DateTime.UtcNow - since;
            if (gap > TimeSpan.Zero) _vm.Clock.Step(_vm.Clock.ToTicks((gap < s_longestGap ? gap : s_longestGap).Ticks * 100));
        }
        if (_isCopy)
        {
            foreach (INetworkCard card in _networks.Cards) card.TellLink();
            _machine.BecomeCopy();
            if (_machine.WaitsForCommand) HandOver(isCopy: true);
        }
        _check?.Begin();
        if (!_paused) _vm.Resume();
    }

    /// <summary>The guest has booted and waits for its command: it is kept where it is to be, and gets the command in any case.</summary>
    private void KeepAndHandOver()
    {
        try
        {
            if (_keepAt is null) return;
            AwaitIdle();
            Directory.CreateDirectory(Path.GetDirectoryName(_keepAt)!);
            string disk = KeptGuests.DiskOf(_keepAt, _image.Linux!.Token);
            long length = Save(_keepAt, live: false, lasting: false, disk: _options.Disks.Count > 0 ? disk : null);
            KeptGuests.Trim(_keepAt, disk);
            _toldKept?.Invoke($"the booted guest is kept in {_keepAt} ({ByteSize.Format((ulong)length)}): the next run begins there");
        }
        catch (InvalidOperationException) when (Ended)
        {
        }
        catch (Exception e) // whatever it is: the guest runs without
        {
            _toldKept?.Invoke($"the booted guest cannot be kept: {e.Message.ReplaceLineEndings(" ")}");
        }
        finally
        {
            HandOver(isCopy: false);
        }
    }

    private void HandOver(bool isCopy) => _machine.HandOver(LinuxGuest.Handover(
        GuestImage.Describe(_options, _separateErrors), isCopy, isDebian: DebianGuest.Is(_options)));

    /// <summary>Waits for moments until all of the guest waits for the command: what is under way would be under way in each copy.</summary>
    private void AwaitIdle()
    {
        const int looks = 100, pause = 3; // ms
        for (int n = 0, idle = 0; n < looks && idle < 3; n++)
        {
            Thread.Sleep(pause);
            idle = _vm.Cpus.All(c => c.Cpu.Activity != CpuActivity.Active) ? idle + 1 : 0;
        }
    }

    /// <summary>
    /// Saves the VM to a file, from which it can go on (<see cref="VmBuilder.RestoreFrom"/>), on any engine and as often as one likes. An old file of that name
    /// stays as it is until the new one is complete. The VM goes on afterwards, if it ran. Not before <see cref="Start"/>.
    /// </summary>
    /// <param name="path">Of the file, which only its user may read.</param>
    /// <param name="live">
    /// Most of the memory is written while the guest runs, which then stands still for moments; else it stands still until the memory is written.
    /// </param>
    /// <param name="compress">Memory is packed by zstd: the file is smaller, and a VM that goes on from it reads all of it first.</param>
    /// <returns>The file's length in bytes.</returns>
    /// <exception cref="CannotWriteException">The file cannot be written, or the VM has something that cannot be saved.</exception>
    /// <exception cref="InvalidOperationException">The VM was not started, or has ended.</exception>
    public Task<long> SaveAsync(string path, bool live = false, bool compress = false) => Task.Run(() => Save(path, live, lasting: true, compress));

    /// <inheritdoc cref="SaveAsync"/>
    /// <param name="lasting">The file survives a loss of power.</param>
    /// <param name="ends">The VM is ended where it was saved.</param>
    internal long Save(string path, bool live, bool lasting, bool compress = false, bool ends = false, string? disk = null) =>
        Save(path, live, lasting, compress, ends, out _, disk);

    /// <param name="still">How long the VM stood still, in all and at a time.</param>
    /// <param name="disk">Where what the guest has written to its throwaway disk is kept; null: it has none.</param>
    internal long Save(string path, bool live, bool lasting, bool compress, bool ends, out StillTime still, string? disk = null)
    {
        lock (_saveLock)
        {
            RequireRunning();
            CompleteCheck();
            bool logs = live && !_paused && _vm.DirtyPages is not null;
            var time = still = new StillTime(this);
            try
            {
                using var writer = new SnapshotWriter(path);
                if (logs) WriteAhead(writer, time, FewPages, MostRounds);
                SnapshotContents? contents = null;
                time.Do(() =>
                {
                    RequireRunning();
                    // The state first: a reset that was under way is done with it, and writes memory.
                    IReadOnlyList<SavedState> parts = _vm.SaveParts();
                    if (logs) writer.Update(_vm.Memory, _vm.TakeDirtyPages());
                    else writer.Write(_vm.Memory);
                    if (_disks.Flush() is { } lost) throw lost;
                    if (disk is not null) _disks.CopyFirst(disk);
                    contents = Describe(parts, keepsDisk: disk is not null);
                    if (ends) Stop(); // nothing of what it does from here on is in the file
                });
                writer.Complete(contents!, _vm.Memory.Size, lasting, compress);
                return writer.Length;
            }
            catch (CannotSaveException e)
            {
                throw new CannotWriteException($"snapshot {path}", e.Message, e);
            }
            finally
            {
                if (logs) WhileStill(() => _vm.DirtyPages!.Enable(false));
            }
        }
    }

    /// <summary>Does what has to be done while the VM stands still, and counts how long that was.</summary>
    internal sealed class StillTime(Vm vm)
    {
        /// <summary>In all.</summary>
        public TimeSpan Sum { get; private set; }

        /// <summary>At a time.</summary>
        public TimeSpan Longest { get; private set; }

        public void Do(Action action)
        {
            long start = Stopwatch.GetTimestamp();
            vm.WhileStill(action);
            TimeSpan time = Stopwatch.GetElapsedTime(start);
            Sum += time;
            if (time > Longest) Longest = time;
        }
    }

    private void RequireRunning()
    {
        if (!_started || Ended) throw new InvalidOperationException(Ended ? "the VM has ended" : "the VM was not started");
    }

    private SnapshotContents Describe(IReadOnlyList<SavedState> parts, bool keepsDisk)
    {
        foreach (VmDisk disk in _options.Disks)
        {
            if (disk.Throwaway && !keepsDisk)
                throw new CannotSaveException($"disk {disk.Image.Path}", "what the guest wrote to it is in no file; without 'snapshot=on' it would be");
        }
        MachineDescription machine = _description ?? throw new CannotSaveException("the VM", "it has parts of the program that made it");
        // Nothing of who has booted a guest that is kept goes on to others.
        if (_machine.WaitsForCommand) machine = machine with { Environment = [], WorkingFolder = null, User = null };
        FileMark[] disks = [.. _options.Disks.Select(d => d.Image.Path).Concat(_options.CompactDiscs).Select(FileMark.Of)];
        return new SnapshotContents(parts, machine, disks, !_machine.WaitsForCommand ? null
            : new WaitingGuest(_vm.Clock.CounterFrequency, _image.Append, _image.Linux!.Token));
    }

    /// <summary>The machine that takes a snapshot's state.</summary>
    private static VmBuilder Fit(VmBuilder builder, SnapshotFile snapshot)
    {
        VmBuilder fit = snapshot.Machine.ApplyTo(builder);
        if (builder.Vnc is not null && !fit.HasDisplay)
            throw new CannotStartException($"snapshot {snapshot.Path}: its VM has no screen for {builder.Words.Option(nameof(VmOptions.Vnc))}");
        if (snapshot.Manifest.Fork is null) fit = fit with { Shares = SharesFor(builder, snapshot) };
        if (builder.Vsock is not null)
        {
            if (fit.Vsock is null)
                throw new CannotStartException($"snapshot {snapshot.Path}: its guest has no {builder.Words.Option(nameof(VmOptions.Vsock))}, which is given");
            fit = fit with { Vsock = builder.Vsock with { Cid = builder.Vsock.Cid ?? fit.Vsock.Cid } };
        }
        if (snapshot.Manifest.Waits is not null && snapshot.Machine.Console == GuestConsole.Shell && builder.Command is not null)
            throw new CannotStartException($"snapshot {snapshot.Path}: its guest goes on to a shell, and takes no command");
        return snapshot.Manifest.Waits is null ? fit : fit with
        {
            Command = builder.Command ?? fit.Command,
            Terminal = builder.Terminal,
            Environment = builder.Environment,
            WorkingFolder = builder.WorkingFolder,
            User = builder.User,
        };
    }

    /// <summary>The folders that the user names, with the tags that the guest knows: a file from anywhere opens none by itself.</summary>
    /// <exception cref="CannotStartException">They are not as many as the guest has.</exception>
    private static IReadOnlyList<VmShare> SharesFor(VmBuilder builder, SnapshotFile snapshot)
    {
        IReadOnlyList<VmShare> saved = snapshot.Machine.Shares;
        if (builder.Shares.Count != saved.Count)
        {
            string had = saved.Count == 0 ? "no shared folder" : $"{saved.Count} shared folder{(saved.Count == 1 ? "" : "s")} ({saved[0].Folder}"
                + $"{(saved.Count == 1 ? "" : ", …")}): name as many with {builder.Words.Option(nameof(VmOptions.Shares))}";
            throw new CannotStartException($"snapshot {snapshot.Path}: its guest has {had}");
        }
        return [.. saved.Select((s, n) => builder.Shares[n] with { Kind = s.Kind, Tag = s.TagOf(n), At = builder.Shares[n].At ?? s.At })];
    }

    /// <summary>A guest that is there already.</summary>
    private static GuestImage ImageOf(SnapshotFile snapshot, VmBuilder builder, bool separateErrors, CancellationToken cancel)
    {
        if (snapshot.Manifest.Waits is not { } waits)
            return snapshot.Machine.ToImage(() => GuestImage.Prepare(builder, builder.Words, null, cancel, separateErrors));
        var linux = new LinuxGuest(default, builder.Guest, default, waits.CommandLine,
            builder.Command is null ? GuestConsole.Shell : builder.Terminal is null ? GuestConsole.CommandOnPorts : GuestConsole.CommandOnTerminal, waits.Token)
        { Waits = true, FollowsSize = snapshot.Machine.FollowsSize, LoadsModules = snapshot.Machine.LoadsModules };
        return new GuestImage(default, builder.Guest, [], waits.CommandLine, linux) { Again = () => Rebooted(builder, separateErrors) };
    }

    /// <summary>What a guest boots that was kept, or is, and resets the machine: nobody hands it anything then.</summary>
    private static GuestImage Rebooted(VmBuilder builder, bool separateErrors) =>
        GuestImage.Prepare(builder with { KeepBooted = false }, builder.Words, null, separateErrors: separateErrors);

    /// <summary>Saves the VM before it ends from outside, and lets it end.</summary>
    private void SaveAndStop(string path)
    {
        try
        {
            _console.Release(); // a guest whose output nobody reads could not be paused
            Save(path, live: false, lasting: true, _compressesSaves, ends: true);
            SavedTo = path;
        }
        catch (InvalidOperationException) when (Ended)
        {
            // The guest came to its own end before.
        }
        catch (Exception e) // on a thread of the pool: nobody else would tell
        {
            SessionException failure = e as SessionException ?? new CannotWriteException($"snapshot {path}", e.Message.ReplaceLineEndings(" "), e);
            Interlocked.CompareExchange(ref _failure, failure, null);
        }
        finally
        {
            Stop();
        }
    }

    /// <summary>The snapshot that was made when the VM was ended (<see cref="VmBuilder.SaveTo"/>); null: none was.</summary>
    public string? SavedTo { get; private set; }

    /// <summary>Where the monitor saves when it is told no other place.</summary>
    internal string? DefaultSnapshot => _saveTo;

    /// <summary>Writes the memory while the guest runs, and what has changed meanwhile, until that is little. The log of pages is on afterwards.</summary>
    /// <param name="few">Pages that are little.</param>
    private void WriteAhead(SnapshotWriter writer, StillTime time, int few, int mostRounds)
    {
        _vm.PrepareSave(time.Do);
        time.Do(() => _vm.DirtyPages!.Enable(true));
        writer.Write(_vm.Memory);
        for (int round = 0; round < mostRounds; round++)
        {
            IReadOnlyList<ulong> dirty = _vm.TakeDirtyPages();
            writer.Update(_vm.Memory, dirty);
            if (dirty.Count <= few) return;
        }
    }
}
