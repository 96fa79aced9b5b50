using System.Globalization;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>Tells an observer where translated code lies and what it is made of, and where the hand-written routines are. The vCPU's thread.</summary>
internal sealed unsafe class CodeMap(IHostCodeObserver observer)
{
    /// <summary>A block was translated, or its translation is for another address from now on.</summary>
    public void Add(TranslatedBlock* made)
    {
        string name = Name(made->Rip, made->Mode);
        if (made->HotLength > 0) observer.CodeAdded((ulong)made->Hot, (ulong)made->HotLength, name);
        if (made->ColdLength > 0) observer.CodeAdded((ulong)made->Cold, (ulong)made->ColdLength, name + ":cold");
    }

    /// <summary>No code is left there.</summary>
    public void Remove(void* start, ulong length) => observer.CodeGone((ulong)start, length);

    /// <summary>Routines that lie one behind the other.</summary>
    /// <param name="end">Behind the last one.</param>
    public void AddRoutines(IEnumerable<(ulong Start, string Name)> routines, ulong end)
    {
        (ulong Start, string Name)[] sorted = [.. routines.OrderBy(r => r.Start)];
        for (int n = 0; n < sorted.Length; n++)
        {
            ulong next = n + 1 < sorted.Length ? sorted[n + 1].Start : end;
            if (next > sorted[n].Start) observer.CodeAdded(sorted[n].Start, next - sorted[n].Start, "bunraku:" + sorted[n].Name);
        }
    }

    /// <summary>Privilege, code size and linear address: user64:0x401000. The guest of a hypervisor inside the guest is nested.</summary>
    public static string Name(ulong rip, uint mode)
    {
        string nested = (mode & ModeKey.Guest) != 0 ? "nested-" : "", level = ModeKey.Cpl(mode) == 3 ? "user" : "kernel";
        return string.Create(CultureInfo.InvariantCulture, $"{nested}{level}{ModeKey.Bitness(mode)}:0x{rip:x}");
    }
}
