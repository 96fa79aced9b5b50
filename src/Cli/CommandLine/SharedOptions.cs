using System.CommandLine;
using Bunraku.Sessions.Screens;

namespace Bunraku.Cli.CommandLine;

/// <summary>Options of all commands that run a VM, be it booted, restored or received: each call makes one.</summary>
internal static class SharedOptions
{
    public static Option<string?> Engine() => SingleValue.Text("--engine", "NAME",
        "what executes the guest: auto or a name from 'bunraku engines' (default auto)", [.. KnownEngines.All.Select(e => e.Name), VmOptions.AutomaticEngine]);

    public static Option<string?> Name() => SingleValue.Parsed<string?>("--name", "NAME",
        "answer to this name: 'bunraku ps', stop, kill, monitor and migrate reach the VM by it", ControlRequests.ParseName);

    public static Option<SerialTarget?> Serial() => SingleValue.Parsed<SerialTarget?>("--serial", "TARGET",
        "where the guest's console goes: stdio, file:PATH or none (default stdio)", t => SerialTarget.Parse(t), "stdio", "file:", "none");

    public static Option<TimeSpan?> Timeout() => SingleValue.Parsed<TimeSpan?>("--timeout", "DURATION",
        "end with status 124 after this time, for example 10s or 2m", t => Quantities.ParseDuration(t));

    public static Option<string?> SaveTo() => SingleValue.Text("--save-to", "FILE",
        "save the VM there when it is ended from outside: by a time limit, a signal or the monitor's quit");

    public static Option<bool> Compress() => SingleValue.Flag("--compress",
        "pack the memory of what --save-to saves: a smaller file, which is read as a whole when it is restored");

    /// <exception cref="UsageException">It has nothing to do.</exception>
    public static bool RequiredFor(string? saveTo, bool compress) =>
        !compress || saveTo is not null ? compress : throw new UsageException("--compress goes with --save-to FILE, which says where the VM is saved");

    public static Option<MemoryBacking?> Backing() => SingleValue.Parsed<MemoryBacking?>("--memory-backing", "lazy|copy",
        "read pages of memory when they are touched, or all before the guest runs (default lazy)", ParseBacking, "lazy", "copy");

    private static MemoryBacking? ParseBacking(string text) => text switch
    {
        "lazy" => MemoryBacking.Lazy,
        "copy" => MemoryBacking.Copy,
        _ => throw new UsageException(Nearest.Message("memory backing", text, ["lazy", "copy"])),
    };

    public static Option<string[]?> Shares() => new("--share")
    {
        HelpName = "FOLDER[,NAME=VALUE]...",
        Description = "a folder that the guest can use, by virtio-fs or 9p; once for each. The built-in guests mount it and start in the first one. "
            + "NAME: ro, at=PATH (in the guest; default the same path), tag, ids=map|host, cache=auto|always|none, type=virtiofs|9p",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
    };

    public static Option<VmVsock?> Vsock() => SingleValue.Parsed<VmVsock?>("--vsock", "PATH[,cid=N]",
        "a virtio socket device: programs reach the guest by the Unix socket PATH (CONNECT PORT), and the guest's port P of the host is PATH_P "
        + "(default cid 3, or what a guest that is restored had)", VsockArgument.Parse);

    public static IReadOnlyList<VmShare> ParseShares(string[]? shares) => shares is { Length: > 0 } ? [.. shares.Select(ShareArgument.Parse)] : [];

    public static Option<bool> Stats() => SingleValue.Flag("--stats", "print times, instructions, exits, memory and what took the time at the end");

    public static Option<VncEndpoint?> Vnc() => SingleValue.Parsed<VncEndpoint?>("--vnc", "ADDRESS:PORT|unix:PATH[,...]",
        "show the screen to viewers of VNC, with a tablet for their pointers; ,password-file=FILE asks them for the file's first line", ParseVnc,
        "127.0.0.1:5901", "unix:");

    private static VncEndpoint ParseVnc(string text)
    {
        try
        {
            return VncEndpoint.Parse(text);
        }
        catch (FormatException e)
        {
            throw new UsageException($"--vnc: {e.Message}");
        }
    }

    public static Option<bool> Detach() =>
        SingleValue.Flag("--detach", "run in the background, and print the VM's name: 'bunraku attach', logs, stop and kill reach it");

    public static Option<bool> Quiet() => SingleValue.Flag("--quiet", "say nothing but errors: no progress, no advice");

    /// <summary>Reads <see cref="Detach"/> of a command that has these options besides.</summary>
    /// <exception cref="UsageException">A VM in the background is to print elsewhere.</exception>
    public static bool ReadDetach(ParseResult parsed, Option<bool> detach, Option<SerialTarget?> serial, Option<bool> stats)
    {
        bool wanted = parsed.GetValue(detach);
        return !wanted || (parsed.GetValue(serial) is null && !parsed.GetValue(stats)) ? wanted
            : throw new UsageException("--detach does not go with --serial and --stats: what the VM prints is in its log");
    }
}
