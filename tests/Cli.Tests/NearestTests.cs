using Bunraku.Engines;

namespace Bunraku.Cli.Tests;

public class NearestTests
{
    [Theory]
    [InlineData("", "", 0)]
    [InlineData("abc", "", 3)]
    [InlineData("", "abc", 3)]
    [InlineData("kitten", "sitting", 3)]
    [InlineData("sitting", "kitten", 3)]
    [InlineData("flaw", "lawn", 2)]
    [InlineData("intention", "execution", 5)]
    [InlineData("same", "same", 0)]
    public void DistanceIsLevenshteins(string a, string b, int expected) => Assert.Equal(expected, Nearest.Distance(a, b));

    [Theory]
    [InlineData("lnux", "linux")]
    [InlineData("linux-gneric", "linux-generic")]
    [InlineData("HELLO", "hello")]
    [InlineData("linux-g", "linux-generic")]
    [InlineData("zzzzzzzz", null)]
    public void FindsWhatWasMeant(string typed, string? expected) => Assert.Equal(expected, Nearest.Find(typed, ["linux", "linux-generic", "hello"]));
}
