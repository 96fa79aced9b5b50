using System.Text;

namespace Bunraku.Cli.CommandLine;

/// <summary>The command line's words for what a VM's description calls otherwise.</summary>
internal static class OptionWords
{
    public static VmWords CommandLine { get; } = new()
    {
        Option = Name,
        EnginesAdvice = "'bunraku engines' says why",
        GuestAdvice = "--kernel FILE boots any kernel, and `bunraku run hello` needs nothing",
    };

    /// <summary>Memory is --memory, TscFrequency --tsc-frequency; where the names differ, a table has them.</summary>
    private static string Name(string property) => property switch
    {
        nameof(VmOptions.Guest) => "the guest",
        nameof(VmOptions.Modules) => "--module",
        nameof(VmOptions.Board) => "--machine",
        nameof(VmOptions.Disks) => "--disk",
        nameof(VmOptions.KeepDisk) => "--keep",
        nameof(VmOptions.CompactDiscs) => "--cdrom",
        nameof(VmOptions.Networks) => "--net",
        nameof(VmOptions.Shares) => "--share",
        nameof(VmOptions.Environment) => "--env",
        nameof(VmOptions.WorkingFolder) => "--cwd",
        nameof(VmOptions.Copies) => "--copy",
        nameof(VmOptions.ClockStart) => "--rtc",
        nameof(VmOptions.Command) => "what stands behind --",
        nameof(VmOptions.EngineApics) => "--local-apic",
        nameof(VmOptions.Paravirtual) => "--pv",
        nameof(VmOptions.Display) => "--vga",
        nameof(VmOptions.Debugger) => "--gdb",
        nameof(VmOptions.StartsStopped) => "--stopped",
        nameof(VmBuilder.HostCode) => "--perf-map",
        nameof(VmBuilder.Nesting) => "--trace nested",
        _ => Dashed(property),
    };

    private static string Dashed(string property)
    {
        var text = new StringBuilder("-");
        foreach (char c in property)
        {
            if (char.IsUpper(c)) text.Append('-');
            text.Append(char.ToLowerInvariant(c));
        }
        return text.ToString();
    }
}
