using System.Diagnostics;
using System.IO.Hashing;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Bunraku.Engines;
using Bunraku.Sessions;
using Bunraku.Sessions.Snapshots;

namespace Bunraku.Fuzz;

/// <summary>
/// Snapshots, plain and packed, that were altered at random, mostly with a digest that fits; values of the manifest, records and the memory, too, with all
/// checksums as they should be. The reader takes or refuses each by a message of one line, and now and then a VM is made of one.
/// </summary>
internal static class SnapshotsCommand
{
    private const string Usage = "usage: fuzz-snapshots [--count FILES] [--seed N] [--whole EVERY]";
    private const int MagicEnd = 8, StateAt = 16, ManifestAt = 24, EndAt = 32, DigestAt = 40, HeaderLength = 72;

    public static int Run(string[] args)
    {
        long whole = 100;
        if (Options.Read("fuzz-snapshots", Usage, args, 1_000_000, (name, value) => name == "--whole" && (whole = Options.Count(value)) > 0)
            is not var (count, seed)) return 2;
        string folder = Directory.CreateTempSubdirectory("bunraku-fuzz-snapshots-").FullName;
        try
        {
            byte[][] good = [Save(Path.Combine(folder, "plain"), packs: false), Save(Path.Combine(folder, "packed"), packs: true)];
            Console.WriteLine($"{count:N0} files of {good[0].Length:N0} and {good[1].Length:N0} bytes, a VM made of each {whole:N0}th, seed {seed}");
            long refused = 0, made = 0;
            var rounds = new ParallelRounds(count, ("files", 1), shown: 50_000);
            bool right = rounds.Run(worker => (File: Path.Combine(folder, $"altered-{worker}"), Memory: new GuestMemory(16 << 20, shared: false)), (own, n) =>
            {
                var random = new Random(unchecked((int)seed * 31 + (int)n));
                byte[] before = good[random.Next(good.Length)];
                File.WriteAllBytes(own.File, random.Next(3) == 0 ? Rewrite(before, random) : Alter(before, random));
                try
                {
                    if (n % whole == 0)
                    {
                        using Vm vm = new VmBuilder(KnownEngines.All) { RestoreFrom = own.File, Engine = "interp" }.Build();
                        Interlocked.Increment(ref made);
                        return null;
                    }
                    using SnapshotFile snapshot = SnapshotFile.Open(own.File);
                    _ = snapshot.Machine;
                    snapshot.Verify();
                    snapshot.CopyTo(own.Memory);
                }
                catch (Exception e) when (e is SessionException or StateFormatException && !e.Message.Contains('\n'))
                {
                    Interlocked.Increment(ref refused);
                }
                catch (Exception e)
                {
                    string kept = Path.Combine(Path.GetTempPath(), $"altered-{seed}-{n}.snap");
                    File.Copy(own.File, kept, overwrite: true);
                    return $"file {n}, which is kept as {kept}: {e}";
                }
                return null;
            });
            if (!right) return 1;
            Console.WriteLine($"{count:N0} files without trouble, {rounds.Elapsed}; {refused:N0} were refused, {made:N0} VMs made");
            return 0;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static byte[] Save(string file, bool packs)
    {
        using Vm vm = new VmBuilder(KnownEngines.All) { Guest = "hello", Engine = "interp", Memory = 16 << 20 }.Build();
        vm.Start();
        Thread.Sleep(200); // it has printed, and waits for a line
        vm.SaveAsync(file, live: packs, compress: packs).GetAwaiter().GetResult();
        return File.ReadAllBytes(file);
    }

    private static byte[] Alter(byte[] good, Random random)
    {
        byte[] bytes = random.Next(16) == 0 ? good[..random.Next(good.Length)] : (byte[])good.Clone();
        if (bytes.Length < HeaderLength) return bytes;
        int state = (int)BitConverter.ToInt64(good, StateAt);
        for (int k = random.Next(1, 5); k > 0; k--)
        {
            int at = random.Next(8) switch
            {
                0 => random.Next(MagicEnd, DigestAt),
                1 => random.Next(bytes.Length),
                _ => random.Next(Math.Min(state, bytes.Length - 1), bytes.Length),
            };
            switch (random.Next(4))
            {
                case 0: bytes[at] ^= (byte)(1 << random.Next(8)); break;
                case 1: bytes[at] = (byte)random.Next(256); break;
                case 2: // another digit
                    while (at < bytes.Length - 1 && !char.IsAsciiDigit((char)bytes[at])) at++;
                    bytes[at] = (byte)('0' + random.Next(10));
                    break;
                default: // one more or less
                    int length = Math.Min(random.Next(1, 12), bytes.Length - at);
                    bytes.AsSpan(at, length).CopyTo(bytes.AsSpan(Math.Max(0, at - random.Next(1, 12))));
                    break;
            }
        }
        if (random.Next(8) == 0) return bytes;
        BitConverter.TryWriteBytes(bytes.AsSpan(EndAt), (long)bytes.Length);
        int start = (int)Math.Clamp(BitConverter.ToInt64(bytes, StateAt), 0, bytes.Length);
        SHA256.HashData(bytes.AsSpan(start), bytes.AsSpan(DigestAt));
        return bytes;
    }

    /// <summary>Another value in the manifest, another record or other memory, in a file that is whole: none of the checksums tells.</summary>
    private static byte[] Rewrite(byte[] good, Random random)
    {
        int state = (int)BitConverter.ToInt64(good, StateAt), manifestAt = (int)BitConverter.ToInt64(good, ManifestAt);
        byte[] memory = good[..state], records = good[state..manifestAt];
        JsonNode manifest = JsonNode.Parse(good.AsSpan(manifestAt))!;
        JsonArray parts = manifest["Parts"]!.AsArray();
        switch (random.Next(4))
        {
            case 0: // a byte of a record, or one that comes or goes, of the machine's description most often
                JsonNode part = random.Next(2) == 0 ? manifest["Machine"]! : parts[random.Next(parts.Count)]!;
                int start = (int)((long)part["Position"]! - state), length = (int)part["Length"]!;
                byte[] record = Alterations.OfRecord(records[start..(start + length)], random);
                (part["Position"], part["Length"]) = (state + (long)records.Length, record.Length); // behind the others
                records = [.. records, .. record];
                break;
            case 1 when memory.Length > SnapshotFile.FirstPage:
                for (int k = random.Next(1, 9); k > 0; k--) memory[random.Next(SnapshotFile.FirstPage, memory.Length)] ^= (byte)random.Next(1, 256);
                if (manifest["Packed"] is null) manifest["Checksums"] = Checksums(memory);
                break;
            default:
                for (int k = random.Next(1, 4); k > 0; k--) Alterations.OfValue(manifest, random);
                break;
        }
        byte[] text = Encoding.UTF8.GetBytes(manifest.ToJsonString());
        byte[] file = [.. memory, .. records, .. text];
        BitConverter.TryWriteBytes(file.AsSpan(ManifestAt), (long)memory.Length + records.Length);
        BitConverter.TryWriteBytes(file.AsSpan(EndAt), (long)file.Length);
        SHA256.HashData(file.AsSpan(state), file.AsSpan(DigestAt));
        return file;
    }

    private static JsonArray Checksums(ReadOnlySpan<byte> memory)
    {
        var sums = new JsonArray();
        for (int at = SnapshotFile.FirstPage; at < memory.Length; at += SnapshotFile.Chunk)
            sums.Add((JsonNode)XxHash3.HashToUInt64(memory.Slice(at, Math.Min(SnapshotFile.Chunk, memory.Length - at))));
        return sums;
    }
}
