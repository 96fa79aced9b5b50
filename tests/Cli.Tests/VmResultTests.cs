using Bunraku.Hypervisor;

namespace Bunraku.Cli.Tests;

public class VmResultTests
{
    [Theory]
    [InlineData(StopReason.PowerOff, HostEnd.None, 0, null, false, 0)]
    [InlineData(StopReason.PowerOff, HostEnd.None, 0, 7, true, 7)]
    [InlineData(StopReason.PowerOff, HostEnd.None, 0, 0, true, 0)]
    [InlineData(StopReason.PowerOff, HostEnd.None, 0, null, true, 125)]
    [InlineData(StopReason.Reset, HostEnd.None, 0, null, false, 4)]
    [InlineData(StopReason.Reset, HostEnd.None, 0, null, true, 4)]
    [InlineData(StopReason.Shutdown, HostEnd.None, 0, null, false, 3)]
    [InlineData(StopReason.Shutdown, HostEnd.None, 0, 0, true, 3)]
    [InlineData(StopReason.EngineError, HostEnd.None, 0, null, false, 125)]
    [InlineData(StopReason.HostRequest, HostEnd.TimedOut, 0, null, false, 124)]
    [InlineData(StopReason.HostRequest, HostEnd.Quit, 0, null, false, 0)]
    [InlineData(StopReason.HostRequest, HostEnd.Quit, 0, null, true, 130)]
    [InlineData(StopReason.HostRequest, HostEnd.Signal, 15, null, false, 143)]
    [InlineData(StopReason.HostRequest, HostEnd.Signal, 2, null, true, 130)]
    [InlineData(StopReason.HostRequest, HostEnd.OutputClosed, 0, null, false, 141)]
    public void StatusIsTheDocumentedOne(StopReason reason, HostEnd end, int signal, int? command, bool wanted, int expected) =>
        Assert.Equal(expected, new VmResult(new StopCause(reason), end, signal, command, wanted).ExitStatus);

    [Theory]
    [InlineData(StopReason.PowerOff, 7)]
    [InlineData(StopReason.PowerOff, null)]
    [InlineData(StopReason.Reset, 7)]
    [InlineData(StopReason.Reset, null)]
    [InlineData(StopReason.Shutdown, null)]
    [InlineData(StopReason.HostRequest, null)]
    public void DamageIsToldWhateverEndedTheRun(StopReason reason, int? command)
    {
        var result = new VmResult(new StopCause(reason), HostEnd.None, 0, command, true) { StreamDamage = "bytes were lost" };
        string line = Assert.Single(RunGuest.Reasons(result), l => l.StartsWith("bytes were lost", StringComparison.Ordinal));
        Assert.Equal(command is null ? "bytes were lost" : "bytes were lost; its status was 7", line);
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(35, 35)]
    [InlineData(511, 255)]
    public void DebugExitGivesItsStatus(int status, int expected) =>
        Assert.Equal(expected, new VmResult(new StopCause(StopReason.DebugExit, status), HostEnd.None, 0, null, false).ExitStatus);
}
