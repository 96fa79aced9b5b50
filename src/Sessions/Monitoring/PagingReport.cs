using System.Globalization;
using System.Text;
using Bunraku.Hypervisor;

namespace Bunraku.Sessions.Monitoring;

/// <summary>A page walk for people, entry by entry, in one or two dimensions; and what a vCPU's TLB holds. Lines for 80 characters.</summary>
public static class PagingReport
{
    private const ulong EptAddress = 0x000F_FFFF_FFFF_F000;

    /// <summary>The walk for a linear address. The vCPU must stand still.</summary>
    public static string Walk(GuestMemory memory, CpuState state, ulong linear)
    {
        PagingWalk walk = PagingWalk.Of(memory, state, linear);
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"{linear:x16}: {Mode(walk.Levels)}");
        if (walk.Levels > 0) text.Append(CultureInfo.InvariantCulture, $" at {walk.Root:x}");
        text.Append(walk.SecondFormat switch { null => "", PagingFormat.Extended => ", EPT", _ => ", nested paging" });
        if (walk.SecondFormat != null) text.Append(CultureInfo.InvariantCulture, $" at {walk.SecondRoot:x}");
        text.Append('\n');
        foreach (PagingStep step in walk.Steps) Append(text, step);
        if (walk.GuestPhysical is { } physical && walk.SecondFormat != null) text.Append(CultureInfo.InvariantCulture, $"guest-physical {physical:x16}\n");
        if (walk.Physical is { } machine)
        {
            string place = memory.TryFind(machine, out MemoryRegion region) ? region.IsReadOnly ? "ROM" : "RAM" : "no RAM: a device, or nothing";
            text.Append(CultureInfo.InvariantCulture, $"physical       {machine:x16}  {place}{Rights(walk)}\n");
        }
        else
        {
            text.Append(CultureInfo.InvariantCulture, $"not mapped: {walk.Failure}\n");
        }
        return text.ToString();
    }

    private static string Mode(int levels) => levels switch
    {
        0 => "paging is off",
        2 => "32-bit paging",
        3 => "PAE paging",
        _ => $"{levels}-level paging",
    };

    /// <summary>An entry of the second stage stands under what it is for, further to the right.</summary>
    private static void Append(StringBuilder text, in PagingStep step)
    {
        int digits = step.Format == PagingFormat.Legacy ? 8 : 16;
        string entry = step.Entry.ToString($"x{digits}", CultureInfo.InvariantCulture);
        string place = step.Address == 0 ? "register" : step.Address.ToString("x", CultureInfo.InvariantCulture);
        if (step.Stage == 2)
            text.Append(CultureInfo.InvariantCulture,
                $"    {step.For:x12} {(step.Format == PagingFormat.Extended ? "EPT" : "N")} {step.Name,-5} {place,12} {entry} {Flags(step)}\n");
        else text.Append(CultureInfo.InvariantCulture, $"  {step.Name,-5} {place,16}  {entry} {Flags(step)}\n");
    }

    private static string Flags(in PagingStep step)
    {
        ulong e = step.Entry;
        if (step.Format == PagingFormat.Extended)
        {
            string rights = $"{Letter(e, 0, 'R')}{Letter(e, 1, 'W')}{Letter(e, 2, 'X')}{Letter(e, 8, 'A')}{Letter(e, 9, 'D')}";
            if (!step.IsLeaf) return rights.TrimEnd();
            string type = (e >> 3 & 7) switch { 0 => "UC", 1 => "WC", 4 => "WT", 5 => "WP", 6 => "WB", _ => "reserved type" };
            return $"{rights} {type}{(step.Level > 1 ? " large" : "")}{((e & 3) == 2 ? " misconfigured" : "")}";
        }
        string flags = $"{Letter(e, 0, 'P')}{Letter(e, 1, 'W')}{Letter(e, 2, 'U')}{Letter(e, 5, 'A')}"
            + $"{Letter(e, 6, 'D')}{Letter(e, 8, 'G')}{Letter(e, 63, 'N')}";
        return flags + (step is { IsLeaf: true, Level: > 1 } ? " large" : "");
    }

    private static char Letter(ulong entry, int bit, char letter) => (entry >> bit & 1) != 0 ? letter : '-';

    /// <summary>What the entries allow together: each stage its own.</summary>
    private static string Rights(PagingWalk walk)
    {
        var text = new StringBuilder();
        IEnumerable<PagingStep> own = walk.Steps.Where(s => s.Stage == 1 && !IsPdpteOfPae(walk, s));
        if (walk.Levels > 0)
        {
            bool writes = own.All(s => (s.Entry & 2) != 0), user = own.All(s => (s.Entry & 4) != 0), noExecute = own.Any(s => s.Entry >> 63 != 0);
            text.Append(user ? ", user" : ", supervisor").Append(writes ? ", read and write" : ", read only")
                .Append(noExecute ? ", no execution" : ", execution");
        }
        if (walk.SecondFormat is { } format && walk.GuestPhysical is { } address)
        {
            PagingStep[] steps = [.. walk.Steps.Where(s => s.Stage == 2 && s.For == address).TakeLast(5)];
            string rights = format == PagingFormat.Extended
                ? $"{(All(steps, 1) ? 'R' : '-')}{(All(steps, 2) ? 'W' : '-')}{(All(steps, 4) ? 'X' : '-')}"
                : $"{(All(steps, 1) ? 'R' : '-')}{(All(steps, 2) ? 'W' : '-')}{(steps.Any(s => s.Entry >> 63 != 0) ? '-' : 'X')}";
            text.Append(CultureInfo.InvariantCulture, $"; second stage {rights}");
        }
        return text.ToString();
    }

    private static bool IsPdpteOfPae(PagingWalk walk, in PagingStep step) => walk.Levels == 3 && step.Level == 3;

    private static bool All(PagingStep[] steps, ulong bit) => Array.TrueForAll(steps, s => (s.Entry & bit) != 0);

    /// <summary>The mappings of a TLB, by address space; pages that follow each other are one line.</summary>
    public static string Tlb(IReadOnlyList<TlbMapping> mappings)
    {
        var text = new StringBuilder();
        foreach (IGrouping<(ushort, ulong, uint), TlbMapping> space in mappings.GroupBy(m => (m.Tag, m.SecondStage, m.Pcid)).OrderBy(g => g.Key))
        {
            (ushort tag, ulong second, uint pcid) = space.Key;
            string owner = tag == 0 && second == 0 ? "the processor's own" : string.Create(CultureInfo.InvariantCulture, $"VPID or ASID {tag}");
            if (second != 0 && second >> 63 == 0) owner += string.Create(CultureInfo.InvariantCulture, $", second stage {second & EptAddress:x}");
            text.Append(CultureInfo.InvariantCulture, $"{owner}, PCID {pcid:x}: {space.Count()} entries\n");
            TlbMapping? first = null;
            ulong pages = 0;
            foreach (TlbMapping m in space.OrderBy(m => m.Linear).ThenBy(m => m.IsUser))
            {
                if (first is { } f && m.Linear == f.Linear + pages * GuestMemory.PageSize && m.Physical == f.Physical + pages * GuestMemory.PageSize
                    && (m.Rights, m.IsUser) == (f.Rights, f.IsUser))
                {
                    pages++;
                    continue;
                }
                Run(text, first, pages);
                (first, pages) = (m, 1);
            }
            Run(text, first, pages);
        }
        return text.Length == 0 ? "the TLB is empty\n" : text.ToString();
    }

    private static void Run(StringBuilder text, TlbMapping? first, ulong pages)
    {
        if (first is not { } m) return;
        string rights = $"{((m.Rights & PageRights.Read) != 0 ? 'r' : '-')}{((m.Rights & PageRights.Write) != 0 ? 'w' : '-')}"
            + $"{((m.Rights & PageRights.Execute) != 0 ? 'x' : '-')}{(m.IsUser ? 'u' : 's')}";
        text.Append(CultureInfo.InvariantCulture, $"  {m.Linear:x16} -> {m.Physical:x12} {rights} {pages,6} page{(pages == 1 ? "" : "s")}\n");
    }
}
