using System.Buffers.Binary;
using Bunraku.Engines;

namespace Bunraku.Sessions.Migration;

/// <summary>The end of a migration where the guest comes. One thread, once. Nothing that comes by the stream is trusted.</summary>
internal sealed class MigrationReceiver(MigrationChannel channel, VmBuilder builder, CancellationToken cancel)
{
    private const int PageSize = MigrationChannel.PageSize;
    /// <summary>How often all of the memory may come: who sends more never comes to an end.</summary>
    private const ulong MostTimes = 256;

    private readonly byte[] _zeros = new byte[PageSize];

    /// <exception cref="MigrationException">No guest came; it is not here.</exception>
    public Vm Run()
    {
        Vm? vm = null;
        RelayedConsole? relayed = null;
        bool keepsStream = false;
        try
        {
            (MigrationClaim claim, MachineDescription description) = MigrationHello.Read(channel.Receive(MigrationMessage.Hello).Span);
            if (!claim.Exists)
                throw new MigrationException($"the two ends do not see the same folder for temporary files ({Path.GetTempPath()}), by which one VM stays one");
            if (description.Shares.Count > 0) throw new MigrationException("a VM with shared folders cannot be moved"); // and nobody else opens them here
            if (builder.Vnc is not null && !description.HasDisplay)
                throw new MigrationException(
                    $"the VM did not come, and goes on where it was: it has no screen for {builder.Words.Option(nameof(VmOptions.Vnc))}");
            VmBuilder here = description.ApplyTo(builder) with { Incoming = description };
            // Its streams are those of the process that was started with it.
            if (description.Command is not null) here = here with { Console = relayed = new RelayedConsole(), Input = null, Output = null, Errors = null };
            vm = here.Build(cancel);
            vm.HoldForMove();
            channel.Send(MigrationMessage.Ready);
            (DateTime pausedAt, IReadOnlyList<SavedState> parts) = TakePages(vm.Machine.Memory);
            vm.TakeOver(parts);
            channel.Send(MigrationMessage.Prepared);
            channel.Receive(MigrationMessage.Commit);
            if (!claim.TryTake()) throw new MigrationException("the VM did not come: the other end goes on with it");
            channel.Complete();
            vm.Own(pausedAt);
            Vm owned = vm;
            vm = null; // whatever happens from here on
            TrySend(MigrationMessage.Running);
            relayed?.Connect(channel.Stream);
            keepsStream = relayed is not null;
            return owned;
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            // What a state that nobody has checked does to a device may be anything; the machine is thrown away.
            vm?.Dispose();
            vm = null;
            string reason = e.Message.ReplaceLineEndings(" ");
            if (e is not IOException || e is Storage.DiskException) TrySend(MigrationMessage.Failed, MigrationChannel.Reason(reason));
            throw e is MigrationException ? e : new MigrationException($"the VM did not come, and goes on where it was: {reason}", e);
        }
        finally
        {
            vm?.Dispose();
            if (!keepsStream)
            {
                relayed?.Dispose(); // of a VM that was never made
                channel.Stream.Dispose();
            }
        }
    }

    private void TrySend(MigrationMessage kind, byte[]? body = null)
    {
        try
        {
            channel.Send(kind, body);
        }
        catch (Exception e) when (e is IOException or OperationCanceledException)
        {
            // The other end is gone, or finds out by the claim.
        }
    }

    private (DateTime PausedAt, IReadOnlyList<SavedState> Parts) TakePages(GuestMemory memory)
    {
        ulong pages = memory.Size / PageSize, allowed = pages * MostTimes;
        for (; ; )
        {
            (MigrationMessage kind, ReadOnlyMemory<byte> body) = channel.Receive();
            if (kind == MigrationMessage.State) return MigrationState.Read(body.Span);
            if (kind is not (MigrationMessage.Pages or MigrationMessage.Zeros))
                throw new StateFormatException($"a message of the kind {kind} came among the pages");
            ReadOnlySpan<byte> bytes = body.Span;
            if (bytes.Length < sizeof(ulong)) throw new StateFormatException("a message with pages is too short");
            ulong first = BinaryPrimitives.ReadUInt64LittleEndian(bytes), count;
            bytes = bytes[sizeof(ulong)..];
            if (kind == MigrationMessage.Zeros) count = bytes.Length == sizeof(ulong) ? BinaryPrimitives.ReadUInt64LittleEndian(bytes) : 0;
            else count = bytes.Length % PageSize == 0 ? (ulong)(bytes.Length / PageSize) : 0;
            if (count == 0 || first >= pages || count > pages - first)
                throw new StateFormatException($"{count} pages from page {first} on are not in the memory");
            if (count > allowed) throw new StateFormatException("the pages come again and again");
            allowed -= count;
            for (ulong n = 0; n < count; n++)
            {
                memory.WriteBacking((first + n) * PageSize, kind == MigrationMessage.Zeros ? _zeros : bytes.Slice((int)n * PageSize, PageSize));
            }
        }
    }
}
