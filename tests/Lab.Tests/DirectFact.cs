using Bunraku.Processor.X86;
using Xunit.Abstractions;
using Xunit.Sdk;

namespace Bunraku.Lab.Tests;

/// <summary>A test that there is only on hosts on which programs can run directly; <see cref="DirectCoverage"/> says why there is none.</summary>
[XunitTestCaseDiscoverer("Bunraku.Lab.Tests.DirectFactDiscoverer", "Bunraku.Lab.Tests")]
public sealed class DirectFactAttribute : FactAttribute
{
    internal static readonly string? WhyNot = TranslatorEngine.WhyNotDirect();
}

/// <summary>Finds the tests of <see cref="DirectFactAttribute"/>.</summary>
public sealed class DirectFactDiscoverer(IMessageSink messages) : IXunitTestCaseDiscoverer
{
    /// <inheritdoc/>
    public IEnumerable<IXunitTestCase> Discover(ITestFrameworkDiscoveryOptions discoveryOptions, ITestMethod testMethod, IAttributeInfo factAttribute) =>
        DirectFactAttribute.WhyNot is null
            ? [new XunitTestCase(messages, discoveryOptions.MethodDisplayOrDefault(), discoveryOptions.MethodDisplayOptionsOrDefault(), testMethod)] : [];
}

/// <summary>Says what was not run.</summary>
public sealed class DirectCoverage(ITestOutputHelper output)
{
    /// <summary>In the output of the tests.</summary>
    [Fact]
    public void What_runs_directly_here() => output.WriteLine(DirectFactAttribute.WhyNot is { } reason ? $"direct execution: NOT RUN ({reason})" : "all");
}
