using Bunraku.Cli.CommandLine;
using Bunraku.Engines;

namespace Bunraku.Cli.Tests;

public class CpuChoiceTests
{
    private static readonly CpuModel[] Models =
    [
        new("big", "GenuineIntel", 6, 1, 1, "Big", new HashSet<CpuFeature> { CpuFeature.Sse2, CpuFeature.Sse41, CpuFeature.Avx }),
        new("small", "GenuineIntel", 6, 1, 1, "Small", new HashSet<CpuFeature> { CpuFeature.Sse2 }),
    ];

    [Theory]
    [InlineData(null, "big", "Sse2 Sse41 Avx")]
    [InlineData("small", "small", "Sse2")]
    [InlineData("small,+avx", "small,+avx", "Sse2 Avx")]
    [InlineData("big,-sse4_1,-avx", "big,-sse4_1,-avx", "Sse2")]
    [InlineData("big,-SSE4.1", "big,-SSE4.1", "Sse2 Avx")]
    [InlineData("-avx", "-avx", "Sse2 Sse41")]
    [InlineData("big,-avx,+avx", "big,-avx,+avx", "Sse2 Sse41 Avx")]
    public void ModelsAndFeatures(string? text, string name, string features)
    {
        CpuModel model = CpuChoice.Parse(text, Models);
        Assert.Equal(name, model.Name);
        Assert.Equal(features.Split(' ').Order(), model.Features.Select(f => f.ToString()).Order());
    }

    [Theory]
    [InlineData("bg", "did you mean 'big'?")]
    [InlineData("", "unknown CPU model ''")]
    [InlineData("big,+avz", "did you mean 'avx'?")]
    [InlineData("big,+monitor", "'monitor' is not implemented")]
    [InlineData("big,avx", "needs + or - before it")]
    [InlineData("big,+", "unknown CPU feature ''")]
    [InlineData("big,+3", "unknown CPU feature '3'")]
    public void WhatIsUnknown(string text, string expected) => Assert.Contains(expected, Assert.Throws<UsageException>(() => CpuChoice.Parse(text, Models)).Message);
}
