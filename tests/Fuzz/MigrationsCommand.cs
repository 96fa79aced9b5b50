using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;
using Bunraku.Cli.Tests;
using Bunraku.Engines;
using Bunraku.Sessions;
using Bunraku.Sessions.Migration;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fuzz;

/// <summary>
/// What a VM's sender says, altered at random, for the receiver: messages that are altered, cut, doubled, left out or exchanged, values of the description and
/// of the state, page numbers. Each ends with a VM that has been taken from its sender, or with a message of one line and a sender that has its VM.
/// </summary>
internal static class MigrationsCommand
{
    private const string Usage = "usage: fuzz-migrations [--count STREAMS] [--seed N] [--run EVERY]";
    private const int HeaderLength = 8, TokenAt = 12, TokenLength = 32;

    /// <summary>Of a sender that says nothing more there is no end: it counts as gone.</summary>
    private sealed class Replay(byte[] bytes) : MemoryStream(bytes, writable: false)
    {
        public override bool CanWrite => true;
        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default) => ValueTask.CompletedTask;
        public override void Flush() { }
    }

    /// <summary>Keeps what is written, and reads from elsewhere.</summary>
    private sealed class Recorder(Stream inner) : MemoryStream
    {
        public override int Read(byte[] buffer, int offset, int count) => inner.Read(buffer, offset, count);
        public override ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default) =>
            inner.ReadAsync(buffer, cancellationToken);

        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            Write(buffer.Span);
            return inner.WriteAsync(buffer, cancellationToken);
        }

        protected override void Dispose(bool disposing)
        {
            inner.Dispose();
            base.Dispose(disposing);
        }
    }

    public static int Run(string[] args)
    {
        long runs = 16;
        if (Options.Read("fuzz-migrations", Usage, args, 100_000, (name, value) => name == "--run" && (runs = Options.Count(value)) > 0)
            is not var (count, seed)) return 2;
        string folder = Directory.CreateTempSubdirectory("bunraku-fuzz-migrations-").FullName;
        try
        {
            List<byte[]>[] good = [.. Builders(folder).Select(Record)];
            Console.WriteLine($"{count:N0} streams like {string.Join(" and ", good.Select(g => $"{g.Count} messages of {g.Sum(m => m.Length):N0} bytes"))}, "
                + $"each {runs:N0}th VM runs for a moment, seed {seed}");
            long refused = 0, taken = 0, ran = 0;
            var rounds = new ParallelRounds(count, ("streams", 1), shown: 1_000);
            bool right = rounds.Run(worker => worker, (_, n) =>
            {
                var random = new Random(unchecked((int)seed * 31 + (int)n));
                MigrationClaim claim = MigrationClaim.Create();
                byte[] stream = Alter(good[random.Next(good.Length)], claim.Token, random);
                try
                {
                    using Vm vm = Vm.ReceiveAsync(new Replay(stream), new VmBuilder(KnownEngines.All) { Engine = "interp" }).GetAwaiter().GetResult();
                    if (claim.Exists) throw new InvalidOperationException("a VM was made that its sender has, too");
                    if (Interlocked.Increment(ref taken) % runs != 0) return null;
                    vm.Start();
                    Thread.Sleep(1);
                    Interlocked.Increment(ref ran);
                }
                catch (MigrationException e) when (!e.Message.Contains('\n') && claim.TryTake())
                {
                    Interlocked.Increment(ref refused);
                }
                catch (Exception e)
                {
                    string kept = Path.Combine(Path.GetTempPath(), $"altered-{seed}-{n}.stream");
                    File.WriteAllBytes(kept, stream);
                    string whose = claim.TryTake() ? "its" : "no";
                    return $"stream {n}, which is kept as {kept}; the sender has {whose} VM: {e}";
                }
                return null;
            });
            if (!right) return 1;
            Console.WriteLine($"{count:N0} streams without trouble, {rounds.Elapsed}; {refused:N0} were refused, "
                + $"{taken:N0} taken, {ran:N0} VMs ran, {Process.GetCurrentProcess().PeakWorkingSet64 >> 20:N0} MiB at most");
            return 0;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>One with as little as can be, and one with all that travels: processors, a disk, a screen, a command's streams.</summary>
    private static IEnumerable<VmBuilder> Builders(string folder)
    {
        string kernel = Path.Combine(folder, "kernel"), disk = Path.Combine(folder, "disk");
        File.WriteAllBytes(kernel, TestKernel.Assemble(a =>
        {
            Label again = a.CreateLabel();
            a.Label(ref again);
            a.inc(__dword_ptr[0x11_0000]);
            a.jmp(again);
        }));
        File.WriteAllBytes(disk, new byte[1 << 20]);
        var least = new VmBuilder(KnownEngines.All) { Engine = "interp", Kernel = kernel, Memory = 2 << 20 };
        yield return least;
        yield return least with
        {
            Cpus = 2,
            Memory = 4 << 20,
            Nested = NestedVirtualization.Svm,
            Balloon = new VmBalloon(),
            Rng = true,
            Disks = [new VmDisk(new Storage.DiskOptions(disk) { Format = Storage.ImageFormat.Raw })],
        };
    }

    /// <summary>The messages of a move, with their headers.</summary>
    private static List<byte[]> Record(VmBuilder builder)
    {
        string path = Path.Combine(Path.GetDirectoryName(builder.Kernel)!, "place");
        MigrationAddress address = MigrationAddress.Parse("unix:" + path);
        Task<Vm> receiving = Task.Run(() => Vm.ReceiveAsync(address.Accept(CancellationToken.None), new VmBuilder(KnownEngines.All) { Engine = "interp" }));
        using Vm vm = builder.Build();
        vm.Start();
        Thread.Sleep(50);
        while (!File.Exists(path)) Thread.Sleep(1);
        using var stream = new Recorder(address.ConnectAsync(CancellationToken.None).GetAwaiter().GetResult());
        vm.MigrateAsync(stream, new MigrationOptions { MostRounds = 2 }).GetAwaiter().GetResult();
        receiving.GetAwaiter().GetResult().Dispose();
        byte[] all = stream.ToArray();
        List<byte[]> messages = [];
        for (int at = 0, length; at < all.Length; at += length)
        {
            length = HeaderLength + BinaryPrimitives.ReadInt32LittleEndian(all.AsSpan(at + 4));
            messages.Add(all[at..(at + length)]);
        }
        return messages;
    }

    private static byte[] Alter(List<byte[]> good, string token, Random random)
    {
        List<byte[]> messages = [.. good];
        for (int k = random.Next(1, 4); k > 0 && messages.Count > 0; k--)
        {
            // The first one is the description, the last but one the state: what has values.
            int n = random.Next(4) switch { 0 => 0, 1 => Math.Max(0, messages.Count - 2), _ => random.Next(messages.Count) };
            switch (random.Next(12))
            {
                case 0: messages.RemoveAt(n); break;
                case 1: messages.Insert(random.Next(messages.Count + 1), messages[n]); break;
                case 2:
                    int other = random.Next(messages.Count);
                    (messages[n], messages[other]) = (messages[other], messages[n]);
                    break;
                case 3: messages[n] = messages[n][..random.Next(messages[n].Length)]; break; // what follows is not where it was
                case 4: // of another length, which fits
                    byte[] body = messages[n][HeaderLength..];
                    messages[n] = Message(messages[n], random.Next(2) == 0 ? body[..random.Next(body.Length + 1)] : [.. body, .. new byte[random.Next(1, 9)]]);
                    break;
                case 5: // a header, or the number of a page
                    messages[n] = [.. messages[n]];
                    for (int j = random.Next(3); j >= 0; j--) messages[n][random.Next(Math.Min(24, messages[n].Length))] = (byte)random.Next(256);
                    break;
                default:
                    messages[n] = Message(messages[n], Inside(messages[n], random));
                    break;
            }
            if (messages.Count > 0 && messages.Exists(m => m.Length < HeaderLength)) break; // nothing is known of what is in it
        }
        byte[] stream = [.. messages.SelectMany(m => m)];
        if (stream.Length >= HeaderLength + TokenAt + TokenLength) Encoding.ASCII.GetBytes(token).CopyTo(stream, HeaderLength + TokenAt);
        return random.Next(16) == 0 ? stream[..random.Next(stream.Length + 1)] : stream;
    }

    private static byte[] Message(byte[] old, byte[] body) => [.. old[..4], .. BitConverter.GetBytes(body.Length), .. body];

    /// <summary>Other contents: values of the description, of the state and of what its parts have, and else bytes.</summary>
    private static byte[] Inside(byte[] message, Random random)
    {
        byte[] body = message[HeaderLength..];
        switch ((MigrationMessage)BinaryPrimitives.ReadUInt32LittleEndian(message))
        {
            case MigrationMessage.Hello when body.Length > TokenAt + TokenLength:
                return [.. body[..(TokenAt + TokenLength)], .. Alterations.OfRecord(body[(TokenAt + TokenLength)..], random)];
            case MigrationMessage.State when random.Next(4) != 0 && TryReadState(body) is { } state:
                List<SavedState> parts = [.. state.Parts];
                if (parts.Count == 0) return body;
                int n = random.Next(parts.Count);
                SavedState part = parts[n];
                switch (random.Next(8))
                {
                    case 0: parts.RemoveAt(n); break;
                    case 1: parts.Insert(n, part); break;
                    case 2: parts[n] = part with { Data = parts[random.Next(parts.Count)].Data }; break;
                    default: parts[n] = part with { Data = Alterations.OfRecord(part.Data.ToArray(), random) }; break;
                }
                return MigrationState.Write(state.PausedAt, parts);
            case MigrationMessage.State:
                return Alterations.OfRecord(body, random);
            case MigrationMessage.Pages or MigrationMessage.Zeros when body.Length >= 2 * sizeof(ulong):
                long[] limits = [0, 1, 511, 512, 513, 1024, -1, long.MaxValue, long.MinValue, 1L << 52, int.MaxValue];
                BitConverter.TryWriteBytes(body.AsSpan(8 * random.Next(2)), limits[random.Next(limits.Length)]);
                return body;
            default:
                if (body.Length > 0) body[random.Next(body.Length)] = (byte)random.Next(256);
                return body;
        }
    }

    private static (DateTime PausedAt, IReadOnlyList<SavedState> Parts)? TryReadState(byte[] body)
    {
        try
        {
            return MigrationState.Read(body);
        }
        catch (StateFormatException)
        {
            return null; // it was altered before
        }
    }
}
