using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Machine.Board;
using Xunit.Abstractions;

namespace Bunraku.Machine.Tests;

/// <summary>
/// Mutated kernel files: a loader either loads or throws <see cref="BootException"/>, and writes only to memory that the map calls usable.
/// Reading outside the file would show as another exception, for files are read through spans only. BUNRAKU_FUZZ_INPUTS sets the number of inputs
/// (a million before a release), BUNRAKU_FUZZ_SEED repeats a run.
/// </summary>
public sealed class LoaderFuzzTests(ITestOutputHelper output)
{
    private const int DefaultInputs = 30_000;
    private const ulong MemorySize = 8 << 20;
    /// <summary>All ranges that are not usable are multiples of it.</summary>
    private const int Step = 0x100;

    [Theory]
    [InlineData("bzImage")]
    [InlineData("ELF with PVH note")]
    [InlineData("multiboot")]
    public void A_malformed_header_never_reads_outside_the_file_nor_writes_outside_usable_memory(string format)
    {
        byte[][] seeds = format switch
        {
            "bzImage" => [SyntheticKernels.BzImage(), SyntheticKernels.BzImage(version: 0x202), SyntheticKernels.BzImage(version: 0x209)],
            "multiboot" =>
                [SyntheticKernels.MultibootElf(), SyntheticKernels.MultibootElf(flags: 7), SyntheticKernels.HeadersFirst(),
                SyntheticKernels.MultibootAddresses()],
            _ => [SyntheticKernels.Pvh(false), SyntheticKernels.Pvh(true)],
        };
        int inputs = int.TryParse(Environment.GetEnvironmentVariable("BUNRAKU_FUZZ_INPUTS"), out int n) ? n : DefaultInputs;
        int seed = int.TryParse(Environment.GetEnvironmentVariable("BUNRAKU_FUZZ_SEED"), out int s) ? s : Random.Shared.Next();
        output.WriteLine($"seed {seed}, {inputs} inputs");
        var random = new Random(seed);

        using var memory = new GuestMemory(MemorySize);
        IReadOnlyList<E820Entry> map = E820.Build(memory);
        // What is not usable holds a pattern that must survive.
        E820Entry[] forbidden =
            [new(0, MemoryLayout.BiosDataAreaEnd, E820Type.Reserved), .. map.Where(e => e.Type != E820Type.Memory && e.End <= MemorySize),
            new(0xA0000, 0x40000, E820Type.Reserved)];
        byte[] pattern = new byte[Step];
        Array.Fill(pattern, (byte)0xA5);
        foreach (E820Entry range in forbidden)
            for (ulong a = range.Address; a < range.End; a += Step) Assert.True(memory.Write(a, pattern));

        CpuModel model = LoadersOnQemuTests.Model(CpuFeature.Lm);
        BootModule[] modules = [new(new byte[5000], "initrd"), new(new byte[4096], "second", "with arguments")];
        int loaded = 0;
        for (int input = 0; input < inputs; input++)
        {
            byte[] kernel = Mutate(random, seeds[random.Next(seeds.Length)]);
            try
            {
                KernelLoader.Load(new(memory, model, map, kernel, "k")
                {
                    Modules = modules[..random.Next(format == "bzImage" ? 2 : 3)],
                    CommandLine = "console=ttyS0"
                });
                loaded++;
            }
            catch (BootException)
            {
                // The expected answer to most of them.
            }
            catch (Exception e)
            {
                Assert.Fail($"seed {seed}, input {input}: {e}");
            }
            // Looking at all of it each time would take most of the run.
            if (input % 256 == 0 || input == inputs - 1) CheckPattern(memory, forbidden, pattern, $"seed {seed}, input {input} or up to 255 before");
        }
        output.WriteLine($"{loaded} loaded");
        // A fuzzer whose inputs are all refused at the door, or that changes nothing, tests nothing.
        Assert.InRange(loaded, inputs / 100, inputs * 99 / 100);
    }

    private static void CheckPattern(GuestMemory memory, E820Entry[] forbidden, byte[] pattern, string when)
    {
        byte[] found = new byte[Step];
        foreach (E820Entry range in forbidden)
        {
            for (ulong a = range.Address; a < range.End; a += Step)
            {
                memory.Read(a, found);
                Assert.True(found.AsSpan().SequenceEqual(pattern), $"{when}: written at 0x{a:x}");
            }
        }
    }

    private static byte[] Mutate(Random random, byte[] seed)
    {
        byte[] file = [.. seed];
        uint[] interesting =
            [0, 1, 0xFF, 0xFFF, 0x1000, 0x7FFF, 0x8000, 0xFFFF, 0xA_0000, 0x10_0000, (uint)MemorySize, (uint)MemorySize - 1, 0x7FFF_FFFF, 0x8000_0000,
            0xFFFF_F000, 0xFFFF_FFFF, (uint)seed.Length, (uint)seed.Length - 1];
        for (int changes = random.Next(1, 5); changes > 0; changes--)
        {
            // bzImage keeps its header at a fixed place and has little else that a loader reads.
            int at = file.Length == 0 ? 0 : file.Length > 0x270 && random.Next(8) != 0 ? random.Next(0x1F0, 0x268)
                : random.Next(file.Length), left = file.Length - at;
            switch (random.Next(6))
            {
                case 0 when left >= 1: file[at] = (byte)random.Next(256); break;
                case 1 when left >= 4: BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(at & ~1), interesting[random.Next(interesting.Length)]); break;
                case 2 when left >= 8: BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(at & ~1), (ulong)random.NextInt64() >> random.Next(64)); break;
                case 3 when left >= 2: BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(at), (ushort)interesting[random.Next(interesting.Length)]); break;
                case 4 when left >= 1: file[at] ^= (byte)(1 << random.Next(8)); break;
                case 5 when random.Next(8) == 0: file = file[..at]; break;
            }
        }
        return file;
    }
}
