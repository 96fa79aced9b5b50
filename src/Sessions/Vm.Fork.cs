using Bunraku.Platform;
using Bunraku.Sessions.Snapshots;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Sessions;

// Copies of a VM that runs.
public sealed partial class Vm
{
    /// <summary>Pages that may change before the original stands still for the last time, and how often that is tried: 8 MiB take some ms.</summary>
    private const int FewPagesOfFork = 2048, MostRoundsOfFork = 12;

    /// <summary>
    /// Keeps the VM as it is now, for copies to begin from, and lets it go on. It stands still for some short moments; its memory is copied once, for all
    /// copies, and so are the disks that it can write to. Not before <see cref="Start"/>. Any thread but the VM's own.
    /// </summary>
    /// <exception cref="ForkException">It cannot be forked, and goes on.</exception>
    /// <exception cref="InvalidOperationException">It was not started, or has ended.</exception>
    public VmFork Fork()
    {
        lock (_saveLock)
        {
            RequireRunning();
            var disks = new List<DiskCopy>();
            SafeFileHandle? file = null;
            try
            {
                CompleteCheck();
                file = RoomForFork();
                return Fork(file, disks);
            }
            catch (Exception e)
            {
                file?.Dispose();
                foreach (DiskCopy disk in disks) disk.Dispose();
                if (e is CannotSaveException or IOException or UnauthorizedAccessException or CannotWriteException)
                    throw new ForkException($"the VM was not forked and goes on: {e.Message.ReplaceLineEndings(" ")}", e);
                throw;
            }
        }
    }

    /// <summary>The same on a thread of the pool.</summary>
    /// <inheritdoc cref="Fork()"/>
    public Task<VmFork> ForkAsync() => Task.Run(() => Fork());

    private VmFork Fork(SafeFileHandle file, List<DiskCopy> disks)
    {
        var time = new StillTime(this);
        MachineDescription machine = _description ?? throw new CannotSaveException("the VM", "it has parts of the program that made it");
        using var writer = new SnapshotWriter(file);
        bool logs = !_paused && _vm.DirtyPages is not null;
        try
        {
            if (logs) WriteAhead(writer, time, FewPagesOfFork, MostRoundsOfFork);
            SnapshotContents? contents = null;
            time.Do(() =>
            {
                RequireRunning();
                IReadOnlyList<SavedState> parts = _vm.SaveParts(); // first, as in a save
                if (logs) writer.Update(_vm.Memory, _vm.TakeDirtyPages());
                else writer.Write(_vm.Memory);
                if (_machine.WaitsForCommand) throw new CannotSaveException("the VM", "it has not been given its command yet; try again");
                machine = machine with { Disks = _disks.BeginCopies(machine.Disks, disks), Networks = _networks.OfCopy(_options.Networks) };
                contents = new SnapshotContents(parts, machine, MarksOfCopy(machine), null) { Fork = new ForkOrigin(DateTime.UtcNow) };
            });
            writer.Complete(contents!, _vm.Memory.Size);
        }
        finally
        {
            if (logs) time.Do(() => _vm.DirtyPages!.Enable(false));
        }
        foreach (DiskCopy disk in disks) disk.Complete();
        return new VmFork(file, disks) { StoodStill = time.Sum, LongestStop = time.Longest, Bytes = writer.Length };
    }

    /// <summary>What nobody writes to any more needs no mark.</summary>
    private static FileMark[] MarksOfCopy(MachineDescription machine) => [.. machine.Disks.Select(d => d.Throwaway ? FileMark.None : FileMark.Of(d.Image.Path)),
        .. machine.CompactDiscs.Select(FileMark.Of)];

    /// <summary>In memory where the host has plenty, which is fast and takes no disk's time; else in a file, which the host can put out of memory.</summary>
    private SafeFileHandle RoomForFork()
    {
        ulong bytes = _vm.Memory.Backing.Allocated().Aggregate(0ul, (sum, r) => sum + r.Length);
        return bytes < HostProcess.AvailableMemory / 2 ? HostFile.CreateInMemory("guest-fork") : HostFile.CreateNameless();
    }
}
