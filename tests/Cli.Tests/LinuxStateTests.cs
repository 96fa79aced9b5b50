using Bunraku.DeviceFuzz;
using Bunraku.Engines;
using Bunraku.Processor.X86;

namespace Bunraku.Cli.Tests;

/// <summary>
/// Linux saved while it boots and works, continued in another machine of the process: see <see cref="SaveRounds"/>. More of it: tests/fuzz-states.
/// </summary>
public sealed class LinuxStateTests
{
    private const int Rounds = 4;

    [Theory]
    [InlineData("interp", "interp", 1)]
    [InlineData("bt", "bt", 2)]
    [InlineData("interp", "bt", 1)]
    [InlineData("bt", "interp", 1)]
    public void A_saved_Linux_and_its_copy_stay_equal(string engine, string second, int cpus)
    {
        using var rounds = new SaveRounds(Find(engine), Find(second), cpus, seed: 1) { Instructions = 300_000 };
        for (int n = 0; n < Rounds; n++) Assert.Null(rounds.Run());
    }

    private static IX86Engine Find(string name) => name == "bt" ? new TranslatorEngine(threshold: 2) : new InterpreterEngine();
}
