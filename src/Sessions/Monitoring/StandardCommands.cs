using System.Globalization;
using Bunraku.Hypervisor;
using Bunraku.Machine.Display;
using Bunraku.Machine.Virtio.Balloons;
using Bunraku.Sessions.Screens;

namespace Bunraku.Sessions.Monitoring;

/// <summary>The commands that every VM's monitor has from the start.</summary>
public static class StandardCommands
{
    /// <summary>In the order in which the help shows them.</summary>
    public static IReadOnlyList<MonitorCommand> All { get; } =
    [
        new("info status", "", "running or stopped, and what it runs on", (c, _) => Status(c)),
        new("info registers", "[CPU]", "registers, segments, control registers, code at RIP; of processor 0 if none is given",
            Registers) { Complete = (c, _) => Processors(c.Vm) },
        new("info vmx", "[CPU]", "what the processor has of VMX, and the current VMCS field by field", VmxOf) { Complete = (c, _) => Processors(c.Vm) },
        new("info svm", "[CPU]", "what the processor has of SVM, and the VMCB of the guest that runs inside", SvmOf) { Complete = (c, _) => Processors(c.Vm) },
        new("info paging", "ADDRESS [CPU]", "the page walk for a linear address, entry by entry, with that of a second stage",
            PagingOf) { Complete = (c, n) => n == 1 ? Processors(c.Vm) : [] },
        new("info tlb", "[CPU]", "the mappings that the TLB holds", TlbOf) { Complete = (c, _) => Processors(c.Vm) },
        new("info cpus", "", "what each processor does", (c, _) => Cpus(c.Vm)),
        new("info stats", "", "times, instructions, exits, memory", (c, _) => c.Vm.Statistics.Summary),
        new("info translator", "", "where time goes, how full the caches of code and addresses are, why code is given up", (c, _) => Translator(c)),
        new("info exits", "", "the last exits", (c, _) => string.Concat(c.Vm.LastExits.Select(e => e + "\n"))),
        new("info screen", "", "the characters on the screen", (c, _) => Screen(c)),
        new("screenshot", "FILE", "write a picture of the screen to a PNG file", Screenshot),
        new("balloon", "MEGABYTES", "ask the guest to make do with so much memory, by its balloon", BalloonTo),
        new("info balloon", "", "how much memory the guest has left itself, and what it tells of it", (c, _) => BalloonOf(c)),
        new("link", "CARD on|off", "plug the cable of a network card in or out; cards are counted from 0",
            (c, words) => Silently(() => Link(c.Vm, words[0], words[1]))) { Complete = (_, n) => n == 1 ? ["on", "off"] : [] },
        new("grow", "DISK SIZE", "make a disk larger (0 20G: the first one), and tell the guest; disks are counted from 0",
            (c, words) => Silently(() => Grow(c.Vm, words[0], words[1]))),
        new("nmi", "", "send an NMI: with unknown_nmi_panic the guest's kernel panics", (c, _) => Silently(c.Vm.PulseNmi)),
        new("sysrq", "[KEY]", "send a break on the console, and the key: a SysRq command of Linux, for example h", SysRq),
        new("stop", "", "stop the guest and its clock", (c, _) => Stop(c)),
        new("cont", "", "let it go on", (c, _) => Continue(c)),
        new("save", "[FILE] [live] [zstd]", "save the VM to a file, from which 'bunraku restore' goes on; live: the guest runs meanwhile; zstd: the file is "
            + "smaller, and is read as a whole when it is restored", Save) { Complete = (_, n) => n >= 1 ? [Live, Compress] : [] },
        new("quit", "", "end the guest", (c, _) => Silently(() => c.Vm.End(HostEnd.Quit))),
        new("help", "[COMMAND]", "this list, or one command", Help) { Alias = "?", Complete = (c, _) => c.Commands.All.Select(m => m.Words[0]) },
    ];

    private static void Link(Vm vm, string card, string state)
    {
        if (state is not ("on" or "off")) throw new MonitorException($"'{state}' is neither on nor off");
        vm.SetLink(IndexOf("network card", card, vm.Cards), state == "on");
    }

    private static void Grow(Vm vm, string disk, string size)
    {
        if (!ByteSize.TryParse(size, out ulong bytes) || bytes == 0 || bytes % 512 != 0)
            throw new MonitorException($"'{size}' is no size of a disk; write for example 20G");
        vm.GrowDisk(IndexOf("disk", disk, vm.DiskCount), bytes);
    }

    private static int IndexOf(string what, string number, int count) =>
        int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int index) && index < count ? index
            : throw new MonitorException(count == 0 ? $"the machine has no {what}" : count == 1 ? $"there is no {what} '{number}'; the only one is 0"
                : $"there is no {what} '{number}'; they are 0 to {count - 1}");

    private static string Silently(Action action)
    {
        action();
        return "";
    }

    private static string Translator(MonitorContext context)
    {
        VmStatistics statistics = context.Vm.Statistics;
        if (statistics.Execution is null) return TextLayout.Paragraph($"the engine '{context.Vm.EngineName}' has no caches of code", context.Width);
        EngineCounters c = statistics.Counters;
        return string.Create(CultureInfo.InvariantCulture,
            $"{c.BlocksDecoded:#,0} blocks decoded, {c.BlocksTranslated:#,0} translated, {c.BlocksInvalidated:#,0} invalidated,\n"
                + $"all code given up {c.CodeFlushes:#,0} times; {c.TlbMisses:#,0} TLB misses, {c.TlbFlushes:#,0} flushes\n")
            + statistics.Details
            + (statistics.Work is null ? TextLayout.Paragraph("no samples of time are taken; a run with --stats takes them", context.Width) : "");
    }

    private static VgaController DisplayOf(MonitorContext context) =>
        context.Vm.Display ?? throw new MonitorException("the machine has no screen; with firmware it has one, or where it is asked for");

    private static string Screen(MonitorContext context)
    {
        VgaController display = DisplayOf(context);
        if (display.ReadText() is { } text)
        {
            // What is empty at the end is of no interest.
            int lines = text.Lines.Count;
            while (lines > 0 && text.Lines[lines - 1].Length == 0) lines--;
            return string.Concat(text.Lines.Take(lines).Select(l => l + "\n"));
        }
        ScreenImage image = display.Paint();
        return TextLayout.Paragraph($"the screen shows pixels, {image.Width} by {image.Height}; 'screenshot FILE' writes them", context.Width);
    }

    private static string Screenshot(MonitorContext context, IReadOnlyList<string> arguments)
    {
        ScreenImage image = DisplayOf(context).Paint();
        PngFile.Write(arguments[0], image);
        return TextLayout.Paragraph($"{image.Width} by {image.Height} pixels are in {arguments[0]}", context.Width);
    }

    private static string BalloonTo(MonitorContext context, IReadOnlyList<string> arguments)
    {
        if (!ulong.TryParse(arguments[0], NumberStyles.None, CultureInfo.InvariantCulture, out ulong megabytes) || megabytes is 0 or > uint.MaxValue)
            throw new MonitorException($"'{arguments[0]}' is no number of megabytes");
        context.Vm.SetBalloon(megabytes << 20);
        return "";
    }

    private static string BalloonOf(MonitorContext context)
    {
        BalloonState state = context.Vm.LookAtBalloon();
        string text = string.Create(CultureInfo.InvariantCulture,
            $"balloon: actual={state.Actual >> 20} MiB, wanted {state.Target >> 20} MiB, {ByteSize.Format(state.Reported)} reported as free in all\n");
        if (!state.IsUsed) text += TextLayout.Paragraph("the guest has no driver for it, or none yet", context.Width);
        return text + string.Concat(state.Statistics.Select(s => string.Create(CultureInfo.InvariantCulture, $"  {s.Key} {s.Value}\n")));
    }

    private static string Stop(MonitorContext context)
    {
        context.Vm.Pause();
        return TextLayout.Paragraph("the guest is stopped; 'cont' lets it go on", context.Width);
    }

    private const string Live = "live", Compress = "zstd";

    private static string Save(MonitorContext context, IReadOnlyList<string> arguments)
    {
        bool named = arguments.Count > 0 && arguments[0] is not (Live or Compress);
        string path = named ? arguments[0] : context.Vm.DefaultSnapshot ?? throw new MonitorException("name the file");
        string[] ways = [.. arguments.Skip(named ? 1 : 0)];
        if (ways.FirstOrDefault(w => w is not (Live or Compress)) is { } other) throw new MonitorException($"'{other}' is neither '{Live}' nor '{Compress}'");
        long bytes = context.Vm.Save(path, ways.Contains(Live), lasting: true, ways.Contains(Compress), ends: false, out Vm.StillTime still);
        return TextLayout.Paragraph(string.Create(CultureInfo.InvariantCulture, $"saved to {path}, {ByteSize.Format((ulong)bytes)}; stood still for "
            + $"{still.Sum.TotalMilliseconds:0.0} ms, at most {still.Longest.TotalMilliseconds:0.0} ms at a time"), context.Width);
    }

    private static string Continue(MonitorContext context)
    {
        if (context.Vm.Debugger is { HasStopped: true }) throw new MonitorException("a debugger has stopped the guest, and lets it go on");
        context.Vm.Resume();
        return "";
    }

    private static string Status(MonitorContext context)
    {
        Vm vm = context.Vm;
        X86Machine machine = vm.Machine;
        string state = vm.Ended ? "ended" : vm.LacksRoom ? "stopped: the host has no room for what the guest writes; 'cont' tries again"
            : vm.Paused ? "stopped; 'cont' lets it go on" : "running";
        return TextLayout.Paragraph(state, context.Width) + TextLayout.Paragraph(string.Create(CultureInfo.InvariantCulture,
            $"{machine.Clock.Nanoseconds / 1e9:0.0} s of virtual time, {machine.Cpus.Count} processor{(machine.Cpus.Count == 1 ? "" : "s")} "
                + $"{machine.Model.Name}, {ByteSize.Format(machine.Memory.RamSize)}, engine {vm.EngineName}"), context.Width);
    }

    private static string SysRq(MonitorContext context, IReadOnlyList<string> arguments)
    {
        string? key = arguments.Count > 0 ? arguments[0] : null;
        if (key is { Length: not 1 } || key?[0] > 0x7E) throw new MonitorException($"'{key}' is not one key");
        context.Vm.SendBreak();
        if (key is null)
            return TextLayout.Paragraph("the next key that the guest gets is the SysRq command"
            + (context.WayBack is { } keys ? $"; {keys} goes back to it" : ""), context.Width);
        context.Vm.SendConsole([(byte)key[0]]);
        return "";
    }

    private static string Registers(MonitorContext context, IReadOnlyList<string> arguments)
    {
        CpuState state = StateOf(context.Vm, arguments);
        return StateReport.Registers(state) + StateReport.Disassembly(context.Vm.Machine.Memory, state);
    }

    private static string SvmOf(MonitorContext context, IReadOnlyList<string> arguments) =>
        SvmReport.Write(StateOf(context.Vm, arguments), context.Vm.Machine.Memory, context.Width)
            ?? TextLayout.Paragraph("the processor has no SVM; a run with --nested svm has", context.Width);

    private static string VmxOf(MonitorContext context, IReadOnlyList<string> arguments) =>
        VmxReport.Write(StateOf(context.Vm, arguments), context.Width)
            ?? TextLayout.Paragraph("the processor has no VMX; a run with --nested vmx has", context.Width);

    private static string PagingOf(MonitorContext context, IReadOnlyList<string> arguments)
    {
        ReadOnlySpan<char> digits = arguments[0].StartsWith("0x", StringComparison.OrdinalIgnoreCase) ? arguments[0].AsSpan(2) : arguments[0];
        if (!ulong.TryParse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong linear))
            throw new MonitorException($"'{arguments[0]}' is no linear address; it is written in hexadecimal digits, at most 16");
        return PagingReport.Walk(context.Vm.Machine.Memory, StateOf(context.Vm, [.. arguments.Skip(1)]), linear);
    }

    private static string TlbOf(MonitorContext context, IReadOnlyList<string> arguments)
    {
        IReadOnlyList<TlbMapping>? mappings = context.Vm.ReadTlb(NumberOf(context.Vm, arguments));
        return mappings is null ? TextLayout.Paragraph($"the engine '{context.Vm.EngineName}' cannot tell what its TLB holds", context.Width)
            : PagingReport.Tlb(mappings);
    }

    /// <summary>The state of the processor that the first argument names; of processor 0 without one.</summary>
    private static CpuState StateOf(Vm vm, IReadOnlyList<string> arguments) => vm.ReadState(NumberOf(vm, arguments));

    private static int NumberOf(Vm vm, IReadOnlyList<string> arguments)
    {
        string number = arguments.Count > 0 ? arguments[0] : "0";
        int count = vm.Machine.Cpus.Count;
        if (!int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int cpu) || cpu >= count)
            throw new MonitorException(count == 1 ? $"there is no processor '{number}'; the only one is 0"
                : $"there is no processor '{number}'; they are 0 to {count - 1}");
        return cpu;
    }

    private static IEnumerable<string> Processors(Vm vm) => vm.Machine.Cpus.Select((_, n) => n.ToString(CultureInfo.InvariantCulture));

    private static string Cpus(Vm vm)
    {
        IReadOnlyList<CpuState> states = vm.ReadStates();
        return string.Concat(vm.Machine.Cpus.Select((cpu, n) => Describe(cpu, states[n])));
    }

    private static string Describe(X86CpuThread cpu, CpuState state)
    {
        string activity = cpu.Activity switch { CpuActivity.Halted => "halted", CpuActivity.WaitForStartUp => "waits for its start", _ => "active" };
        return string.Create(CultureInfo.InvariantCulture,
            $"cpu{cpu.Cpu.Index}  {activity}, RIP {state.Rip:x16}, CPL {(state.Ss.Attributes >> 5) & 3}\n      "
                + $"{cpu.Cpu.Counters.InstructionsRetired:#,0} instructions, {cpu.Exits.Total:#,0} exits\n");
    }

    private static string Help(MonitorContext context, IReadOnlyList<string> arguments)
    {
        IEnumerable<(string, string)> items;
        if (arguments.Count > 0)
        {
            MonitorCommand[] meant =
                [.. context.Commands.All.Where(c => c.Words[0].StartsWith(arguments[0], StringComparison.Ordinal) || c.Alias == arguments[0])];
            if (meant.Length == 0) throw new MonitorException($"unknown command '{arguments[0]}'; 'help' lists the commands");
            items = meant.Select(c => (c.Usage, c.Help));
        }
        else
        {
            items = context.Commands.All.Select(c => (c.Usage, c.Help));
            if (context.WayBack is { } keys) items = items.Append((keys, "back to the guest"));
        }
        string shortened = "Words may be shortened (i r 1)"
            + (context.WayBack is null ? "." : ", Tab completes them, the arrow keys bring earlier lines back.");
        return TextLayout.Definitions([.. items], context.Width) + (arguments.Count > 0 ? "" : TextLayout.Paragraph(shortened, context.Width));
    }
}
