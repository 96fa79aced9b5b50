using System.Buffers.Binary;
using System.Diagnostics;
using Bunraku.Engines;

namespace Bunraku.Sessions.Migration;

/// <summary>The end of a migration where the guest runs. One thread, once.</summary>
internal sealed class MigrationSender(Vm vm, MigrationChannel channel, MigrationOptions options)
{
    private const int PageSize = MigrationChannel.PageSize;

    private readonly GuestMemory _memory = vm.Machine.Memory;
    private readonly byte[] _run = new byte[MigrationChannel.MostPages * PageSize];
    private ulong _runFirst; // number of the first page of the run
    private int _runPages;
    private long _pages, _lastPages;
    private TimeSpan _pause, _preparation;

    /// <exception cref="MigrationException">The VM goes on here.</exception>
    public MigrationResult Run()
    {
        long start = Stopwatch.GetTimestamp();
        MachineDescription description = vm.DescribeForMove();
        MigrationClaim? claim = null;
        int rounds;
        try
        {
            claim = MigrationClaim.Create();
            channel.Send(MigrationMessage.Hello, MigrationHello.Write(claim, description));
            channel.Receive(MigrationMessage.Ready);
            vm.Machine.PrepareSave(Held);
            Held(() => vm.Machine.DirtyPages!.Enable(true));
            try
            {
                rounds = SendWhileItRuns();
                vm.WhileMoved(() => SendRest(claim), channel.Stream);
            }
            finally
            {
                if (!vm.Ended) vm.WhileStill(() => vm.Machine.DirtyPages!.Enable(false));
            }
        }
        catch (Exception e) when (e is IOException or StateFormatException or CannotSaveException or InvalidOperationException or UnauthorizedAccessException)
        {
            throw new MigrationException($"the VM was not moved and goes on: {e.Message.ReplaceLineEndings(" ")}", e);
        }
        finally
        {
            claim?.TryTake(); // nobody else is to take it any more; gone where the guest has gone
        }
        return new MigrationResult(_pause, _preparation, Stopwatch.GetElapsedTime(start), rounds, _pages, _lastPages);
    }

    private void Held(Action action) => vm.WhileStill(() =>
    {
        long start = Stopwatch.GetTimestamp();
        action();
        TimeSpan held = Stopwatch.GetElapsedTime(start);
        if (held > _preparation) _preparation = held;
    });

    /// <summary>Sends all pages, and then those that have changed meanwhile, until the rest is small.</summary>
    /// <returns>How many rounds there were.</returns>
    private int SendWhileItRuns()
    {
        long start = Stopwatch.GetTimestamp();
        foreach ((ulong offset, ulong length) in _memory.Backing.Allocated())
        {
            for (ulong page = offset / PageSize; page < (offset + length) / PageSize; page++) SendPage(page, isNew: true);
        }
        FlushRun();
        int round = 1;
        for (; round < options.MostRounds; round++)
        {
            if (vm.Ended) throw new MigrationException("the VM was not moved: it has ended");
            IReadOnlyList<ulong> written = vm.Machine.TakeDirtyPages();
            double rate = _pages / Math.Max(Stopwatch.GetElapsedTime(start).TotalSeconds, 1e-6);
            SendWritten(written);
            // What is written while these were sent is about as much as while those before were sent, or less.
            if (written.Count <= rate * options.PauseBound.TotalSeconds) break;
        }
        return round;
    }

    private void SendWritten(IReadOnlyList<ulong> pages)
    {
        foreach (ulong page in pages) SendPage(page, isNew: false);
        FlushRun();
    }

    /// <summary>Puts a page into the run, or sends that it is zero.</summary>
    /// <param name="isNew">The other end has zeros there.</param>
    private unsafe void SendPage(ulong page, bool isNew)
    {
        var bytes = new ReadOnlySpan<byte>(_memory.Backing.Pointer + page * PageSize, PageSize);
        if (_runPages > 0 && (page != _runFirst + (ulong)_runPages || _runPages == MigrationChannel.MostPages)) FlushRun();
        // Copied first: the guest may write at any moment, and then the page comes once more.
        Span<byte> copy = _run.AsSpan(_runPages * PageSize, PageSize);
        bytes.CopyTo(copy);
        if (!copy.ContainsAnyExcept((byte)0))
        {
            FlushRun();
            if (isNew) return;
            byte[] zeros = new byte[2 * sizeof(ulong)];
            BinaryPrimitives.WriteUInt64LittleEndian(zeros, page);
            BinaryPrimitives.WriteUInt64LittleEndian(zeros.AsSpan(sizeof(ulong)), 1);
            channel.Send(MigrationMessage.Zeros, zeros);
            return;
        }
        if (_runPages == 0) _runFirst = page;
        _runPages++;
        _pages++;
    }

    private void FlushRun()
    {
        if (_runPages == 0) return;
        byte[] first = new byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(first, _runFirst);
        channel.Send(MigrationMessage.Pages, first, _run.AsMemory(0, _runPages * PageSize));
        _runPages = 0;
    }

    /// <summary>The pause: the rest of the pages, the state, and who has the guest then.</summary>
    private bool SendRest(MigrationClaim claim)
    {
        long start = Stopwatch.GetTimestamp();
        DateTime pausedAt = DateTime.UtcNow;
        long before = _pages;
        bool committed = false;
        try
        {
            // The state first: a reset that was under way is done with it, and writes memory.
            IReadOnlyList<SavedState> parts = vm.Machine.SaveParts();
            SendWritten(vm.Machine.TakeDirtyPages());
            _lastPages = _pages - before;
            vm.Disks.Close();
            channel.Send(MigrationMessage.State, MigrationState.Write(pausedAt, parts));
            channel.Receive(MigrationMessage.Prepared);
            if (vm.Ended) throw new MigrationException("the VM was not moved: it has ended");
            channel.Complete();
            committed = true;
            channel.Send(MigrationMessage.Commit);
            channel.Receive(MigrationMessage.Running);
        }
        catch (Exception) when (committed && !claim.TryTake())
        {
            // The other end has taken the guest, and its answer was lost.
        }
        catch
        {
            Reopen();
            throw;
        }
        _pause = Stopwatch.GetElapsedTime(start);
        return true;
    }

    /// <summary>The guest goes on here, with its disks, which the other end may still be closing.</summary>
    private void Reopen()
    {
        try
        {
            vm.Disks.Open();
        }
        catch (IOException e)
        {
            var failure = new CannotStartException($"the VM was not moved, and cannot go on here: {e.Message}", e);
            vm.Fail(failure);
            throw failure;
        }
    }
}
