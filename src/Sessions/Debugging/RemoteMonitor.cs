using Bunraku.Sessions.Monitoring;

namespace Bunraku.Sessions.Debugging;

/// <summary>GDB's <c>monitor</c>: the commands of the VM's monitor, and those that are about the debugger's own view.</summary>
internal sealed class RemoteMonitor
{
    private const int Width = 100;

    private static readonly (string Usage, string Help)[] s_own =
    [
        ("phys on|off", "addresses of memory are physical, or go through the page tables of the thread's processor"),
        ("arch auto|i8086|i386|x86-64", "what the processor is described as; takes effect with the next connection, or at once by 'unset tdesc filename'"),
    ];

    private DebugArchitecture? _architecture; // null: by the processor's state

    /// <summary>What the debugger is told that the processor is.</summary>
    public DebugArchitecture ArchitectureOf(DebugTarget target) => _architecture ?? DebugArchitectures.Of(target.StateOf(0));

    /// <summary>Carries a line out; the answer ends with a line end or is empty. Throws nothing.</summary>
    public string Execute(DebugTarget target, string line)
    {
        string[] words = line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
        switch (words)
        {
            case ["phys"]: return $"phys is {(target.Physical ? "on" : "off")}\n";
            case ["phys", "on" or "off"]:
                target.Physical = words[1] == "on";
                return "";
            case ["arch"]: return $"{ArchitectureOf(target).Name()}{(_architecture is null ? " (auto)" : "")}\n";
            case ["arch", _] when TryParse(words[1], out DebugArchitecture? wanted):
                _architecture = wanted;
                return "";
            case ["phys" or "arch", ..]:
                string usage = s_own.First(o => o.Usage.StartsWith(words[0], StringComparison.Ordinal)).Usage;
                return TextLayout.Paragraph($"usage: {usage}", Width);
            case ["help" or "?"]: return TextLayout.Definitions(s_own, Width) + new MonitorShell(target.Vm, () => Width).Execute(line);
            default: return new MonitorShell(target.Vm, () => Width).Execute(line);
        }
    }

    private static bool TryParse(string word, out DebugArchitecture? architecture)
    {
        architecture = word switch
        {
            "i8086" => DebugArchitecture.I8086,
            "i386" => DebugArchitecture.I386,
            "x86-64" => DebugArchitecture.X64,
            _ => null,
        };
        return architecture is not null || word == "auto";
    }
}
