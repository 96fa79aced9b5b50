using System.Globalization;
using Bunraku.Processor.X86;

namespace Bunraku.Cli.Tests;

/// <summary>
/// The map for Linux's perf: lines of address, length and name, as tools/perf/Documentation/jit-interface.txt of Linux says. It belongs to the process, so
/// these tests run one after another.
/// </summary>
public sealed class PerfMapTests : IDisposable
{
    public void Dispose() => File.Delete(PerfMap.Path);

    private static string[] Lines => File.ReadAllLines(PerfMap.Path);

    [Fact]
    public void WhatIsThereAtTheEndIsInTheMap()
    {
        using (var map = new PerfMap())
        {
            Assert.Empty(Lines);
            map.CodeAdded(0x7F00_0000_1000, 0x20, "user64:0x401000");
            map.CodeAdded(0x7F00_0000_1020, 0x10, "kernel32:0x100020");
        }
        Assert.Equal(["7f0000001000 20 user64:0x401000", "7f0000001020 10 kernel32:0x100020"], Lines);
    }

    [Fact]
    public void APlaceThatIsUsedAnewHasTheNewNameAndAMark()
    {
        using (var map = new PerfMap())
        {
            map.CodeAdded(0x1000, 0x20, "a");
            map.CodeAdded(0x1020, 0x20, "b");
            map.CodeAdded(0x2000, 0x20, "c");
            map.CodeGone(0x1000, 0x1000);
            map.CodeAdded(0x1030, 0x10, "d");
            map.CodeAdded(0x1040, 0x10, "e"); // nothing was here before
            map.CodeGone(0x5000, 0x1000); // nor here
            map.CodeAdded(0x5000, 0x10, "f");
        }
        Assert.Equal(["1030 10 d:reused", "1040 10 e", "2000 20 c", "5000 10 f"], Lines.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void ManyLinesAreWrittenOnTheWayAndNoneIsLost()
    {
        const int count = 10_000;
        using var map = new PerfMap();
        for (int n = 0; n < count; n++) map.CodeAdded((ulong)n * 16, 16, $"user64:0x{n:x}");
        Assert.InRange(Lines.Length, count / 2, count); // somebody who is ended hard leaves most of it
        map.CodeGone(0, 16 * count / 2);
        for (int n = 0; n < count; n++) map.CodeAdded((ulong)n * 16, 16, $"user64:0x{n:x}");
        map.Dispose();
        Assert.Equal(Enumerable.Range(0, count).Select(n => (ulong)n * 16),
            Lines.Select(l => ulong.Parse(l.Split(' ')[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture)).Order());
    }

    [Fact]
    public void ALinkThatLiesThereIsNotFollowed()
    {
        using var victim = new TemporaryFile("precious"u8.ToArray());
        File.CreateSymbolicLink(PerfMap.Path, victim.Path);
        using (var map = new PerfMap()) map.CodeAdded(0x1000, 0x20, "a");
        Assert.Equal("precious", File.ReadAllText(victim.Path));
        Assert.Equal(["1000 20 a"], Lines);
    }

    [Fact]
    public void SeveralVmsAreInOneMapAndGoneWithTheirCode()
    {
        using var kernel = new TemporaryFile(TestKernel.Assemble(a =>
        {
            Iced.Intel.Label next = a.CreateLabel();
            a.mov(Iced.Intel.AssemblerRegisters.ecx, 1000);
            a.Label(ref next);
            a.dec(Iced.Intel.AssemblerRegisters.ecx);
            a.jnz(next);
            TestKernel.Out(a, 0xF4, 0);
            TestKernel.Loop(a);
        }));
        using (var map = new PerfMap())
        {
            var running = new List<Vm>(); // together, so that no address is used twice
            foreach (string engine in (string[])["bt", "interp", "bt"])
            {
                var told = new List<string>();
                Vm vm = new VmBuilder(KnownEngines.All)
                {
                    Engine = engine,
                    Kernel = kernel.Path,
                    Memory = 16 << 20,
                    DebugExit = true,
                    HostCode = map,
                    Progress = told.Add,
                }.Build();
                running.Add(vm);
                vm.Start();
                vm.Wait();
                Assert.Equal(engine == "interp" ? ["HostCode: the engine 'interp' makes no host code, so there is nothing to be told"] : [], told);
            }
            running.ForEach(vm => vm.Dispose());
        }
        // The loop behind the first instruction, which is five bytes long; each VM has routines of its own.
        Assert.Equal(2, Lines.Count(l => l.EndsWith(" kernel32:0x100025", StringComparison.Ordinal)));
        Assert.Equal(2, Lines.Count(l => l.EndsWith(" bunraku:exit", StringComparison.Ordinal)));
    }
}
