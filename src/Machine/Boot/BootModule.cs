using System.Text;

namespace Bunraku.Machine;

/// <summary>A file that is loaded beside the kernel: an initial RAM disk, or what a multiboot kernel calls a module.</summary>
/// <param name="Content">The file's bytes; an array of them will do.</param>
/// <param name="Name">The file's name as the user wrote it.</param>
/// <param name="Arguments">The module's command line without the name; empty when there is none.</param>
public sealed record BootModule(BootContent Content, string Name, string Arguments = "")
{
    /// <summary>Name and command line, as a user writes them.</summary>
    public string Text => Arguments.Length > 0 ? $"{Name} {Arguments}" : Name;

    /// <summary>
    /// Takes a user's text apart: the file's name ends at the first space, the rest is the module's command line. So does GRUB's module command.
    /// </summary>
    public static (string Path, string Arguments) Parse(string text)
    {
        int space = text.IndexOf(' ');
        return space < 0 ? (text, "") : (text[..space], text[(space + 1)..]);
    }

    /// <summary>
    /// Takes a list of modules apart as QEMU's -initrd does for a multiboot kernel: commas separate them, two commas stand for one in a text.
    /// </summary>
    public static IReadOnlyList<string> SplitList(string list)
    {
        var modules = new List<string>();
        var text = new StringBuilder();
        for (int at = 0; at < list.Length; at++)
        {
            if (list[at] != ',') text.Append(list[at]);
            else if (at + 1 < list.Length && list[at + 1] == ',') text.Append(list[at++]);
            else
            {
                modules.Add(text.ToString());
                text.Clear();
            }
        }
        modules.Add(text.ToString());
        return modules;
    }
}
