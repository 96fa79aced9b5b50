using Bunraku.Machine;

namespace Bunraku.Cli.Tests;

/// <summary>
/// Class fixture: the files of the Linux guests are there. The first use of a guest downloads them and says so on standard error, where tests look for
/// complaints. A guest with a command wants drivers, too.
/// </summary>
public sealed class LinuxGuestFiles
{
    private static readonly Lazy<string> s_kernel = new(() =>
    {
        foreach ((string guest, _) in DebianPackages.KernelNames) GuestImage.Prepare(new VmOptions { Guest = guest, Command = ["true"] }, new VmWords(), null);
        return new DebianPackages(new GuestCache()).FindKernel(DebianPackages.KernelNames[0].Name);
    });

    public LinuxGuestFiles() => _ = Kernel;

    /// <summary>Path of the default guest's kernel.</summary>
    public string Kernel => s_kernel.Value;
}
