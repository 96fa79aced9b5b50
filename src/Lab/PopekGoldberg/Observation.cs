using Bunraku.Engines;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>What one execution came to.</summary>
public enum Outcome
{
    /// <summary>The instruction had its effect, if any, and the next one followed.</summary>
    Completed,
    /// <summary>An exception or a software interrupt transferred control to the system's handler.</summary>
    Trapped,
    /// <summary>The execution could not be observed; the message says why.</summary>
    Failed,
}

/// <summary>One execution of one instruction.</summary>
internal sealed record Observation(Outcome Outcome)
{
    /// <summary>Trapped: the vector whose handler was reached, and its error code if it has one.</summary>
    public int? Vector { get; init; }
    public uint? ErrorCode { get; init; }
    /// <summary>The exits to the hypervisor on the way.</summary>
    public IReadOnlyList<ObservedExit> Exits { get; init; } = [];
    public string? Message { get; init; }

    /// <summary>General registers and scratch memory afterwards, where the program can see them; null when they are not known.</summary>
    public ulong[] Gpr { get; init; } = [];
    public byte[] Memory { get; init; } = [];
    public ulong[] GprBefore { get; init; } = [];
    public byte[] MemoryBefore { get; init; } = [];
    public ulong RflagsBefore { get; init; }
    /// <summary>The arithmetic flags that the instruction changed, and their new values.</summary>
    public (ulong Mask, ulong Value) Flags { get; init; }

    /// <summary>System state by name, before and after: what belongs to the operating system or hypervisor and not to the program.</summary>
    public IReadOnlyDictionary<string, ulong> SystemBefore { get; init; } = new Dictionary<string, ulong>();
    public IReadOnlyDictionary<string, ulong> SystemAfter { get; init; } = new Dictionary<string, ulong>();

    public bool IsCompleted => Outcome == Outcome.Completed;

    /// <summary>A single-step trap followed right behind the instruction.</summary>
    public bool SingleStepped { get; init; }

    /// <summary>The system or the hypervisor got control.</summary>
    public bool IsCaught => Outcome == Outcome.Trapped || Exits.Count > 0;

    /// <summary>Names of the system state that changed.</summary>
    public IEnumerable<string> Changed => SystemAfter.Where(f => SystemBefore.TryGetValue(f.Key, out ulong before) && before != f.Value).Select(f => f.Key);
}

/// <summary>An exit that an instruction caused.</summary>
internal readonly record struct ObservedExit(ExitReason Reason, bool IsWrite, ulong Address);

/// <summary>Where and how an instruction is executed.</summary>
/// <param name="Level">Privilege level 0 to 3.</param>
/// <param name="State">Machine state 0 or 1; they differ in everything that the operating system or hypervisor chooses.</param>
/// <param name="Umip">CR4.UMIP.</param>
/// <param name="Intercept">Execution controls ask for every exit that the engine offers.</param>
/// <param name="SingleStep">RFLAGS.TF is set.</param>
internal readonly record struct Setting(int Level, int State, bool Umip, bool Intercept = false, bool SingleStep = false);

/// <summary>Names of system state.</summary>
internal static class SystemState
{
    /// <summary>RFLAGS bits that the program does not own. Intel SDM vol. 1, "EFLAGS Register".</summary>
    private static readonly (string Name, int Shift, ulong Mask)[] s_flags = [("IF", 9, 1), ("IOPL", 12, 3), ("VIF", 19, 1), ("VIP", 20, 1)];

    /// <summary>CF, PF, AF, ZF, SF, OF.</summary>
    public const ulong ArithmeticFlags = 0x8D5;
    public const ulong TrapFlag = 0x100;
    public const int DebugVector = 1;

    public static void AddFlags(Dictionary<string, ulong> fields, ulong rflags)
    {
        foreach ((string name, int shift, ulong mask) in s_flags) fields[name] = rflags >> shift & mask;
    }

    public static void AddCode(Dictionary<string, ulong> fields, ushort cs, ushort ss)
    {
        fields["CPL"] = cs & 3u;
        fields["CS"] = cs;
        fields["SS"] = ss;
    }

    /// <summary>Everything that an engine tells; RFLAGS, CS and SS are given since a handler has its own.</summary>
    public static Dictionary<string, ulong> Of(CpuState s, ulong rflags, ushort cs, ushort ss)
    {
        var fields = new Dictionary<string, ulong>
        {
            ["CR0"] = s.Cr0,
            ["CR2"] = s.Cr2,
            ["CR3"] = s.Cr3,
            ["CR4"] = s.Cr4,
            ["CR8"] = s.Cr8,
            ["XCR0"] = s.Xcr0,
            ["EFER"] = s.Efer,
            ["GDTR.base"] = s.GdtrBase,
            ["GDTR.limit"] = s.GdtrLimit,
            ["IDTR.base"] = s.IdtrBase,
            ["IDTR.limit"] = s.IdtrLimit,
            ["DR0"] = s.Dr[0],
            ["DR1"] = s.Dr[1],
            ["DR2"] = s.Dr[2],
            ["DR3"] = s.Dr[3],
            ["DR6"] = s.Dr6,
            ["DR7"] = s.Dr7,
        };
        AddFlags(fields, rflags);
        AddCode(fields, cs, ss);
        foreach ((string name, SegmentState segment) in (ReadOnlySpan<(string, SegmentState)>)[("DS", s.Ds), ("ES", s.Es), ("FS", s.Fs), ("GS", s.Gs),
            ("LDTR", s.Ldtr), ("TR", s.Tr)])
        {
            fields[name] = segment.Selector;
            fields[name + ".base"] = segment.Base;
        }
        foreach ((uint index, ulong value) in s.Msrs)
        {
            // These have names of their own above.
            if (index is Msr.FsBase or Msr.GsBase or Msr.Efer) continue;
            fields[MsrName(index)] = value;
        }
        return fields;
    }

    private static string MsrName(uint index) => index switch
    {
        Msr.Tsc => "TSC",
        Msr.Star => "STAR",
        Msr.Lstar => "LSTAR",
        Msr.KernelGsBase => "KERNEL_GS_BASE",
        Msr.TscAux => "TSC_AUX",
        _ => $"MSR {index:X}",
    };
}
