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
    public void SizesAreRead(string text, ulong bytes) => Assert.Equal(bytes, Quantities.ParseSize(text));

    [Theory]
    [InlineData("")]
    [InlineData("M")]
    [InlineData("-1M")]
    [InlineData("+1M")]
    [InlineData(" 1M")]
    [InlineData("1.5G")]
    [InlineData("1MB")]
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
    public void SizesAreWritten(ulong bytes, string text) => Assert.Equal(text, Quantities.FormatSize(bytes));
}
