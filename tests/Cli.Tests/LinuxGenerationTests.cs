using System.Text;

namespace Bunraku.Cli.Tests;

/// <summary>Linux's driver of the generation ID as the peer. Debian's kernel for virtual machines is built without it, the generic one has it.</summary>
public sealed class LinuxGenerationTests : IClassFixture<LinuxGuestFiles>
{
    private sealed class Lines : MemoryStream
    {
        private readonly TaskCompletionSource _first = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public Task First => _first.Task;

        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            Write(buffer.Span);
            if (buffer.Span.Contains((byte)'\n')) _first.TrySetResult();
            return default;
        }

        public override string ToString() => Encoding.UTF8.GetString(ToArray());
    }

    [Fact]
    public async Task A_new_generation_makes_Linux_reseed_its_random_numbers()
    {
        const string reseeded = "crng reseeded due to virtual machine fork";
        var output = new Lines();
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = "bt",
            Guest = "linux-generic",
            Command = ["sh", "-c", $"dmesg | grep -c '{reseeded}'; until dmesg | grep '{reseeded}'; do sleep 0.05; done"],
            Output = output,
            Timeout = TimeSpan.FromMinutes(1),
        }.Build();
        Task<VmResult> run = vm.RunAsync();
        await Task.WhenAny(output.First, run);
        vm.RenewGeneration();
        VmResult result = await run;
        Assert.True(result.CommandStatus == 0, $"{result.CommandStatus} {result.HostEnd}: {output} {vm.HiddenMessages}");
        Assert.Matches($"^0\n.*random: {reseeded}\n$", output.ToString());
    }
}
