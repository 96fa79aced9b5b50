using System.Text;

namespace Bunraku.Cli.Tests.Screens;

/// <summary>OVMF from its package, up to its shell.</summary>
public sealed class OvmfTests
{
    private sealed class Until(string text, CancellationTokenSource end) : MemoryStream
    {
        public override void Write(byte[] buffer, int offset, int count)
        {
            base.Write(buffer, offset, count);
            if (Encoding.ASCII.GetString(ToArray()).Contains(text, StringComparison.Ordinal)) end.Cancel();
        }
    }

    /// <summary>The firmware writes variables of its own at its first start, which the file has then; with them it starts again.</summary>
    /// <remarks>It ends at the shell's question: at its name, the serial line may be ahead of the screen.</remarks>
    [Fact]
    public async Task OVMF_comes_to_its_shell_and_keeps_its_variables()
    {
        string folder = Directory.CreateTempSubdirectory("bunraku-ovmf").FullName, file = Path.Combine(folder, "vars.fd");
        try
        {
            using var end = new CancellationTokenSource();
            var output = new Until("Press ", end);
            await using (Vm vm = new VmBuilder(KnownEngines.All)
            {
                Bios = "ovmf",
                Engine = "bt",
                Memory = 128 << 20,
                EfiVars = file,
                Output = output,
                Timeout = TimeSpan.FromMinutes(3),
            }.Build())
            {
                await Assert.ThrowsAnyAsync<OperationCanceledException>(() => vm.RunAsync(end.Token));
                Assert.True(vm.Display!.Paint().Pixels.Any(p => p != 0), "the screen is dark");
            }
            byte[] variables = File.ReadAllBytes(file);
            Assert.Equal(540672, variables.Length);
            Assert.Contains("BootOrder", Encoding.Unicode.GetString(variables.AsSpan(0, 0x1_0000)) + Encoding.Unicode.GetString(variables.AsSpan(1, 0x1_0000)),
                StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
