using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Order;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Perfolizer.Horology;

namespace Bunraku.Micro;

internal static class Program
{
    /// <summary>Arguments are BenchmarkDotNet's own, for example <c>--filter *Exit*</c>; without any, all benchmarks run.</summary>
    public static void Main(string[] args)
    {
        // In this process: engines are far slower to set up than what is measured, and no second build is needed for each benchmark.
        IConfig config = DefaultConfig.Instance
            .AddJob(Job.Default.WithToolchain(InProcessEmitToolchain.Instance).WithIterationTime(TimeInterval.FromMilliseconds(150)).WithWarmupCount(3)
                .WithIterationCount(9))
            .WithOrderer(new DefaultOrderer(SummaryOrderPolicy.Declared, MethodOrderPolicy.Declared))
            .WithOptions(ConfigOptions.JoinSummary)
            .AddColumn(StatisticColumn.Median)
            .HideColumns("Job", "Toolchain", "IterationCount", "IterationTime", "WarmupCount", "Error")
            .WithArtifactsPath(Path.Combine("artifacts", "bench", "micro"));
        BenchmarkSwitcher.FromAssembly(typeof(Program).Assembly).Run(args.Length > 0 ? args : ["--filter", "*"], config);
    }
}
