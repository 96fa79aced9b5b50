using System.ComponentModel;
using System.Diagnostics;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Board;
using Bunraku.Machine.Board.Parts;

namespace Bunraku.Machine.Tests.Acpi;

/// <summary>The tables against ACPICA's compiler and disassembler (iasl, Debian package acpica-tools).</summary>
public sealed class AcpiTablesTests : IDisposable
{
    private const int HeaderLength = 36;
    private static readonly int[] s_compilerFields = [9, 28, 29, 30, 31, 32, 33, 34, 35]; // checksum, creator ID, creator revision

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-acpi-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>Of a board with everything; the second serial port is there with several processors only.</summary>
    private static AcpiTables Build(int cpus)
    {
        var description = new AcpiDescription { Reset = new ResetRegister(0xCF9, 6) };
        InterruptControllers.Describe(description, cpus);
        LegacyTimers.Describe(description);
        KeyboardPart.Describe(description);
        for (int port = 1; port <= Math.Min(cpus, 2); port++) new SerialPart(port, _ => { }).Describe(description);
        FwCfgPart.Describe(description);
        VmGenerationPart.Describe(description, (uint)MemoryLayout.VmGeneration + VmGeneration.IdOffset);
        return new AcpiTables(description);
    }

    public static TheoryData<string, int> TablesAndCpus => new()
    {
        { "DSDT", 1 }, { "DSDT", 64 }, { "DSDT", 150 }, { "DSDT", 1200 }, { "FACP", 1 }, { "APIC", 1 }, { "APIC", 4 }, { "APIC", 300 }, { "FACS", 1 },
            { "RSDT", 1 }, { "XSDT", 1 }, { "SSDT", 1 },
    };

    [Theory]
    [MemberData(nameof(TablesAndCpus))]
    public void TableSurvivesDisassemblyAndCompilation(string signature, int cpus)
    {
        byte[] table = Build(cpus).Tables.Single(t => t.Signature == signature).Bytes;
        string name = Path.Combine(_folder, "table");
        File.WriteAllBytes(name + ".dat", table);
        Iasl("-d", name + ".dat");
        string source = File.ReadAllText(name + ".dsl");
        foreach (string complaint in (string[])["Invalid", "Incorrect checksum", "should be", "Error", "Warning", "Unknown", "beyond end"])
            Assert.DoesNotContain(complaint, source, StringComparison.OrdinalIgnoreCase);

        string compilation = Iasl("-tc", "-p", name + "-again", name + ".dsl");
        Assert.Contains("Compilation successful. 0 Errors, 0 Warnings", compilation);
        byte[] again = File.ReadAllBytes(name + "-again.aml");
        if (signature != "FACS")
        {
            foreach (int at in s_compilerFields) again[at] = table[at];
        }
        Assert.Equal(table, again);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(300)]
    public void EveryTableSumsToZero(int cpus)
    {
        // ACPI 6.3, section 5.2.6, field Checksum: "The entire table, including the checksum field, must add to zero".
        foreach ((string signature, byte[] bytes) in Build(cpus).Tables)
        {
            if (signature == "FACS") continue; // has none
            Assert.Equal(0, bytes.Aggregate((byte)0, (a, b) => (byte)(a + b)));
            Assert.Equal(bytes.Length, BitConverter.ToInt32(bytes, 4));
        }
    }

    [Fact]
    public void RsdpLeadsToEveryTable()
    {
        // ACPI 6.3, sections 5.2.5.3 and 5.2.7 to 5.2.9.
        ReadOnlySpan<byte> image = Build(2).Image;
        Assert.True(image[..8].SequenceEqual("RSD PTR "u8));
        Assert.Equal(0, Sum(image[..20]));
        Assert.Equal(0, Sum(image[..36]));
        Assert.Equal(2, image[15]);
        Assert.Equal(0u, (uint)MemoryLayout.Rsdp & 15);
        ReadOnlySpan<byte> rsdt = Table(image, BitConverter.ToUInt32(image[16..]), "RSDT"), xsdt = Table(image, BitConverter.ToUInt64(image[24..]), "XSDT");
        Assert.Equal((rsdt.Length - HeaderLength) / 4, (xsdt.Length - HeaderLength) / 8);
        string[] expected = ["FACP", "APIC"];
        for (int n = 0; n < expected.Length; n++)
        {
            uint address = BitConverter.ToUInt32(rsdt[(HeaderLength + 4 * n)..]);
            Assert.Equal(address, BitConverter.ToUInt64(xsdt[(HeaderLength + 8 * n)..]));
            Table(image, address, expected[n]);
        }
        ReadOnlySpan<byte> fadt = Table(image, BitConverter.ToUInt32(rsdt[HeaderLength..]), "FACP");
        uint facs = BitConverter.ToUInt32(fadt[36..]);
        Assert.Equal(0u, facs & 63);
        Table(image, facs, "FACS");
        Table(image, BitConverter.ToUInt32(fadt[40..]), "DSDT");
        Table(image, BitConverter.ToUInt64(fadt[140..]), "DSDT");
    }

    [Fact]
    public void MemoryMapKeepsTheTablesOutOfUsableMemory()
    {
        using var memory = new Engines.GuestMemory(64 << 20);
        IReadOnlyList<E820Entry> map = E820.Build(memory);
        for (int n = 1; n < map.Count; n++) Assert.True(map[n].Address >= map[n - 1].End);
        Assert.Contains(map, e => e.Type == E820Type.Reserved && e.Address <= MemoryLayout.AcpiTables && e.End >= MemoryLayout.AcpiTablesEnd);
        Assert.Contains(map, e => e.Type == E820Type.Reserved && e.Address <= MemoryLayout.VmGeneration && e.End >= MemoryLayout.VmGeneration + 4096);
        Assert.Contains(map, e => e.Type == E820Type.Reserved && e.Address == MemoryLayout.PciEcam);
        Assert.Equal(memory.Size, map.Last(e => e.Type == E820Type.Memory).End);
    }

    private static byte Sum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (byte b in bytes) sum += b;
        return sum;
    }

    private static ReadOnlySpan<byte> Table(ReadOnlySpan<byte> image, ulong address, string signature)
    {
        ReadOnlySpan<byte> table = image[(int)(address - MemoryLayout.AcpiTables)..];
        Assert.Equal(signature, System.Text.Encoding.ASCII.GetString(table[..4]));
        return table[..BitConverter.ToInt32(table[4..])];
    }

    private static string Iasl(params string[] arguments)
    {
        var start = new ProcessStartInfo("iasl", arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (Win32Exception)
        {
            throw new InvalidOperationException("this test needs iasl: install the package acpica-tools");
        }
        using (process)
        {
            Task<string> error = process.StandardError.ReadToEndAsync();
            string output = process.StandardOutput.ReadToEnd() + error.Result;
            process.WaitForExit();
            Assert.True(process.ExitCode == 0, output);
            return output;
        }
    }
}
