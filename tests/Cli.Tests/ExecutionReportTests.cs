using System.Text.Json;
using Bunraku.Engines;
using Bunraku.Sessions.Monitoring;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>Where time goes and what caches hold, as --stats and the monitor show it. What guests do here all the time is known.</summary>
public sealed class ExecutionReportTests
{
    private const int Instructions = 5000;

    /// <summary>Computes for ever.</summary>
    private static readonly byte[] Loops = TestKernel.Assemble(TestKernel.Loop);

    /// <summary>Waits for an interrupt that never comes.</summary>
    private static readonly byte[] Halts = TestKernel.Assemble(a => a.hlt());

    /// <summary>Executes CPUID again and again.</summary>
    private static readonly byte[] Asks = TestKernel.Assemble(a =>
    {
        Iced.Intel.Label next = a.CreateLabel();
        a.mov(esi, Instructions);
        a.Label(ref next);
        a.cpuid();
        a.dec(esi);
        a.jnz(next);
        TestKernel.Out(a, 0xF4, 0);
        TestKernel.Loop(a);
    });

    private static VmStatistics Run(byte[] kernel, string engine, int cpus = 1, bool sample = true)
    {
        using var file = new TemporaryFile(kernel);
        using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = engine,
            Kernel = file.Path,
            Memory = 16 << 20,
            Cpus = cpus,
            DebugExit = true,
            SampleWork = sample,
            Timeout = TimeSpan.FromSeconds(1),
        }.Build();
        vm.Start();
        return vm.Wait().Statistics!;
    }

    [Theory]
    [InlineData("bt", CpuWork.EmittedCode), InlineData("interp", CpuWork.Interpreter), InlineData("check", CpuWork.Outside)]
    public void ALoopSpendsItsTimeWhereItsEngineExecutesIt(string engine, CpuWork where)
    {
        WorkTimesOf(Run(Loops, engine), out Dictionary<CpuWork, double> times);
        Assert.Equal(where, times.MaxBy(t => t.Value).Key);
        Assert.Equal(0, times.GetValueOrDefault(CpuWork.Idle));
    }

    [Theory, InlineData("bt", 1), InlineData("interp", 2)]
    public void AHaltedProcessorIsIdle(string engine, int cpus)
    {
        WorkTimesOf(Run(Halts, engine, cpus), out Dictionary<CpuWork, double> times);
        Assert.Equal(CpuWork.Idle, times.MaxBy(t => t.Value).Key);
    }

    [Fact]
    public void OneProcessorComputesWhileAnotherIsIdle()
    {
        WorkTimesOf(Run(Loops, "bt", cpus: 2), out Dictionary<CpuWork, double> times);
        // The second waits for its start: both have the same time.
        Assert.Equal([CpuWork.Idle, CpuWork.EmittedCode], times.OrderByDescending(t => t.Value).Take(2).Select(t => t.Key).Order());
    }

    private static void WorkTimesOf(VmStatistics statistics, out Dictionary<CpuWork, double> times)
    {
        Assert.NotNull(statistics.Work);
        Assert.InRange(statistics.Work.Samples, 10, long.MaxValue);
        times = new Dictionary<CpuWork, double>(statistics.Work.Milliseconds);
        Assert.Contains("time by ", statistics.ToString());
        using var json = JsonDocument.Parse(statistics.ToJson());
        JsonElement work = json.RootElement.GetProperty("work");
        Assert.Equal(statistics.Work.Samples, work.GetProperty("samples").GetInt64());
        Assert.Equal(times.Count, work.GetProperty("milliseconds").EnumerateObject().Count());
    }

    [Fact]
    public void WithoutSamplesThereAreNoTimesButCachesAndCounts()
    {
        VmStatistics statistics = Run(Asks, "bt", sample: false);
        Assert.Null(statistics.Work);
        Assert.DoesNotContain("time by", statistics.ToString());
        using var json = JsonDocument.Parse(statistics.ToJson());
        Assert.False(json.RootElement.TryGetProperty("work", out _));
        foreach (JsonElement cache in json.RootElement.GetProperty("caches").EnumerateArray())
        {
            if (cache.TryGetProperty("size", out JsonElement size)) Assert.InRange(cache.GetProperty("used").GetUInt64(), 0ul, size.GetUInt64());
        }
        Assert.Contains(statistics.Execution!.Caches, c => c is { Name: "translated code", InBytes: true, Used: > 0 });
        Assert.Contains(statistics.Execution.Caches, c => c is { Name: "TLB", InBytes: false, Used: > 0 });
        // The guest says how many CPUID it executes; the first rounds, before the loop is translated, are the interpreter's alone.
        ulong counted = statistics.Execution.Counts.Single(c => c.Name == "interpreted CPUID").Value;
        Assert.InRange(counted, (ulong)(Instructions - 500), (ulong)Instructions);
    }

    [Fact]
    public void WhatSeveralProcessorsHaveIsAddedByName()
    {
        var one = new ExecutionReport([new EngineCache("a", 1, 10, true), new EngineCache("b", 2, 0, false)], [new EngineCount("x", 5)]);
        var two = new ExecutionReport([new EngineCache("a", 3, 10, true)], [new EngineCount("y", 7), new EngineCount("x", 1)]);
        ExecutionReport sum = ExecutionReport.Sum([one, null, two])!;
        Assert.Equal([new EngineCache("a", 4, 20, true), new EngineCache("b", 2, 0, false)], sum.Caches);
        Assert.Equal([new EngineCount("x", 6), new EngineCount("y", 7)], sum.Counts);
        Assert.Null(ExecutionReport.Sum([null]));
    }

    [Fact]
    public void TheMonitorShowsTheTranslator()
    {
        using var file = new TemporaryFile(Loops);
        using Vm vm = new VmBuilder(KnownEngines.All) { Engine = "bt", Kernel = file.Path, Memory = 16 << 20, SampleWork = true }.Build();
        vm.Start();
        SpinWait.SpinUntil(() => vm.Statistics.Work!.Milliseconds.Any(t => t.Key == CpuWork.EmittedCode), TimeSpan.FromMinutes(1));
        string text = new MonitorShell(vm, () => 80).Execute("info translator");
        foreach (string wanted in (string[])
            ["blocks decoded", "time by", "translated code", "decoded operations", "given up for translated code", "left for a link"])
            Assert.Contains(wanted, text);
        Assert.DoesNotContain("no samples", text);
        Assert.All(text.Split('\n'), line => Assert.InRange(line.Length, 0, 80));
        // Paused, nothing is counted.
        vm.Pause();
        Thread.Sleep(20); // a sample that was being taken
        long samples = vm.Statistics.Work!.Samples;
        Thread.Sleep(100);
        Assert.Equal(samples, vm.Statistics.Work!.Samples);
    }

    [Fact]
    public void AnEngineWithoutCachesSaysNothing()
    {
        using var file = new TemporaryFile(Loops);
        using Vm vm = new VmBuilder([new ScriptedEngine()]) { Kernel = file.Path, Memory = 16 << 20, SampleWork = true }.Build();
        vm.Start();
        Assert.Equal("the engine 'scripted' has no caches of code\n", new MonitorShell(vm, () => 80).Execute("info translator"));
        Assert.Null(vm.Statistics.Work);
        Assert.Equal("", vm.Statistics.Details);
    }
}
