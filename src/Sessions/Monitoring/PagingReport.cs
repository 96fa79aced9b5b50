using System.Globalization;
using System.Text;
using Bunraku.Hypervisor;
using static Bunraku.Engines.X86.PagingBits;

namespace Bunraku.Sessions.Monitoring;

/// <summary>A page walk for people, entry by entry, in one or two dimensions; and what a vCPU's TLB holds. Lines for 80 characters.</summary>
public static class PagingReport
{
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
            string rights = $"{EptRights(e)}{Letter(e, EptBits.Accessed, 'A')}{Letter(e, EptBits.Dirty, 'D')}";
            if (!step.IsLeaf) return rights.TrimEnd();
            string type = EptBits.MemoryType(e) switch { 0 => "UC", 1 => "WC", 4 => "WT", 5 => "WP", 6 => "WB", _ => "reserved type" };
            bool isMisconfigured = (e & (EptBits.ReadAccess | EptBits.WriteAccess)) == EptBits.WriteAccess;
            return $"{rights} {type}{(step.Level > 1 ? " large" : "")}{(isMisconfigured ? " misconfigured" : "")}";
        }
        string flags = $"{Letter(e, Present, 'P')}{Letter(e, Writable, 'W')}{Letter(e, User, 'U')}{Letter(e, Accessed, 'A')}"
            + $"{Letter(e, Dirty, 'D')}{Letter(e, Global, 'G')}{Letter(e, ExecuteDisable, 'N')}";
        return flags + (step is { IsLeaf: true, Level: > 1 } ? " large" : "");
    }

    private static string EptRights(ulong entry) =>
        $"{Letter(entry, EptBits.ReadAccess, 'R')}{Letter(entry, EptBits.WriteAccess, 'W')}{Letter(entry, EptBits.ExecuteAccess, 'X')}";

    private static char Letter(ulong entry, ulong bit, char letter) => (entry & bit) != 0 ? letter : '-';

    /// <summary>What the entries allow together: each stage its own.</summary>
    private static string Rights(PagingWalk walk)
    {
        var text = new StringBuilder();
        IEnumerable<PagingStep> own = walk.Steps.Where(s => s.Stage == 1 && !IsPdpteOfPae(walk, s));
        if (walk.Levels > 0)
        {
            bool writes = own.All(s => (s.Entry & Writable) != 0), user = own.All(s => (s.Entry & User) != 0),
                noExecute = own.Any(s => (s.Entry & ExecuteDisable) != 0);
            text.Append(user ? ", user" : ", supervisor").Append(writes ? ", read and write" : ", read only")
                .Append(noExecute ? ", no execution" : ", execution");
        }
        if (walk.SecondFormat is { } format && walk.GuestPhysical is { } address)
        {
            ulong[] entries = [.. walk.Steps.Where(s => s.Stage == 2 && s.For == address).TakeLast(5).Select(s => s.Entry)];
            ulong and = entries.Aggregate(ulong.MaxValue, (a, b) => a & b), or = entries.Aggregate(0ul, (a, b) => a | b);
            string rights = format == PagingFormat.Extended ? EptRights(and)
                : $"{Letter(and, Present, 'R')}{Letter(and, Writable, 'W')}{Letter(~or, ExecuteDisable, 'X')}";
            text.Append(CultureInfo.InvariantCulture, $"; second stage {rights}");
        }
        return text.ToString();
    }

    private static bool IsPdpteOfPae(PagingWalk walk, in PagingStep step) => walk.Levels == 3 && step.Level == 3;

    /// <summary>The mappings of a TLB, by address space; pages that follow each other are one line.</summary>
    public static string Tlb(IReadOnlyList<TlbMapping> mappings)
    {
        var text = new StringBuilder();
        foreach (IGrouping<(ushort, ulong, uint), TlbMapping> space in mappings.GroupBy(m => (m.Tag, m.SecondStage, m.Pcid)).OrderBy(g => g.Key))
        {
            (ushort tag, ulong second, uint pcid) = space.Key;
            string owner = tag == 0 && second == 0 ? "the processor's own" : string.Create(CultureInfo.InvariantCulture, $"VPID or ASID {tag}");
            if (second != 0 && second >> 63 == 0) owner += string.Create(CultureInfo.InvariantCulture, $", second stage {second & AddressMask:x}");
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
