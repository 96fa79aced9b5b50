using System.Collections.Concurrent;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Sessions.Snapshots;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>A snapshot whose memory is not what was written: no guest ever sees that.</summary>
public sealed class SnapshotCheckTests : IDisposable
{
    private const uint Data = 0x40_0000, Mark = 0x6B72_616D;
    private const ulong Memory = 16 << 20;

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-snapshot-check").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string In(string name) => Path.Combine(_folder, name);

    /// <summary>
    /// Saves a guest that has several MiB of pages with something in them, says so and waits for a byte; then it prints the first letter of the page at
    /// <see cref="Data"/>, and ends.
    /// </summary>
    private async Task<string> Save()
    {
        string kernel = In("kernel"), file = In("vm.snap");
        File.WriteAllBytes(kernel, TestKernel.Assemble(a =>
        {
            Label fill = a.CreateLabel(), wait = a.CreateLabel();
            TestKernel.Out(a, 0x3FB, 3); // 8 bits
            TestKernel.Out(a, 0x3FC, 3); // DTR and RTS
            a.mov(ebx, 0x20_0000);
            a.Label(ref fill);
            a.mov(__dword_ptr[ebx], ebx);
            a.add(ebx, 0x1000);
            a.cmp(ebx, 0xC0_0000);
            a.jb(fill);
            a.mov(__dword_ptr[Data], Mark);
            TestKernel.Print(a, "ready\n");
            a.Label(ref wait);
            a.mov(dx, 0x3FD);
            a.@in(al, dx);
            a.test(al, 1);
            a.jz(wait);
            a.mov(al, __byte_ptr[Data]);
            a.mov(dx, 0x3F8);
            a.@out(dx, al);
            TestKernel.Print(a, "\n");
            TestKernel.Out(a, 0xF4, 1);
            TestKernel.Loop(a);
        }));
        var output = new GuestOutput();
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = "interp",
            Cpu = "max,-rdrand,-rdseed", // which the engine 'check' has not
            Kernel = kernel,
            Memory = Memory,
            Output = output,
            DebugExit = true,
            Timeout = TimeSpan.FromMinutes(4),
        }.Build();
        Task<VmResult> run = vm.RunAsync();
        await output.Until("ready\n", run);
        await vm.SaveAsync(file);
        return file;
    }

    /// <summary>The same with another letter in the guest's page.</summary>
    private static long Alter(string file)
    {
        byte[] bytes = File.ReadAllBytes(file);
        int at = bytes.AsSpan().IndexOf(BitConverter.GetBytes(Mark)); // the first is the data: the code has it as an operand, at a lower address
        while (at % (int)GuestMemory.PageSize != 0) at += 1 + bytes.AsSpan(at + 1).IndexOf(BitConverter.GetBytes(Mark));
        bytes[at] = (byte)'X';
        File.WriteAllBytes(file, bytes);
        return at;
    }

    [Theory]
    [InlineData("bt", MemoryBacking.Lazy), InlineData("interp", MemoryBacking.Lazy), InlineData("check", MemoryBacking.Lazy)]
    [InlineData("bt", MemoryBacking.Copy)]
    public async Task No_guest_sees_an_altered_page(string engine, MemoryBacking backing)
    {
        string file = await Save();
        Assert.Equal((3, "m\n"), await GoOn());
        long position = Alter(file), chunk = SnapshotFile.FirstPage + (position - SnapshotFile.FirstPage) / SnapshotFile.Chunk * SnapshotFile.Chunk;
        CannotStartException e = await Assert.ThrowsAsync<CannotStartException>(GoOn);
        Assert.Equal($"snapshot {file}: is damaged: its memory is not what was written, from byte {chunk} on", e.Message);
        Assert.DoesNotContain("X", _seen);

        async Task<(int, string)> GoOn()
        {
            var output = new MemoryStream();
            await using Vm vm = new VmBuilder(KnownEngines.All)
            {
                Engine = engine,
                RestoreFrom = file,
                MemoryBacking = backing,
                Output = output,
                Input = new MemoryStream("x"u8.ToArray()),
                Timeout = TimeSpan.FromMinutes(4),
            }.Build();
            try
            {
                return ((await vm.RunAsync()).ExitStatus, System.Text.Encoding.ASCII.GetString(output.ToArray()));
            }
            finally
            {
                _seen = System.Text.Encoding.ASCII.GetString(output.ToArray());
            }
        }
    }

    private string _seen = "";

    /// <summary>Pages of an altered piece are no memory, for vCPUs and devices; those of others are.</summary>
    [Fact]
    public async Task A_piece_is_looked_at_before_its_first_use()
    {
        string file = await Save();
        Alter(file);
        using var memory = new GuestMemory(Memory, shared: false);
        using SnapshotFile snapshot = SnapshotFile.Open(file);
        var told = new ConcurrentBag<string>();
        snapshot.VerifyLater(told.Add);
        snapshot.CopyTo(memory);
        using MemoryCheck check = snapshot.LaterCheck!;
        unsafe
        {
            Assert.True(memory.PagePointer(0x80_0000) != null);
            Assert.True(memory.PagePointer(0xF0_0000) != null); // zeros, which are in no file
            Assert.True(memory.PagePointer(Data) == null);
            Assert.True(memory.PagePointer(Data + 0x1000) == null);
        }
        Assert.Contains("is damaged", Assert.Single(told.Distinct())); // by everybody who meets it
        Assert.False(memory.Read(Data - 4, new byte[8]));
        Assert.False(new DmaSpace(memory).TryOpen(Data, 4, writes: true, out _));
        Assert.True(new DmaSpace(memory).TryOpen(0x80_0000, 0x2000, writes: true, out _));
        Assert.False(new DmaSpace(memory).TryOpen(Data - 0x20_0000, 0x40_0000, writes: false, out _));
        Assert.False(memory.CompleteCheck());
        Assert.Single(told.Distinct());
    }

    /// <summary>What is saved, forked or moved of a restored VM has been looked at before.</summary>
    [Fact]
    public async Task What_was_not_looked_at_goes_nowhere()
    {
        string file = await Save(), again = In("again.snap");
        await using (Vm vm = Restored())
        {
            vm.Start();
            Assert.True(await vm.SaveAsync(again) > 0);
        }
        Alter(file);
        await using Vm altered = Restored();
        altered.Start();
        await Assert.ThrowsAnyAsync<InvalidOperationException>(() => altered.SaveAsync(In("third.snap")));
        Assert.False(File.Exists(In("third.snap")));
        using SnapshotFile second = SnapshotFile.Open(again);
        second.Verify();

        Vm Restored() => new VmBuilder(KnownEngines.All) { Engine = "interp", RestoreFrom = file, StartsStopped = true }.Build();
    }
}
