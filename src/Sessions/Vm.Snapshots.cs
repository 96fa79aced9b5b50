using Bunraku.Hypervisor;
using Bunraku.Machine;
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
    private bool _waitsRestored; // restored, and did not go on yet; guarded by the pause lock

    /// <summary>The snapshot to go on from, and where the guest is to be kept that has to be booted.</summary>
    private static (SnapshotFile? Snapshot, string? KeepAt) FindSnapshot(VmBuilder builder, CancellationToken cancel)
    {
        if (builder.RestoreFrom is { } path)
        {
            SnapshotFile file = SnapshotFile.Open(path);
            try
            {
                file.Verify();
                return (file, null);
            }
            catch
            {
                file.Dispose();
                throw;
            }
        }
        if (!KeptGuests.Fit(builder) || builder.Parts.Count > 0) return (null, null);
        GuestFiles files;
        try
        {
            files = GuestFiles.Find(builder, builder.Words, builder.Progress, cancel);
        }
        catch (BootException e)
        {
            throw new CannotStartException(e.Message, e);
        }
        if (!files.HavePorts) return (null, null);
        IX86Engine engine = ChooseEngine(builder.Engine, builder.Engines, builder.Words);
        string kept = KeptGuests.PathOf(builder, files, CpuModels.Parse(builder.Cpu, builder.Nested), engine.UsesHostPaging ? engine.Name : "software");
        if (!File.Exists(kept)) return (null, kept);
        KeptGuests.Use(kept);
        try
        {
            SnapshotFile file = SnapshotFile.Open(kept);
            if (file.Manifest.Waits is not null) return (file, null);
            file.Dispose();
            throw new CannotStartException($"snapshot {kept}: its guest does not wait for a command");
        }
        catch (CannotStartException e)
        {
            throw new KeptGuestException(kept, e);
        }
    }

    private void Restore(SnapshotFile snapshot)
    {
        try
        {
            _vm.Pause();
            _vm.Restore(snapshot.Parts, snapshot);
            _waitsRestored = true;
        }
        catch (StateFormatException e) when (_kept)
        {
            throw new KeptGuestException(snapshot.Path, e);
        }
        catch (StateFormatException e)
        {
            throw new CannotStartException($"snapshot {snapshot.Path}: {e.Message}", e);
        }
    }

    /// <summary>The guest has booted and waits for its command: it is kept where it is to be, and gets the command in any case.</summary>
    private void KeepAndHandOver()
    {
        try
        {
            if (_keepAt is null) return;
            AwaitIdle();
            Directory.CreateDirectory(Path.GetDirectoryName(_keepAt)!);
            long length = Save(_keepAt, live: false, lasting: false);
            KeptGuests.Trim(_keepAt);
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

    private void HandOver(bool isCopy) => _machine.HandOver(LinuxGuest.Handover(GuestImage.Describe(_options, _separateErrors), isCopy));

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

    /// <summary>The vCPUs' threads are there: a restored guest learns that it may be a copy, and goes on.</summary>
    private void LetRestoredRun()
    {
        lock (_pauseLock)
        {
            if (!_waitsRestored) return;
            _waitsRestored = false;
            _machine.BecomeCopy();
            if (_machine.WaitsForCommand) HandOver(isCopy: true);
            if (!_paused) _vm.Resume();
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
    /// <returns>The file's length in bytes.</returns>
    /// <exception cref="CannotWriteException">The file cannot be written, or the VM has something that cannot be saved.</exception>
    /// <exception cref="InvalidOperationException">The VM was not started, or has ended.</exception>
    public Task<long> SaveAsync(string path, bool live = false) => Task.Run(() => Save(path, live, lasting: true));

    /// <inheritdoc cref="SaveAsync"/>
    /// <param name="lasting">The file survives a loss of power.</param>
    internal long Save(string path, bool live, bool lasting)
    {
        lock (_saveLock)
        {
            if (!_started || Ended) throw new InvalidOperationException(Ended ? "the VM has ended" : "the VM was not started");
            try
            {
                using var writer = new SnapshotWriter(path);
                bool logs = live && !_paused && _vm.DirtyPages is not null;
                if (logs) WriteAhead(writer, _vm.DirtyPages!);
                SnapshotContents contents = WhileStopped(() =>
                {
                    IReadOnlyList<SavedState> saved = _vm.Save(memory =>
                    {
                        if (logs) writer.Update(memory, TakeDirty(_vm.DirtyPages!));
                        else writer.Write(memory);
                    });
                    if (logs) _vm.DirtyPages!.Enable(false);
                    if (_disks.Flush() is { } lost) throw lost;
                    return Describe(saved);
                });
                writer.Complete(contents, _vm.Memory.Size, lasting);
                return writer.Length;
            }
            catch (CannotSaveException e)
            {
                throw new CannotWriteException($"snapshot {path}", e.Message, e);
            }
        }
    }

    private SnapshotContents Describe(IReadOnlyList<SavedState> parts)
    {
        foreach (VmDisk disk in _options.Disks)
        {
            if (disk.Throwaway)
                throw new CannotSaveException($"disk {disk.Image.Path}", "what the guest wrote to it is in no file; without 'snapshot=on' it would be");
        }
        MachineDescription machine = _description ?? throw new CannotSaveException("the VM", "it has parts of the program that made it");
        FileMark[] disks = [.. _options.Disks.Select(d => d.Image.Path).Concat(_options.CompactDiscs).Select(FileMark.Of)];
        return new SnapshotContents(parts, machine, disks, !_machine.WaitsForCommand ? null
            : new WaitingGuest(_vm.Clock.CounterFrequency, _image.Append, _image.Linux!.Token));
    }

    /// <summary>The machine that takes a snapshot's state.</summary>
    private static VmBuilder Fit(VmBuilder builder, SnapshotFile snapshot)
    {
        if (builder.RestoreFrom is null) return builder with { TscFrequency = snapshot.Manifest.Waits!.TscFrequency };
        VmBuilder fit = snapshot.Machine().ApplyTo(builder);
        return snapshot.Manifest.Waits is null ? fit : fit with { Command = builder.Command ?? fit.Command, Terminal = builder.Terminal };
    }

    /// <summary>A guest that is there already.</summary>
    private static GuestImage ImageOf(SnapshotFile snapshot, VmBuilder builder, bool separateErrors, CancellationToken cancel)
    {
        if (snapshot.Manifest.Waits is not { } waits)
            return snapshot.Machine().ToImage(() => GuestImage.Prepare(builder, builder.Words, null, cancel, separateErrors));
        var linux = new LinuxGuest(default, builder.Guest, default, waits.CommandLine,
            builder.Terminal is null ? GuestConsole.CommandOnPorts : GuestConsole.CommandOnTerminal, waits.Token)
        { Waits = true };
        return new GuestImage(default, builder.Guest, [], waits.CommandLine, linux)
        {
            Again = () => throw new InvalidOperationException("a guest with a command is not booted again"),
        };
    }

    /// <summary>Saves the VM before it ends from outside, and lets it end.</summary>
    private void SaveAndStop(string path)
    {
        try
        {
            _console.Release(); // a guest whose output nobody reads could not be paused
            Save(path, live: false, lasting: true);
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

    /// <summary>Writes the memory while the guest runs, and what has changed meanwhile, until that is little.</summary>
    private void WriteAhead(SnapshotWriter writer, IDirtyPageLog log)
    {
        WhileStopped(() =>
        {
            log.Enable(true);
            return true;
        });
        writer.Write(_vm.Memory);
        for (int round = 0; round < MostRounds; round++)
        {
            List<ulong> dirty = TakeDirty(log);
            writer.Update(_vm.Memory, dirty);
            if (dirty.Count <= FewPages) return;
        }
    }

    /// <summary>Pages of the backing memory that were written to, ascending.</summary>
    private List<ulong> TakeDirty(IDirtyPageLog log)
    {
        var pages = new List<ulong>();
        IReadOnlyList<MemoryRegion> regions = _vm.Memory.Regions;
        for (int n = 0; n < regions.Count; n++)
        {
            ulong[] bits = log.Take(n);
            for (int word = 0; word < bits.Length; word++)
            {
                for (ulong left = bits[word]; left != 0; left &= left - 1)
                    pages.Add((regions[n].Offset >> GuestMemory.PageShift) + (ulong)word * 64 + (ulong)System.Numerics.BitOperations.TrailingZeroCount(left));
            }
        }
        // Memory that shows at several addresses is in several regions.
        return [.. pages.Order().Distinct()];
    }

    /// <summary>Does something while virtual time and everything else of the VM stands still.</summary>
    private T WhileStopped<T>(Func<T> action)
    {
        lock (_pauseLock)
        {
            if (Ended) throw new InvalidOperationException("the VM has ended");
            bool hold = !_paused;
            if (hold) _vm.Pause();
            try
            {
                return action();
            }
            finally
            {
                if (hold) _vm.Resume();
            }
        }
    }
}
