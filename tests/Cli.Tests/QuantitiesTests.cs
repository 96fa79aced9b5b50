using Bunraku.Cli.CommandLine;

namespace Bunraku.Cli.Tests;

public class QuantitiesTests
{
    [Theory]
    [InlineData("1M", 1ul << 20)]
    [InlineData("512M", 512ul << 20)]
    [InlineData("512m", 512ul << 20)]
    [InlineData("512", 512ul << 20)]
    [InlineData("2G", 2ul << 30)]
    [InlineData("4096K", 4ul << 20)]
    [InlineData("1028K", 1028ul << 10)]
    [InlineData("1T", 1ul << 40)]
    [InlineData("1.5G", 1536ul << 20)]
    [InlineData("0.5g", 512ul << 20)]
    [InlineData("1.3G", 1395867648ul)] // 1.3 * 2^30 rounded up to a page
    public void SizesAreRead(string text, ulong bytes) => Assert.Equal(bytes, Quantities.ParseSize(text));

    [Theory]
    [InlineData("")]
    [InlineData("M")]
    [InlineData("-1M")]
    [InlineData("+1M")]
    [InlineData(" 1M")]
    [InlineData("1MB")]
    [InlineData(".5G")]
    [InlineData("1,5G")]
    [InlineData("1.5.5G")]
    [InlineData("0.5M")]
    [InlineData("0x10M")]
    [InlineData("0")]
    [InlineData("0G")]
    [InlineData("1023K")]
    [InlineData("1025K")]
    [InlineData("18446744073709551615T")]
    [InlineData("16777216T")]
    [InlineData("99999999999999999999999")]
    public void WrongSizesAreRefused(string text)
    {
        var e = Assert.Throws<UsageException>(() => Quantities.ParseSize(text));
        Assert.Contains($"'{text}'", e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Theory]
    [InlineData("10s", 10_000)]
    [InlineData("10", 10_000)]
    [InlineData("2m", 120_000)]
    [InlineData("1h", 3_600_000)]
    [InlineData("500ms", 500)]
    [InlineData("1.5s", 1500)]
    [InlineData("24h", 86_400_000)]
    public void DurationsAreRead(string text, double milliseconds) => Assert.Equal(milliseconds, Quantities.ParseDuration(text).TotalMilliseconds);

    [Theory]
    [InlineData("")]
    [InlineData("s")]
    [InlineData("0")]
    [InlineData("0ms")]
    [InlineData("-1s")]
    [InlineData("1d")]
    [InlineData("1e3s")]
    [InlineData("NaN")]
    [InlineData("Infinity")]
    [InlineData("1000h")]
    [InlineData("99999999999999999999h")]
    public void WrongDurationsAreRefused(string text) => Assert.Throws<UsageException>(() => Quantities.ParseDuration(text));

    [Theory]
    [InlineData(0, "0 bytes")]
    [InlineData(1023, "1023 bytes")]
    [InlineData(1536, "1.5 KiB")]
    [InlineData(512ul << 20, "512 MiB")]
    [InlineData(24ul << 40, "24 TiB")]
    public void SizesAreWritten(ulong bytes, string text) => Assert.Equal(text, ByteSize.Format(bytes));

    [Theory]
    [InlineData("1GHz", 1_000_000_000ul)]
    [InlineData("2600MHz", 2_600_000_000ul)]
    [InlineData("2.6ghz", 2_600_000_000ul)]
    [InlineData("2596120kHz", 2_596_120_000ul)]
    [InlineData("1000000Hz", 1_000_000ul)]
    [InlineData("1000000", 1_000_000ul)]
    [InlineData("100G", 100_000_000_000ul)]
    public void FrequenciesAreRead(string text, ulong hertz) => Assert.Equal(hertz, Quantities.ParseFrequency(text));

    [Theory]
    [InlineData("")]
    [InlineData("Hz")]
    [InlineData("GHz")]
    [InlineData("1THz")]
    [InlineData("-1GHz")]
    [InlineData("1e9")]
    [InlineData("0")]
    [InlineData("999999Hz")]
    [InlineData("100.1GHz")]
    [InlineData("1 GHz")]
    [InlineData("999999999999999999999999999999999999GHz")]
    public void WrongFrequenciesAreRefused(string text) => Refused(() => Quantities.ParseFrequency(text), text);

    [Theory]
    [InlineData("50", 50)]
    [InlineData("12.5%", 12.5)]
    [InlineData("400", 400)]
    public void PercentagesAreRead(string text, double percent) => Assert.Equal(percent, Quantities.ParsePercent(text));

    [Theory]
    [InlineData("")]
    [InlineData("%")]
    [InlineData("0")]
    [InlineData("-5")]
    [InlineData("NaN")]
    [InlineData("100001")]
    [InlineData("50%%")]
    public void WrongPercentagesAreRefused(string text) => Refused(() => Quantities.ParsePercent(text), text);

    [Theory]
    [InlineData("0")]
    [InlineData("10001")]
    [InlineData("-1")]
    [InlineData("many")]
    public void WrongWeightsAreRefused(string text) => Refused(() => Quantities.ParseWeight(text), text);

    [Theory]
    [InlineData("0", new[] { 0 })]
    [InlineData("1,0,1", new[] { 1, 0, 1 })]
    [InlineData("2-5,8", new[] { 2, 3, 4, 5, 8 })]
    public void ProcessorListsAreRead(string text, int[] processors) => Assert.Equal(processors, Quantities.ParseProcessors(text));

    [Theory]
    [InlineData("")]
    [InlineData(",")]
    [InlineData("1,")]
    [InlineData("3-1")]
    [InlineData("1-2-3")]
    [InlineData("-1")]
    [InlineData("0-99999")]
    [InlineData("x")]
    public void WrongProcessorListsAreRefused(string text) => Refused(() => Quantities.ParseProcessors(text), text);

    [Theory]
    [InlineData("")]
    [InlineData("yes")]
    [InlineData("ON")]
    public void WrongSwitchesAreRefused(string text) => Refused(() => Quantities.ParseSwitch(text), text);

    private static void Refused(Action parse, string text)
    {
        var e = Assert.Throws<UsageException>(parse);
        Assert.Contains($"'{text}'", e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }
}
